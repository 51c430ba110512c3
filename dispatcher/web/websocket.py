"""``GET /ws``: WebSocket (RFC 6455), subprotocol ``dispatcher.v1.json``.

The handshake, answers to pings, and closes go through Quart and Hypercorn; messages and our pings go straight to
the connection, each a whole frame (`streams`).
"""

import structlog
from hypercorn.typing import ASGIReceiveEvent
from quart import Quart, websocket
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, SubscriberGoneError, SubscriberStalledError, UnavailableError
from dispatcher.hub.feed import feed_of
from dispatcher.hub.goodbyes import Goodbye, try_later, unsupported
from dispatcher.hub.hub import Hub
from dispatcher.sansio.encoding.messages import SUBPROTOCOL
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.settings import Settings
from dispatcher.web.connection import Connection
from dispatcher.web.problems import problem_response
from dispatcher.web.requests import Query, read_query
from dispatcher.web.streams import Send

log = structlog.get_logger(__name__)

MAX_REASON_BYTES = 123
"""What a close frame has room for (RFC 6455, section 5.5)."""


def add_websocket(app: Quart, hub: Hub, settings: Settings) -> None:
    """Add the route."""
    silence_seconds = settings.heartbeat_seconds + settings.stall_timeout_seconds

    @app.websocket("/ws")
    async def ws() -> TrioResponse | None:
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in websocket.requested_subprotocols else None
        try:
            query = read_query(
                websocket.args.to_dict(flat=False), websocket.headers.get("Last-Event-ID"), settings.topics
            )
        except BadRequestError as error:
            # A browser cannot see the status of a refused upgrade; it sees a close code and its reason.
            await websocket.accept(subprotocol=subprotocol)
            await websocket.close(error.close_code, _reason(str(error)))
            return None
        connection: Connection = websocket.scope["state"]["connection"]
        try:
            connection.stream = MessageStream(hub, connection, query, silence_seconds)
        except UnavailableError as error:
            retry_seconds = max(1, try_later(str(error)).retry_ms // 1000)
            return problem_response(error.http_status, str(error), {"Retry-After": str(retry_seconds)})
        await websocket.accept(subprotocol=subprotocol)
        return None


class MessageStream:
    """One stream, subscribed from the beginning (`streams.Stream`).

    Args:
        hub: Where to subscribe.
        connection: Where to write.
        query: What to subscribe to, and from where on.
        silence_seconds: How long the client may show no sign of life.

    Raises:
        UnavailableError: the replica takes no more subscribers.
    """

    def __init__(self, hub: Hub, connection: Connection, query: Query, silence_seconds: float) -> None:
        self._hub = hub
        self._connection = connection
        self._subscriber = hub.subscribe(feed_of(WEBSOCKET, query.topics), connection, query.position, query.since_ms)
        connection.hear(self._hear)
        connection.expect_answers(silence_seconds)

    async def run(self, send: Send) -> None:
        """Write until either side ends it, then close with the server's reason."""
        goodbye: Goodbye | None = None
        with self._connection.streaming():
            try:
                goodbye = await self._subscriber.run()
            except SubscriberStalledError as error:
                log.info("subscriber stalled", subscriber=self._subscriber.number, reason=str(error))
            except SubscriberGoneError:
                pass  # its socket told us before Hypercorn did
        self.close()
        if goodbye is not None:
            await send({"type": "websocket.close", "code": goodbye.code, "reason": _reason(goodbye.reason)})

    def close(self) -> None:
        """Unsubscribe."""
        self._hub.unsubscribe(self._subscriber)

    async def _hear(self, message: ASGIReceiveEvent) -> None:
        """Nobody asked the client for anything; that it has left is seen at its connection."""
        if message["type"] == "websocket.receive" and message["bytes"] is not None:
            self._subscriber.end(unsupported())


def _reason(text: str) -> str:
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
