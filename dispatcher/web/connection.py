"""One TCP connection: requests, then perhaps a stream, then the end.

An ordinary request for a stream that comes first is answered at once (`direct`). Otherwise Hypercorn (`http11`) serves
requests until one is answered with a stream. Once the head of that response is written, Hypercorn is gone: the stream
owns the connection and reads the client's bytes itself (`streams`), and the connection ends with the stream. Everything
that is sent passes through one outlet (`writer`).

What this does that Hypercorn's own shell (``hypercorn.trio.tcp_server``, 0.18) does not:

* Every write has a deadline for *progress*, and ends the connection when it passes; Hypercorn shields
  ``send_all`` without a deadline, so one client that stops reading holds shutdown until it closes.
* A client that leaves a stream is noticed at once, whatever its request said: h11 reads nothing after an ``Upgrade``
  header or a body that never arrives, and Hypercorn waits for it until the response ends.
* An exception in one connection ends that connection, not the server.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, TaskGroup
from hypercorn.utils import parse_socket_addr

from dispatcher.errors import DispatcherError, SubscriberGoneError, SubscriberStalledError
from dispatcher.sansio.addresses import Address
from dispatcher.sansio.plain_heads import PlainHead
from dispatcher.web.http11 import Http11
from dispatcher.web.intake import Place
from dispatcher.web.sockets import Socket, discard_received, has_left
from dispatcher.web.streams import Stream
from dispatcher.web.tasks import END_SECONDS, Tasks
from dispatcher.web.visits import Ending
from dispatcher.web.writer import Writer

log = structlog.get_logger(__name__)

RECEIVE_BYTES = 65536
LINGER_SECONDS = 1.0
LINGER_BYTES = 16 * 1024 * 1024
"""How much a client may still send, and for how long, after we have ended a connection: closing a socket with unread
bytes resets it, and the client would never read the answer."""

LINGER_BYTES_PER_SECOND = 256 * 1024
"""How fast a client that has sent too much in too short a time is read then: the rest waits in kernels."""

REQUEST_COST = 4
"""How many streams that begin directly cost as much as a request through the app."""

PassBy = Callable[[], Awaitable[None]]
Begin = Callable[[int], Awaitable[None]]


class Direct(Protocol):
    """Begins streams without Hypercorn (`direct.DirectStreams`)."""

    def read(self, data: bytes) -> PlainHead | None:
        """Read the first bytes of a connection; None if they are not an ordinary request for a stream."""

    async def begin(self, head: PlainHead, connection: "Connection") -> bytes | None:
        """Leave a stream with its connection; returns the head of the response, None without a stream."""


class Connection:
    """Serves one connection until either side ends it.

    Apps find it in ``scope["state"]["connection"]``. *Thread*: Trio's.

    Args:
        app: The ASGI app, wrapped for Hypercorn.
        config: Hypercorn's configuration.
        context: Shared by all connections.
        peer: The socket, which this object then owns.
        direct: Begins ordinary streams; None if Hypercorn serves all requests.
        client: The other end, or the client that a PROXY header named instead.
        received: What the client has sent already.
        place: The connection's place, which notes whether it is idle.
        begin: Waits until a request of this cost may begin.
        pass_by: Waits until more may be read from the client of a stream.
        nursery: Where the app runs while a request's body is read; outlives the connection.
        request_timeout_seconds: Maximum time for a request's head.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        peer: Socket,
        direct: Direct | None = None,
        *,
        client: Address,
        received: bytes = b"",
        place: Place,
        begin: Begin,
        pass_by: PassBy,
        nursery: trio.Nursery,
        request_timeout_seconds: float,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self.peer = peer
        self._direct = direct
        self.client = client
        self._received = received
        self._place = place
        self._begin = begin
        self.pass_by = pass_by
        self._request_timeout_seconds = request_timeout_seconds
        self.writer = Writer(peer)
        self._protocol: Http11 | None = None
        self._nursery = nursery
        self._tasks: Tasks | None = None
        self._reading = trio.CancelScope()
        """The scope in which bytes are read for Hypercorn; its deadline bounds the wait for a request."""
        self._ends = False
        self._is_kept_alive = False
        """Whether a request was answered, and no byte of the next one has arrived."""
        self._has_turn = False
        """Whether the data being handled has waited for its turn, and no request has begun in that turn yet."""
        self.stream: Stream | None = None
        """The stream that a handler left, to be run after its response's head was sent. It is always closed here and
        nowhere else, and the connection serves no other request."""
        self.refusal: DispatcherError | None = None
        """Why no stream has begun directly, for the app to answer."""
        self.unread: list[bytes] = []
        """What the client has sent since a handler left the stream; empty bytes mean that it closed its side."""

    async def run(self) -> None:
        """Serve until the connection ends. *Cancellation*: safe, the socket is closed."""
        try:
            await self._serve_requests()
            if self.stream is not None and self._take_response():
                await self.stream.run()
        except* OSError:
            pass  # closed to make room before it began
        except* Exception:
            log.exception("connection failed")
        finally:
            if self.stream is not None:
                self.stream.close()
            with trio.move_on_after(LINGER_SECONDS, shield=True):
                await self._linger()
            discard_received(self.peer.socket, LINGER_BYTES)
            self.peer.socket.close()
            self._let_go()

    @property
    def has_unread_bytes(self) -> bool:
        """Whether the client has sent more than its request."""
        return self._protocol is not None and self._protocol.has_unread_bytes

    @property
    def extensions(self) -> Sequence[str]:
        """What the current request offers in ``Sec-WebSocket-Extensions``."""
        return () if self._protocol is None else self._protocol.extensions

    def raise_refusal(self) -> None:
        """Raise `refusal`, once."""
        refusal, self.refusal = self.refusal, None
        try:
            if refusal is not None:
                raise refusal
        finally:
            del refusal  # its traceback holds this frame

    def begin_stream(self) -> None:
        """Release Hypercorn, and continue with the stream: the app has sent its head."""
        self._ends = True
        if self._has_tasks or (self._protocol is not None and self._protocol.is_paused):
            self._reading.cancel()

    def stop_requests(self) -> None:
        """End the connection after the current request is answered, or at once if there is none."""
        if self._reading.deadline < math.inf:
            self._reading.cancel()

    def end_requests(self) -> None:
        """Serve no further request."""
        self._reading.cancel()

    def abort(self) -> None:
        """Close the connection at once, with a reset."""
        self.writer.cut_off_as = Ending.CUT
        self.writer.abort()
        self._reading.cancel()

    async def _serve_requests(self) -> None:
        """Serve requests until the connection ends or a stream begins."""
        self._reading.deadline = trio.current_time() + self._request_timeout_seconds
        try:
            with self._reading:
                await self._read()
            if not self._ends:
                self._ends = True
                if self._has_tasks and self._protocol is not None and self._tasks is not None:
                    # An app that has already ended, with messages unread, would never take this one.
                    with trio.move_on_after(END_SECONDS):
                        await self._protocol.handle(Closed())
                    await self._tasks.end()
        finally:
            if (tasks := self._tasks) is not None and tasks.running:
                tasks.cancel()
                with trio.move_on_after(END_SECONDS, shield=True):
                    await tasks.end()

    def _take_response(self) -> bool:
        """Release Hypercorn; returns whether its response is that of a stream, and the client is still connected."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.stream = None  # otherwise the two would hold each other until the next garbage collection
            if not protocol.response_is_open:
                return False
        # A response during which nothing was read, or not yet, cannot have noticed that the client left.
        return not (self.writer.ended or b"" in self.unread or has_left(self.peer.socket))

    async def _read(self) -> None:
        begins = True
        while True:
            try:
                data = self._received or bytes(await self.peer.receive_some(RECEIVE_BYTES))
            except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                return
            self._received = b""
            if self.stream is not None:
                self.unread.append(data)
                if data:
                    await trio.sleep_forever()  # until the stream begins, or its app has failed
            if not data:
                return
            self._has_turn = begins or self._is_kept_alive
            if self._has_turn:
                self._is_kept_alive = False
                if begins and await self._begin_directly(data):
                    return
                begins = False
                await self._wait_for_turn()
                self._reading.deadline = trio.current_time() + self._request_timeout_seconds
            if self._protocol is None:
                self._protocol = self._make_protocol()
            await self._protocol.handle(RawData(data))
            if self._ends:
                return

    async def _begin_directly(self, data: bytes) -> bool:
        """Begin the stream that the first bytes ask for, if Hypercorn is not needed for it."""
        # With TLS, only reading would show that the client has left while it waits for its turn.
        if self._direct is None or self.peer.descriptor is None or (request := self._direct.read(data)) is None:
            return False
        await self._wait_for_turn(1)
        self._place.note_idle(idle=False)
        head = await self._direct.begin(request, self)
        if head is None:
            self._place.note_idle(idle=True)  # until it has waited for its turn again
            return False
        self.writer.hold(head)
        self._ends = True
        return True

    def _make_protocol(self) -> Http11:
        """Let Hypercorn serve requests from now on."""
        sock = self.peer.socket
        self._tasks = Tasks(self, self._nursery, reads_on=self.peer.descriptor is None)
        return Http11(
            self._app,
            self._config,
            self._context,
            cast("TaskGroup", self._tasks),
            ConnectionState({"connection": self}),
            self.peer.descriptor is None,
            (str(self.client), 0),
            parse_socket_addr(sock.family, sock.getsockname()),
            self._protocol_send,
        )

    async def _wait_for_turn(self, cost: int = REQUEST_COST) -> None:
        # The wait for a turn does not count against the client's time. The connection still counts as idle: otherwise
        # others would have to make room.
        self._reading.deadline = math.inf
        await self._begin(cost)

    async def _protocol_send(self, event: Event) -> None:
        """Carry out an event of Hypercorn's protocol."""
        if isinstance(event, RawData):
            if self._is_head_of_stream():
                self.writer.hold(event.data)
                return
            # Hypercorn expects that all its bytes are sent even if the app's task is cancelled, as it is on each
            # disconnect; the deadline for progress and `abort` bound the shield.
            try:
                with trio.move_on_after(math.inf, shield=True):
                    await self.writer.send_all([event.data])
            except (SubscriberGoneError, SubscriberStalledError):
                self._reading.cancel()
        elif isinstance(event, Closed):
            self._reading.cancel()
        elif isinstance(event, Updated):
            idle = event.idle and not self._ends
            if not event.idle:
                # A request begins. Its head may have arrived in parts, or together with other requests.
                if not self._has_turn:
                    await self._wait_for_turn()
                self._has_turn = False
            self._place.note_idle(idle=idle)
            self._is_kept_alive = idle
            self._reading.deadline = trio.current_time() + self._config.keep_alive_timeout if idle else math.inf

    def _is_head_of_stream(self) -> bool:
        """Whether Hypercorn is sending the head of a stream, which can wait for the stream's first bytes."""
        protocol = self._protocol
        return self.stream is not None and not self._has_tasks and protocol is not None and protocol.response_is_open

    @property
    def _has_tasks(self) -> bool:
        """Whether a separate task is running."""
        return self._tasks is not None and self._tasks.running

    def _let_go(self) -> None:
        """Drop whatever refers back to this connection, so that all of it is freed at once.

        Otherwise, with many short connections, each pass of the cycle collector would hold the loop for 30 ms.
        """
        if self._protocol is not None:
            self._protocol.stream = None
        self._protocol = self._tasks = self.stream = None

    async def _linger(self) -> None:
        """Close our side, and give the client a moment to read and to close its own."""
        if self.peer.socket.fileno() < 0:
            return
        left = LINGER_BYTES
        try:
            await self.peer.end()
            while left > 0 and (data := await self.peer.receive_some(RECEIVE_BYTES)):
                left -= len(data)
                if self.stream is not None and self.stream.was_flooded:
                    await trio.sleep(len(data) / LINGER_BYTES_PER_SECOND)
        except (trio.BrokenResourceError, trio.ClosedResourceError, SubscriberStalledError, OSError):
            pass  # with TLS, closing our side is a write, too
