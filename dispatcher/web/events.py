"""``GET /events``: server-sent events.

The response begins through Quart and Hypercorn. Then the connection belongs to the stream (`streams`), which writes
ready-made chunks, and ends when the client sends a byte or leaves.
"""

from types import TracebackType
from typing import Self

from quart import Quart, g, request
from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, SubscriberGoneError, TooManyError, UnavailableError
from dispatcher.hub.goodbyes import Goodbye, token_needed, too_many, try_later
from dispatcher.hub.hub import Hub
from dispatcher.sansio.codings import accepts_gzip
from dispatcher.sansio.encoding import sse
from dispatcher.sansio.encoding.compression import GZIP_HEAD
from dispatcher.sansio.encoding.wire import sse_wire
from dispatcher.sansio.id_lengths import check_whole_topics
from dispatcher.settings import Settings
from dispatcher.web.authentication import HAS_EXPIRED, NO_COOKIES, Authentication
from dispatcher.web.connection import Connection
from dispatcher.web.limits import Entrance
from dispatcher.web.refusals import note_refusal
from dispatcher.web.requests import as_observer, feed_for, read_query
from dispatcher.web.streams import SubscriberStream

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class Silence:
    """The client's side of server-sent events: after its request it must send nothing (`streams.Dialogue`).

    Args:
        chunked: Whether the response is in chunks, as it is from HTTP/1.1 on.
    """

    __slots__ = ("_chunked",)

    receive_bytes = 1
    takes_turns = False

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked

    def on_client_data(self, data: bytes, now: float) -> bytes | None:  # noqa: ARG002 - any data
        """End the stream.

        Raises:
            SubscriberGoneError: always. Another request could never be answered, and a body has no meaning here.
        """
        raise SubscriberGoneError("the client sent more than its request")

    def go_on(self) -> bool:
        """There is nothing to work on."""
        return False

    def rest_seconds(self, _now: float) -> float:
        """Nothing is read after a message: the stream is over by then."""
        return 0

    def last_bytes(self, code: int | None, reason: str) -> bytes:  # noqa: ARG002 - they are in the `goodbye`
        """The last chunk (RFC 9112, section 7.1)."""
        return b"0\r\n\r\n" if self._chunked else b""

    def close(self) -> None:
        """It refers to nothing."""


class _Opening(ResponseBody):
    """The first bytes of a body of unknown length."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = iter(parts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            return part
        raise StopAsyncIteration


def add_events(
    app: Quart, hub: Hub, settings: Settings, entrance: Entrance, authentication: Authentication | None = None
) -> None:
    """Add the route."""

    @app.get("/events")
    async def events() -> TrioResponse:
        arguments, last_event_id = request.args.to_dict(flat=False), request.headers.get("Last-Event-ID")
        session, scope, decoded = None, settings.default_scope, settings.decodable_topics
        if authentication is None:
            query = read_query(arguments, last_event_id, settings.topics, default_scope=scope, decoded=decoded)
        else:
            cookies = request.cookies if authentication.reads_cookies and g.verdict.takes_cookies else NO_COOKIES
            try:
                caller = await authentication.identify(request.headers, cookies, arguments)
            except UnavailableError as error:
                return _farewell(try_later(str(error)))
            query = caller.read_query(arguments, last_event_id, settings.topics, default_scope=scope, decoded=decoded)
            if caller.has_expired:
                return _farewell(token_needed(HAS_EXPIRED))
            session = authentication.open_session(caller, arguments, query, can_renew=False)
        query = as_observer(query, settings.acked_topics)
        if query.window_records is not None:
            raise BadRequestError("ack=client needs a WebSocket: use /ws")
        entrance.check(query)
        if query.whole:
            check_whole_topics(query.topics, hub.history.expected)
        chunked = request.http_version == "1.1"
        wire, headers, head = sse_wire(envelope=query.envelope, chunked=chunked), HEADERS, b""
        if (compression := hub.encoder.compression) is not None:
            headers = {**HEADERS, "Vary": "Accept-Encoding"}
            # Only a last chunk shows that the body is complete: without chunks, a complete body and one that was cut
            # off look the same.
            if chunked and accepts_gzip(request.headers.getlist("Accept-Encoding")):
                wire, head = compression.sse(wire), GZIP_HEAD
                headers["Content-Encoding"] = "gzip"
        if request.method == "HEAD":
            return TrioResponse(b"", headers=headers)
        connection: Connection = request.scope["state"]["connection"]
        if connection.has_unread_bytes:
            raise BadRequestError("nothing may follow a stream request on the same connection")
        feed = feed_for(wire, query, settings.acked_topics)
        try:
            admission = entrance.admit(
                connection.client, request.headers, query, None if session is None else session.subject
            )
            connection.stream = SubscriberStream(
                hub, feed, query, connection, Silence(chunked=chunked), admission=admission, session=session
            )
        except (UnavailableError, TooManyError) as error:
            return _farewell((too_many if isinstance(error, TooManyError) else try_later)(str(error)))
        # The subscriber writes the body of a stream, except the head of its coding.
        return TrioResponse(_Opening(head), headers={**headers, "Connection": "close"})


def _farewell(goodbye: Goodbye) -> TrioResponse:
    """A stream that consists only of its goodbye.

    An error status would end an EventSource for good; after the end of a stream it reconnects.
    """
    note_refusal(goodbye.code)
    opening = sse.encode_goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms)
    if request.method == "HEAD":
        return TrioResponse(b"", headers=HEADERS)
    return TrioResponse(_Opening(opening), headers={**HEADERS, "Connection": "close"})
