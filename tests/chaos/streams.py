"""What comes on a reader's socket, read with little effort: hundreds of readers share one process.

No I/O. It takes the bytes behind the head of the response and finds records, control events and the last event id in
them, by their spelling: chunks end where events end, so the framing of chunks is lines between events, and no value in
a chaos run is anything but digits.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from tests.chaos import frames
from tests.chaos.frames import FrameError, Frames

_SSE = re.compile(
    rb"^(?:id: ([^:\n]*:(\d+)=(-?\d+)[^\n]*)\n(data: [^\n]*\n)?\n|((?:(?:id|event|retry|data): [^\n]*\n)+)\n)",
    re.MULTILINE,
)
"""A record or a heartbeat, which are most of what comes; or any other event, whose lines may come in any order."""
_RECORD = re.compile(rb'"partition":(\d+),"offset":(\d+)')
_POSITION = re.compile(rb'\{"type":"records","id":"([^"]+)"')
_PAIR = re.compile(r"(\d+)=(-?\d+)")

PING, PONG, CLOSE, HEARTBEAT = "ping", "pong", "close", "heartbeat"
PONG_FRAME = b"\x8a\x80\x00\x00\x00\x00"
_KINDS = {frames.CLOSE: CLOSE, frames.PING: PING, frames.PONG: PONG}


@dataclass(frozen=True, slots=True)
class Control:
    """What is no record: a ``state``, a ``gap``, a ``goodbye``; of a WebSocket also a ping and a close."""

    kind: str
    payload: dict[str, Any]


Item = tuple[int, int] | Control
"""Partition and offset of a record, or a control event."""


class Parser(Protocol):
    """Either of the two below."""

    last_id: str
    """Of the last whole event that had one."""

    def feed(self, data: bytes) -> Iterator[Item]:
        """Take bytes and return what is whole by now, in order."""


def pairs(event_id: str) -> dict[int, int]:
    """Offset by partition of an id with one topic."""
    return {int(partition): int(offset) for partition, offset in _PAIR.findall(event_id.partition(":")[2])}


class SseParser:
    """``/events`` with ``format=value``."""

    def __init__(self) -> None:
        self.last_id = ""
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Item]:
        """See `Parser`."""
        data = self._rest + data
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return
        self._rest = data[end:]
        event_id: bytes | None = None
        for match in _SSE.finditer(data, 0, end):
            found, partition, offset, record, other = match.groups()
            if found is None:
                fields = dict(line.split(b": ", 1) for line in other.splitlines())
                event_id = fields.get(b"id", event_id)
                if b"event" in fields:  # else it is a retry alone
                    yield Control(fields[b"event"].decode(), orjson.loads(fields[b"data"]))
                continue
            event_id = found
            if record is not None:  # else it is a heartbeat
                yield int(partition), int(offset)
        if event_id is not None:
            self.last_id = event_id.decode()


class WebSocketParser:
    """``/ws``: what `Frames` lets through; a message has to be whole JSON by its ends."""

    def __init__(self) -> None:
        self.last_id = ""
        self._frames = Frames()

    def feed(self, data: bytes) -> Iterator[Item]:
        """See `Parser`.

        Raises:
            FrameError: the server has broken the protocol.
        """
        for opcode, payload in self._frames.feed(data):
            if opcode in _KINDS:
                yield Control(_KINDS[opcode], {"text": payload} if opcode == frames.PONG else {})
            elif not (payload.startswith(b'{"type":"') and payload.endswith(b"}")):
                raise FrameError(f"a message that is none of the protocol's: {payload[:40]!r} to {payload[-20:]!r}")
            elif payload.startswith(b'{"type":"records"'):
                for match in _RECORD.finditer(payload):
                    yield int(match[1]), int(match[2])
                if (position := _POSITION.match(payload)) is None:
                    raise FrameError(f"records without a position: {payload[:60]!r}")
                self.last_id = position[1].decode()
            else:
                message = orjson.loads(payload)
                if message["type"] == HEARTBEAT:
                    self.last_id = message.get("id", self.last_id)
                else:
                    yield Control(message["type"], message)
