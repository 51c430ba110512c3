"""``dispatcher tail``: a stream on a terminal or in a pipe.

Rules of this module:

* Standard output has records and nothing else; messages about the stream go to standard error.
* A record counts as written only once all of it was written: the position printed on exit names no other record.
* On a terminal every byte of a record is shown as text.
"""

import os
import select
import signal
import sys
from codecs import getincrementaldecoder
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import trio
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from dispatcher.client import Gap, Record, State, Subscription, subscribe
from dispatcher.command.safe_text import clean
from dispatcher.command.tail_text import FORMATS, as_json, as_value, record_time, template
from dispatcher.sansio.position import parse_position, shortest_position
from dispatcher.sansio.records import TopicPartition

SHOWN_BYTES = 16 * 1024
"""How much of a value is shown to people; of a key, a sixteenth of that."""

SAID_CHARACTERS = 1000
"""The longest line on standard error; a state may list thousands of partitions."""

PIECE_BYTES = 64 * 1024
"""How much of a long value is made safe for a terminal in one step, so that signals and heartbeats are still
handled."""

_STYLES = {"live": "green", "catching-up": "cyan", "closed": "bold red", "reconnecting": "yellow"}


@dataclass(frozen=True, slots=True)
class Options:
    """What to read, and how to show it."""

    url: str
    topics: Sequence[str] = ()
    since: str | None = None
    from_id: str | None = None
    last: int | None = None
    scope: Literal["replica", "topic"] | None = None
    observe: bool | None = None
    decode: Literal["json", "avro-json"] | None = None
    ack: bool = False
    """Whether to acknowledge each record once all of it was written."""
    keys: Sequence[str] = ()
    record_headers: Mapping[str, Sequence[str]] | None = None
    fields: Mapping[str, Sequence[str]] | None = None
    record_filter: str | None = None
    transport: Literal["auto", "sse", "websocket"] = "auto"
    headers: Mapping[str, str] | None = None
    token_file: Path | None = None
    """Holds the token; read again before each attempt."""
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


async def _read_token(path: Path) -> str:
    return (await trio.Path(path).read_text(encoding="utf-8")).strip()


class Tail:
    """One run of the command.

    Args:
        options: What to read, and how to show it.

    Raises:
        ValueError: the template names an unknown field.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._terminal = sys.stdout.isatty()
        self._console = Console(highlight=False, soft_wrap=True)
        self._errors = _Errors(stderr=True, highlight=False, soft_wrap=True) if sys.stderr else None
        self._output = Output(sys.stdout.fileno()) if _has_descriptor() else None
        self._write = self._writer(options.form or ("pretty" if self._terminal else "json"))
        self._stream: Subscription | None = None
        self._unwritten: Record | None = None
        self._left = options.count
        self.signal: signal.Signals | None = None
        """The signal that ended it."""

    @property
    def position(self) -> str:
        """Where to resume, as of the last record of which all was written."""
        text = self._stream.position if self._stream else self._options.from_id or ""
        if self._unwritten is None or not text or self._options.ack:
            return text
        record, position = self._unwritten, parse_position(text)
        position[TopicPartition(record.topic, record.partition)] = record.offset - 1
        return shortest_position(position)

    async def run(self) -> None:
        """Return when the count is reached, a signal arrives, or the reader has closed standard output.

        Raises:
            SubscriptionError: reconnecting cannot help.
            OSError: standard output cannot be written to.
        """
        options = self._options
        async with (
            subscribe(
                options.url,
                topics=options.topics,
                since=options.since,
                last_event_id=options.from_id,
                last=options.last,
                scope=options.scope,
                observe=options.observe,
                decode=options.decode,
                ack="manual" if options.ack else None,
                keys=options.keys,
                record_headers=options.record_headers,
                fields=options.fields,
                filter=options.record_filter,
                transport=options.transport,
                headers=options.headers,
                token=None if options.token_file is None else partial(_read_token, options.token_file),
                connect_timeout_seconds=options.connect_timeout,
                max_failures=options.retries,
            ) as stream,
            trio.open_nursery() as nursery,
        ):
            self._stream = stream
            await nursery.start(self._until_signal, nursery.cancel_scope)
            nursery.start_soon(_until_nobody_reads, nursery.cancel_scope)
            with suppress(BrokenPipeError):
                await self._copy(stream)
            nursery.cancel_scope.cancel()

    def say(self, text: str, style: str = "dim") -> None:
        """Print one line on standard error, as long as somebody reads it."""
        shown = text if len(text) <= SAID_CHARACTERS else f"{text[:SAID_CHARACTERS]}…"
        self._say(f"-- {clean(shown)}", style)

    def say_where_to_resume(self) -> None:
        """Print the option that resumes, to be copied into a shell."""
        if self.position:
            # A position contains no quotation mark: the client accepts no other.
            self._say(f"-- resume with --from-id '{self.position}'", "dim")

    def _say(self, text: str, style: str) -> None:
        if self._errors is None:
            return
        try:
            self._errors.print(Text(text, style=style))
        except OSError:
            self._errors = None

    async def _until_signal(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                self.signal = signal.Signals(number)
                scope.cancel()

    async def _copy(self, stream: Subscription) -> None:
        if self._left == 0:
            return
        async for event in stream.events():
            if isinstance(event, Record):
                self._unwritten = event
                await self._write(event)
                self._unwritten = None
                if self._options.ack:
                    await stream.ack(event)
                if self._left is not None:
                    self._left -= 1
                    if self._left == 0:
                        return
            elif isinstance(event, Gap):
                self.say(f"gap: {_missing(event)} ({event.reason})", "bold yellow")
            elif not self._options.quiet and event.name != "closed":
                # The caller prints why it was closed.
                self.say(_told(event), _STYLES.get(event.name, "dim"))

    def _writer(self, form: str) -> Callable[[Record], Awaitable[None]]:
        if form == "pretty":
            return self._write_pretty
        if form == "value" and self._terminal:
            return self._write_shown
        if form in FORMATS:
            line: Callable[[Record], bytes] = as_json if form == "json" else as_value
        else:
            line = template(form, _shown) if self._terminal else template(form)

        async def write(record: Record) -> None:
            await self._out(line(record) + b"\n")

        return write

    async def _write_pretty(self, record: Record) -> None:
        with self._console.capture() as capture:
            self._console.print(pretty(record))
        # A terminal may not support all of Unicode.
        await self._out(capture.get().encode(self._console.encoding, "backslashreplace"))

    async def _write_shown(self, record: Record) -> None:
        """Write a whole value to a terminal, in pieces."""
        decoder = getincrementaldecoder("utf-8")("replace")
        value = memoryview(record.value or b"")
        for start in range(0, len(value), PIECE_BYTES):
            piece = value[start : start + PIECE_BYTES]
            text = clean(decoder.decode(bytes(piece), final=start + PIECE_BYTES >= len(value)))
            await self._out(text.encode(self._console.encoding, "backslashreplace"))
        await self._out(b"\n")

    async def _out(self, data: bytes) -> None:
        if self._output is None:
            sys.stdout.buffer.write(data)
        else:
            await self._output.write(data)


class _Errors(Console):
    """Standard error, whose reader may leave; rich's own class would then end the process with 1."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True


class Output:
    """Writes to a descriptor that may be slow, non-blocking, or closed by its reader.

    *Backpressure*: a slow reader slows the stream down; signals are handled meanwhile. *Cancellation*: may leave a part
    written.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    async def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
            OSError: it cannot be written to, for example because the disk is full.
        """
        rest = memoryview(data)
        while rest:
            if not self._poll.poll(0):
                await trio.lowlevel.wait_writable(self._descriptor)
            with suppress(BlockingIOError):
                # A pipe that is writable takes this much without blocking (POSIX, PIPE_BUF).
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
            if len(data) > PIECE_BYTES:
                await trio.lowlevel.checkpoint()


def pretty(record: Record) -> Text:
    """A record for people: time, partition, offset, key and value; if these are long, their beginnings."""
    text = Text(no_wrap=True)
    text.append(f"{record_time(record)} {clean(record.topic)}:", style="dim")
    text.append(f"{record.partition}={record.offset} ", style="cyan")
    if record.key is not None:
        text.append(f"{_beginning(record.key, SHOWN_BYTES // 16)} ", style="bold")
    if record.value is None:
        return text.append("(tombstone)", style="red")
    if record.schema is not None and record.decode_error is None:
        text.append(f"{clean(str(record.schema.get('name')))} ", style="magenta")
    if record.decode_error is not None:
        text.append(f"({_beginning(record.decode_error.encode(), SHOWN_BYTES // 16)}) ", style="red")
    value = Text(_beginning(record.value, SHOWN_BYTES))
    if record.value.startswith((b"{", b"[")):
        JSONHighlighter().highlight(value)
    return text.append_text(value)


def _beginning(content: bytes, most: int) -> str:
    shown = clean(content[:most].decode(errors="replace"))
    return shown if len(content) <= most else f"{shown} … ({len(content):,} bytes)"


def _shown(field: bytes) -> bytes:
    return clean(field.decode(errors="replace")).encode()


def _has_descriptor() -> bool:
    try:
        return sys.stdout.fileno() >= 0
    except OSError:
        return False  # as within a test


def _missing(gap: Gap) -> str:
    partition = f"{gap.topic}:{gap.partition}"
    if gap.reason == "recreated":
        return f"{partition} is a new log, which begins at offset {gap.to_offset + 1}"
    return f"{partition} offsets {gap.from_offset} to {gap.to_offset} will not be sent"


def _told(state: State) -> str:
    parts: list[str] = [state.name]
    if state.reason:
        parts.append(f": {state.reason}")
    if state.retry_in_seconds is not None:
        parts.append(f"; next attempt in {state.retry_in_seconds:.1f} s")
    if state.replica is not None:
        topics = (f"{topic}: {','.join(map(str, numbers))}" for topic, numbers in state.assigned.items())
        parts.append(f" on {state.replica} ({'; '.join(topics) or 'no partitions'})")
    if state.scope != "topic" and (whole := sum(state.partitions.values())):
        parts.append(f", {sum(map(len, state.assigned.values()))} of {whole} partitions")
    if not state.resumable:
        parts.append("; too many partitions for one id")
    if state.repeats:
        number = sum(one.to_offset - one.from_offset + 1 for one in state.repeats)
        parts.append(f"; {number} offsets that the position names are sent again, and dropped")
    return "".join(parts)


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
