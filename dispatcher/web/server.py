"""The listening socket, and the connections that came through it."""

import logging
import socket
from collections.abc import Callable
from contextlib import suppress

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from dispatcher.invariants import Invariant, invariants
from dispatcher.settings import Settings
from dispatcher.web.connection import Connection
from dispatcher.web.sockets import PlainSocket, Socket, tls_context, tls_handshake

log = structlog.get_logger(__name__)

BACKLOG = 4096
"""Connections that the kernel queues while we are busy: all of another replica's subscribers may arrive at once."""


class Server:
    """Accepts connections and serves the app on them.

    Args:
        app: The ASGI app.
        settings: `bind`, `tls_certificate`, `tls_key`, `socket_unsent_bytes`, `stall_timeout_seconds`.
        subscribers: How many there are; none may be left without a connection.

    Raises:
        SettingsError: the certificate or its key cannot be used.
    """

    def __init__(self, app: ASGIFramework, settings: Settings, subscribers: Callable[[], int] = lambda: 0) -> None:
        self._app = ASGIWrapper(app)
        self._settings = settings
        self._config = Config()
        self._config.errorlog = logging.getLogger("hypercorn.error")
        self._config.include_server_header = False
        self._context = WorkerContext(None)
        self._tls = tls_context(settings)
        self._subscribers = subscribers
        self._connections: set[Connection] = set()
        self._accepting = trio.CancelScope()
        self._ended = trio.Event()
        """Set when the last connection has ended after `stop`."""
        self.addresses: list[tuple[str, int]] = []
        """Where it listens, known once `serve` has started."""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until `stop`; started when the socket listens.

        *Cancellation*: closes everything at once.

        Raises:
            OSError: the address cannot be listened on.
        """
        host, port = self._settings.bind_address
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
        self.addresses += [listener.socket.getsockname()[:2] for listener in listeners]
        scheme = "http" if self._tls is None else "https"
        log.info("listening", addresses=[f"{scheme}://{_host(host)}:{port}" for host, port in self.addresses])
        async with trio.open_nursery() as nursery:
            with self._accepting:
                task_status.started()
                await trio.serve_listeners(self._handle, listeners, handler_nursery=nursery)

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing more, end idle connections, and after the grace all others."""
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

    @property
    def connections(self) -> int:
        """Open connections, whatever they are used for."""
        return len(self._connections)

    async def _handle(self, stream: trio.SocketStream) -> None:
        with suppress(OSError):
            # Without it the kernel holds up to 4 MiB for each slow client, and what it holds counts as dispatched. Not
            # inherited from the listener: Trio sets 16 KiB on each socket that it accepts.
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self._settings.socket_unsent_bytes)
        patience = self._settings.stall_timeout_seconds
        peer: Socket | None
        if self._tls is None:
            peer = PlainSocket(stream, patience)
        else:
            peer = await tls_handshake(stream, self._tls, patience)
        if peer is None:
            stream.socket.close()
            return
        connection = Connection(self._app, self._config, self._context, peer)
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


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
