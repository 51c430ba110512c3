"""Passes requests to the app: in the connection's own task if possible, otherwise in a separate task.

A request that is complete once its head has been parsed (every ``GET`` without a body, and every WebSocket handshake)
is answered by the task that read it. Nothing is read from the client meanwhile: whatever else it sends waits in the
kernel, and a client that leaves is noticed after the answer. Requests with a body, and all requests over TLS (where
only reading shows whether the client has left), are read while they are answered, in a task in the server's nursery.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio
from hypercorn.config import Config
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

from dispatcher.web.streams import Streaming

log = structlog.get_logger(__name__)

Send = Callable[[ASGISendEvent | None], Awaitable[None]]
"""Hypercorn's side of a response; None ends it."""

WHOLE = "dispatcher.whole"
"""An ASGI extension of scopes: the request has no body, and no message follows it, not even when the client leaves."""

END_SECONDS = 2.0
"""How long the app may take to end after its connection has ended."""


class Tasks:
    """Runs the app for one connection, instead of Hypercorn's task group.

    Args:
        connection: The connection at which a handler leaves its stream.
        nursery: The nursery of separate tasks.
        reads_on: Whether bytes are read from the client during every request.
    """

    def __init__(self, connection: Streaming, nursery: trio.Nursery, *, reads_on: bool) -> None:
        self._connection = connection
        self._nursery = nursery
        self._reads_on = reads_on
        self._running: dict[trio.CancelScope, trio.Event] = {}
        self._scheduled: set[trio.CancelScope] = set()
        """The tasks that start in the next turn of the loop."""

    @property
    def running(self) -> bool:
        """Whether a separate task is running."""
        return bool(self._running)

    def cancel(self) -> None:
        """Cancel the separate tasks."""
        for scope in self._running:
            scope.cancel()

    def drop_scheduled(self) -> None:
        """Drop tasks that have not begun: the request was answered."""
        for scope in self._scheduled:
            scope.cancel()

    async def end(self) -> None:
        """Return when no separate task is running; cancel those that remain after `END_SECONDS`."""
        for scope in self._running:
            scope.deadline = min(scope.deadline, trio.current_time() + END_SECONDS)
        for ended in tuple(self._running.values()):
            await ended.wait()

    def spawn(self, run: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a function in a separate task."""
        scope = trio.CancelScope()
        self._running[scope] = trio.Event()
        self._scheduled.add(scope)
        self._nursery.start_soon(self._run, scope, run, *arguments)

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: Send
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Serve one request, and begin the stream that it leaves; returns the function that takes its messages."""
        if not self._reads_on and not _has_body(scope):
            scope["extensions"][WHOLE] = {}  # type: ignore[typeddict-item]  # the type has only its own keys
            return _WholeRequest(self, app, scope, send).put
        send_channel, receive_channel = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        self.spawn(self.serve, app, scope, receive_channel.receive, send)
        return send_channel.send

    async def serve(
        self, app: AppWrapper, scope: Scope, receive: Callable[[], Awaitable[ASGIReceiveEvent]], send: Send
    ) -> None:
        """Let the app answer a request."""
        connection = self._connection
        has_head = False

        async def send_all_but_the_end(message: ASGISendEvent) -> None:
            nonlocal has_head
            if connection.stream is not None and _is_head(message):
                has_head = True
            if not (has_head and _is_end(message)):
                await send(message)

        try:
            await app(scope, receive, send_all_but_the_end, trio.to_thread.run_sync, trio.from_thread.run)
        except Exception:
            log.exception("request failed")
        else:
            if has_head:
                connection.begin_stream()
                return
        await send(None)
        if connection.stream is not None:
            connection.end_requests()

    async def _run(self, scope: trio.CancelScope, run: Callable[..., Awaitable[None]], *arguments: object) -> None:
        self._scheduled.discard(scope)
        try:
            with scope:
                if not scope.cancel_called:
                    await run(*arguments)
        except OSError:
            self._connection.end_requests()  # the client is gone
        except Exception:
            log.exception("connection failed")
            self._connection.end_requests()
        finally:
            self._running.pop(scope).set()


class _WholeRequest:
    """A request that is answered in the connection's own task once Hypercorn has received it entirely.

    Args:
        tasks: The tasks that serve it.
        app: Answers it.
        scope: The request.
        send: Takes the answer.
    """

    __slots__ = ("_app", "_scope", "_send", "_tasks")

    def __init__(self, tasks: Tasks, app: AppWrapper, scope: Scope, send: Send) -> None:
        self._tasks = tasks
        self._app = app
        self._scope = scope
        self._send: Send | None = send

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Take one of Hypercorn's messages about the request: the first one begins it, the others are ignored."""
        send, self._send = self._send, None  # otherwise it and Hypercorn's stream would hold each other
        if send is not None and message["type"] in {"http.request", "websocket.connect"}:
            await self._tasks.serve(self._app, self._scope, _receive_nothing, send)


async def _receive_nothing() -> ASGIReceiveEvent:
    await trio.sleep_forever()
    raise AssertionError  # pragma: no cover - never returns


def _has_body(scope: Scope) -> bool:
    """Whether a request announces a body."""
    return any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])  # type: ignore[typeddict-item]


def _is_head(message: ASGISendEvent) -> bool:
    """Whether a message is the head of a stream's response."""
    if message["type"] == "http.response.start":
        return message["status"] == 200
    return message["type"] == "websocket.accept"


def _is_end(message: ASGISendEvent) -> bool:
    if message["type"] == "http.response.body":
        return not message["more_body"]
    return message["type"] == "websocket.close"
