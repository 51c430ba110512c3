"""The subscribers of one hub, and what each of them reads.

*Thread*: Trio's.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

from dispatcher.hub.heartbeats import HEARTBEAT_SLICES
from dispatcher.hub.statistics import RegistryStatistics, SubscriberState
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.records import TopicPartition


class Registry:
    """Every subscriber, by number and by what it waits for."""

    def __init__(self) -> None:
        self.next_number = 1
        """The number of the next subscriber."""
        self.everybody: dict[int, Subscriber] = {}
        self.slices: Sequence[dict[int, Subscriber]] = tuple({} for _ in range(HEARTBEAT_SLICES))
        """The same, in the parts in which they are sent heartbeats."""
        self.catching_up: dict[int, Subscriber] = {}
        """Those that are not live."""
        self._expecting: dict[int, Subscriber] = {}
        """Live subscribers that catch up again when a partition is added that their id named, or that they read from
        some time on."""
        self._left_at: dict[TopicPartition, tuple[int, int]] = {}
        """For partitions that left: the next offset, and the number of the first subscriber that connected later."""
        self._readers: Counter[str] = Counter()
        """Number of subscribers that count, by topic."""
        self._observers: Counter[str] = Counter()
        """Number of subscribers that do not count, by topic."""
        self._takers: dict[int, None] = {}
        """Numbers of subscribers that count, in the order in which they connected."""
        self._whole: Counter[str] = Counter()
        """Number of subscribers of the whole topic, by topic."""
        self._awaiting: dict[int, Subscriber] = {}
        """Subscribers that wait until more has been read."""
        self._transports: Counter[str] = Counter()
        """Number of subscribers by transport."""

    def __len__(self) -> int:
        return len(self.everybody)

    def add(self, subscriber: Subscriber) -> None:
        """Add a new subscriber, which catches up."""
        self.next_number = subscriber.number + 1
        self.everybody[subscriber.number] = self.catching_up[subscriber.number] = subscriber
        self.slices[subscriber.number % HEARTBEAT_SLICES][subscriber.number] = subscriber
        feed = subscriber.feed
        if counted := feed.counted:
            self._takers[subscriber.number] = None
            self._readers.update(counted)
        if observed := feed.topics - counted:
            self._observers.update(observed)
        if feed.whole:
            self._whole.update(feed.topics)
        self._transports[subscriber.transport.name] += 1

    def remove(self, subscriber: Subscriber) -> bool:
        """Forget a subscriber; returns False if it is already forgotten."""
        if self.everybody.pop(subscriber.number, None) is None:
            return False
        del self.slices[subscriber.number % HEARTBEAT_SLICES][subscriber.number]
        feed = subscriber.feed
        if counted := feed.counted:
            del self._takers[subscriber.number]
            self._readers.subtract(counted)
        if observed := feed.topics - counted:
            self._observers.subtract(observed)
        if feed.whole:
            self._whole.subtract(feed.topics)
        self._awaiting.pop(subscriber.number, None)
        self.catching_up.pop(subscriber.number, None)
        self._expecting.pop(subscriber.number, None)
        self._transports -= Counter([subscriber.transport.name])
        return True

    def forget_writes(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Count nothing of the current writes for partitions that begin: their logs may be others, with new offsets."""
        for subscriber in self.everybody.values() if partitions else ():
            if subscriber.in_flight:
                in_flight = subscriber.in_flight
                subscriber.in_flight = [entry for entry in in_flight if entry.batch.partition not in partitions]
            subscriber.resumption.forget_ranges(partitions)

    def leaving(self, partitions: Collection[TopicPartition]) -> None:
        """Let what is being replayed of partitions that will leave count like entries, once the writes have ended."""
        for subscriber in self.catching_up.values():
            if found := subscriber.resumption.waiting_under_way(partitions):
                subscriber.in_flight = [*subscriber.in_flight, *found]

    def became_live(self, subscriber: Subscriber) -> None:
        """Note that a subscriber has caught up."""
        self.catching_up.pop(subscriber.number, None)
        if subscriber.resumption.expects_partitions:
            self._expecting[subscriber.number] = subscriber

    def left_live(self, subscriber: Subscriber) -> None:
        """Note that a subscriber reads the history again."""
        self._expecting.pop(subscriber.number, None)
        self.catching_up[subscriber.number] = subscriber

    def has_readers(self, topic: str) -> bool:
        """Whether some subscriber that counts reads a topic."""
        return self._readers[topic] > 0

    def observed_topics(self) -> list[str]:
        """Topics that are only observed: no present subscriber takes their records."""
        return [topic for topic, number in self._observers.items() if number > 0 and not self.has_readers(topic)]

    @property
    def first_taker(self) -> int | None:
        """The number of the subscriber that has been connected longest of those that count; None if there is none."""
        return next(iter(self._takers), None)

    @property
    def takers(self) -> int:
        """Number of subscribers that count."""
        return len(self._takers)

    def whole_topics(self) -> frozenset[str]:
        """Topics with a subscriber of the whole topic."""
        return frozenset(topic for topic, number in self._whole.items() if number > 0)

    def await_head(self, subscriber: Subscriber) -> None:
        """Let a subscriber look again when more has been read."""
        self._awaiting[subscriber.number] = subscriber

    def head_moved(self) -> None:
        """Let waiting subscribers look again: more was read of some partition, or more is known about the topics."""
        if self._awaiting:
            awaiting, self._awaiting = self._awaiting, {}
            for subscriber in awaiting.values():
                subscriber.resumption.look_again()

    def partition_left(self, partition: TopicPartition, next_offset: int) -> None:
        """Note up to where a partition was read, for the subscribers that are connected now."""
        self._left_at[partition] = (next_offset, self.next_number)

    def next_offsets(self, partition: TopicPartition) -> Sequence[tuple[Subscriber, int | None]]:
        """Each reader of a partition whose topic was recreated, with its next offset in the old log, if it has one."""
        left_at, before_number = self._left_at.pop(partition, (None, 0))
        found = []
        for subscriber in self.everybody.values():
            if partition.topic in subscriber.feed.topics:
                next_offset = subscriber.next_offset(partition)
                if next_offset is None and subscriber.number < before_number:
                    next_offset = left_at
                found.append((subscriber, next_offset))
        return found

    def next_offsets_when_left(self, partition: TopicPartition) -> Sequence[tuple[Subscriber, int | None]]:
        """The same without readers of only the replica's partitions that connected after it had left.

        These were sent nothing of the old log, and their ids may be of either log.
        """
        _, before_number = self._left_at.get(partition, (None, 0))
        found = self.next_offsets(partition)
        return [(one, next_offset) for one, next_offset in found if one.feed.whole or one.number < before_number]

    def next_offsets_of_whole(self, partition: TopicPartition) -> Sequence[tuple[Subscriber, int | None]]:
        """The same only for readers of the whole topic; the others may go on where they were when it left."""
        readers = [one for one in self.everybody.values() if one.feed.whole and partition.topic in one.feed.topics]
        return [(one, one.next_offset(partition)) for one in readers]

    def partition_added(self, partition: TopicPartition, end: int, *, whole: bool | None = None) -> None:
        """Note that the beginning of a partition is known now.

        Args:
            partition: The partition.
            end: The offset after the last one in the history.
            whole: True: only for subscribers of the whole topic; False: only for the others; None: for all.
        """
        left_at, before_number = (None, 0) if whole else self._left_at.pop(partition, (None, 0))
        # Live subscribers that expect nothing continue unchanged, unless the log may have been replaced
        # (`CatchUp.concerns`).
        is_unverified = left_at is not None and left_at > end
        concerned = self.everybody if is_unverified else self.catching_up | self._expecting
        for subscriber in tuple(concerned.values()):
            if partition.topic in subscriber.feed.topics and whole in {None, subscriber.feed.whole}:
                subscriber.partition_added(partition, left_at if subscriber.number < before_number else None)

    def sample(self, number: int) -> list[Subscriber]:
        """A random sample of the current subscribers."""
        return random.sample(list(self.everybody.values()), number)

    def without_partitions(self, topics: AbstractSet[str]) -> list[Subscriber]:
        """Subscribers that count and read only the replica's own partitions of these topics."""
        everybody = self.everybody.values()
        return [one for one in everybody if one.feed.counts and not one.feed.whole and one.feed.topics <= topics]

    def first_writes(self) -> set[int]:
        """The sequences of entries that are being written to subscribers that count."""
        return {e.sequence for one in self.everybody.values() if one.feed.counts for e in one.in_flight}

    def states(self) -> Mapping[SubscriberState, int]:
        """Number of subscribers by state."""
        catching_up = len(self.catching_up)
        return {
            SubscriberState.CATCHING_UP: catching_up,
            SubscriberState.LIVE: len(self.everybody) - catching_up,
        }

    def transports(self) -> Mapping[str, int]:
        """Number of subscribers by transport."""
        return dict(self._transports)

    def statistics(self) -> RegistryStatistics:
        """A snapshot."""
        return RegistryStatistics(len(self.everybody), len(self.catching_up), len(self._expecting), len(self._left_at))
