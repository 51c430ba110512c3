"""``dispatcher status`` and ``dispatcher subscribers``: tables for people, JSON in a pipe."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from dispatcher.command.asking import Answer, NoAnswerError, Port, detail_of, read_token_file
from dispatcher.command.safe_text import clean

EXIT_UNWELL = 1

MAX_PARTITIONS = 50
"""Maximum number of rows in the table; if there are more, those with the largest lag come first."""

PAGE = 500

FORMATS = click.Choice(["auto", "table", "json"])


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--ca-file", type=click.Path(path_type=Path), help="PEM file with the certificates to trust."),
        click.option(
            "--format",
            "form",
            type=FORMATS,
            default="auto",
            show_default=True,
            help="auto: a table on a terminal, JSON in a pipe.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("url")
@click.option("--all", "show_all", is_flag=True, help=f"Show every partition, not only {MAX_PARTITIONS}.")
@_common
def status(url: str, form: str, ca_file: Path | None, *, show_all: bool) -> None:
    """Show a replica's health, partitions, lag and subscribers.

    \b
    dispatcher status http://127.0.0.1:8000
    dispatcher status 10.0.0.7:9000 --format json | jq .topic_health

    URL is the address of `bind`, or of `operations_bind` if that is set. In a pipe it writes /status as one JSON
    document.

    \b
    Exit code 0: the replica is ready and healthy
              1: it is not ready, or a topic or the group is degraded
              2: invalid arguments
              3: no answer
    """  # noqa: D301
    port = Port(url, ca_file=ca_file)
    answer = port.get("/status")
    if answer.status == 404:
        raise NoAnswerError(f"{clean(port.url)} has no /status: ask the port of operations_bind")
    document = _document(port, answer, "partitions")
    if _is_for_people(form):
        ready = port.get("/readyz")
        reasons = _members(ready.body).get("reasons")
        console = Console(highlight=False)
        for renderable in _overview(document, reasons if isinstance(reasons, list) else [], show_all=show_all):
            console.print(renderable)
    else:
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    if not document.get("ready") or any(one.get("health") == "degraded" for _, one in _conditions(document)):
        sys.exit(EXIT_UNWELL)


@click.command()
@click.argument("url")
@click.option(
    "--token-file",
    required=True,
    metavar="FILE",
    help="File with the administrator's token (-: standard input); see admin_token_file.",
)
@click.option("--subject", multiple=True, help="Only streams opened with a token of this subject. Repeatable.")
@click.option("--topic", multiple=True, help="Only streams of this topic. Repeatable.")
@click.option("--state", multiple=True, help="Only streams in this state: live, catching-up. Repeatable.")
@click.option("--address", multiple=True, help="Only streams from this address. Repeatable.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Show at most this many.")
@_common
def subscribers(url: str, token_file: str, form: str, ca_file: Path | None, *, limit: int, **selectors: Any) -> None:
    """List a replica's subscribers: who they are, where they connect from, what they read, and how far they have got.

    \b
    dispatcher subscribers http://127.0.0.1:9000 --token-file admin-token --topic orders
    dispatcher subscribers http://127.0.0.1:9000 --token-file admin-token | jq .address

    URL is the address of `operations_bind`. In a pipe it writes one JSON object per line.

    \b
    Exit code 0: listed, even if there are none
              2: invalid arguments, or refused: the reason is on standard error
              3: no answer
    """  # noqa: D301
    port = Port(url, read_token_file(token_file), ca_file)
    query = [(name, value) for name, values in selectors.items() for value in values]
    found, total = _pages(port, query, limit)
    if _is_for_people(form):
        console = Console(highlight=False)
        console.print(_table_of_subscribers(found))
        console.print(f"{len(found)} shown, {total} in all" if len(found) < total else f"{total} in all", style="dim")
    else:
        for one in found:
            click.echo(orjson.dumps(one))


def _pages(port: Port, query: Sequence[tuple[str, str]], limit: int) -> tuple[list[Any], int]:
    """Fetch page after page, up to this many subscribers; also returns how many there are in all."""
    found: list[Any] = []
    after = 0
    while True:
        size = str(min(PAGE, limit - len(found)))
        answer = port.get("/admin/subscribers", [*query, ("limit", size), ("after", str(after))])
        if answer.status == 404:
            raise NoAnswerError(
                f"{clean(port.url)} has no /admin: set operations_bind and admin_token_file, and ask there"
            )
        if answer.status in {400, 401, 403}:
            raise click.UsageError(f"refused ({answer.status}): {detail_of(answer)}")
        document = _document(port, answer, "subscribers")
        found += document["subscribers"]
        following = document.get("next")
        if following is None or len(found) >= limit:
            return found, int(document.get("total", len(found)))
        if not isinstance(following, int) or following <= after:
            raise NoAnswerError(f"{clean(port.url)} sends pages without end")
        after = following


def _document(port: Port, answer: Answer, member: str) -> Mapping[str, Any]:
    """The document in an answer.

    Raises:
        NoAnswerError: the answer is an error, or not from a dispatcher.
    """
    if answer.status != 200:
        raise NoAnswerError(f"{clean(port.url)} answers {answer.status}: {detail_of(answer)}")
    rows = _members(answer.body).get(member)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise NoAnswerError(f"{clean(port.url)} answered, but is not a dispatcher")
    return _members(answer.body)


def _members(value: object) -> Mapping[str, Any]:
    """The members of an object; none for anything else, because the server may not be a dispatcher."""
    return value if isinstance(value, Mapping) else {}


def _is_for_people(form: str) -> bool:
    return form == "table" or (form == "auto" and sys.stdout.isatty())


def _shown(value: object) -> str:
    """Text from outside, made safe for a terminal and for rich."""
    return "unknown" if value is None else escape(clean(str(value)))


def _conditions(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Topics and the group, with their health."""
    for name, condition in _members(document.get("topic_health")).items():
        yield name, _members(condition)
    yield f"group {document.get('group')}", _members(document.get("group_health"))


def _overview(document: Mapping[str, Any], reasons: Sequence[object], *, show_all: bool) -> Iterator[Table | str]:
    """The overview of ``/status`` to print."""
    ready = "[green]ready[/]" if document.get("ready") else "[bold red]not ready[/]"
    yield f"[bold]{_shown(document.get('replica'))}[/]  {ready}, {_shown(document.get('state'))}"
    for reason in reasons:
        yield f"  [red]{_shown(reason)}[/]"
    yield ""
    health = Table("topic", "health", "why, and what to do", box=None, header_style="bold")
    for name, one in _conditions(document):
        word = one.get("health", "unknown")
        style = {"degraded": "bold red", "healthy": "green"}.get(str(word), "yellow")
        why = ": ".join(_shown(text) for text in (one.get("reason"), one.get("detail")) if text)
        health.add_row(_shown(name), f"[{style}]{_shown(word)}[/]", why)
    yield health
    yield ""
    yield from _partitions(document["partitions"], show_all=show_all)
    subscribers, records, size = (_members(document.get(name)) for name in ("subscribers", "records", "bytes"))
    behind = _members(subscribers.get("behind_records"))
    yield (
        f"{_shown(subscribers.get('total'))} subscribers: {_shown(subscribers.get('live'))} live, "
        f"{_shown(subscribers.get('catching-up'))} catching up; behind by {_shown(behind.get('median'))} records "
        f"(median), {_shown(behind.get('worst'))} (worst)"
    )
    yield (
        f"{_shown(records.get('published'))} records read, {_shown(records.get('dispatched'))} dispatched, "
        f"{_shown(records.get('waiting'))} waiting; history {_shown(_bytes(size.get('history')))}"
    )


def _partitions(partitions: Sequence[Mapping[str, Any]], *, show_all: bool) -> Iterator[Table | str]:
    if not partitions:
        yield "[yellow]no partition is assigned to this replica[/]"
        yield ""
        return
    shown = partitions
    if len(partitions) > MAX_PARTITIONS and not show_all:
        shown = sorted(partitions, key=_lag, reverse=True)[:MAX_PARTITIONS]
    table = Table("topic", box=None, header_style="bold")
    names = ("partition", "next_offset", "committed", "log_end", "lag", "waiting_records")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("")
    for one in shown:
        note = "[yellow]paused[/]" if one.get("paused") else ""
        table.add_row(_shown(one.get("topic")), *(_shown(one.get(name)) for name in names), note)
    yield table
    if len(shown) < len(partitions):
        yield f"[dim]… and {len(partitions) - len(shown)} more with less lag (--all)[/]"
    yield ""


def _lag(partition: Mapping[str, Any]) -> int:
    lag = partition.get("lag")
    return lag if isinstance(lag, int) else -1


def _bytes(number: object) -> object:
    return decimal(number) if isinstance(number, int) else number


def _table_of_subscribers(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("id", "state", "subject", "address", "topics", "scope", box=None, header_style="bold")
    for name in ("since (s)", "records", "behind"):
        table.add_column(name, justify="right")
    table.add_column("agent", overflow="ellipsis", no_wrap=True)
    for one in found:
        given = one.get("topics")
        topics = given if isinstance(given, list) else []
        table.add_row(
            _shown(one.get("id")),
            _shown(one.get("state")),
            "" if one.get("subject") is None else _shown(one["subject"]),
            _shown(one.get("address")),
            _shown(", ".join(map(str, topics[:3])) + (f" and {len(topics) - 3} more" if len(topics) > 3 else "")),
            _shown(one.get("scope")) + (", observes" if one.get("observe") else ""),
            _shown(one.get("seconds")),
            _shown(one.get("records")),
            _shown(one.get("behind_records")),
            _shown(one.get("agent")),
        )
    return table
