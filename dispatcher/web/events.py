"""``GET /events``: server-sent events.

The response begins through Quart and Hypercorn. Then the subscriber writes ready-made chunks straight to the
connection, and at its end Hypercorn adds the last chunk.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

import structlog
from quart import Quart, request
from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, SubscriberGoneError, SubscriberStalledError, UnavailableError
from dispatcher.feed import RETRY_MS, Feed
from dispatcher.hub import Hub
from dispatcher.sansio import sse
from dispatcher.sansio.wire import sse_wire
from dispatcher.settings import Settings
from dispatcher.subscriber import Subscriber
from dispatcher.web.connection import Connection
from dispatcher.web.goodbyes import try_later
from dispatcher.web.queries import Query, read_query

log = structlog.get_logger(__name__)

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class EventStream(ResponseBody):
    """The body of one stream.

    A class and not a generator: a generator's clean-up runs when and where the interpreter likes (PEP 789), and
    the subscriber must be gone when the response is.

    Args:
        hub: Where to subscribe.
        feed: What to subscribe to.
        connection: Where to write.
        query: From where on.
    """

    def __init__(self, hub: Hub, feed: Feed, connection: Connection, query: Query) -> None:
        self._hub = hub
        self._feed = feed
        self._connection = connection
        self._query = query
        self._subscription = ExitStack()
        self._subscriber: Subscriber | None = None
        self._opening = [sse.encode_retry(RETRY_MS)]

    async def __aenter__(self) -> Self:
        try:
            self._subscriber = self._subscription.enter_context(
                self._hub.subscribe(self._feed, self._connection, self._query.position, self._query.since_ms)
            )
        except UnavailableError as error:
            # An error status would end an EventSource for good; the end of a stream makes it come back.
            goodbye = try_later(str(error))
            self._opening.append(sse.encode_goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._subscription.close()
        self._connection.end_endless_response()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._opening:
            return self._opening.pop(0)
        if self._subscriber is not None:
            try:
                await self._subscriber.run()
            except SubscriberStalledError as error:
                log.info("subscriber stalled", subscriber=self._subscriber.number, reason=str(error))
            except SubscriberGoneError:
                pass  # its socket told us before Hypercorn did
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
        feed = Feed(sse_wire(envelope=query.envelope, chunked=request.http_version == "1.1"), query.topics)
        response = TrioResponse(EventStream(hub, feed, connection, query), headers=HEADERS)
        # Quart would end the stream after RESPONSE_TIMEOUT, cleanly, as if it were whole.
        response.timeout = None
        return response
