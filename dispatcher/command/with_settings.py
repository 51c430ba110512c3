"""The commands that take settings: flags to Settings to trio.run."""

import os
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dispatcher.command.configuration import Loaded, load
from dispatcher.command.loading import loading
from dispatcher.command.redrive import Moment
from dispatcher.command.reference import reference
from dispatcher.command.running import refuse, run_to_exit
from dispatcher.errors import SettingsError
from dispatcher.schema_settings import SECRETS
from dispatcher.setting_kafka import HIDDEN, hide_secrets
from dispatcher.setting_values import display, is_content
from dispatcher.settings import Settings
from dispatcher.topic_settings import FIELD as TOPIC_TABLES


def _metavar(name: str) -> str:
    if name.endswith("_bytes"):
        return "BYTES"
    if name.endswith("_seconds"):
        return "SECONDS"
    if name == "workers":
        return "NUMBER|auto"
    kind = Settings.model_fields[name].annotation
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if kind is int:
        return "NUMBER"
    return {"bind": "HOST:PORT", "bootstrap_servers": "HOST:PORT[,...]"}.get(name, "TEXT")


def settings_options(*, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each setting, ``-X`` and ``--config``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = [
            click.option(
                "--config",
                "config_path",
                type=click.Path(path_type=Path),
                help="TOML file with settings by name. Default: dispatcher.toml in the current folder, if it exists.",
            ),
            click.option(
                "-X",
                "kafka",
                multiple=True,
                metavar="KEY=VALUE",
                help="Any librdkafka property, such as -X security.protocol=ssl. Repeatable.",
            ),
            click.option(
                "--topics",
                "--topic",
                "topics",
                multiple=True,
                metavar="NAME[,NAME...]",
                help=f"{Settings.model_fields['topics'].description} Repeatable.",
            ),
            *(
                click.option(f"--{name.replace('_', '-')}", name, metavar=_metavar(name), help=field.description)
                for name, field in Settings.model_fields.items()
                if name not in {"kafka", "topics", *without}
            ),
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@settings_options()
def serve(config_path: Path | None, **flags: Any) -> None:
    """Serve the topics until SIGTERM or Ctrl-C.

    \b
    dispatcher serve --bootstrap-servers kafka-1:9092,kafka-2:9092 --topics ofa_assets
    dispatcher serve --config dispatcher.toml --bind 0.0.0.0:8000
    DISPATCHER_KAFKA__SASL_PASSWORD=... dispatcher serve -X security.protocol=sasl_ssl

    Every setting can also be given as DISPATCHER_<NAME> in the environment, or as <name> in the file. Flags override
    the environment, and the environment overrides the file.

    \b
    Exit code 0: stopped on request
              1: failed; the log says why
              2: invalid settings; nothing was started
    """  # noqa: D301
    settings = _load(flags, config_path).settings

    def read_settings() -> Settings:
        return load(_given(flags), os.environ, config_path).settings

    async def run() -> int:
        # The other commands do not need the server.
        with loading():
            from dispatcher.supervisor import supervise  # noqa: PLC0415

        if settings.workers != 1:
            from dispatcher.workers.machine import read_machine  # noqa: PLC0415
            from dispatcher.workers.parent import run_workers  # noqa: PLC0415
            from dispatcher.workers.plan import number_of_workers  # noqa: PLC0415

            machine = read_machine()
            if number_of_workers(settings, machine) > 1:
                return await run_workers(settings, machine, read_settings=read_settings)
        await supervise(settings, read_settings=read_settings)
        return 0

    run_to_exit(run, settings)


@click.command()
@click.option("--dry-run", is_flag=True, help="Write nothing: count what would be redriven.")
@click.option("--reason", "reasons", multiple=True, metavar="WORD", help="Only letters with this reason. Repeatable.")
@click.option("--since", type=Moment(), help="Only letters written from this time on: 2026-01-31T12:00:00Z, or -2h.")
@click.option("--until", type=Moment(), help="Only letters written before this time.")
@click.option("--limit", type=click.IntRange(min=1), metavar="NUMBER", help="Stop after this many records.")
@click.option("--rate", type=click.FloatRange(min=0), default=0.0, help="Maximum records per second. 0: no limit.")
@settings_options()
def redrive(  # noqa: PLR0917 - one argument per option
    dry_run: bool,
    reasons: tuple[str, ...],
    since: float | None,
    until: float | None,
    limit: int | None,
    rate: float,
    config_path: Path | None,
    **flags: Any,
) -> None:
    """Write dead letters back to the topics that their records came from.

    \b
    Count the letters:      dispatcher redrive --config dispatcher.toml --dry-run
    Redrive some, slowly:   dispatcher redrive --config dispatcher.toml --reason deadline --since -2h --rate 100
    Redrive all:            dispatcher redrive --config dispatcher.toml

    Use the same settings as the replicas: topics, dead_letter_topic, group_id and the connection. Each record is
    written with its original key, value and headers, and a new timestamp. It is a new record: all consumers of the
    topic receive it.

    Each letter is redriven once, however often this command runs, and even if it is killed: the group GROUP_ID.redrive
    remembers which ones are done. Letters that the options leave out remain for another run, and no letter is deleted.
    Letters that are written after the start of a run wait for the next one.

    The command needs permission to read the dead-letter topics and the group GROUP_ID.redrive, to write to the topics,
    and to write to the transactional id GROUP_ID.redrive.

    \b
    Exit code 0: done
              1: failed; run it again, it continues where it stopped
              2: invalid settings or options; nothing was written
            130: Ctrl-C; 143: SIGTERM; run it again, it continues where it stopped
    """  # noqa: D301
    from dispatcher.command import redrive as command  # noqa: PLC0415
    from dispatcher.sansio.redrive import Wanted  # noqa: PLC0415

    settings = _load(flags, config_path).settings
    if not settings.dead_letter_topic:
        raise click.UsageError("there is no dead-letter topic: dead_letter_topic is empty")
    wanted = Wanted(frozenset(settings.topics), reasons, since, until)
    command.redrive(settings, wanted, dry_run=dry_run, limit=limit, rate=rate)


@click.command()
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=100_000),
    default=20.0,
    show_default=True,
    help="Records per second.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same events.")
@settings_options(without={"bootstrap_servers"})
def demo(rate: float, seed: int, config_path: Path | None, **flags: Any) -> None:
    """Serve generated asset events from an embedded broker; needs no Kafka.

    \b
    dispatcher demo --rate 1000 --bind 127.0.0.1:8080
    dispatcher demo --workers 2

    The broker runs in this process, so broker settings in the environment and the file are ignored.
    """  # noqa: D301
    with loading():
        from dispatcher.command.demo import WITH_WORKERS, run_demo  # noqa: PLC0415 - the other commands do without it
        from dispatcher.kafka.embedded import CONSUMER_PROPERTIES  # noqa: PLC0415

    properties = tuple(f"{key}={value}" for key, value in CONSUMER_PROPERTIES.items())
    flags["kafka"] = (*properties, *flags["kafka"])
    only = {"bootstrap_servers", "kafka"}
    settings = _load(flags, config_path, flags_only=only, with_workers=WITH_WORKERS).settings

    async def run() -> int:
        return await run_demo(settings, rate=rate, seed=seed, console=Console())

    run_to_exit(run, settings)


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "toml", "json"]),
    default="table",
    show_default=True,
    help="table is for people, toml for a settings file, json for programs.",
)
@click.option("--reference", "show_reference", is_flag=True, help="Print the reference of all settings as Markdown.")
@click.option(
    "--explain-token",
    "token_path",
    metavar="FILE",
    help="Explain what the token in this file (-: standard input) allows, and why no more than that. The token itself "
    "is never shown.",
)
@settings_options()
def config(form: str, show_reference: bool, token_path: str | None, config_path: Path | None, **flags: Any) -> None:
    """Show the effective settings and where each came from; secrets are hidden.

    \b
    dispatcher config --config dispatcher.toml
    dispatcher config --history-bytes 128MiB --format toml > dispatcher.toml
    dispatcher config --config dispatcher.toml --explain-token token.jwt
    """  # noqa: D301
    if show_reference:
        click.echo(reference(), nl=False)
        return
    loaded = _load(flags, config_path)
    if token_path is not None:
        _explain(token_path, loaded.settings)
        return
    if form == "json":
        shown = {name: {"value": value, "origin": loaded.origins[name]} for name, value in _shown_values(loaded)}
        click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2))
    elif form == "toml":
        for name, value in _shown_values(loaded):
            table, _, key = name.partition(".")
            line = f"{table}.{_quote(key)} = {_quote(value)}" if key else f"{name} = {_quote(value)}"
            # A file made from this must not send asterisks to a broker as a password.
            click.echo(f"{'# ' if value == HIDDEN else ''}{line}  # {loaded.origins[name]}")
    else:
        rows = Table("setting", "value", "from", box=None, header_style="bold")
        for name, value in _shown_values(loaded):
            origin = loaded.origins[name]
            rows.add_row(name, escape(display(value)), escape(origin), style="dim" if origin == "default" else None)
        # Programs that read a pipe need whole lines.
        Console(width=None if sys.stdout.isatty() else 10_000).print(rows)


def _explain(path: str, settings: Settings) -> None:
    """Explain a token, and exit with 1 if it allows nothing."""
    if not settings.auth_issuer:
        raise click.UsageError("no tokens are required: auth_issuer is not set")
    try:
        from dispatcher.command.explain_token import explain_file  # noqa: PLC0415 - it needs the extra `auth`

        lines, code = explain_file(path, settings)
    except ImportError as error:
        raise click.UsageError(f"install the extra auth: pip install 'kafka-dispatcher[auth]' ({error})") from error
    except (OSError, ValueError) as error:
        # The message of a ValueError may contain a part of the file.
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.UsageError(f"{path} cannot be read: {reason}") from None
    except SettingsError as error:
        refuse(error.problems)
    click.echo("\n".join(lines))
    sys.exit(code)


def _load(flags: dict[str, Any], config_path: Path | None, **more: Any) -> Loaded:
    try:
        return load(_given(flags), os.environ, config_path, **more)
    except SettingsError as error:
        refuse(error.problems)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were on the command line."""
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    if "topics" in given:
        given["topics"] = ",".join(given["topics"])
    return given


def _shown_values(loaded: Loaded) -> Iterator[tuple[str, Any]]:
    for name in Settings.model_fields:
        if name != "kafka":
            yield name, _shown_value(name, getattr(loaded.settings, name))
    from dispatcher.kafka.properties import unknown_properties  # noqa: PLC0415 - `tail` does without librdkafka

    unknown = unknown_properties(loaded.settings.kafka)
    for name, value in sorted(hide_secrets(loaded.settings.kafka).items()):
        yield f"kafka.{name}", HIDDEN if name in unknown else value


def _shown_value(name: str, value: Any) -> Any:
    if name == "auth_grants":  # as JSON, which a file takes, too
        return orjson.dumps([rule.model_dump(exclude_none=True) for rule in value]).decode() if value else ""
    if name == TOPIC_TABLES:
        tables = {topic: table.model_dump(exclude_defaults=True) for topic, table in value.items()}
        return orjson.dumps(tables).decode() if value else ""
    if (name in SECRETS and value) or is_content(display(value)):
        return HIDDEN
    if name == "auth_secret_file" and value and "/" not in value:
        return HIDDEN  # some people write the secret itself where a path belongs
    return value


def _quote(value: object) -> str:
    """As JSON, which is also valid TOML for every value that a setting can have."""
    return orjson.dumps(value).decode()
