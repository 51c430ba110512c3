"""The listening sockets of one port, and the connections that they accepted."""

import logging
import socket
import ssl
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from dispatcher.errors import DispatcherError
from dispatcher.hub.pace import Pace
from dispatcher.invariants import Invariant, invariants
from dispatcher.sansio.addresses import Address, client_key
from dispatcher.sansio.proxy_protocol import ProxyHeaderError
from dispatcher.settings import Settings
from dispatcher.web.arrivals import Arrival, Arrivals
from dispatcher.web.connection import REQUEST_COST, Connection, Direct
from dispatcher.web.dates import HttpDate
from dispatcher.web.intake import Intake, IntakeStatistics
from dispatcher.web.listening import BACKLOG, accept_for_ever, connections_within_descriptors
from dispatcher.web.proxies import Proxies, peer_address, read_proxy_header
from dispatcher.web.sockets import PlainSocket, Socket, keep_alive, tls_context, tls_handshake

log = structlog.get_logger(__name__)

MAX_OPERATIONS_CONNECTIONS = 64
"""Connections to the port for operators: health checks, scrapes and people."""

STARTS_PER_TURN = 8
"""Maximum number of streams that begin directly per turn of the loop, at a third of a millisecond each. A request
through the app takes as much room as `REQUEST_COST` of them, and about ten steps, so about twenty are being handled
at a time."""

STARTS_AFTER_LONGER_TURN = 4
"""The same after a longer turn. With 8, a thousand clients that reconnect are back in two thirds of the time, but
beside 300 connections per second records take three times as long."""

SKIPPED_TURNS = 3
"""How many long turns of the loop in a row may begin no request: open streams come first."""

STEPS_PER_TURN = 2
"""Maximum number of steps per turn of the loop spent on what the clients of streams send."""


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """A snapshot."""

    intake: IntakeStatistics = field(default_factory=IntakeStatistics)
    failed_handshakes: int = 0
    """Connections that ended before their first request: TLS or a PROXY header failed, or took too long."""


class HypercornConfig(Config):
    """Hypercorn's configuration, without the formatting of a date per response."""

    def __init__(self) -> None:
        super().__init__()
        self._date = HttpDate()

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:  # noqa: ARG002 - HTTP/1.1 only
        """The header fields of every response."""
        return [(b"date", self._date.text().encode())]


class Server:
    """Accepts connections on one port and serves an app on them.

    Args:
        app: The ASGI app.
        settings: Addresses, TLS, proxies, limits and timeouts.
        subscribers: Returns the number of subscribers, none of which may remain without a connection.
        direct: Begins ordinary streams without the app; None if all requests go through it.
        gives_way: The pace of those who wait longer while requests wait: the subscribers that catch up. So whoever
            returns after a restart begins before those who are back are sent what was published since.
        sockets: The listening sockets, if a parent process has opened them; otherwise `bind` is used.
        for_operators: Whether this is the port of `operations_bind`: plain HTTP, without a proxy in front.

    Raises:
        SettingsError: the certificate or its key cannot be used.
    """

    def __init__(
        self,
        app: ASGIFramework,
        settings: Settings,
        subscribers: Callable[[], int] = lambda: 0,
        *,
        direct: Direct | None = None,
        gives_way: Pace | None = None,
        sockets: Sequence[socket.socket] = (),
        for_operators: bool = False,
    ) -> None:
        self._app = ASGIWrapper(app)
        self._direct = direct
        self._settings = settings
        self._sockets = sockets
        self._for_operators = for_operators
        self._config = HypercornConfig()
        self._config.errorlog = logging.getLogger("hypercorn.error")
        self._config.include_server_header = False
        self._context = WorkerContext(None)
        self._tls = None if for_operators else tls_context(settings)
        self._proxies = Proxies() if for_operators else Proxies.of(settings)
        self._subscribers = subscribers
        self._intake = Intake(MAX_OPERATIONS_CONNECTIONS)
        self._pace = Pace(STARTS_PER_TURN, after_longer_turn=STARTS_AFTER_LONGER_TURN, skips=SKIPPED_TURNS)
        if gives_way is not None:
            gives_way.give_way_to(self._pace)
        self._pace_of_streams = Pace(STEPS_PER_TURN)
        self._failed_handshakes = 0
        self._arrivals = Arrivals(settings.request_timeout_seconds)
        self._connections: set[Connection] = set()
        self._accepting = trio.CancelScope()
        self._ended = trio.Event()
        """Set when the last connection has ended after `stop`."""
        self.addresses: list[tuple[str, int]] = []
        """The addresses that it listens on, once `serve` has started."""

    async def serve(  # noqa: ASYNC128 - `_accept` does
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve until `stop`; has started once the sockets listen.

        *Cancellation*: closes everything at once.

        Raises:
            OSError: the address cannot be bound.
        """
        settings = self._settings
        host, port = settings.bind_address
        if self._for_operators and settings.operations_address is not None:
            host, port = settings.operations_address
        else:
            self._intake = Intake(connections_within_descriptors(settings.max_connections, settings.max_subscribers))
        listeners = [_listener(sock) for sock in self._sockets] or await open_listeners(host, port)
        for listener in listeners:
            keep_alive(listener.socket, settings.stall_timeout_seconds)  # accepted sockets inherit it
        self.addresses += [listener.socket.getsockname()[:2] for listener in listeners]
        scheme = "http" if self._tls is None else "https"
        log.info(
            "listening for operators" if self._for_operators else "listening",
            addresses=[f"{scheme}://{_host(host)}:{port}" for host, port in self.addresses],
        )
        async with trio.open_nursery() as pacing:
            pacing.start_soon(self._pace.run)
            pacing.start_soon(self._pace_of_streams.run)
            await self._accept(listeners, task_status.started)
            pacing.cancel_scope.cancel()

    async def _accept(self, listeners: list[trio.SocketListener], started: Callable[[], None]) -> None:
        """Accept until `stop`; returns when the last connection has ended."""
        async with trio.open_nursery() as nursery:

            def begin(arrival: Arrival) -> None:
                nursery.start_soon(self._handle, nursery, arrival)

            try:
                with self._accepting:
                    async with trio.open_nursery() as accepting:
                        await accepting.start(self._arrivals.read_heads, begin)
                        started()
                        take = partial(self._take, begin)
                        for listener in listeners:
                            accepting.start_soon(accept_for_ever, listener, take, self._intake.evict)
            finally:
                for listener in listeners:
                    listener.socket.close()

    async def stop(self, grace_seconds: float) -> None:
        """Accept no more connections; end idle ones at once, and all others after the grace period."""
        self._accepting.cancel()
        await self._context.terminated.set()
        for connection in tuple(self._connections):
            connection.stop_requests()
        if not self._connections:
            return
        with trio.move_on_after(grace_seconds):
            await self._ended.wait()
        for connection in tuple(self._connections):
            connection.abort()

    async def reload_certificate(self) -> None:
        """Read certificate and key again, for new connections.

        Raises:
            SettingsError: they cannot be used; the previous ones stay.
        """
        if self._tls is not None:
            self._tls = await trio.to_thread.run_sync(tls_context, self._settings)

    @property
    def connections(self) -> int:
        """The number of open connections, whatever they are used for."""
        return len(self._connections) + len(self._arrivals)

    def statistics(self) -> ServerStatistics:
        """A snapshot."""
        return ServerStatistics(self._intake.statistics(), self._failed_handshakes)

    def _take(self, begin: Callable[[Arrival], None], stream: trio.SocketStream) -> None:
        """Serve an accepted connection once its first head is complete, or close it at once."""
        peer = peer_address(stream.socket)
        # All clients of a trusted proxy share its address, so a connection cannot be attributed to one of them.
        holder: Hashable = object() if self._proxies.trusts(peer) else client_key(peer)
        place = self._intake.take(holder)
        if place is None:
            stream.socket.close()
            return
        # Set before its first turn: other connections of the same burst may take its place.
        arrival = place.connection = Arrival(stream, peer, holder, place)
        if self._tls is None and not self._proxies.wants_header(peer):
            self._arrivals.add(arrival)
        else:
            begin(arrival)

    async def _handle(self, nursery: trio.Nursery, arrival: Arrival) -> None:
        stream, peer = arrival.stream, arrival.peer
        secured: Socket | None = None
        try:
            with suppress(OSError):
                # Otherwise the kernel holds up to 4 MiB for each slow client, and what it holds counts as dispatched.
                # Not inherited from the listener: Trio sets 16 KiB on each socket that it accepts.
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self._settings.socket_unsent_bytes)
            if self._tls is None and not self._proxies.wants_header(peer):
                secured = PlainSocket(stream, self._settings.stall_timeout_seconds)
            else:
                secured, peer = await self._shake_hands(arrival)
            if secured is not None:
                await self._serve(nursery, secured, peer, arrival)
        finally:
            if secured is None:
                stream.socket.close()
            arrival.place.release()

    async def _shake_hands(self, arrival: Arrival) -> tuple[Socket | None, Address]:
        """Read a PROXY header and begin TLS, where there are any; returns no socket if that fails, and the client."""
        stream, peer = arrival.stream, arrival.peer
        with trio.move_on_after(self._settings.request_timeout_seconds):
            try:
                if self._proxies.wants_header(peer):
                    peer = await read_proxy_header(stream.socket) or peer
                return await self._secure(stream, arrival.holder), peer
            except (ProxyHeaderError, DispatcherError, ssl.SSLError, trio.BrokenResourceError, OSError) as error:
                self._note_failed_handshake(peer, arrival, error)
            except trio.ClosedResourceError:
                pass  # closed to make room
            return None, peer
        self._note_failed_handshake(peer, arrival, TimeoutError("it took too long"))
        return None, peer

    async def _secure(self, stream: trio.SocketStream, holder: Hashable) -> Socket:
        patience = self._settings.stall_timeout_seconds
        if self._tls is None:
            return PlainSocket(stream, patience)
        await self._pace.pass_by(holder, REQUEST_COST)  # a handshake costs as much
        return await tls_handshake(stream, self._tls, patience)

    def _note_failed_handshake(self, peer: Address, arrival: Arrival, error: Exception) -> None:
        self._failed_handshakes += 1
        if not arrival.aborted:
            cause = error.__cause__ or error
            log.info("handshake failed", client=str(peer), reason=str(cause) or type(cause).__name__)

    async def _serve(self, nursery: trio.Nursery, secured: Socket, peer: Address, arrival: Arrival) -> None:
        timeout_seconds = self._settings.request_timeout_seconds
        connection = Connection(
            self._app,
            self._config,
            self._context,
            secured,
            self._direct,
            client=peer,
            received=arrival.received,
            place=arrival.place,
            begin=partial(self._pace.pass_by, arrival.holder),
            pass_by=partial(self._pace_of_streams.pass_by, arrival.holder),
            nursery=nursery,
            request_timeout_seconds=timeout_seconds,
        )
        arrival.place.connection = connection
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if self._subscribers() > len(self._connections):
                invariants.violated(
                    Invariant.SUBSCRIBERS_HAVE_CONNECTIONS,
                    subscribers=self._subscribers(),
                    connections=len(self._connections),
                )
            if not self._connections and self._context.terminated.is_set():
                self._ended.set()


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen; ``::`` includes IPv4, as in most servers.

    Raises:
        OSError: the address cannot be bound.
    """
    if host != "::":
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    sock = trio.socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        await sock.bind((host, port))
        sock.listen(BACKLOG)
        return [trio.SocketListener(sock)]
    except BaseException:
        sock.close()
        raise


def _listener(sock: socket.socket) -> trio.SocketListener:
    sock.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
