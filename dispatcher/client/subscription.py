"""A subscription is a stream that outlives its connections; `subscribing.subscribe` makes it.

Rules of this module:

* One task reads and reconnects; the caller's task takes the items. Between them is one chunk of at most
  `connection.RECEIVE_BYTES`, so a slow caller slows the server down, and records wait in its history or in Kafka.
* Items that the caller has not taken yet are not in `Subscription.position`.
"""

import logging
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import trio

from dispatcher.client.acks import Acks
from dispatcher.client.address import (
    SubscriptionRequest,
)
from dispatcher.client.backoff import Backoff
from dispatcher.client.connection import Connector
from dispatcher.client.errors import SubscriptionError, UnreachableError
from dispatcher.client.events import Fail, Gap, Heartbeat, Nacked, Received, Record, RetryTime, State, StateReceived
from dispatcher.client.resume_position import ResumePosition
from dispatcher.client.tokens import Tokens
from dispatcher.errors import MalformedPositionError

log = logging.getLogger("dispatcher.client")

BUSY_SECONDS = 0.005
"""How long to work before other tasks get their turn."""

Event = Record | Gap | State
_Item = Record | Gap | State | Heartbeat


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """Counts since the start of a subscription, and what it holds now."""

    state: str
    attempts: int
    failures: int
    """Attempts in a row that received no state."""
    received_bytes: int
    records: int
    repeats: int
    gaps: int
    waiting: int
    """Chunks and items that were received but not taken by the caller yet."""
    partitions: int
    """Number of partitions in the position."""


class Subscription:
    """The records of a stream, as an asynchronous iterator; made by `subscribe`.

    Iterate in one task at a time. *Backpressure*: see the module. *Cancellation*: safe, a record that was not returned
    is returned by the next call.

    Raises:
        SubscriptionError: from the iteration, if reconnecting cannot help; again with each further call.
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
        """The position of received items, from which connections resume."""
        self._taken = ResumePosition(request.position)
        """The position of items that the caller has taken."""
        self._send, self._receive = trio.open_memory_channel[list[_Item]](1)
        self._ready: deque[_Item] = deque()
        self._error: SubscriptionError | None = None
        self._records = self._gaps = 0
        self._acks = None if ack is None else Acks(request.position, self._connector.say)
        self._acks_by_itself = ack == "auto"
        self._last_returned: Record | None = None
        self.state = State("connecting")
        """The current state, which may be ahead of the items taken; `events` has states in order with the records."""
        self.repeats = 0
        """Repeated records that were dropped."""

    @property
    def position(self) -> str:
        """The position of everything taken, to be stored and passed as ``last_event_id``; empty at first.

        With ``ack`` it is the position of everything acknowledged. Store it after processing a record: then a crash of
        your program may repeat records but loses none.
        """
        return self._taken.format() if self._acks is None else self._acks.position

    def statistics(self) -> "SubscriptionStatistics":
        """A snapshot of the counts."""
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
        """The next record; gaps are logged as warnings (`events` hands them out)."""
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
        return event

    async def ack(self, record: Record) -> None:
        """Mark a record as done: the longest run in which every record is done is acknowledged.

        A separate task sends the acknowledgement. *Cancellation*: safe.

        Raises:
            RuntimeError: `subscribe` was called without ``ack``.
        """
        self._acknowledging().done(record)
        await trio.lowlevel.checkpoint()

    async def nack(self, record: Record, reason: str = "") -> None:
        """Refuse a record that cannot be processed: it is written to the dead-letter topic, and is then done.

        If the server leaves it to other clients (docs/delivery.md), it holds up no later record, is not acknowledged,
        and is refused again if it arrives again. If there is no dead-letter topic for it, the subscription ends.

        Args:
            record: The record.
            reason: The reason, for people who look at the dead letters. Its first 1,000 characters are sent, with ``?``
                for what UTF-8 cannot encode.

        Raises:
            RuntimeError: `subscribe` was called without ``ack``.
            TypeError: the reason is no string.
        """
        self._acknowledging().refuse(record, reason)
        await trio.lowlevel.checkpoint()

    def _acknowledging(self) -> Acks:
        if self._acks is None:
            raise RuntimeError('subscribe with ack="manual" to acknowledge records')
        return self._acks

    def events(self) -> "Events":
        """Iterate over everything in order: records, gaps and states. Takes its items from the same stream.

        With ``ack="auto"`` a record is acknowledged when the next item, whatever it is, is requested.
        """
        return Events(self)

    async def _next(self) -> Event:
        """The next item for either iterator; with ``ack="auto"`` the record that was returned before it is done."""
        if self._acks is not None and self._acks_by_itself and self._last_returned is not None:
            self._acks.done(self._last_returned)
        await trio.lowlevel.checkpoint()
        while True:
            while self._ready:
                item = self._ready.popleft()
                if isinstance(item, Record):
                    self._taken.record(item)
                    self._last_returned = item
                elif isinstance(item, Gap):
                    self._taken.gap(item)
                elif isinstance(item, Heartbeat):
                    self._taken.move_to(item.id)
                    await trio.lowlevel.checkpoint()
                    continue
                return item
            try:
                self._ready.extend(await self._receive.receive())
            except trio.EndOfChannel:
                assert self._error is not None  # noqa: S101 - nothing else ends it
                raise self._error from None

    async def _leave(self) -> None:
        """Return when the server has read all messages: unread ones are lost if the connection breaks."""
        if await self._connector.leave():
            async for _ in self._receive:
                if not self._connector.is_open:
                    break

    def _close(self) -> None:
        self._ready.clear()
        self._receive.close()

    async def _run(self) -> None:
        """Read and reconnect until cancelled, or until reconnecting cannot help."""
        with self._send:
            await self._tell(self.state)
            while True:
                if self._acks is not None:
                    self._acks.connecting()
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
        busy_until = trio.current_time() + BUSY_SECONDS
        for each in received:
            # A few bytes can name thousands of partitions: let the program's other tasks have their turns.
            if trio.current_time() > busy_until:
                await trio.lowlevel.checkpoint()
                busy_until = trio.current_time() + BUSY_SECONDS
            try:
                items += self._note(each)
            except MalformedPositionError as error:
                malformed = error
                break
        # A malformed id ends the connection; the records before it are noted, so they have to be handed out.
        if items:
            await self._send.send(items)
        if malformed is not None:
            raise malformed

    def _note(self, heard: Received) -> list[_Item]:
        """Note a received item, and return what is for the caller."""
        if isinstance(heard, StateReceived):
            self._backoff.began(trio.current_time())
            self.state = heard.state
            self._heard.move_to(heard.id)
            if self._acks is not None:
                self._acks.stated(heard.state)
                self._acks.came(Heartbeat(heard.id))
            return [Heartbeat(heard.id), heard.state]
        if isinstance(heard, Nacked) and self._acks is not None:
            self._acks.answered(heard.id, is_stored=heard.is_stored)
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
    """Everything on a `Subscription`, in order; see there for backpressure, cancellation and errors."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next record, gap or state."""
        return await self._subscription._next()  # noqa: SLF001 - its other half
