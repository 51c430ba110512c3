"""``GET /ws``: WebSocket (RFC 6455), subprotocol ``dispatcher.v1.json``.

The handshake is answered directly (`direct`), or by Quart and Hypercorn. Then the connection belongs to the stream
(`streams`), and `inbound` reads what the client sends.
"""

from collections.abc import Sequence

import trio
from quart import Quart, g, websocket
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import (
    BadRequestError,
    ExpiredTokenError,
    ForbiddenError,
    TooManyError,
    UnauthenticatedError,
    UnavailableError,
)
from dispatcher.hub.acked_subscriber import AckedSubscriber, AckWindow
from dispatcher.hub.goodbyes import Goodbye, refused, token_needed, too_many, try_later
from dispatcher.sansio.codings import accept_deflate
from dispatcher.sansio.encoding.messages import SUBPROTOCOL, encode_goodbye
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.settings import Settings
from dispatcher.web.acknowledging import AckInbound
from dispatcher.web.authentication import NO_COOKIES
from dispatcher.web.connection import Connection
from dispatcher.web.inbound import Inbound
from dispatcher.web.opening import StreamOpener, StreamRequest
from dispatcher.web.problems import problem_response
from dispatcher.web.refusals import note_refusal
from dispatcher.web.requests import Query, feed_for
from dispatcher.web.streams import SubscriberStream

MAX_REASON_BYTES = 123
"""The room for a reason in a close frame (RFC 6455, section 5.5)."""


class WebSocketOpener(StreamOpener):
    """Opens streams of WebSocket messages."""

    can_renew = True

    async def open(self, request: StreamRequest, connection: Connection) -> str | None:
        """Leave the stream with its connection; returns the extension that it uses, if any.

        Raises:
            TooManyError, UnavailableError: the stream is not admitted.
            DispatcherError: see `StreamOpener._ask`.
        """
        settings = self._settings
        query, session = await self._ask(request)
        wire, extension, compression = WEBSOCKET, None, self._hub.encoder.compression
        if compression is not None and (extension := accept_deflate(request.extensions)) is not None:
            wire = compression.websocket
        feed = feed_for(wire, query, settings.acked_topics)
        window = _window(query, settings)
        on_message = None if session is None else session.on_message
        make_inbound = Inbound if window is None else AckInbound
        inbound = make_inbound(trio.current_time(), on_message, inflates=extension is not None)
        connection.stream = stream = SubscriberStream(
            self._hub,
            feed,
            query,
            connection,
            inbound,
            admission=self._admit(request, query, session),
            silence_seconds=settings.heartbeat_seconds + settings.stall_timeout_seconds,
            session=session,
            window=window,
        )
        if isinstance(inbound, AckInbound) and isinstance(stream.subscriber, AckedSubscriber):
            inbound.attach(stream.subscriber, stream.notify)
        return extension


def chosen_subprotocol(offered: Sequence[str]) -> str | None:
    """The subprotocol to accept: never the one with the token, which anybody who sees the response would get."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def add_websocket(app: Quart, opener: WebSocketOpener) -> None:
    """Add the route."""

    @app.websocket("/ws")
    async def ws() -> TrioResponse | None:
        connection: Connection = websocket.scope["state"]["connection"]
        subprotocol = chosen_subprotocol(websocket.requested_subprotocols)
        asked = StreamRequest(
            connection.client,
            websocket.headers,
            websocket.args.to_dict(flat=False),
            websocket.cookies if opener.counts_cookies() and g.verdict.takes_cookies else NO_COOKIES,
            websocket.requested_subprotocols,
            connection.extensions,
        )
        try:
            connection.raise_refusal()
            extension = await opener.open(asked, connection)
        except ExpiredTokenError as error:
            await _accept_and_close(subprotocol, token_needed(str(error)), tell=True)
        except TooManyError as error:
            # A browser must also learn the reason, and must not reconnect at once.
            await _accept_and_close(subprotocol, too_many(str(error)), tell=True)
        except UnavailableError as error:
            return _try_later(error)
        except (BadRequestError, UnauthenticatedError, ForbiddenError) as error:
            await _accept_and_close(subprotocol, refused(error.close_code, str(error)), tell=False)
        else:
            headers = None if extension is None else {"Sec-WebSocket-Extensions": extension}
            await websocket.accept(headers=headers, subprotocol=subprotocol)
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
