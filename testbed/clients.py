"""Subscribers as a test needs them: plain sockets, so that a test decides when they read and how they end."""

import codecs
import re
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

import h11
import orjson
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionTimeout, WebSocketConnection, wrap_client_stream

from dispatcher.sansio.encoding.messages import SUBPROTOCOL
from testbed.patience import seconds

RECEIVE_BYTES = 256 * 1024

HANDSHAKE_SECONDS = 10.0
"""A deadline in `patience.seconds`."""

ClientStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
"""What a client reads from and writes to."""


class Addressed(Protocol):
    """A replica, or what stands in front of replicas."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where it listens."""


_ID = re.compile(r"^id: ?(.+)", re.MULTILINE)


class Event(NamedTuple):
    """One server-sent event."""

    id: str
    type: str
    data: str

    @property
    def own(self) -> tuple[int, int]:
        """Partition and offset: the first pair of the id."""
        return first_pair(self.id)


def first_pair(event_id: str) -> tuple[int, int]:
    """Partition and offset of the record that an id names."""
    match = re.match(r"[^:]+:(\d+)=(-?\d+)", event_id)
    assert match is not None, event_id
    return int(match[1]), int(match[2])


def pair_of(record: Mapping[str, object]) -> tuple[int, int]:
    """Partition and offset of a record of a WebSocket message."""
    return int(str(record["partition"])), int(str(record["offset"]))


def parse_event(block: str) -> Event | None:
    """One event as the WHATWG algorithm reads it; None when it fires nothing."""
    event_id, kind, data = "", "message", []
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            event_id = value
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
    return Event(event_id, kind, "\n".join(data)) if data else None


class SseStream:
    """An open stream on a socket, or on TLS."""

    def __init__(self, stream: ClientStream) -> None:
        self.stream = stream
        self.response: h11.Response | h11.InformationalResponse
        self._texts: list[str] = []
        self.ended = False
        """The response has come to its end, last chunk and all: it was not cut."""
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self._events: deque[Event] = deque()
        self.last_id = ""
        """The newest id that was read: a block that has nothing else sets it, too, but fires no event."""
        self._http = h11.Connection(h11.CLIENT)

    async def open(self, target: str, headers: dict[str, str] | None = None) -> None:
        """Send the request and read the head of the response."""
        fields = {"Host": "localhost", "Accept": "text/event-stream", **(headers or {})}
        request = self._http.send(h11.Request(method="GET", target=target, headers=list(fields.items())))
        assert request is not None
        await self.stream.send_all(request + (self._http.send(h11.EndOfMessage()) or b""))
        event = await self._next()
        assert isinstance(event, h11.Response), event
        self.response = event

    @property
    def raw(self) -> str:
        """All text that has not been read as events yet."""
        self._texts = ["".join(self._texts)]
        return self._texts[0]

    @raw.setter
    def raw(self, text: str) -> None:
        self._texts = [text]

    async def read_some(self) -> bool:
        """Read what has come, at least something; False at the end of the stream, `ended` if it was a good one."""
        try:
            event = await self._next()
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            return False
        if isinstance(event, h11.Data):
            if text := self.decoder.decode(bytes(event.data)):
                self._texts.append(text)
            return True
        self.ended = True
        return False

    async def next_event(self) -> Event | None:
        """The next event that fires, None at the end of the stream."""
        self._parse()
        while not self._events:
            last = self._texts[-1][-1:]
            if not await self.read_some():
                return None
            # Not the whole text each time: an event of megabytes may arrive by the kilobyte.
            if "\n\n" in last + self._texts[-1]:
                self._parse()
        return self._events.popleft()

    def _parse(self) -> None:
        *blocks, self.raw = self.raw.split("\n\n")
        self._events.extend(event for block in blocks if (event := parse_event(block)) is not None)
        for block in reversed(blocks):
            if found := _ID.search(block):
                self.last_id = found[1]
                break

    async def next_control(self, kind: str) -> dict[str, object]:
        """The next control event of a kind; what comes before it is passed over."""
        while (event := await self.next_event()) is not None:
            if event.type == kind:
                payload: dict[str, object] = orjson.loads(event.data)
                return payload
        raise AssertionError(f"the stream ended without {kind}")

    def reset(self) -> None:
        """Vanish: the server gets a TCP reset."""
        reset(self.stream)

    async def _next(self) -> h11.Event:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                assert not isinstance(event, type), event
                return event
            some = bytes(await self.stream.receive_some(RECEIVE_BYTES))
            if not some and self._http.their_state is h11.SEND_RESPONSE:
                raise trio.BrokenResourceError("the connection ended before the response")
            self._http.receive_data(some)


def reset(stream: ClientStream) -> None:
    """Close it so that the server gets a TCP reset."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    plain.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain.socket.close()


@asynccontextmanager
async def open_sse(
    replica: Addressed, query: str = "", headers: dict[str, str] | None = None, receive_buffer_bytes: int = 0
) -> AsyncIterator[SseStream]:
    """Open a stream; a small receive buffer makes it full soon when the test does not read."""
    sock = trio.socket.socket()
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    await sock.connect(replica.address)
    stream = SseStream(trio.SocketStream(sock))
    try:
        await stream.open(f"/events{query}", headers)
        yield stream
    finally:
        sock.close()


async def sse_records(stream: SseStream, number: int) -> list[Event]:
    """The next records of a stream, without its control events."""
    records: list[Event] = []
    while (event := await stream.next_event()) is not None:
        if event.type in {"message", "tombstone", "binary"}:
            records.append(event)
            if len(records) == number:
                return records
    raise AssertionError(f"the stream ended after {len(records)} of {number} records")


@asynccontextmanager
async def open_ws(replica: Addressed, query: str = "") -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket with trio-websocket; its socket is closed in any case.

    Raises:
        HandshakeError: the server has refused, or not answered in time.
    """
    stream = await trio.open_tcp_stream(*replica.address)
    try:
        async with trio.open_nursery() as nursery:
            # trio-websocket waits for ever if the connection ends before the handshake.
            with trio.move_on_after(seconds(HANDSHAKE_SECONDS)) as patience:
                websocket = await wrap_client_stream(
                    nursery,
                    stream,
                    f"{replica.address[0]}:{replica.address[1]}",
                    f"/ws{query}",
                    subprotocols=[SUBPROTOCOL],
                    max_message_size=64 * 1024 * 1024,
                )
            if patience.cancelled_caught:
                raise ConnectionTimeout
            yield websocket
            # Not aclose: trio-websocket fails when a ping comes while it closes.
            nursery.cancel_scope.cancel()
    finally:
        stream.socket.close()


async def ws_close_code(websocket: WebSocketConnection) -> int:
    """The code with which the server closes it; messages before it are passed over."""
    with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 - any of them may be the last
        while True:
            await websocket.get_message()
    assert closed.value.reason is not None
    return int(closed.value.reason.code)


async def ws_records(websocket: WebSocketConnection, number: int) -> list[dict[str, object]]:
    """The next records of a WebSocket, without its control messages."""
    records: list[dict[str, object]] = []
    while len(records) < number:
        message = orjson.loads(await websocket.get_message())
        if message["type"] == "records":
            records += message["records"]
    return records
