"""The command line: flags to Settings to trio.run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson
import structlog
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dispatcher.configuration import Loaded, display, load, reference
from dispatcher.errors import SettingsError
from dispatcher.settings import Settings, hide_secrets, is_secret

log = structlog.get_logger(__name__)

EXIT_FAILED = 1
EXIT_WRONG_SETTINGS = 2


def _metavar(name: str) -> str:
    if name.endswith("_bytes"):
        return "BYTES"
    if name.endswith("_seconds"):
        return "SECONDS"
    return {"topics": "NAME[,NAME...]", "bind": "HOST:PORT", "bootstrap_servers": "HOST:PORT[,...]"}.get(name, "VALUE")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dispatcher")
def main() -> None:
    r"""Push Kafka records to SSE and WebSocket subscribers, and commit only what was dispatched.

    \b
    Try it without a Kafka:     dispatcher demo
    Serve a topic:              dispatcher serve --bootstrap-servers kafka:9092 --topics ofa_assets
    Read it:                    curl -N http://127.0.0.1:8000/events
    See what is set, and where: dispatcher config
    """


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each setting, ``-X`` and ``--config``."""
    for name, field in reversed(Settings.model_fields.items()):
        if name == "kafka":
            continue
        command = click.option(
            f"--{name.replace('_', '-')}", name, default=None, metavar=_metavar(name), help=field.description
        )(command)
    command = click.option(
        "-X",
        "kafka",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any librdkafka property, such as -X security.protocol=ssl. Repeatable.",
    )(command)
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        default=None,
        help="TOML file with settings by these names. Default: dispatcher.toml in this folder, if there.",
    )(command)


@main.command()
@settings_options
def serve(config_path: Path | None, kafka: tuple[str, ...], **flags: str | None) -> None:
    r"""Serve the topics until SIGTERM or Ctrl-C.

    \b
    dispatcher serve --bootstrap-servers kafka-1:9092,kafka-2:9092 --topics ofa_assets --bind 0.0.0.0:8000

    Every setting is also DISPATCHER_<NAME> in the environment and <name> in the file; a flag wins over the
    environment, the environment over the file. Exit code 0: stopped as asked; 1: failed, the log tells why;
    2: wrong settings, nothing was started.
    """
    loaded = _load(flags, kafka, config_path)

    async def run() -> None:
        from dispatcher.supervisor import supervise  # noqa: PLC0415 - the other commands do without the server

        await supervise(loaded.settings)

    _run(run, loaded.settings)


@main.command()
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Records per second.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same events.")
@settings_options
def demo(rate: float, seed: int, config_path: Path | None, kafka: tuple[str, ...], **flags: str | None) -> None:
    r"""Serve made-up asset events from an embedded broker: no Kafka needed.

    \b
    dispatcher demo --rate 1000 --bind 127.0.0.1:8080
    """
    from dispatcher.demo import run_demo  # noqa: PLC0415 - the other commands do without it
    from dispatcher.kafka.embedded import CONSUMER_PROPERTIES  # noqa: PLC0415

    if flags["bootstrap_servers"] is not None:
        _refuse_settings("--bootstrap-servers", "leave it out: the demo brings its own broker; `serve` takes it")
    properties = [f"{key}={value}" for key, value in CONSUMER_PROPERTIES.items()]

    def make_settings(bootstrap_servers: str) -> Settings:
        given = {**flags, "bootstrap_servers": bootstrap_servers}
        return _load(given, (*properties, *kafka), config_path).settings

    async def run() -> None:
        await run_demo(make_settings, rate=rate, seed=seed, console=Console())

    _run(run, make_settings("127.0.0.1:1"))


@main.command()
@click.option("--format", "form", type=click.Choice(["table", "toml", "json"]), default="table", show_default=True)
@click.option("--reference", "show_reference", is_flag=True, help="Print the reference of all settings (Markdown).")
@settings_options
def config(
    form: str, show_reference: bool, config_path: Path | None, kafka: tuple[str, ...], **flags: str | None
) -> None:
    """Show the effective settings, and where each came from; secrets are hidden."""
    if show_reference:
        click.echo(reference(), nl=False)
        return
    loaded = _load(flags, kafka, config_path)
    values = _shown_values(loaded)
    if form == "json":
        click.echo(
            orjson.dumps(
                {name: {"value": value, "origin": loaded.origins[name]} for name, value in values.items()},
                option=orjson.OPT_INDENT_2,
            )
        )
    elif form == "toml":
        for name, value in values.items():
            key = f'kafka."{name.removeprefix("kafka.")}"' if name.startswith("kafka.") else name
            click.echo(f"{key} = {orjson.dumps(value).decode()}  # {loaded.origins[name]}")
    else:
        table = Table("setting", "value", "from", box=None, header_style="bold")
        for name, value in values.items():
            shown = display(getattr(loaded.settings, name)) if not name.startswith("kafka.") else str(value)
            origin = loaded.origins[name]
            table.add_row(name, escape(shown), escape(origin), style="dim" if origin == "default" else None)
        Console().print(table)


def _load(flags: dict[str, str | None], kafka: tuple[str, ...], config_path: Path | None) -> Loaded:
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    given["kafka"] = {}
    for pair in kafka:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            _refuse_settings(f"-X {pair}", "use -X key=value, such as -X security.protocol=ssl")
        given["kafka"][key] = value
    try:
        return load(given, os.environ, config_path)
    except SettingsError as error:
        _refuse(error)


def _run(run: Callable[[], Any], settings: Settings) -> None:
    import trio  # noqa: PLC0415 - `config` does without it

    from dispatcher.telemetry import configure_logging  # noqa: PLC0415

    configure_logging(settings.log_level, settings.log_format)
    try:
        trio.run(run)
    except SettingsError as error:
        _refuse(error)
    except OSError as error:
        log.error("cannot start", error=str(error), bind=settings.bind)  # noqa: TRY400 - the reason says it all
        sys.exit(EXIT_FAILED)
    except BaseExceptionGroup as group:
        settings_errors, others = group.split(SettingsError)
        if settings_errors is not None and others is None:
            _refuse(_leaf(settings_errors))
        log.exception("failed")
        sys.exit(EXIT_FAILED)


def _leaf(group: BaseExceptionGroup[Any]) -> Any:
    error: Any = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _shown_values(loaded: Loaded) -> dict[str, Any]:
    values = loaded.settings.model_dump()
    kafka = hide_secrets(values.pop("kafka"))
    return {**values, **{f"kafka.{name}": value for name, value in sorted(kafka.items())}}


def _refuse(error: SettingsError) -> NoReturn:
    console = Console(stderr=True, highlight=False)
    number = len(error.problems)
    console.print(f"[bold red]{number} wrong setting{'s' if number > 1 else ''}; nothing was started.[/]")
    for problem in error.problems:
        console.print(
            f"  [bold]{escape(problem.key)}[/] = {escape(problem.value)}\n    {escape(problem.remedy)}",
            soft_wrap=True,
        )
    sys.exit(EXIT_WRONG_SETTINGS)


def _refuse_settings(key: str, remedy: str) -> NoReturn:
    from dispatcher.errors import SettingsProblem  # noqa: PLC0415

    shown = "********" if is_secret(key) else ""
    _refuse(SettingsError([SettingsProblem(key, shown, remedy)]))
