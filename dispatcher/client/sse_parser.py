r"""A parser of ``text/event-stream`` (WHATWG HTML, section 9.2), fed with bytes that may be split anywhere.

Rules of this module:

* ``\r\n``, ``\r`` and ``\n`` end a line; a ``\r`` at the end of the received bytes ends its line at once, and a ``\n``
  that follows later is ignored.
* An event without a blank line after it is discarded, and so is its id.
* An id with NUL, a retry that is not all digits, and a field with an unknown name are ignored.
"""

import re
from dataclasses import dataclass, field

from dispatcher.client.errors import WrongServerError

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Maximum size of an incomplete event; Kafka's own limits for records are far below."""

_END_OF_LINE = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One block of a stream."""

    type: str
    data: str | None
    """None if the block has no data: an EventSource then fires no event, but the id counts."""
    last_id: str
    """The id as of this block: its own, or the last earlier one."""
    retry_ms: int | None = None
    """The reconnection time, if the block sets it."""
    id: str | None = None
    """The block's own id, None if it has none: only this one names this event."""


class SseParser:
    """Bytes in, events out."""

    def __init__(self) -> None:
        self.last_id = ""
        self._rest = bytearray()
        """The beginning of an incomplete line."""
        self._searched = 0
        """How much of the rest is known to hold no line end, so that a long line in many parts is scanned once."""
        self._at_start = True
        self._skip_newline = False
        self._block = _Block()

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Take bytes and return the events that are now complete.

        Raises:
            WrongServerError: an event is larger than `MAX_EVENT_BYTES`.
        """
        rest = self._rest
        rest += data
        if self._at_start:
            if len(rest) < 3 and _BYTE_ORDER_MARK.startswith(rest):
                return []
            self._at_start = False
            if rest.startswith(_BYTE_ORDER_MARK):
                del rest[:3]
        if self._skip_newline and rest:
            self._skip_newline = False
            if rest[0] == 0x0A:
                del rest[0]
        events: list[ServerEvent] = []
        start = 0
        for match in _END_OF_LINE.finditer(rest, self._searched):
            self._line(bytes(rest[start : match.start()]), events)
            start = match.end()
        if start and start == len(rest) and rest[-1] == 0x0D:
            self._skip_newline = True
        del rest[:start]
        self._searched = len(rest)
        if len(rest) + self._block.size_bytes > MAX_EVENT_BYTES:
            raise WrongServerError(f"an event of more than {MAX_EVENT_BYTES // 2**20} MiB")
        return events

    def _line(self, line: bytes, events: list[ServerEvent]) -> None:
        if not line:
            self._end_block(events)
            return
        block = self._block
        block.size_bytes += len(line)
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode(errors="replace")
        if name == b"data":
            block.data.append(text)
        elif name == b"id" and "\0" not in text:
            block.id = text
        elif name == b"event":
            block.type = text
        elif name == b"retry" and text.isascii() and text.isdecimal():
            block.retry_ms = int(text[:15])
        elif not name:
            block.comment = True

    def _end_block(self, events: list[ServerEvent]) -> None:
        block, self._block = self._block, _Block()
        if block.id is not None:
            self.last_id = block.id
        if block.data or block.id is not None or block.retry_ms is not None or block.comment:
            data = "\n".join(block.data) if block.data else None
            events.append(ServerEvent(block.type or "message", data, self.last_id, block.retry_ms, block.id))


@dataclass(slots=True)
class _Block:
    """The fields since the last blank line."""

    type: str = ""
    data: list[str] = field(default_factory=list)
    id: str | None = None
    retry_ms: int | None = None
    comment: bool = False
    size_bytes: int = 0
