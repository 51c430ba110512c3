"""A subscription: a stream that outlives its connections; `subscribing.subscribe` makes it.

Rules of this module:

* One task reads and reconnects; the caller's takes what it has read. Between them is one chunk of at most
  `connection.RECEIVE_BYTES`, so a slow caller slows the server down (whose history, and Kafka, wait for it).
* What a caller has not taken yet is not in `Subscription.position`.
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
"""Of work in a row, after which other tasks have their turns."""

Event = Record | Gap | State
_Item = Record | Gap | State | Heartbeat


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
                    await trio.lowlevel.checkpoint()
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
        busy_until = trio.current_time() + BUSY_SECONDS
        for each in received:
            # A few bytes can name thousands of partitions: the host's other tasks have their turns meanwhile.
            if trio.current_time() > busy_until:
                await trio.lowlevel.checkpoint()
                busy_until = trio.current_time() + BUSY_SECONDS
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
