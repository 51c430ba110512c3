"""``dispatcher tail``: a stream on a terminal or in a pipe.

Rules of this module:

* Standard output has records and nothing else; messages about the stream go to standard error.
* A record counts as written only when it was written whole: the position printed on exit names no other.
* On a terminal every byte of a record is shown as text.
"""

import os
import re
import select
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import orjson
import trio
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from dispatcher.client import Gap, Record, State, Subscription, subscribe
from dispatcher.client.resume_position import ResumePosition
from dispatcher.client.timestamps import time_of_day
from dispatcher.sansio.position import parse_position

FORMATS = ("pretty", "json", "value")
FIELDS = ("id", "topic", "partition", "offset", "timestamp", "time", "key", "value")
"""The fields that a template can name."""

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_FIELD = re.compile(r"\{(\w*)\}|\\([tn0\\])")
_ESCAPES = {"t": "\t", "n": "\n", "0": "\0", "\\": "\\"}
_STYLES = {"live": "green", "catching-up": "cyan", "closed": "bold red", "reconnecting": "yellow"}


@dataclass(frozen=True, slots=True)
class Options:
    """What to read, and how to show it."""

    url: str
    topics: Sequence[str] = ()
    since: str | None = None
    from_id: str | None = None
    transport: Literal["auto", "sse", "websocket"] = "auto"
    headers: Mapping[str, str] | None = None
    count: int | None = None
    """Stop after this many records; None for no limit."""
    form: str | None = None
    """One of `FORMATS`, or a template; None chooses by whether standard output is a terminal."""
    retries: int | None = None
    """How many attempts in a row may fail; None for no limit."""
    connect_timeout: float = 10.0
    """Seconds from the name lookup to the head of the response."""
    quiet: bool = False
    """Print only errors and gaps."""


class Tail:
    """One run of the command.

    Args:
        options: What was asked for.

    Raises:
        ValueError: the template names an unknown field.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._terminal = sys.stdout.isatty()
        self._console = Console(highlight=False, soft_wrap=True)
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self._write = self._writer(options.form or ("pretty" if self._terminal else "json"))
        self._written = ResumePosition(parse_position(options.from_id) if options.from_id else None)
        self._left = options.count

    @property
    def position(self) -> str:
        """Where to resume, as of the last record that was written."""
        return self._written.format()

    async def run(self) -> None:
        """Return when the count is reached, or when the reader has closed standard output.

        Raises:
            SubscriptionError: reconnecting cannot help.
        """
        options = self._options
        async with (
            subscribe(
                options.url,
                topics=options.topics,
                since=options.since,
                last_event_id=options.from_id,
                transport=options.transport,
                headers=options.headers,
                connect_timeout_seconds=options.connect_timeout,
                max_failures=options.retries,
            ) as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_until_nobody_reads, nursery.cancel_scope)
            with suppress(BrokenPipeError):
                await self._copy(stream)
            nursery.cancel_scope.cancel()

    def say(self, text: str, style: str = "dim") -> None:
        """One line on standard error."""
        self._errors.print(Text(f"-- {_clean(text)}", style=style))

    async def _copy(self, stream: Subscription) -> None:
        if self._left == 0:
            return
        async for event in stream.events():
            if isinstance(event, Record):
                self._write(event)
                self._written.record(event)
                if self._left is not None:
                    self._left -= 1
                    if self._left == 0:
                        return
            elif isinstance(event, Gap):
                self._written.gap(event)
                offsets = f"{event.topic}:{event.partition} offsets {event.from_offset} to {event.to_offset}"
                self.say(f"gap: {offsets} will not come ({event.reason})", "bold yellow")
            elif not self._options.quiet and event.name != "closed":
                # The caller prints why it was closed.
                self.say(_told(event), _STYLES.get(event.name, "dim"))

    def _writer(self, form: str) -> Callable[[Record], None]:
        if form == "pretty":
            return self._print
        if form in FORMATS:
            line: Callable[[Record], bytes] = as_json if form == "json" else as_value
        else:
            line = template(form)
        if self._terminal:
            return lambda record: _write_all(_clean(line(record).decode(errors="replace")).encode() + b"\n")
        return lambda record: _write_all(line(record) + b"\n")

    def _print(self, record: Record) -> None:
        """For people: when, where, key, value."""
        text = Text(no_wrap=True)
        text.append(f"{_time(record)} {record.topic}:", style="dim")
        text.append(f"{record.partition}={record.offset} ", style="cyan")
        if record.key is not None:
            text.append(f"{_clean(record.key.decode(errors='replace'))} ", style="bold")
        value = Text("(tombstone)", style="red") if record.value is None else Text(_clean(record.text))
        if record.text.startswith(("{", "[")):
            JSONHighlighter().highlight(value)
        self._console.print(text.append_text(value))


def as_json(record: Record) -> bytes:
    """The envelope of the protocol, preceded by the id."""
    line: dict[str, object] = {
        "id": record.id,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        **_bytes("key", record.key),
        "headers": [{"key": name, **_bytes("value", value)} for name, value in record.headers],
        **_bytes("value", record.value),
    }
    return orjson.dumps(line)


def _bytes(name: str, content: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if content is None else content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(content or b"").decode()}


def as_value(record: Record) -> bytes:
    """The value alone, verbatim."""
    return record.value or b""


def template(text: str) -> Callable[[Record], bytes]:
    r"""Make a line of named fields, such as ``{offset}\t{value}``.

    Raises:
        ValueError: it names an unknown field, or none at all; the message lists the fields.
    """
    names = [match[1] for match in _FIELD.finditer(text) if match[2] is None]
    unknown = [name for name in names if name not in FIELDS]
    if unknown or not names:
        problem = f"there is no {{{unknown[0]}}}" if unknown else f"{text!r} names no field"
        raise ValueError(f"{problem}; use {', '.join(FORMATS)}, or a template of {{{'}, {'.join(FIELDS)}}}")

    def line(record: Record) -> bytes:
        def fill(match: re.Match[str]) -> bytes:
            return _ESCAPES[match[2]].encode() if match[2] else _field(record, match[1])

        parts, end = [], 0
        for match in _FIELD.finditer(text):
            parts += [text[end : match.start()].encode(), fill(match)]
            end = match.end()
        return b"".join([*parts, text[end:].encode()])

    return line


def _field(record: Record, name: str) -> bytes:
    if name in {"key", "value"}:
        content: bytes | None = getattr(record, name)
        return content or b""
    if name == "time":
        return _time(record).encode()
    if name == "timestamp":
        return b"" if record.timestamp_ms is None else b"%d" % record.timestamp_ms
    return str(getattr(record, name)).encode()


def _time(record: Record) -> str:
    """The record's time in the local time zone, if its timestamp is one."""
    return time_of_day(record.timestamp_ms) or "-"


def _told(state: State) -> str:
    parts: list[str] = [state.name]
    if state.reason:
        parts.append(f": {state.reason}")
    if state.retry_in_seconds is not None:
        parts.append(f"; again in {state.retry_in_seconds:.1f} s")
    if state.replica is not None:
        topics = (f"{topic}: {','.join(map(str, numbers))}" for topic, numbers in state.assigned.items())
        parts.append(f" on {state.replica} ({'; '.join(topics) or 'no partitions'})")
    return "".join(parts)


def _clean(text: str) -> str:
    """Text that moves no cursor and sets no colour."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def _write_all(data: bytes) -> None:
    """Write to standard output, and wait until it is taken: a slow reader slows the stream down.

    Raises:
        BrokenPipeError: the reader has closed it.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]


async def _until_nobody_reads(scope: trio.CancelScope) -> None:
    """Cancel when the reader has closed the pipe, even while there is nothing to write, as ``tail -f`` does."""
    with select.epoll() as poll:
        try:
            # No event is requested: errors, such as a pipe without a reader, are always reported.
            poll.register(sys.stdout.fileno(), 0)
        except PermissionError:
            return  # a file, which has no reader to lose
        await trio.lowlevel.wait_readable(poll.fileno())
    scope.cancel()
