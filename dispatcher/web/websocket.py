"""``GET /ws``: WebSocket (RFC 6455), subprotocol ``dispatcher.v1.json``.

The handshake, answers to pings, and closes go through Quart and Hypercorn; messages and our pings go straight to
the connection, each a whole frame.
"""

import structlog
import trio
from quart import Quart, websocket
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, SubscriberGoneError, SubscriberStalledError, UnavailableError
from dispatcher.feed import Feed, Goodbye
from dispatcher.hub import Hub
from dispatcher.sansio.messages import SUBPROTOCOL
from dispatcher.sansio.wire import WEBSOCKET
from dispatcher.settings import Settings
from dispatcher.subscriber import Subscriber
from dispatcher.web.connection import Connection
from dispatcher.web.goodbyes import try_later, unsupported
from dispatcher.web.problems import problem_response
from dispatcher.web.queries import read_query

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
            with hub.subscribe(Feed(WEBSOCKET, query.topics), connection, query.position, query.since_ms) as subscriber:
                await websocket.accept(subprotocol=subprotocol)
                goodbye = await _serve(subscriber, connection, silence_seconds)
        except UnavailableError as error:
            retry_seconds = max(1, try_later(str(error)).retry_ms // 1000)
            return problem_response(error.http_status, str(error), {"Retry-After": str(retry_seconds)})
        if goodbye is not None:
            await websocket.close(goodbye.code, _reason(goodbye.reason))
        return None


async def _serve(subscriber: Subscriber, connection: Connection, silence_seconds: float) -> Goodbye | None:
    """Write until the stream ends; returns the server's reason, None when the client is gone."""
    goodbye: Goodbye | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read, subscriber)
        nursery.start_soon(_watch, connection, silence_seconds)
        try:
            goodbye = await subscriber.run()
        except SubscriberStalledError as error:
            log.info("subscriber stalled", subscriber=subscriber.number, reason=str(error))
        except SubscriberGoneError:
            pass  # its socket told us before Hypercorn did
        nursery.cancel_scope.cancel()
    return goodbye


async def _read(subscriber: Subscriber) -> None:
    """Take what the client sends: unread messages would hide its disconnect. Nobody asked for any of them."""
    while True:
        if not isinstance(await websocket.receive(), str):
            subscriber.end(unsupported())


async def _watch(connection: Connection, silence_seconds: float) -> None:
    """Close the connection of a client that answers no ping and takes nothing."""
    while True:
        await trio.sleep_until(connection.heard_at + silence_seconds)
        if trio.current_time() - connection.heard_at >= silence_seconds:
            log.info("subscriber answers no ping", silence_seconds=silence_seconds)
            connection.abort()
            return


def _reason(text: str) -> str:
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
