"""The commands of the command line, each of which is loaded when it is used."""

import click

from dispatcher import __version__
from dispatcher.command.loading import loading


class _Commands(click.Group):
    """Commands by name. `tail`, `status` and `subscribers` do without the settings, which take longest to load."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        match cmd_name:
            case "tail":
                self._add_tail()
            case "status" | "subscribers":
                self._add_overview()
            case _:
                self._add_all()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._add_all()
        return super().list_commands(ctx)

    def _add_tail(self) -> None:
        from dispatcher.command.tail import tail  # noqa: PLC0415 - the class says why

        self.add_command(tail)

    def _add_overview(self) -> None:
        from dispatcher.command.overview import status, subscribers  # noqa: PLC0415 - the class says why

        self.add_command(status)
        self.add_command(subscribers)

    def _add_all(self) -> None:
        with loading():
            from dispatcher.command.with_settings import config, demo, redrive, serve  # noqa: PLC0415 - as above

        for command in (config, demo, redrive, serve):
            self.add_command(command)
        self._add_tail()
        # Suggestions for a misspelt name need all of them.
        self._add_overview()


@click.group(
    "dispatcher", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="dispatcher")
def main() -> None:
    """Push Kafka records to SSE and WebSocket subscribers, and commit only what was dispatched.

    \b
    Try it without Kafka:        dispatcher demo
    Serve a topic:               dispatcher serve --bootstrap-servers kafka:9092 --topics ofa_assets
    Read it:                     dispatcher tail http://127.0.0.1:8000
    Check a replica's health:    dispatcher status http://127.0.0.1:8000
    See who is connected:        dispatcher subscribers http://127.0.0.1:9000 --token-file FILE
    Write dead letters back:     dispatcher redrive --dry-run
    Show settings and sources:   dispatcher config
    """  # noqa: D301 - click takes the character for "keep these lines"
