"""The auditor's subscribers: real sockets, which freeze and vanish on request, and always return."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import orjson
import trio
import trio.testing
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from testbed.clients import Addressed, SseStream, open_sse, open_ws
from tests.audit.ledger import Ledger

RECONNECT_SECONDS = 0.1

ENDINGS = (OSError, trio.BrokenResourceError, HandshakeError, ConnectionClosed, AssertionError)
"""How a connection to a replica that ends may end; the last is what h11's answer is not."""

Transport = Literal["sse", "websocket"]


class Process(Addressed, Protocol):
    """A replica as a listener finds it."""

    @property
    def identity(self) -> str:
        """Its name, which no later process has as well."""


Identify = Callable[[Process, int], str]
"""Which process of a replica serves the connection with a local port."""


class _Record(NamedTuple):
    partition: int
    offset: int
    number: int


class _Told(NamedTuple):
    event: str


_Messages = list[_Record | _Told]


class Listener:
    """One subscriber of one replica.

    Args:
        ledger: Where it writes down what it reads.
        where: The replica's present process; None while there is none.
        transport: SSE or WebSocket.
        topic: The topic that it reads; the replica may have more.
        receive_buffer_bytes: Of an SSE socket; a small one is full soon when nothing is read. 0: as the system has it.
        identify: Returns the name of what serves a connection, by its local port.
    """

    def __init__(
        self,
        ledger: Ledger,
        where: Callable[[], Process | None],
        transport: Transport,
        topic: str,
        receive_buffer_bytes: int = 0,
        *,
        identify: Identify | None = None,
    ) -> None:
        self._identify = identify
        self.served_by = ""
        """What serves its connection, or served the last one."""
        self.goodbyes = 0
        """Streams that the server has ended with a word."""
        self._ledger = ledger
        self._where = where
        self._transport = transport
        self._query = f"?topic={topic}&scope=replica"
        self._receive_buffer_bytes = receive_buffer_bytes
        self._connection: int | None = None
        self._reading = trio.Event()
        self._reading.set()
        self._stream = trio.CancelScope()

    @property
    def connected(self) -> bool:
        """Whether it has a stream now."""
        return self._connection is not None

    async def run(self) -> None:
        """Read for ever. *Cancellation*: safe, the connection is closed."""
        while True:
            process = self._where()
            if process is not None:
                try:
                    with trio.CancelScope() as self._stream:
                        await self._listen(process)
                except* ENDINGS:
                    pass  # whatever has ended the connection, the next one tells how things are
            await trio.sleep(RECONNECT_SECONDS)

    def freeze(self) -> None:
        """Read nothing more."""
        if self._reading.is_set():
            self._reading = trio.Event()
            if self._connection is not None:
                self._ledger.frozen(self._connection, trio.current_time())

    async def thaw(self) -> None:
        """Read again; returns when what has waited in the socket is read."""
        self._reading.set()
        await trio.testing.wait_all_tasks_blocked()
        if self._connection is not None:
            self._ledger.thawed(self._connection, trio.current_time())

    async def vanish(self) -> None:
        """Cut the connection, as soon as its socket is empty, and come back with another one."""
        await self.thaw()
        self._stream.cancel()

    async def _listen(self, process: Process) -> None:
        # Before it connects: a proxy may have records of this connection before its response head is here.
        began = trio.current_time()
        if self._transport == "sse":
            async with open_sse(process, self._query, receive_buffer_bytes=self._receive_buffer_bytes) as stream:
                port = stream.stream.socket.getsockname()[1]
                await self._read(process, port, began, lambda: _next_event(stream))
        else:
            async with open_ws(process, self._query) as websocket:
                local = websocket.local
                await self._read(process, getattr(local, "port", 0), began, lambda: _next_message(websocket))

    async def _read(self, process: Process, port: int, began: float, read: Callable[[], Awaitable[_Messages]]) -> None:
        self.served_by = process.identity
        if self._identify is not None:
            # At once, and not in a thread: what nobody has read when a process is killed may be lost with a reset.
            self.served_by = self._identify(process, port)
        connection = self._connection = self._ledger.opened(self.served_by, began, self._transport)
        try:
            while messages := await read():
                for message in messages:
                    if isinstance(message, _Record):
                        self._ledger.received(connection, *message, trio.current_time())
                    elif message.event == "state":
                        self._ledger.told_state(connection)
                    elif message.event == "goodbye":
                        self.goodbyes += 1
                await self._reading.wait()
        finally:
            self._connection = None
            self._ledger.closed(connection, trio.current_time())


async def _next_event(stream: SseStream) -> _Messages:
    event = await stream.next_event()
    if event is None:
        return []
    return [_Record(*event.own, int(event.data)) if event.type == "message" else _Told(event.type)]


async def _next_message(websocket: WebSocketConnection) -> _Messages:
    return list(_messages(orjson.loads(await websocket.get_message())))


def _messages(message: dict[str, object]) -> Iterator[_Record | _Told]:
    if message["type"] != "records":
        yield _Told(str(message["type"]))
        return
    for record in message["records"]:  # type: ignore[attr-defined] # it is a list of objects
        yield _Record(record["partition"], record["offset"], int(record["value"]))
