"""Subscribers that acknowledge (``ack=client``), and the effect of what they acknowledge and refuse.

*Thread*: Trio's. Nothing awaits.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING

from dispatcher.hub.dead_letters import DeadLetters
from dispatcher.hub.parking import ParkedRead
from dispatcher.hub.settlement import Settlement
from dispatcher.hub.statistics import AckingStatistics
from dispatcher.sansio.deliveries import Done
from dispatcher.sansio.history import History
from dispatcher.sansio.records import Record, TopicPartition

if TYPE_CHECKING:
    from dispatcher.hub.acked_subscriber import AckedSubscriber
    from dispatcher.hub.feed import Feed

_Key = tuple[TopicPartition, int]
"""A record: its partition and its offset."""


class Acking:
    """Counts acknowledgements, and reports what they cover for topics that commit only acknowledged records.

    Args:
        topics: Topics that commit only acknowledged records.
        history: Holds the records.
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
        """Where refused records go; None if there is no dead-letter topic."""
        self._history = history
        self._settlement = settlement
        self._on_replayed = on_replayed
        self._subscribers: dict[int, AckedSubscriber] = {}
        self._letters: dict[_Key, dict[int, Callable[[], None]]] = {}
        """For each letter that is not stored yet, the callbacks for when it is, by the number of the subscriber that
        refused the record."""
        self._left: set[_Key] = set()
        """The unstored letters for which no subscriber waits any longer."""
        self.timeouts = 0
        """Streams that ended because the client acknowledged nothing for too long."""
        self._acked = self._nacked = self._passed_over = 0
        """Sums of the subscribers that have left."""

    def add(self, subscriber: "AckedSubscriber") -> None:
        """Add a new subscriber."""
        self._subscribers[subscriber.number] = subscriber

    def remove(self, number: int) -> None:
        """Forget a subscriber that has left: the records that it did not acknowledge wait for another one."""
        subscriber = self._subscribers.pop(number, None)
        if subscriber is not None:
            while subscriber.go_on():
                pass  # all that it has acknowledged counts
            statistics = subscriber.acks.statistics()
            self._acked += statistics.acked_records
            self._nacked += statistics.nacked_records
            self._passed_over += statistics.passed_over
        for key, on_stored in self._letters.items():
            if number in on_stored:
                # The callback that settles the record stays: the record is done when the letter is stored.
                if len(on_stored) == 1:
                    self._left.add(key)
                else:
                    del on_stored[number]

    def done(self, feed: "Feed", done: Iterable[Done], *, is_here: bool = True) -> None:
        """Note that records were acknowledged, or that their dead letters were stored.

        Args:
            feed: The subscriber's feed.
            done: The records.
            is_here: Whether their partition is still the one that was read: it may have left, and a partition with the
                same name may belong to a recreated topic.
        """
        for each in done:
            delivery = each.delivery
            partition = delivery.partition
            if partition.topic in self.topics and feed.counts_for(partition.topic):
                entry = delivery.entry
                is_waiting = entry is not None and entry.waiting
                if entry is not None:
                    self._settlement.acked(entry, delivery.records, each.indexes)
                if delivery.waiting or (not is_waiting and is_here):
                    # It was replayed: its partition was followed, or it precedes the waiting records. Or the history
                    # has begun the partition again since, and has, or will have, another entry with these records.
                    offsets = [delivery.offset_at(index) for index in range(each.first, each.end)]
                    # The records between those that its filter chose were not sent.
                    ends = [(n, n + 1) for n in offsets] if feed.wanted else [(offsets[0], offsets[-1] + 1)]
                    for first, end in ends:
                        self._settlement.acked_of(delivery.waiting, first, end)
                        if is_here:
                            self._settlement.acked_between(partition, first, end)
                            self._on_replayed(partition, first, end)
            if delivery.parked is not None:
                read = ParkedRead(partition, delivery.parked, delivery.stand_for[each.first : each.end])
                self._settlement.parked_replayed([read])

    def takes_letters(self, feed: "Feed", partition: TopicPartition) -> bool:
        """Whether a refused record needs a dead letter: not if its partition is followed, or an observer refuses it.

        That is left to the owner of the partition, and to clients that count.
        """
        return feed.counts and not self._history.is_followed(partition)

    def may_refuse(self, partition: TopicPartition, offset: int) -> bool:
        """Whether another letter can wait to be stored: clients that refuse, leave and return must not fill memory."""
        letters = self.dead_letters
        if (partition, offset) in self._letters or not self._left or letters is None or letters.has_room:
            return True
        return letters.remembers(partition, offset)

    def refuse(
        self, number: int, partition: TopicPartition, record: Record, reason: str, on_stored: Callable[[], None]
    ) -> None:
        """Write a record to the dead-letter topic, once for all clients that refuse it before it is stored.

        Args:
            number: The subscriber's number.
            partition: Where the record was read.
            record: The record.
            reason: Why the client refuses it.
            on_stored: Called when it is stored; never if its partition leaves first.
        """
        assert self.dead_letters is not None  # noqa: S101 - the caller has checked that
        key = partition, record.offset
        waiting = self._letters.get(key)
        if waiting is not None:
            if key in self._left:
                self._left.discard(key)
                waiting.clear()
            waiting[number] = on_stored
            return
        waiting = self._letters[key] = {number: on_stored}
        self.dead_letters.send(partition, record, reason, partial(self._stored, key, waiting))

    def _stored(self, key: _Key, waiting: Mapping[int, Callable[[], None]]) -> None:
        if self._letters.get(key) is waiting:
            del self._letters[key]
            self._left.discard(key)
        for on_stored in tuple(waiting.values()):
            on_stored()

    def leaving(self, partitions: Collection[TopicPartition]) -> None:
        """Note that partitions will be revoked, before the history drops them.

        Replayed records have no entries of their own: what waits for their acknowledgement is kept with them.
        """
        waiting = [tp for tp in self._history.waiting_in(partitions) if tp.topic in self.topics]
        for subscriber in self._subscribers.values() if waiting else ():
            acks, counts = subscriber.acks, subscriber.feed.counts
            for partition in waiting if counts else ():
                for delivery in (*acks.outstanding(partition), *acks.refused(partition)):
                    entry = delivery.entry
                    if entry is None or not (entry.waiting or entry.dispatched):
                        found = self._history.waiting_between(partition, delivery.offset_at(0), delivery.last + 1)
                        delivery.waiting = [(each, each.batch.records) for each in found]

    def left(self, partitions: Collection[TopicPartition]) -> None:
        """Note that partitions are being revoked: their records can be acknowledged until `released`."""
        for subscriber in self._subscribers.values():
            subscriber.partitions_left(partitions)

    def disowned(self, partitions: Collection[TopicPartition]) -> None:
        """Revoked partitions are followed from now on: they leave only the readers of the replica's own partitions."""
        for subscriber in self._subscribers.values():
            if not subscriber.feed.whole:
                subscriber.partitions_left(partitions)

    def released(self, partitions: Collection[TopicPartition]) -> None:
        """Note that partitions were released."""
        for subscriber in self._subscribers.values():
            subscriber.acks.released(partitions)
        if self._letters:
            self._letters = {key: waiting for key, waiting in self._letters.items() if key[0] not in partitions}
            self._left.intersection_update(self._letters)

    def dropped(self, partitions: Collection[TopicPartition]) -> None:
        """Note that followed partitions are leaving: nothing is committed for them."""
        self.left(partitions)
        self.released(partitions)

    def are_awaited(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether an acknowledgement may still arrive that lets records of these partitions be committed."""
        wanted = [partition for partition in partitions if partition.topic in self.topics]
        return any(
            (delivery.entry is not None and delivery.entry.batch.epoch)
            or not all(entry.dispatched for entry, _ in delivery.waiting)
            for subscriber in self._subscribers.values()
            if subscriber.feed.counts
            for partition in wanted
            for delivery in subscriber.acks.outstanding(partition)
        )

    def statistics(self) -> AckingStatistics:
        """A snapshot. Its cost grows with the subscribers that acknowledge."""
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
