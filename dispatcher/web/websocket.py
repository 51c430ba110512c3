"""``GET /ws``: WebSocket (RFC 6455), subprotocol ``dispatcher.v1.json``.

The handshake goes through Quart and Hypercorn. From then on the connection belongs to the stream (`streams`), and what
the client says is read here (`inbound`).
"""

import trio
from quart import Quart, websocket
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, DispatcherError, TooManyError, UnavailableError
from dispatcher.hub.feed import feed_of
from dispatcher.hub.goodbyes import too_many, try_later
from dispatcher.hub.hub import Hub
from dispatcher.sansio.encoding.messages import SUBPROTOCOL, encode_goodbye
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.settings import Settings
from dispatcher.web.connection import Connection
from dispatcher.web.inbound import Inbound
from dispatcher.web.limits import Entrance
from dispatcher.web.problems import problem_response
from dispatcher.web.requests import read_query
from dispatcher.web.streams import SubscriberStream

MAX_REASON_BYTES = 123
"""What a close frame has room for (RFC 6455, section 5.5)."""


def add_websocket(app: Quart, hub: Hub, settings: Settings, entrance: Entrance) -> None:
    """Add the route."""
    silence_seconds = settings.heartbeat_seconds + settings.stall_timeout_seconds

    @app.websocket("/ws")
    async def ws() -> TrioResponse | None:
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in websocket.requested_subprotocols else None
        try:
            query = read_query(
                websocket.args.to_dict(flat=False), websocket.headers.get("Last-Event-ID"), settings.topics
            )
            entrance.check(query)
        except BadRequestError as error:
            # A browser cannot see the status of a refused upgrade; it sees a close code and its reason.
            await websocket.accept(subprotocol=subprotocol)
            await websocket.close(error.close_code, _close_reason(error))
            return None
        connection: Connection = websocket.scope["state"]["connection"]
        try:
            admission = entrance.admit(connection.client, websocket.headers, query)
            connection.stream = SubscriberStream(
                hub,
                feed_of(WEBSOCKET, query.topics),
                query,
                connection,
                Inbound(trio.current_time()),
                admission=admission,
                silence_seconds=silence_seconds,
            )
        except TooManyError as error:
            # In a browser too: it may not come back at once, and is to know why.
            goodbye = too_many(str(error))
            await websocket.accept(subprotocol=subprotocol)
            await websocket.send(encode_goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms).decode())
            await websocket.close(goodbye.code, _close_reason(error))
            return None
        except UnavailableError as error:
            retry_seconds = max(1, try_later(str(error)).retry_ms // 1000)
            return problem_response(error.http_status, str(error), {"Retry-After": str(retry_seconds)})
        await websocket.accept(subprotocol=subprotocol)
        return None


def _close_reason(error: DispatcherError) -> str:
    return str(error).encode()[:MAX_REASON_BYTES].decode(errors="ignore")
