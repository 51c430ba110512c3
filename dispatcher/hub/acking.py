"""Subscribers that acknowledge (``ack=client``), and what becomes of what they say.

*Thread*: Trio's. Nothing awaits.
"""

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from dispatcher.hub.dead_letters import DeadLetters
from dispatcher.hub.parking import ParkedRead
from dispatcher.hub.settlement import Settlement
from dispatcher.hub.statistics import AckingStatistics
from dispatcher.sansio.acknowledgements import Done
from dispatcher.sansio.history import History
from dispatcher.sansio.records import TopicPartition

if TYPE_CHECKING:
    from dispatcher.hub.acked_subscriber import AckedSubscriber
    from dispatcher.hub.feed import Feed


class Acking:
    """Counts acknowledgements, and reports what they cover where only that is committed.

    Args:
        topics: Topics of which only what was acknowledged is committed.
        history: Where the records are.
        settlement: Decides what may be committed.
        on_replayed: Called with a range of a followed partition that was acknowledged after a replay.
    """

    def __init__(
        self,
        topics: AbstractSet[str],
        history: History,
        settlement: Settlement,
        on_replayed: Callable[[TopicPartition, int, int], None],
    ) -> None:
        self.topics = topics
        self.dead_letters: DeadLetters | None = None
        """Where refused records go; None: nowhere."""
        self._history = history
        self._settlement = settlement
        self._on_replayed = on_replayed
        self._subscribers: dict[int, AckedSubscriber] = {}
        self.timeouts = 0
        """Streams that ended because the client acknowledged nothing for too long."""
        self._acked = self._nacked = self._passed_over = 0
        """Of subscribers that have left."""

    def add(self, subscriber: "AckedSubscriber") -> None:
        """Take a new one."""
        self._subscribers[subscriber.number] = subscriber

    def remove(self, number: int) -> None:
        """One has left: what it has not acknowledged waits for another one."""
        subscriber = self._subscribers.pop(number, None)
        if subscriber is not None:
            statistics = subscriber.acks.statistics()
            self._acked += statistics.acked_records
            self._nacked += statistics.nacked_records
            self._passed_over += statistics.passed_over

    def done(self, feed: "Feed", done: Iterable[Done]) -> None:
        """Records were acknowledged, or their dead letters are stored."""
        for each in done:
            delivery = each.delivery
            partition = delivery.partition
            if partition.topic in self.topics and feed.counts_for(partition.topic):
                if delivery.entry is not None:
                    self._settlement.acked(delivery.entry, delivery.records, each.indexes)
                else:
                    # It was replayed while the partition was followed, or before what waits here.
                    offsets = [delivery.offset_at(index) for index in range(each.first, each.end)]
                    # What lies between records that its filter has chosen was not sent.
                    ends = [(n, n + 1) for n in offsets] if feed.wanted else [(offsets[0], offsets[-1] + 1)]
                    for first, end in ends:
                        self._settlement.acked_between(partition, first, end)
                        self._on_replayed(partition, first, end)
            if delivery.parked is not None:
                read = ParkedRead(partition, delivery.parked, delivery.stand_for[each.first : each.end])
                self._settlement.parked_replayed([read])

    def takes_letters(self, feed: "Feed", partition: TopicPartition) -> bool:
        """Whether a record that is refused has to go to a dead-letter topic: not a followed one, nor for an observer.

        Those are for the owner of the partition, and for clients that take part.
        """
        return feed.counts and not self._history.is_followed(partition)

    def left(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions leave: their records can be acknowledged until `released`."""
        for subscriber in self._subscribers.values():
            subscriber.partitions_left(partitions)

    def released(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions are let go."""
        for subscriber in self._subscribers.values():
            subscriber.acks.released(partitions)

    def dropped(self, partitions: Collection[TopicPartition]) -> None:
        """Followed partitions leave, and nothing is committed for them."""
        self.left(partitions)
        self.released(partitions)

    def are_awaited(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether an acknowledgement may still come that lets records of these partitions be committed."""
        wanted = [partition for partition in partitions if partition.topic in self.topics]
        return any(
            delivery.entry is not None and delivery.entry.batch.epoch
            for subscriber in self._subscribers.values()
            if subscriber.feed.counts
            for partition in wanted
            for delivery in subscriber.acks.outstanding(partition)
        )

    def statistics(self) -> AckingStatistics:
        """A snapshot. Costs as much as there are subscribers that acknowledge."""
        now = [subscriber.acks.statistics() for subscriber in self._subscribers.values()]
        return AckingStatistics(
            subscribers=len(now),
            outstanding_records=sum(one.outstanding_records for one in now),
            outstanding_bytes=sum(one.outstanding_bytes for one in now),
            acked_records=self._acked + sum(one.acked_records for one in now),
            nacked_records=self._nacked + sum(one.nacked_records for one in now),
            passed_over=self._passed_over + sum(one.passed_over for one in now),
            timeouts=self.timeouts,
        )
