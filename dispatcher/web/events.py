"""``GET /events``: server-sent events.

The response begins directly (`direct`), or through Quart and Hypercorn. Then the connection belongs to the stream
(`streams`), which writes ready-made chunks, and ends when the client sends a byte or leaves.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from quart import Quart, g, request
from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, ExpiredTokenError, SubscriberGoneError, TooManyError, UnavailableError
from dispatcher.hub.goodbyes import Goodbye, token_needed, too_many, try_later
from dispatcher.sansio.codings import accepts_gzip
from dispatcher.sansio.encoding import sse
from dispatcher.sansio.encoding.compression import GZIP_HEAD
from dispatcher.sansio.encoding.wire import Wire, sse_wire
from dispatcher.web.authentication import NO_COOKIES
from dispatcher.web.connection import Connection
from dispatcher.web.opening import StreamOpener, StreamRequest
from dispatcher.web.refusals import note_refusal
from dispatcher.web.requests import Query, feed_for
from dispatcher.web.sessions import Session
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request is answered with if its stream can begin."""

    query: Query
    session: Session | None
    wire: Wire
    headers: dict[str, str]
    opening: bytes
    """The first bytes of the body."""


class EventsOpener(StreamOpener):
    """Opens streams of server-sent events."""

    async def plan(self, request: StreamRequest) -> Plan:
        """Plan the response; see `StreamOpener._ask` for its errors."""
        query, session = await self._ask(request)
        if query.window_records is not None:
            raise BadRequestError("ack=client needs a WebSocket: use /ws")
        wire, headers = sse_wire(envelope=query.envelope, chunked=request.is_http_1_1), HEADERS
        if (compression := self._hub.encoder.compression) is None:
            return Plan(query, session, wire, headers, b"")
        headers = {**HEADERS, "Vary": "Accept-Encoding"}
        # Only a last chunk shows that the body is complete: without chunks, a complete body and one that was cut off
        # look the same.
        if not (request.is_http_1_1 and accepts_gzip(request.fields.getlist("Accept-Encoding"))):
            return Plan(query, session, wire, headers, b"")
        headers["Content-Encoding"] = "gzip"
        return Plan(query, session, compression.sse(wire), headers, GZIP_HEAD)

    def open(self, request: StreamRequest, plan: Plan, connection: Connection) -> dict[str, str]:
        """Leave the stream with its connection; returns the fields of its response.

        Raises:
            UnavailableError, TooManyError: the stream is not admitted.
        """
        query, session = plan.query, plan.session
        connection.stream = SubscriberStream(
            self._hub,
            feed_for(plan.wire, query, self._settings.acked_topics),
            query,
            connection,
            Silence(chunked=request.is_http_1_1),
            admission=self._admit(request, query, session),
            session=session,
        )
        return {**plan.headers, "Connection": "close"}


def add_events(app: Quart, opener: EventsOpener) -> None:
    """Add the route."""

    @app.get("/events")
    async def events() -> TrioResponse:
        connection: Connection = request.scope["state"]["connection"]
        asked = StreamRequest(
            connection.client,
            request.headers,
            request.args.to_dict(flat=False),
            request.cookies if opener.counts_cookies() and g.verdict.takes_cookies else NO_COOKIES,
            is_http_1_1=request.http_version == "1.1",
        )
        try:
            connection.raise_refusal()
            plan = await opener.plan(asked)
            if request.method == "HEAD":
                return TrioResponse(b"", headers=plan.headers)
            if connection.has_unread_bytes:
                raise BadRequestError("nothing may follow a stream request on the same connection")
            headers = opener.open(asked, plan, connection)
        except ExpiredTokenError as error:
            return _farewell(token_needed(str(error)))
        except TooManyError as error:
            return _farewell(too_many(str(error)))
        except UnavailableError as error:
            return _farewell(try_later(str(error)))
        # The subscriber writes the body of a stream, except the head of its coding.
        return TrioResponse(_Opening(plan.opening), headers=headers)


def _farewell(goodbye: Goodbye) -> TrioResponse:
    """A stream that consists only of its goodbye.

    An error status would end an EventSource for good; after the end of a stream it reconnects.
    """
    note_refusal(goodbye.code)
    opening = sse.encode_goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms)
    if request.method == "HEAD":
        return TrioResponse(b"", headers=HEADERS)
    return TrioResponse(_Opening(opening), headers={**HEADERS, "Connection": "close"})
