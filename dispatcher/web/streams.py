"""Streams that outlive the request that began them.

A handler checks a request, subscribes, and leaves the stream with its connection (`Connection.stream`). Quart answers
the request, all but its end, and is done: what was made for the request, by Quart and by Hypercorn, is let go, which is
more than half of what an idle subscriber would cost. Then the stream runs in the same task, and ends the answer.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope, WebsocketScope

log = structlog.get_logger(__name__)

Send = Callable[[ASGISendEvent | None], Awaitable[None]]
"""Hypercorn's side of an answer; None when nothing more comes."""


class Stream(Protocol):
    """What a handler leaves behind."""

    async def run(self, send: Send) -> None:
        """Send until either side ends it, then end the answer."""

    def close(self) -> None:
        """Unsubscribe; called in any case, perhaps without `run`."""


class Streaming(Protocol):
    """A connection, as far as it is of interest here."""

    stream: Stream | None


class Tasks(TaskGroup):
    """The tasks of one connection, in place of Hypercorn's.

    Args:
        connection: Where a handler leaves its stream.
    """

    def __init__(self, connection: Streaming) -> None:
        super().__init__()
        self._connection = connection

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """Around all of them."""
        assert self._nursery is not None  # noqa: S101 - who asks has entered it
        return self._nursery.cancel_scope

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: Send
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Serve one request, and the stream that it begins; returns where its messages go."""
        send_channel, receive_channel = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        self.spawn(self._serve, app, scope, receive_channel, send)
        return send_channel.send

    async def _serve(
        self, app: AppWrapper, scope: Scope, messages: trio.MemoryReceiveChannel[ASGIReceiveEvent], send: Send
    ) -> None:
        connection = self._connection

        async def send_all_but_the_end(message: ASGISendEvent) -> None:
            if connection.stream is None or not _is_end(message):
                await send(message)

        try:
            try:
                await app(scope, messages.receive, send_all_but_the_end, trio.to_thread.run_sync, trio.from_thread.run)
            except Exception:
                log.exception("request failed")
            else:
                # Hypercorn keeps the scope for as long as the connection lasts; the headers are a kilobyte of it.
                cast("WebsocketScope", scope)["headers"] = []
                del app, scope, messages, send_all_but_the_end
                if connection.stream is not None:
                    await connection.stream.run(send)
            await send(None)
        finally:
            if connection.stream is not None:
                connection.stream.close()
                connection.stream = None


def _is_end(message: ASGISendEvent) -> bool:
    if message["type"] == "http.response.body":
        return not message["more_body"]
    return message["type"] == "websocket.close"
