"""The tasks of one connection while it serves requests, and the head of a stream that ends that."""

from collections.abc import Awaitable, Callable

import structlog
import trio
from hypercorn.config import Config
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

from dispatcher.web.streams import Streaming

log = structlog.get_logger(__name__)

Send = Callable[[ASGISendEvent | None], Awaitable[None]]
"""Hypercorn's side of an answer; None when nothing more comes."""


class Tasks:
    """The tasks of one connection while it serves requests, instead of Hypercorn's.

    Args:
        connection: Where a handler leaves its stream.
        nursery: Where they run.
    """

    def __init__(self, connection: Streaming, nursery: trio.Nursery) -> None:
        self._connection = connection
        self._nursery = nursery

    def spawn(self, run: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run something while the connection serves requests."""
        self._nursery.start_soon(run, *arguments)

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: Send
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Serve one request, and begin the stream that it leaves; returns where its messages go."""
        send_channel, receive_channel = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        self.spawn(self._serve, app, scope, receive_channel, send)
        return send_channel.send

    async def _serve(
        self, app: AppWrapper, scope: Scope, messages: trio.MemoryReceiveChannel[ASGIReceiveEvent], send: Send
    ) -> None:
        connection = self._connection
        has_head = False

        async def send_all_but_the_end(message: ASGISendEvent) -> None:
            nonlocal has_head
            if connection.stream is not None and _is_head(message):
                has_head = True
            if not (has_head and _is_end(message)):
                await send(message)

        try:
            await app(scope, messages.receive, send_all_but_the_end, trio.to_thread.run_sync, trio.from_thread.run)
        except Exception:
            log.exception("request failed")
        else:
            if has_head:
                connection.begin_stream()
                return
        await send(None)
        if connection.stream is not None:
            connection.end_requests()


def _is_head(message: ASGISendEvent) -> bool:
    """Whether a message is the head of a stream's response."""
    if message["type"] == "http.response.start":
        return message["status"] == 200
    return message["type"] == "websocket.accept"


def _is_end(message: ASGISendEvent) -> bool:
    if message["type"] == "http.response.body":
        return not message["more_body"]
    return message["type"] == "websocket.close"
