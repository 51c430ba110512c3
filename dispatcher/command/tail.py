"""``dispatcher tail`` on the command line: flags, exit codes and the closing message."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dispatcher.command.interrupts import EXIT_SIGNALLED, interrupts_end_quietly

EXIT_FAILED = 1
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4


@click.command()
@click.argument("url")
@click.option("--topic", "topics", multiple=True, metavar="NAME", help="A topic to read. Default: all. Repeatable.")
@click.option(
    "--since",
    metavar="TIME",
    help="Where to start: earliest, now, a duration such as -10m, an RFC 3339 time, or milliseconds since 1970.",
)
@click.option(
    "--last", type=click.IntRange(min=0), metavar="N", help="Start with the newest N records of each partition."
)
@click.option(
    "--scope",
    type=click.Choice(["replica", "topic"]),
    help="topic: every partition, from any replica. Default: the dispatcher's default_scope.",
)
@click.option("--observe", is_flag=True, default=None, help="Only look: what is printed does not count as dispatched.")
@click.option("--ack", is_flag=True, help="Acknowledge each record once it is written (docs/delivery.md).")
@click.option(
    "--key", "keys", multiple=True, metavar="KEY", help="Only records with this key. Repeatable: one has to match."
)
@click.option(
    "--record-header",
    "record_headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="Only records with this header. Repeatable: one value of each name has to match. (-H sets request headers.)",
)
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="POINTER:VALUE",
    help="Only records whose JSON value has this VALUE at this JSON pointer, such as /tenant:t1. Repeatable: one VALUE "
    "of each pointer has to match.",
)
@click.option(
    "--filter", "record_filter", metavar="JSON", help="Only records that match this filter (docs/filters.md)."
)
@click.option(
    "--decode",
    type=click.Choice(["json", "avro-json"]),
    help="Show Avro, Protobuf and JSON Schema as JSON (docs/schemas.md). Topics that cannot be decoded are refused.",
)
@click.option("--from-id", metavar="ID", help="Resume after this event id, such as the one printed on exit.")
@click.option("-n", "--count", type=click.IntRange(min=0), help="Stop after this many records. Default: never.")
@click.option(
    "--format",
    "form",
    metavar="pretty|json|value|TEMPLATE",
    help="A TEMPLATE is text such as '{offset}\\t{value}'. Default: pretty on a terminal, json elsewhere. "
    "On a terminal, characters of keys and values that are not visible are escaped.",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "sse", "websocket"]),
    default="auto",
    show_default=True,
    help="auto: WebSocket for URLs with ws:, wss: or a path ending in /ws, otherwise SSE.",
)
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="Send this request header as well. Repeatable.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="File with a bearer token. Read again for each connection, so it may be renewed.",
)
@click.option(
    "--retries", type=click.IntRange(min=0), help="Give up after this many failed attempts in a row. Default: never."
)
@click.option(
    "--connect-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Maximum time for name lookup, connection and response head together.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only errors and gaps to standard error.")
def tail(url: str, **options: Any) -> None:
    """Print a stream: for people on a terminal, as JSON lines in a pipe.

    \b
    dispatcher tail http://127.0.0.1:8000 --since earliest
    dispatcher tail ws://127.0.0.1:8000 --format value | grep photo
    dispatcher tail http://127.0.0.1:8000 --observe --record-header tenant:t1 --field /state:open
    dispatcher tail http://127.0.0.1:8000 --count 1 --format '{topic} {partition} {offset} {key}'

    It reconnects, resumes and skips repeated records. States and gaps are printed to standard error. On exit, so is the
    id to resume from with --from-id.

    \b
    Exit code 0: --count records were written, or the reader closed the pipe
              1: standard output is closed or full, or cannot be written to
              2: wrong usage; nothing was sent
              3: refused by the server, or the server is not a dispatcher
              4: unreachable, after --retries
            130: Ctrl-C; 143: SIGTERM
    """  # noqa: D301
    sys.exit(_run(url, **options))


def _run(url: str, *, topics: Sequence[str], headers: Sequence[str], **options: Any) -> int:
    """Tail until it ends, and return the exit code."""
    if sys.stdout is None:
        # The next connection would get its descriptor number.
        return EXIT_FAILED
    with interrupts_end_quietly():
        import trio  # noqa: PLC0415 - the other commands need none of these

        from dispatcher.client import SubscriptionError, UnreachableError  # noqa: PLC0415
        from dispatcher.client.address import (  # noqa: PLC0415
            checked_headers,
            checked_seconds,
            filter_parameters,
            read_address,
        )
        from dispatcher.client.errors import WrongAddressError  # noqa: PLC0415
        from dispatcher.command.tail_output import Options, Tail  # noqa: PLC0415

        try:
            read_address(
                url,
                since=options["since"],
                last_event_id=options["from_id"],
                transport=options["transport"],
                acks=options["ack"],
            )
            checked_seconds(connect_timeout=options["connect_timeout"])
            named = checked_headers(dict(map(_header, headers)))
            options["record_headers"] = _by_name(options["record_headers"])
            options["fields"] = _by_name(options["fields"])
            filter_parameters(record_headers=options["record_headers"], fields=options["fields"])
            tailing = Tail(Options(url, topics, headers=named, **options))
        except (WrongAddressError, ValueError) as error:
            raise click.UsageError(str(error)) from None
    code = 0
    try:
        trio.run(tailing.run)
    except* KeyboardInterrupt:
        code = EXIT_SIGNALLED + signal.SIGINT
    except* SubscriptionError as group:
        ended_by = _first(group)
        tailing.say(str(ended_by), "bold red")
        code = EXIT_UNREACHABLE if isinstance(ended_by, UnreachableError) else EXIT_REFUSED
    except* OSError as group:
        # Standard output is full, or failed in a way other than a closed pipe.
        tailing.say(str(_first(group)), "bold red")
        code = EXIT_FAILED
    if tailing.signal is not None:
        code = EXIT_SIGNALLED + tailing.signal
    if not options["quiet"]:
        tailing.say_where_to_resume()
    return code


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"{text!r} is not a header: use NAME:VALUE")
    return name.strip(), value.strip()


def _by_name(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each name; the first colon ends it."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon:
            raise ValueError(f"{text!r} has no value: use NAME:VALUE")
        found.setdefault(name, []).append(value)
    return found


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
