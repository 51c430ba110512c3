"""One TCP connection: Hypercorn's HTTP/1.1 protocol in a shell of our own.

Hypercorn parses requests, runs the app, and writes response heads, short bodies, WebSocket handshakes, pongs and
closes. Records go past it, straight to the socket: as ready-made chunks or unmasked frames, always whole, and
under the same lock, so they interleave with Hypercorn's own bytes at frame boundaries only.

What the shell does that Hypercorn's own (``hypercorn.trio.tcp_server``, 0.18) does not:

* Every write has a deadline for *progress*, and ends the connection when it passes; Hypercorn shields
  ``send_all`` without a deadline, so one client that stops reading holds shutdown until it closes.
* HTTP/2 is refused, by prior knowledge and by ``Upgrade: h2c``: Hypercorn buffers it without a bound.
* permessage-deflate is not negotiated: it costs 107 KiB a connection and twice the CPU.
* Bytes that a client sends behind the request of an endless response would hide its disconnect for ever; the
  connection is closed instead.
* An exception in one connection ends that connection, not the server.
"""

import math
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr

from dispatcher.errors import SubscriberGoneError, SubscriberStalledError
from dispatcher.sansio.encoding.frames import are_pongs
from dispatcher.web.problems import problem_body
from dispatcher.web.sockets import Socket
from dispatcher.web.streams import Stream, Tasks

log = structlog.get_logger(__name__)

RECEIVE_BYTES = 65536
END_SECONDS = 2.0
"""How long the app has to end after its connection has."""

LINGER_SECONDS = 1.0
LINGER_BYTES = 1024 * 1024
"""What a client may still send, and for how long, after we ended a connection: closing a socket with unread
bytes resets it, and the client would never read the answer."""


class Http11(H11Protocol):
    """Hypercorn's HTTP/1.1 protocol without its doors to HTTP/2 and to permessage-deflate."""

    at_frame = False
    """Whether this is a WebSocket whose next byte begins a frame."""

    async def handle(self, event: Event) -> None:
        """Take bytes; where frames end in them is known to Hypercorn alone."""
        self.at_frame = False
        await super().handle(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """``Upgrade: h2c`` is ignored, as RFC 9110 (7.8) allows: the answer comes in HTTP/1.1."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.method == b"PRI":
            await self._send_error_response(505)
            await self.send(Closed())
            return
        headers = [(name, value) for name, value in request.headers if name.lower() != b"sec-websocket-extensions"]
        await super()._create_stream(
            h11.Request(
                method=request.method,
                headers=headers,
                target=request.target,
                http_version=request.http_version,
                _parsed=True,
            )
        )
        self.at_frame = isinstance(self.connection, H11WSConnection) and not self.connection.buffer
        if self.stream is not None and self.stream.closed:
            # Refused before the app saw it, such as an upgrade without a key: Hypercorn leaves the end to us.
            await self.send(Closed())

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            await super()._send_h11_event(event)
        except h11.LocalProtocolError as error:
            # The client has made the answer impossible, such as by frames before its handshake was answered.
            log.info("client broke the protocol", reason=str(error))
            await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        body = problem_body(status_code)
        await self._send_h11_event(
            h11.Response(
                status_code=status_code,
                headers=[
                    (b"content-type", b"application/problem+json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"connection", b"close"),
                    *self.config.response_headers("h11"),
                ],
            )
        )
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class Connection:
    """Serves one connection until either side ends it.

    Apps get it as ``scope["state"]["connection"]``. It is the transport (`feed.Transport`) of the
    subscriber on it; over TLS each write goes through the subscriber's task. *Thread*: Trio's.

    Args:
        app: The ASGI app, wrapped for Hypercorn.
        config: Hypercorn's configuration.
        context: Shared by all connections; its ``terminated`` event ends idle ones.
        peer: The socket; owned from now on.
        stall_timeout_seconds: A write that makes no progress for this long ends the connection.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        peer: Socket,
        *,
        stall_timeout_seconds: float,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._peer = peer
        self.name = peer.name
        self._stall_timeout_seconds = stall_timeout_seconds
        self._send_lock = trio.Lock()
        self._reading = trio.CancelScope()
        self._idle = TrioSingleTask()
        self._aborted = False
        self._ending = False
        self._endless_response = False
        self._free_descriptor: int | None = None
        """The socket's, while a subscriber's bytes may go to it at once: its response is open, nobody else is sending,
        and the last word on it was the subscriber's and not Hypercorn's."""
        self._protocol: Http11
        self._tasks = Tasks(self)
        self.stream: Stream | None = None
        """What the request has begun, and Quart has left to `streams.Tasks`."""
        self._streaming: trio.CancelScope | None = None
        self._silence_seconds = math.inf
        self.heard_at = trio.current_time()
        """When the peer last showed that it lives: it sent something, or made room in a full socket."""

    async def run(self) -> None:
        """Serve until the connection ends. *Cancellation*: safe, the socket is closed."""
        sock = self._peer.socket
        try:
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            async with self._tasks:
                self._protocol = Http11(
                    self._app,
                    self._config,
                    self._context,
                    self._tasks,
                    ConnectionState({"connection": self}),
                    self._peer.descriptor is None,
                    client,
                    server,
                    self._protocol_send,
                )
                await self._idle.restart(self._tasks, self._idle_timeout)
                with self._reading:
                    await self._read()
                self._ending = True
                self._free_descriptor = None
                if self._streaming is not None:
                    self._streaming.cancel()
                # An app that has ended already, with messages unread, would never take the news.
                self._tasks.cancel_scope.deadline = trio.current_time() + END_SECONDS
                await self._protocol.handle(Closed())
                await self._idle.stop()
        except* OSError:
            pass  # the client is gone
        except* Exception:
            log.exception("connection failed")
        finally:
            self._free_descriptor = None
            with trio.move_on_after(LINGER_SECONDS, shield=True):
                await self._linger()
            self._peer.socket.close()

    def streaming(self) -> trio.CancelScope:
        """A scope for a stream, cancelled when the connection has ended."""
        self._streaming = trio.CancelScope()
        if self._ending:
            self._streaming.cancel()
        return self._streaming

    def hear(self, hear: Callable[[ASGIReceiveEvent], Awaitable[None]]) -> None:
        """Hand what the client says from now on to a function, in place of a queue for which a task would wait."""
        assert self._protocol.stream is not None  # noqa: S101 - who calls this has received its request
        self._protocol.stream.app_put = hear

    def expect_answers(self, silence_seconds: float) -> None:
        """From now on the peer has to show that it lives at least so often (see `end_if_silent`)."""
        self._silence_seconds = silence_seconds

    def end_if_silent(self, now: float) -> None:
        """Close the connection of a peer that answers no ping and takes nothing."""
        if now - self.heard_at >= self._silence_seconds:
            self._silence_seconds = math.inf
            log.info("subscriber answers no ping", silence_seconds=now - self.heard_at)
            self.abort()

    def begin_endless_response(self) -> bool:
        """The app is about to answer without end; False when the client has sent more than its request.

        Those bytes (pipelining) could never be answered, and while they wait nobody would see the client leave.
        """
        if self._protocol.connection.trailing_data[0]:
            return False
        self._endless_response = True
        return True

    def end_endless_response(self) -> None:
        """The response is coming to its end; the connection can be used for another request."""
        self._endless_response = False

    def try_send(self, data: bytes) -> int:
        """Hand bytes to the socket if it takes some at once; returns how many it took (see `feed.Transport`)."""
        if self._free_descriptor is None:
            return 0
        try:
            return os.write(self._free_descriptor, data)
        except OSError:
            return 0  # full, or broken: `send_all` finds out

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Hand a subscriber's bytes to the socket, in order; returns when the socket has accepted the last one.

        *Backpressure*: waits while the socket is full. *Cancellation*: the connection is closed, because a part
        may have been sent.

        Raises:
            SubscriberGoneError: the connection is closed or broken, or has not begun the subscriber's response.
            SubscriberStalledError: it took no byte for `stall_timeout_seconds`; the connection is closed.
        """
        await self._send(buffers, needs_response=True)

    async def _send(self, buffers: Sequence[bytes | memoryview], *, needs_response: bool) -> None:
        async with self._send_lock:
            self._free_descriptor = None
            if needs_response and not self._response_is_open():
                raise SubscriberGoneError("the connection has been answered in another way")
            try:
                await self._send_progressing([buffer for buffer in buffers if buffer])
            except (OSError, trio.ClosedResourceError) as error:
                raise SubscriberGoneError("the connection is closed") from error
            except (SubscriberStalledError, trio.Cancelled):
                self.abort()
                raise
            if needs_response and not self._aborted:
                self._free_descriptor = self._peer.descriptor

    def abort(self) -> None:
        """Close the connection at once, with a reset: whatever waits for it, in us or in the kernel, is let go."""
        if not self._aborted:
            self._aborted = True
            self._free_descriptor = None
            with suppress(OSError):
                self._peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._peer.socket.close()
            self._reading.cancel()

    def _response_is_open(self) -> bool:
        """Whether a 200 or a 101 has gone out and nothing has ended it.

        Hypercorn may have answered 400 before the app came to it, and tells the app nothing of that: records
        written behind such an answer would count as dispatched.
        """
        http = self._protocol.connection
        if isinstance(http, H11WSConnection):
            http = http.h11_connection
        return http.our_state in {h11.SEND_BODY, h11.SWITCHED_PROTOCOL} and not self._reading.cancel_called

    async def _send_progressing(self, buffers: list[bytes | memoryview]) -> None:
        """Send, each time with a new deadline for the next bit of progress."""
        waited = False
        while buffers:
            with trio.move_on_after(self._stall_timeout_seconds) as patience:
                sent = await self._peer.send_some(buffers)
            if patience.cancelled_caught:
                raise SubscriberStalledError(f"the connection took no byte for {self._stall_timeout_seconds:g} s")
            if waited:
                self.heard_at = trio.current_time()
            done = 0
            while done < len(buffers) and sent >= len(buffers[done]):
                sent -= len(buffers[done])
                done += 1
            del buffers[:done]
            if sent:
                buffers[0] = memoryview(buffers[0])[sent:]
                waited = True

    async def _protocol_send(self, event: Event) -> None:
        """Take what Hypercorn's protocol wants done."""
        if isinstance(event, RawData):
            # Hypercorn expects that its bytes go out whole even when the app's task is cancelled, as it is on
            # each disconnect; the deadline for progress and `abort` bound the shield.
            try:
                with trio.move_on_after(math.inf, shield=True):
                    await self._send([event.data], needs_response=False)
            except (SubscriberGoneError, SubscriberStalledError):
                self._reading.cancel()
        elif isinstance(event, Closed):
            self._reading.cancel()
        elif isinstance(event, Updated):
            # A response that ends after the client has left would start a timer that nobody stops.
            if event.idle and not self._ending:
                await self._idle.restart(self._tasks, self._idle_timeout)
            else:
                await self._idle.stop()

    async def _read(self) -> None:
        while True:
            try:
                data = await self._peer.receive_some(RECEIVE_BYTES)
            except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
                return
            if not data:
                return
            self.heard_at = trio.current_time()
            if self._endless_response:
                self.abort()
                return
            if self._protocol.at_frame and are_pongs(data):
                continue  # the answers to pings, which is all that most clients ever say
            await self._protocol.handle(RawData(bytes(data)))

    async def _idle_timeout(self) -> None:
        with trio.move_on_after(self._config.keep_alive_timeout):
            await self._context.terminated.wait()
        self._reading.cancel()

    async def _linger(self) -> None:
        """End our side, and give the client a moment to read and to end its own."""
        if self._aborted:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            await self._peer.end()
            left = LINGER_BYTES
            while left > 0 and (data := await self._peer.receive_some(RECEIVE_BYTES)):
                left -= len(data)
