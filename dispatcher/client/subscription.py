"""``subscribe``: a stream that outlives its connections.

Rules of this module:

* One task reads and reconnects; the caller's takes what it has read. Between them is one chunk of at most
  `connection.RECEIVE_BYTES`, so a slow caller slows the server down (whose history, and Kafka, wait for it).
* What a caller has not taken yet is not in `Subscription.position`.
"""

import logging
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

import trio

from dispatcher.client.acks import FLUSH_SECONDS, Acks
from dispatcher.client.address import (
    SubscriptionRequest,
    checked_headers,
    checked_seconds,
    filter_parameters,
    read_address,
)
from dispatcher.client.backoff import Backoff
from dispatcher.client.connection import Connector
from dispatcher.client.errors import SubscriptionError, UnreachableError, WrongAddressError
from dispatcher.client.events import Fail, Gap, Heartbeat, Nacked, Received, Record, RetryTime, State, StateReceived
from dispatcher.client.resume_position import ResumePosition
from dispatcher.client.tokens import Token, Tokens
from dispatcher.errors import MalformedPositionError

log = logging.getLogger("dispatcher.client")

Event = Record | Gap | State
_Item = Record | Gap | State | Heartbeat


@asynccontextmanager
async def subscribe(
    url: str,
    *,
    topics: Iterable[str] = (),
    since: str | int | datetime | None = None,
    last_event_id: str | None = None,
    scope: Literal["replica", "topic"] | None = None,
    observe: bool | None = None,
    last: int | None = None,
    keys: str | Iterable[str] = (),
    record_headers: Mapping[str, str | Iterable[str]] | None = None,
    fields: Mapping[str, str | Iterable[str]] | None = None,
    filter: Mapping[str, Any] | Iterable[Any] | str | None = None,  # noqa: A002 - the name of the parameter
    ack: Literal["auto", "manual"] | None = None,
    window: int | None = None,
    transport: Literal["auto", "sse", "websocket"] = "auto",
    headers: Mapping[str, str] | None = None,
    token: Token | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout_seconds: float = 10.0,
    first_wait_seconds: float = 1.0,
    max_wait_seconds: float = 30.0,
    max_failures: int | None = None,
) -> AsyncIterator["Subscription"]:
    """Subscribe to a dispatcher, and stay subscribed.

    ::

        async with subscribe("http://127.0.0.1:8000") as stream:
            async for record in stream:
                print(record.offset, record.text)

    It connects within the block, and again whenever a connection ends: it resumes where it was, on whatever replica
    answers, and drops repeats. The iteration never ends by itself. An exception of the block is raised as it was, not
    in a group.

    Args:
        url: ``http://host:port``; with ``/events`` or ``/ws`` if you like, and with the query of docs/protocol.md.
        topics: Topics to read; all that the dispatcher serves by default.
        since: Where partitions begin of which nothing was seen: ``earliest``, ``now``, a duration such as
            ``-10m``, an RFC 3339 time, a datetime, or milliseconds since 1970. Without it they begin where the
            dispatcher has not dispatched yet; a connection that follows others, of which none said where it began, asks
            for what came since the first one.
        last_event_id: Where to resume: an earlier `Subscription.position`.
        scope: ``topic`` for every partition of the topics, whichever replica owns them; ``replica`` for those of the
            replica that answers. By default what the dispatcher is set to.
        observe: Whether to look on only: nothing that is sent to an observer counts as dispatched.
        last: Begin with the newest records, at most this many of each partition.
        keys: Only records with one of these keys. With several of these four, a record has to pass each.
        record_headers: Only records whose headers have these values, by name; several values are alternatives.
        fields: The same of the JSON in the value, by JSON pointer: ``{"/tenant": "t1"}``.
        filter: A filter in the dialect of docs/filters.md. A position holds no filter: to resume with another one is
            another view, without what the new one would have had before.
        ack: Whether the server waits for acknowledgements, over a WebSocket. ``auto``: a record is acknowledged when
            the next one is asked for, so the body of the loop is done with it; ``manual``: by `Subscription.ack`.
        window: How many records may be outstanding then; 1,000 by default.
        transport: By default a WebSocket for ``ws:``, ``wss:`` and a path that ends with ``/ws``, else SSE.
        headers: Headers for every request; they are not sent to another origin after a redirect.
        token: A bearer token, or an async function that returns one: it is called before each attempt, and when the
            server says that a WebSocket's token is about to end. A token is sent to no other origin after a redirect.
            A function is asked once more when the server refuses what it returned.
        ssl_context: For ``https`` and ``wss``; the system's certificates by default.
        connect_timeout_seconds: From the look-up of the name to the head of the answer.
        first_wait_seconds: The most that the first wait of the backoff takes, until the server says ``retry``.
        max_wait_seconds: The most that the backoff grows to.
        max_failures: Failed attempts in a row before `UnreachableError`; None for no limit.

    Raises:
        WrongAddressError: at once, when an argument cannot be right.
    """
    request = read_address(
        url,
        transport=transport,
        topics=topics,
        since=since,
        last_event_id=last_event_id,
        scope=scope,
        observe=observe,
        last=last,
        wanted=filter_parameters(keys=keys, record_headers=record_headers, fields=fields, record_filter=filter),
        window=window,
        acks=ack is not None,
    )
    checked_seconds(
        connect_timeout_seconds=connect_timeout_seconds,
        first_wait_seconds=first_wait_seconds,
        max_wait_seconds=max_wait_seconds,
    )
    if token is not None and any(name.lower() == "authorization" for name in headers or {}):
        raise WrongAddressError("token and a header Authorization: leave out one of the two")
    stream = Subscription(
        request,
        tokens=Tokens(token),
        headers=checked_headers(headers or {}),
        ssl_context=ssl_context,
        connect_timeout_seconds=connect_timeout_seconds,
        backoff=Backoff(first_wait_seconds, max_wait_seconds, random.random),
        max_failures=max_failures,
        ack=ack,
    )
    failed: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream._run)  # noqa: SLF001 - its other half
        if stream._acks is not None:  # noqa: SLF001
            nursery.start_soon(stream._acks.run)  # noqa: SLF001
        try:
            yield stream
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - also GeneratorExit: raised below, outside of the nursery that would wrap it
            failed = error
        finally:
            if stream._acks is not None:  # noqa: SLF001
                with trio.move_on_after(FLUSH_SECONDS, shield=True):
                    await stream._acks.send()  # noqa: SLF001
                    await stream._leave()  # noqa: SLF001
            stream._close()  # noqa: SLF001
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """Counts since the start of a subscription, and what it holds now."""

    state: str
    attempts: int
    failures: int
    """Attempts in a row that brought no state."""
    received_bytes: int
    records: int
    repeats: int
    gaps: int
    waiting: int
    """Chunks and items that were received and that the caller has not taken."""
    partitions: int
    """Partitions that the position names."""


class Subscription:
    """The records of a stream, as an asynchronous iterator; made by `subscribe`.

    Take from it in one task at a time. *Backpressure*: see the module. *Cancellation*: safe, a record that was not
    returned is returned by the next call.

    Raises:
        SubscriptionError: from the iteration, when reconnecting cannot help; again with each further call.
        trio.ClosedResourceError: the ``async with`` block is over.
    """

    def __init__(
        self,
        request: SubscriptionRequest,
        *,
        tokens: Tokens,
        headers: Mapping[str, str],
        ssl_context: ssl.SSLContext | None,
        connect_timeout_seconds: float,
        backoff: Backoff,
        max_failures: int | None,
        ack: Literal["auto", "manual"] | None = None,
    ) -> None:
        self._connector = Connector(
            request, headers, ssl_context, connect_timeout_seconds, self._deliver, tokens=tokens
        )
        self._backoff = backoff
        self._max_failures = max_failures
        self._heard = ResumePosition(request.position)
        """What connections brought: from here they resume."""
        self._taken = ResumePosition(request.position)
        """What the caller took."""
        self._send, self._receive = trio.open_memory_channel[list[_Item]](1)
        self._ready: deque[_Item] = deque()
        self._error: SubscriptionError | None = None
        self._records = self._gaps = 0
        self._acks = None if ack is None else Acks(request.position, self._connector.say)
        self._acks_by_itself = ack == "auto"
        self._last_returned: Record | None = None
        self.state = State("connecting")
        """The current one, which may be ahead of what was taken; `events` has states in order with the records."""
        self.repeats = 0
        """Repeated records that were dropped."""

    @property
    def position(self) -> str:
        """All that was taken, to be stored and given back as ``last_event_id``; empty while that is nothing.

        With ``ack`` it is what was acknowledged. Store it after processing a record: then a crash of your program
        repeats records and loses none.
        """
        return self._taken.format() if self._acks is None else self._acks.position

    def statistics(self) -> "SubscriptionStatistics":
        """What happened since the start."""
        return SubscriptionStatistics(
            state=self.state.name,
            attempts=self._connector.attempts,
            failures=self._backoff.failures,
            received_bytes=self._connector.received_bytes,
            records=self._records,
            repeats=self.repeats,
            gaps=self._gaps,
            waiting=len(self._ready) + self._receive.statistics().current_buffer_used,
            partitions=len(self._heard),
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        """The next record; gaps go to the log as warnings (`events` hands them out)."""
        if self._acks is not None and self._acks_by_itself and self._last_returned is not None:
            self._acks.done(self._last_returned)
        while not isinstance(event := await self._next(), Record):
            if isinstance(event, Gap):
                log.warning(
                    "gap: %s:%d has no offsets %d to %d (%s)",
                    event.topic,
                    event.partition,
                    event.from_offset,
                    event.to_offset,
                    event.reason,
                )
        self._last_returned = event
        return event

    async def ack(self, record: Record) -> None:
        """Tell the server that a record is done: the longest run of which all is done is acknowledged.

        It is sent by a task of its own. *Cancellation*: safe.

        Raises:
            RuntimeError: `subscribe` was not asked for acknowledgements.
        """
        self._acknowledging().done(record)
        await trio.lowlevel.checkpoint()

    async def nack(self, record: Record, reason: str = "") -> None:
        """Tell the server that a record cannot be processed: it goes to the dead-letter topic, and is done then.

        A server without one ends the subscription.

        Args:
            record: The record.
            reason: Why, for whoever looks at the dead letters.

        Raises:
            RuntimeError: `subscribe` was not asked for acknowledgements.
        """
        self._acknowledging().refuse(record, reason)
        await trio.lowlevel.checkpoint()

    def _acknowledging(self) -> Acks:
        if self._acks is None:
            raise RuntimeError('subscribe with ack="manual" to acknowledge records')
        return self._acks

    def events(self) -> "Events":
        """Everything in its order: records, gaps and states. Takes from the same stream."""
        return Events(self)

    async def _next(self) -> Event:
        await trio.lowlevel.checkpoint()
        while True:
            while self._ready:
                item = self._ready.popleft()
                if isinstance(item, Record):
                    self._taken.record(item)
                elif isinstance(item, Gap):
                    self._taken.gap(item)
                elif isinstance(item, Heartbeat):
                    self._taken.move_to(item.id)
                    continue
                return item
            try:
                self._ready.extend(await self._receive.receive())
            except trio.EndOfChannel:
                assert self._error is not None  # noqa: S101 - nothing else ends it
                raise self._error from None

    async def _leave(self) -> None:
        """Return when the server has heard all that was said: what it has not read is lost if the connection breaks."""
        if await self._connector.leave():
            async for _ in self._receive:
                if not self._connector.is_open:
                    break

    def _close(self) -> None:
        self._ready.clear()
        self._receive.close()

    async def _run(self) -> None:
        """Read and reconnect until cancelled, or until there is no use in it."""
        with self._send:
            await self._tell(self.state)
            while True:
                outcome = await self._connector.attempt(self._resume_at())
                if isinstance(outcome, Fail):
                    self._error = outcome.error
                    await self._tell(State("closed", str(outcome.error)))
                    return
                seconds = self._backoff.ended(trio.current_time(), outcome.after_seconds)
                if self._max_failures is not None and self._backoff.failures > self._max_failures:
                    self._error = UnreachableError(
                        f"{self._backoff.failures} attempts in a row failed; the last: {outcome.reason}"
                    )
                    await self._tell(State("closed", str(self._error)))
                    return
                await self._tell(State("reconnecting", outcome.reason, retry_in_seconds=seconds))
                await trio.sleep(seconds)

    def _resume_at(self) -> str:
        return self._heard.format() if self._acks is None else self._acks.position

    async def _deliver(self, received: Sequence[Received]) -> None:
        items: list[_Item] = []
        malformed: MalformedPositionError | None = None
        for each in received:
            try:
                items += self._note(each)
            except MalformedPositionError as error:
                malformed = error
                break
        # A malformed id ends the connection; the records before it are noted, so they have to go on.
        if items:
            await self._send.send(items)
        if malformed is not None:
            raise malformed

    def _note(self, heard: Received) -> list[_Item]:
        """Take note of what was heard, and return what is for the caller."""
        if isinstance(heard, StateReceived):
            self._backoff.began(trio.current_time())
            self.state = heard.state
            self._heard.move_to(heard.id)
            if self._acks is not None:
                self._acks.came(Heartbeat(heard.id))
            return [Heartbeat(heard.id), heard.state]
        if isinstance(heard, Nacked) and self._acks is not None:
            self._acks.answered(heard.id)
        if isinstance(heard, RetryTime):
            self._backoff.set_base(heard.seconds)
        elif isinstance(heard, (Record, Gap, Heartbeat)):
            return self._new(heard)
        return []

    def _new(self, item: Record | Gap | Heartbeat) -> list[_Item]:
        """The item, unless it is a repeat."""
        if isinstance(item, Gap):
            self._gaps += 1
            self._heard.gap(item)
        elif isinstance(item, Heartbeat):
            self._heard.move_to(item.id)
        elif not self._heard.record(item):
            self.repeats += 1
            if self._acks is not None:
                self._acks.came_again(item)
            return []
        else:
            self._records += 1
        if self._acks is not None:
            self._acks.came(item)
        return [item]

    async def _tell(self, state: State) -> None:
        self.state = state
        await self._send.send([state])


class Events:
    """All that comes on a `Subscription`, in its order; see there for backpressure, cancellation and errors."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next record, gap or state."""
        return await self._subscription._next()  # noqa: SLF001 - its other half
