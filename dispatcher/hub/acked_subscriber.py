"""One subscriber that acknowledges: it is sent what fits into its window, and its stream ends if it makes no progress.

While the window has room it is live like any other. A round that does not fit sends it back to the history, which it
reads at the pace at which its client acknowledges.

*Thread*: Trio's only.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio

from dispatcher.hub.acked_resumption import AckedResumption, deliveries
from dispatcher.hub.acking import Acking
from dispatcher.hub.feed import Feed
from dispatcher.hub.goodbyes import RESTART, TRY_LATER, Goodbye, ack_timeout, try_later
from dispatcher.hub.live_buffer import LiveBuffer
from dispatcher.hub.source import Source
from dispatcher.hub.statistics import SubscriberState, SubscriberStatistics
from dispatcher.hub.subscriber import Subscriber
from dispatcher.hub.transport import Transport
from dispatcher.sansio.acknowledgements import Acknowledgements
from dispatcher.sansio.deliveries import Done
from dispatcher.sansio.entries import EncodedEntry, Round, covered
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.records import TopicPartition

MAX_REASON_CHARACTERS = 1000
"""How much of a client's reason for refusing a record is kept."""


@dataclass(frozen=True, slots=True)
class AckWindow:
    """What a client asked for, within the bounds of the settings."""

    records: int
    size_bytes: int
    timeout_seconds: float
    drain_seconds: float
    """How long a goodbye waits for outstanding acknowledgements."""


class TimedBuffer(LiveBuffer):
    """A buffer whose waits can also end at a given time.

    Args:
        max_bytes: See `LiveBuffer`.
        on_time: Called at that time.
    """

    __slots__ = ("_expires_at", "_on_time", "_scope")

    def __init__(self, max_bytes: int, on_time: Callable[[], None]) -> None:
        super().__init__(max_bytes)
        self._on_time = on_time
        self._expires_at = math.inf
        self._scope: trio.CancelScope | None = None

    def expire_at(self, when: float) -> None:
        """End the current wait, or the next one, at this time at the latest.

        A current wait that ends earlier is not prolonged: the time moves with each acknowledgement, and setting a timer
        costs 5 µs.
        """
        self._expires_at = when
        if self._scope is not None and when < self._scope.deadline:
            self._scope.deadline = when

    async def wait(self) -> None:
        """Return when there is an entry, after `wake`, or when the time has come. *Cancellation*: safe."""
        with trio.CancelScope(deadline=self._expires_at) as self._scope:
            await super().wait()
        is_late, self._scope = self._scope.cancelled_caught, None
        if is_late:
            self._on_time()

    def close(self) -> None:
        """See `LiveBuffer`."""
        super().close()
        self._on_time = _nothing  # it holds the subscriber, which holds this buffer


class AckedSubscriber(Subscriber):
    """A subscriber of ``ack=client``.

    Args:
        number: See `Subscriber`, as for the other arguments.
        window: What may be outstanding.
        acking: Receives the acknowledgements.
    """

    resumption: AckedResumption
    _buffer: TimedBuffer

    def __init__(
        self,
        number: int,
        source: Source,
        feed: Feed,
        transport: Transport,
        *,
        window: AckWindow,
        acking: Acking,
        **more: Any,
    ) -> None:
        self.acks = Acknowledgements(
            window_records=window.records, window_bytes=window.size_bytes, timeout_seconds=window.timeout_seconds
        )
        super().__init__(
            number,
            source,
            feed,
            transport,
            make_buffer=lambda max_bytes: TimedBuffer(max_bytes, self._on_time),
            make_resumption=partial(AckedResumption, self.acks),
            **more,
        )
        self._window = window
        self._acking = acking
        self._was_live = False
        """Whether it was live, and only its window has kept it from being live since."""
        self._last_goodbye: tuple[Goodbye, float] | None = None
        """The goodbye that waits for outstanding acknowledgements, and until when."""

    # Called by the hub.

    def offer(self, round_: Round) -> bool:
        """Take new entries while live, if there is room for all of them; see `Subscriber`."""
        if self.state is not SubscriberState.LIVE:
            return False
        cursor, buffer = self.cursor, self._buffer
        fits = self.acks.fits(buffer.record_count + round_.record_count, buffer.size_bytes + round_.size_bytes)
        if not fits or not _have_records(round_.items):
            if cursor.sequence < round_.last_sequence:
                self.fall_back()
                self._was_live = True
            return False
        before = cursor.sequence
        taken = super().offer(round_)
        if cursor.sequence != before:
            self._sent(round_.items)
        return taken

    def fall_back(self) -> None:
        """See `Subscriber`."""
        self._was_live = False
        super().fall_back()

    def partitions_left(self, partitions: Collection[TopicPartition]) -> None:
        """Note that partitions are leaving: their acknowledgements are no longer expected."""
        self.acks.left(partitions)
        self._window_moved()

    def under_way(self, partition: TopicPartition) -> Iterator[OffsetRange]:
        """The offsets that it may still cause to be committed: where acknowledgements count, all outstanding ones."""
        if partition.topic not in self._acking.topics:
            yield from super().under_way(partition)
        elif self.feed.counts_for(partition.topic):
            for delivery in self.acks.outstanding(partition):
                if self.feed.wanted is None:
                    yield delivery.offset_at(delivery.begin), delivery.last + 1
                elif delivery.entry is None:
                    yield from ((n, n + 1) for n in map(delivery.offset_at, range(delivery.begin, delivery.end)))
                else:
                    # The records in between were left out by its filter, and not sent.
                    indexes = delivery.indexes[delivery.begin : delivery.end]
                    yield from covered(delivery.entry.batch, indexes, delivery.records)

    def end(self, goodbye: Goodbye) -> None:
        """Say goodbye; if it asks the client to return, outstanding acknowledgements are awaited for a moment first."""
        is_drained = goodbye.code in {RESTART, TRY_LATER} and not math.isinf(self.acks.expires_at)
        if self._last_goodbye is not None or not is_drained or self.closed:
            super().end(goodbye)
            return
        self._last_goodbye = goodbye, trio.current_time() + self._window.drain_seconds
        self.acks.window_records = 0
        self._window_moved()

    # Called for what the client sends.

    def acked(self, position: Mapping[TopicPartition, int]) -> None:
        """The client is done with all records up to these offsets: take the first step; `go_on` takes the others."""
        self._done(self.acks.acked(position, trio.current_time(), self.resumption.place))

    def usable_end(self, topic: str) -> int:
        """See `Acknowledgements.end`."""
        return self.acks.end(topic)

    def go_on(self) -> bool:
        """Take the next step of what was acknowledged; returns False if there was none left."""
        return self._done(self.acks.go_on(trio.current_time()))

    def nacked(self, partition: TopicPartition, offset: int, reason: str, answer: Callable[[bool], None]) -> bool:
        """The client refuses a record: it goes to the dead-letter topic, and is done when it is stored there.

        Args:
            partition: Its partition.
            offset: Its offset.
            reason: Why the client refuses it.
            answer: Called at the end with whether a dead letter was stored; the stream may have ended by then. It is
                called at once if the record is not outstanding, because its partition has left, for example: then
                other clients decide about it.

        Returns:
            False if there is no dead-letter topic for such records.
        """
        needs_letter = self._acking.takes_letters(self.feed, partition)
        letters = self._acking.dead_letters
        if needs_letter and (letters is None or not letters.takes(partition.topic)):
            return False
        if needs_letter and not self._acking.may_refuse(partition, offset):
            super().end(try_later("dead letters cannot be written now: reconnect, and resume"))
            return True
        nacked = self.acks.nacked(partition, offset, trio.current_time())
        if nacked is None:
            # If it was refused before, that refusal has an answer, or will have one.
            if not self.acks.is_set_aside(partition, offset):
                answer(False)
            return True
        delivery = nacked.delivery

        def stored(*, is_letter: bool) -> None:
            is_here = self.acks.stored(nacked)
            if is_letter:
                self._acking.done(self.feed, [nacked], is_here=is_here)
            self._window_moved()
            answer(is_letter)

        if letters is None or not needs_letter:
            stored(is_letter=False)
        else:
            record = delivery.records[nacked.indexes[0]]
            shown = reason[:MAX_REASON_CHARACTERS]
            self._acking.refuse(self.number, partition, record, shown, lambda: stored(is_letter=True))
        return True

    def statistics(self) -> SubscriberStatistics:
        """A snapshot of this subscriber."""
        return replace(super().statistics(), outstanding_records=self.acks.outstanding_records)

    def _done(self, done: Sequence[Done]) -> bool:
        if done:
            self._acking.done(self.feed, done)
            self._window_moved()
        return bool(done)

    # Called by its task.

    def _take(self) -> list[EncodedEntry]:
        """The entries of the next write, as many as fit into the window."""
        resumption = self.resumption
        if self.state is SubscriberState.LIVE:
            cursor = self.cursor
            before = cursor.seen, cursor.sequence
            taken = self._buffer.take(cursor, self._write_bytes)
            if _have_records(taken):
                self._sent(taken)
                return taken
            # The history has dropped them: they are read again, because a client may refuse any of them.
            cursor.seen, cursor.sequence = before
            self.fall_back()
            return []
        self._buffer.discard_first()
        taken = [] if resumption.is_held else resumption.take(self._write_bytes)
        if not taken and resumption.is_at_head and self._goodbye is None:
            self.state = SubscriberState.LIVE
            self._source.became_live(self, needed_kafka=resumption.go_live())
        self._set_time()
        return taken

    def _sent(self, items: Sequence[EncodedEntry]) -> None:
        now = trio.current_time()
        for delivery in deliveries(items):
            self.acks.sent(delivery, now)
        self._set_time()

    @property
    def _says_catching_up(self) -> bool:
        """Whether the state says that it is catching up: not if only its window holds it back."""
        return self.state is SubscriberState.CATCHING_UP and not self._was_live

    def _window_moved(self) -> None:
        """The window may have room again, or its deadline may have changed: act on that."""
        if self._last_goodbye is not None and math.isinf(self.acks.expires_at):
            super().end(self._last_goodbye[0])
        self._set_time()
        self.resumption.look_at_window()
        if self.state is SubscriberState.CATCHING_UP and not self.closed:
            self._wake()

    def _set_time(self) -> None:
        drained_at = math.inf if self._last_goodbye is None else self._last_goodbye[1]
        self._buffer.expire_at(min(self.acks.expires_at, drained_at) if self._goodbye is None else math.inf)

    def _on_time(self) -> None:
        """Either the client has acknowledged nothing for too long, or a goodbye has waited long enough."""
        now = trio.current_time()
        if now >= self.acks.expires_at and self._goodbye is None:
            self._acking.timeouts += 1
            super().end(ack_timeout(self._window.timeout_seconds))
        elif self._last_goodbye is not None and now >= self._last_goodbye[1]:
            super().end(self._last_goodbye[0])
        self._set_time()


def _nothing() -> None:
    pass


def _have_records(items: Iterable[EncodedEntry]) -> bool:
    """Whether the history still holds the records of all entries."""
    return all(offered.batch.records or not offered.record_count for offered, _ in items)
