"""Where a reader begins: at the time or number of records that it named, and where that is still unknown.

Each partition that the reader did not name begins there, once. For a reader of the whole topic this holds until all
partitions of its topics have been here. Partitions that are added to a topic later, even between two connections of the
reader, begin at their first record: ids of the whole topic say how many partitions there were.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from operator import itemgetter

from dispatcher.sansio.compact_position import MAX_PARTITION
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import OffsetsForTime
from dispatcher.sansio.records import TopicPartition

MORE_PARTITIONS = 100
"""How many partitions an id may name beyond those that a topic is known to have: they may have just been added."""


_topic_of: Callable[[TopicPartition], str] = itemgetter(0)
_number_of: Callable[[TopicPartition], int] = itemgetter(1)


def usable_end(topics: frozenset[str], counts: Mapping[str, int], topic: str) -> int:
    """Return the number from which on a reader can use no partition of a topic: see `usable`."""
    if topic not in topics:
        return 0
    count = counts.get(topic)
    return MAX_PARTITION + 1 if count is None else count + MORE_PARTITIONS


def usable(
    position: Mapping[TopicPartition, int], topics: frozenset[str], counts: Mapping[str, int]
) -> Mapping[TopicPartition, int]:
    """Return the part of a position that a reader can use, without other topics and partitions that do not exist.

    A reader keeps 170 bytes for each named partition that is not here, and an id of 18 characters can name 8,192.

    Args:
        position: The position in its id.
        topics: The topics that it reads.
        counts: How many partitions each topic has, if that is known.
    """
    ends = {topic: usable_end(topics, counts, topic) for topic in topics}
    highest = max(map(_number_of, position), default=0)
    if highest < min(ends.values(), default=0) and topics.issuperset(map(_topic_of, position)):
        return position
    return {tp: offset for tp, offset in position.items() if tp.partition < ends.get(tp.topic, 0)}


def names_more(position: Mapping[TopicPartition, int], counts: Mapping[str, int]) -> bool:
    """Whether an id names records of a partition that its topic is not known to have.

    Args:
        position: The position in the id.
        counts: How many partitions each topic has, if that is known.
    """
    fewest = min(counts.values(), default=math.inf)
    return any(position[tp] >= 0 and tp[1] >= counts.get(tp[0], math.inf) for tp in position if tp[1] >= fewest)


def counts_begun_with(position: Mapping[TopicPartition, int]) -> dict[str, int]:
    """Return how many partitions topics had when this position was spelled, for topics about which it says so.

    After all partitions of a topic, ids of the whole topic name the one that would be added next, as not seen yet.
    Other ids lack some of the first partitions, or have an offset of the last one.
    """
    counts = {topic: count - 1 for topic, count in Counter(map(_topic_of, position)).items() if count > 1}
    found = {topic: n for topic, n in counts.items() if position.get(TopicPartition(topic, n)) == -1}
    # If none of as many different partitions has a higher number, all of them are there.
    others = {topic for topic, n in position if n > found.get(topic, math.inf)} if found else ()
    return {topic: n for topic, n in found.items() if topic not in others}


class Starts:
    """What a reader named as its start, and for which partitions that has been resolved.

    Args:
        history: The history that it reads.
        topics: The topics that it reads.
        since_ms: A time in ms since the epoch, `EARLIEST` or `NOW`; None: as for a new reader.
        last: How many records before their ends partitions begin, instead of at a time.
        whole: Whether it reads the whole of its topics, followed partitions included.
        counts: Whether records that it is sent become dispatched.
    """

    __slots__ = (
        "_begun_with",
        "_counts",
        "_history",
        "_last",
        "_since_ms",
        "_topics",
        "is_complete",
        "resolved",
        "whole",
    )

    def __init__(
        self,
        history: History,
        topics: frozenset[str],
        since_ms: int | None,
        last: int | None = None,
        *,
        whole: bool = False,
        counts: bool = True,
    ) -> None:
        self._history = history
        self._topics = topics
        self._since_ms = since_ms
        self._last = last
        self._counts = counts
        self._begun_with: Mapping[str, int] = {}
        """How many partitions topics had when the reader began, on whatever replica; only topics for which that is
        known."""
        self.whole = whole
        self.is_complete = not whole
        """Whether every partition of its topics has been here: partitions added after that begin at their start."""
        self.resolved: set[TopicPartition] = set()
        """Partitions that the reader named, or whose start by time is known. Empty without a time."""

    @property
    def are_named(self) -> bool:
        """Whether the reader named a time or a number of records."""
        return self._since_ms is not None or self._last is not None

    def named(
        self, position: Mapping[TopicPartition, int], partitions: set[TopicPartition]
    ) -> Mapping[TopicPartition, int]:
        """Return the last seen offset of each partition that the id names, and of those that are new to the reader.

        Args:
            position: The position in its id.
            partitions: The partitions that are here.
        """
        if not self.whole:
            return position
        self._begun_with = counts = counts_begun_with(position)
        named = dict(position)
        for topic, number in counts.items():
            del named[TopicPartition(topic, number)]
        named.update(dict.fromkeys(filter(self.is_new, partitions.difference(named)), -1))
        return named

    def have_all(self) -> bool:
        """Whether every partition of its topics is here, or has been."""
        if not self.is_complete and self._history.is_complete(self._topics):
            self.is_complete = True
            # Partitions that are added from now on begin at their start, so a live reader keeps nothing per partition.
            self.resolved.clear()
            self._begun_with = self._history.counts_now()
        return self.is_complete

    def is_new(self, partition: TopicPartition) -> bool:
        """Whether a partition was added to its topic after this reader began, so that it begins at its first record."""
        count = self._begun_with.get(partition.topic) if self.whole else None
        return count is not None and partition.partition >= count

    def added(
        self, partition: TopicPartition, next_offsets: dict[TopicPartition, int], left_at: int | None
    ) -> int | None:
        """Note that a partition was added; returns the reader's next offset in it, None if it is not known yet.

        Args:
            partition: The partition.
            next_offsets: The reader's next offsets; a partition that is new to the reader is added.
            left_at: The next offset when it left, if the reader was there.
        """
        if left_at is None and partition not in next_offsets and self.is_new(partition):
            next_offsets[partition] = 0
        if self.is_complete:
            self._begun_with = self._history.counts
        return next_offsets.get(partition, left_at)

    def is_unknown(self, partition: TopicPartition) -> bool:
        """Whether the reader's start in a partition has to be looked up."""
        if partition in self.resolved or self.is_new(partition):
            return False
        if self.whole:
            return not self.is_complete and (self.are_named or self._history.is_followed(partition))
        return self.are_named

    def unknown_of(self, partitions: set[TopicPartition]) -> AbstractSet[TopicPartition]:
        """Return those of some partitions that are unknown when the reader begins; none of them may be in `named`."""
        return partitions if self.are_named else partitions & self._history.followed

    def is_elsewhere(self, partition: TopicPartition) -> bool:
        """Whether the reader begins an added partition elsewhere than the history does, or may do so."""
        return self.is_unknown(partition) or (self.is_new(partition) and self._history.begin(partition) > 0)

    def lookup(self, partitions: AbstractSet[TopicPartition]) -> OffsetsForTime:
        """Return the question where the reader begins these partitions."""
        committed = frozenset(self._history.followed & partitions) if self._counts else frozenset()
        return OffsetsForTime(frozenset(partitions), self._since_ms, self._last, committed, exact=not self._counts)
