"""``GET /events``: server-sent events.

The response begins through Quart and Hypercorn. Then the subscriber writes ready-made chunks straight to the
connection (`streams`), and at its end Hypercorn adds the last chunk.
"""

from types import TracebackType
from typing import Self

import structlog
from hypercorn.typing import ASGIReceiveEvent
from quart import Quart, request
from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, SubscriberGoneError, SubscriberStalledError, UnavailableError
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.goodbyes import try_later
from dispatcher.hub.hub import Hub
from dispatcher.sansio.encoding import sse
from dispatcher.sansio.encoding.wire import sse_wire
from dispatcher.settings import Settings
from dispatcher.web.connection import Connection
from dispatcher.web.requests import Query, read_query
from dispatcher.web.streams import Send

log = structlog.get_logger(__name__)

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class EventStream:
    """One stream, subscribed from the beginning (`streams.Stream`).

    Args:
        hub: Where to subscribe.
        feed: What to subscribe to.
        connection: Where to write.
        query: From where on.

    Raises:
        UnavailableError: the replica takes no more subscribers.
    """

    def __init__(self, hub: Hub, feed: Feed, connection: Connection, query: Query) -> None:
        self._hub = hub
        self._connection = connection
        self._subscriber = hub.subscribe(feed, connection, query.position, query.since_ms)
        connection.hear(_hear_nothing)

    async def run(self, send: Send) -> None:
        """Write until either side ends it, then end the response."""
        with self._connection.streaming() as scope:
            try:
                await self._subscriber.run()
            except SubscriberStalledError as error:
                log.info("subscriber stalled", subscriber=self._subscriber.number, reason=str(error))
            except SubscriberGoneError:
                pass  # its socket told us before Hypercorn did
        self.close()
        if not scope.cancelled_caught:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """Unsubscribe."""
        self._hub.unsubscribe(self._subscriber)
        self._connection.end_endless_response()


async def _hear_nothing(_message: ASGIReceiveEvent) -> None:
    """A client has nothing to say behind its request; that it has left is seen at its connection."""


class _Opening(ResponseBody):
    """The first bytes of a body whose length nobody knows."""

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


def add_events(app: Quart, hub: Hub, settings: Settings) -> None:
    """Add the route."""

    @app.get("/events")
    async def events() -> TrioResponse:
        query = read_query(request.args.to_dict(flat=False), request.headers.get("Last-Event-ID"), settings.topics)
        if request.method == "HEAD":
            return TrioResponse(b"", headers=HEADERS)
        connection: Connection = request.scope["state"]["connection"]
        if not connection.begin_endless_response():
            raise BadRequestError("send nothing behind the request of a stream")
        feed = feed_of(sse_wire(envelope=query.envelope, chunked=request.http_version == "1.1"), query.topics)
        opening = b""  # of a stream the subscriber writes all of the body
        try:
            connection.stream = EventStream(hub, feed, connection, query)
        except UnavailableError as error:
            # An error status would end an EventSource for good; the end of a stream makes it come back.
            goodbye = try_later(str(error))
            opening = sse.encode_goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms)
            connection.end_endless_response()
        return TrioResponse(_Opening(opening), headers=HEADERS)
