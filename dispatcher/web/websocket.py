"""``GET /ws``: WebSocket (RFC 6455), subprotocol ``dispatcher.v1.json``.

Quart and Hypercorn handle the handshake. Then the connection belongs to the stream (`streams`), and `inbound` reads
what the client sends.
"""

import trio
from quart import Quart, g, websocket
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, ForbiddenError, TooManyError, UnauthenticatedError, UnavailableError
from dispatcher.hub.acked_subscriber import AckedSubscriber, AckWindow
from dispatcher.hub.goodbyes import Goodbye, refused, token_needed, too_many, try_later
from dispatcher.hub.hub import Hub
from dispatcher.sansio.codings import accept_deflate
from dispatcher.sansio.encoding.messages import SUBPROTOCOL, encode_goodbye
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.sansio.id_lengths import check_whole_topics
from dispatcher.settings import Settings
from dispatcher.web.acknowledging import AckInbound
from dispatcher.web.authentication import HAS_EXPIRED, NO_COOKIES, Authentication
from dispatcher.web.connection import Connection
from dispatcher.web.inbound import Inbound
from dispatcher.web.limits import Entrance
from dispatcher.web.problems import problem_response
from dispatcher.web.refusals import note_refusal
from dispatcher.web.requests import Query, as_observer, feed_for, read_query
from dispatcher.web.streams import SubscriberStream

MAX_REASON_BYTES = 123
"""The room for a reason in a close frame (RFC 6455, section 5.5)."""


def add_websocket(
    app: Quart, hub: Hub, settings: Settings, entrance: Entrance, authentication: Authentication | None = None
) -> None:
    """Add the route."""
    silence_seconds = settings.heartbeat_seconds + settings.stall_timeout_seconds

    @app.websocket("/ws")
    async def ws() -> TrioResponse | None:
        # Never the subprotocol with the token: anybody who sees the response would get the token.
        subprotocols = websocket.requested_subprotocols
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in subprotocols else None
        arguments, last_event_id = websocket.args.to_dict(flat=False), websocket.headers.get("Last-Event-ID")
        session, scope, decoded = None, settings.default_scope, settings.decodable_topics
        try:
            if authentication is None:
                query = read_query(arguments, last_event_id, settings.topics, default_scope=scope, decoded=decoded)
            else:
                takes_cookies = authentication.reads_cookies and g.verdict.takes_cookies
                caller = await authentication.identify(
                    websocket.headers, websocket.cookies if takes_cookies else NO_COOKIES, arguments, subprotocols
                )
                query = caller.read_query(
                    arguments, last_event_id, settings.topics, default_scope=scope, decoded=decoded
                )
                if caller.has_expired:
                    await _accept_and_close(subprotocol, token_needed(HAS_EXPIRED), tell=True)
                    return None
                session = authentication.open_session(caller, arguments, query, can_renew=True)
            query = as_observer(query, settings.acked_topics)
            entrance.check(query)
            if query.whole:
                check_whole_topics(query.topics, hub.history.expected)
        except UnavailableError as error:
            return _try_later(error)
        except (BadRequestError, UnauthenticatedError, ForbiddenError) as error:
            await _accept_and_close(subprotocol, refused(error.close_code, str(error)), tell=False)
            return None
        connection: Connection = websocket.scope["state"]["connection"]
        wire, extension, compression = WEBSOCKET, None, hub.encoder.compression
        if compression is not None and (extension := accept_deflate(connection.extensions)) is not None:
            wire = compression.websocket
        feed = feed_for(wire, query, settings.acked_topics)
        window = _window(query, settings)
        on_message = None if session is None else session.on_message
        make_inbound = Inbound if window is None else AckInbound
        inbound = make_inbound(trio.current_time(), on_message, inflates=extension is not None)
        try:
            admission = entrance.admit(
                connection.client, websocket.headers, query, None if session is None else session.subject
            )
            connection.stream = stream = SubscriberStream(
                hub,
                feed,
                query,
                connection,
                inbound,
                admission=admission,
                silence_seconds=silence_seconds,
                session=session,
                window=window,
            )
            if isinstance(inbound, AckInbound) and isinstance(stream.subscriber, AckedSubscriber):
                inbound.attach(stream.subscriber, stream.notify)
        except TooManyError as error:
            # A browser must also learn the reason, and must not reconnect at once.
            await _accept_and_close(subprotocol, too_many(str(error)), tell=True)
            return None
        except UnavailableError as error:
            return _try_later(error)
        await websocket.accept(
            headers=None if extension is None else {"Sec-WebSocket-Extensions": extension}, subprotocol=subprotocol
        )
        return None


def _window(query: Query, settings: Settings) -> AckWindow | None:
    """Bounds of the client's unacknowledged records; None if it does not acknowledge."""
    if query.window_records is None:
        return None
    asked_bytes = query.window_bytes or settings.ack_window_bytes
    return AckWindow(
        query.window_records,
        min(asked_bytes, settings.ack_window_bytes),
        timeout_seconds=settings.ack_timeout_seconds,
        drain_seconds=settings.ack_drain_seconds,
    )


def _try_later(error: UnavailableError) -> TrioResponse:
    note_refusal(error.http_status)
    retry_seconds = max(1, try_later(str(error)).retry_ms // 1000)
    return problem_response(error.http_status, str(error), {"Retry-After": str(retry_seconds)})


async def _accept_and_close(subprotocol: str | None, goodbye: Goodbye, *, tell: bool) -> None:
    """Accept, then close: a browser cannot see the status of a refused upgrade, but sees a close code and a reason."""
    note_refusal(goodbye.code)
    await websocket.accept(subprotocol=subprotocol)
    if tell:
        await websocket.send(encode_goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms).decode())
    reason = goodbye.reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    await websocket.close(goodbye.code, reason)
