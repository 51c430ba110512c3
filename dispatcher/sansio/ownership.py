"""Which partitions a replica owns, which it follows, and what counts when it becomes the owner of a followed one.

Rules of this module (docs/guarantees.md, "The whole topic"):

* A partition is owned (assigned by the group, with a known start), followed (read outside of the group, for streams of
  the whole topic), or neither; never both.
* Only the owner commits. Followed records are never committed here: what was sent of them is kept as ranges.
* When a followed partition becomes owned, reading begins at the group's committed offset. Whatever this replica's
  subscribers were sent from there on counts at once; the rest is waiting.
* Each time a partition begins to be followed is a separate epoch: what was read in an earlier one is dropped.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dispatcher.sansio.entries import GAP, covered
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.offsets import merge
from dispatcher.sansio.records import Batch, TopicPartition

MAX_RANGES = 1_000
"""How many ranges are kept per followed partition. More arise only when subscribers begin in many places at once; then
the lowest are forgotten first, which at worst repeats records."""


class Role(StrEnum):
    """What a partition is to this replica."""

    OWNED = "owned"
    FOLLOWED = "followed"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class HandOver:
    """What happens when a followed partition becomes owned."""

    begins: int
    """The group's committed offset: nothing before it is ours to commit."""
    counted: Sequence[OffsetRange]
    """What subscribers that count were sent from there on, as ranges: sorted, disjoint, not touching."""

    @property
    def counted_to(self) -> int:
        """The first offset that nobody was sent."""
        first, end = next(iter(self.counted), (self.begins, self.begins))
        return end if first <= self.begins else self.begins

    def counts(self, start: int, end: int) -> bool:
        """Whether all of a range counts or lies before the committed offset."""
        start = max(start, self.begins)
        at = bisect_right(self.counted, (start, math.inf)) - 1
        return start >= end or (at >= 0 and end <= self.counted[at][1])

    def pending(self, batch: Batch) -> set[int] | None:
        """Return the indexes of a batch's records, and `GAP` for its gap, that do not count; None means all of them.

        Records before the committed offset count: nobody is sent them any more, so nothing else would ever settle them.
        """
        # The gap of a recreated topic begins at an offset of the old log.
        first_offset = batch.first_offset if batch.gap is None else min(batch.first_offset, batch.gap.first)
        if first_offset >= self.begins and not any(
            first < batch.next_offset and batch.covers_from < end for first, end in self.counted
        ):
            return None
        indexes = range(GAP if batch.gap is not None else 0, len(batch.records))
        return {index for index in indexes if not all(self.counts(*one) for one in covered(batch, [index]))}

    def handed_to(self, under_way: Iterable[OffsetRange]) -> int:
        """Return the first offset that nobody was sent and that is not in a write under way.

        A subscriber that is past it because its id named later records was not sent it, and has to be sent it now.
        """
        handed = list(self.counted)
        for start, end in under_way:
            if (start := max(start, self.begins)) < end:
                merge(handed, start, end)
        return HandOver(self.begins, handed).counted_to


@dataclass(slots=True)
class _Followed:
    epoch: int
    taken: list[OffsetRange] = field(default_factory=list)


class Ownership:
    """Follows every partition of the topics through its roles: owned, followed and neither."""

    def __init__(self) -> None:
        self._owned: set[TopicPartition] = set()
        self._followed: dict[TopicPartition, _Followed] = {}
        self._epoch = 0

    def role(self, partition: TopicPartition) -> Role:
        """Return what a partition is to this replica now."""
        if partition in self._followed:
            return Role.FOLLOWED
        return Role.OWNED if partition in self._owned else Role.NEITHER

    @property
    def followed(self) -> Collection[TopicPartition]:
        """The followed partitions."""
        return self._followed.keys()

    @property
    def owned(self) -> Collection[TopicPartition]:
        """The owned partitions."""
        return self._owned

    def epoch(self, partition: TopicPartition) -> int | None:
        """Return the epoch in which a partition is followed now; None if it is not."""
        followed = self._followed.get(partition)
        return None if followed is None else followed.epoch

    def to_follow(self, topics: Mapping[str, int], assigned: Collection[TopicPartition]) -> frozenset[TopicPartition]:
        """Return the partitions that have to be followed and are not.

        Args:
            topics: How many partitions each topic has, for topics of which somebody reads the whole.
            assigned: The partitions that the group has assigned, begun or not.
        """
        wanted = {TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)}
        return frozenset(wanted.difference(assigned, self._followed, self._owned))

    def follow(self, partition: TopicPartition, taken: Iterable[OffsetRange] = ()) -> int:
        """Follow a partition from now on; returns the epoch.

        Args:
            partition: A partition that is not followed.
            taken: What subscribers were sent of it while it was owned.
        """
        self._owned.discard(partition)
        self._epoch += 1
        self._followed[partition] = _Followed(self._epoch)
        for start, end in taken:
            self.taken(partition, start, end)
        return self._epoch

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Give partitions up: from now on they are neither owned nor followed."""
        for partition in partitions:
            self._owned.discard(partition)
            self._followed.pop(partition, None)

    def own(self, partition: TopicPartition) -> None:
        """Own a partition that was not followed."""
        self.drop([partition])
        self._owned.add(partition)

    def taken(self, partition: TopicPartition, start: int, end: int) -> None:
        """Note that a subscriber that counts was sent a whole range (end exclusive); ignored unless followed."""
        followed = self._followed.get(partition)
        if followed is not None and start < end:
            merge(followed.taken, start, end)
            del followed.taken[:-MAX_RANGES]

    def committed(self, partition: TopicPartition, offset: int) -> None:
        """Note the owner's commit: what was sent before that offset no longer matters."""
        followed = self._followed.get(partition)
        if followed is not None:
            followed.taken = _from(followed.taken, offset)

    def hand_over(self, partition: TopicPartition, committed: int) -> HandOver:
        """Own a partition that was followed.

        Args:
            partition: A followed partition.
            committed: Where its assignment begins: at the group's committed offset.

        Raises:
            KeyError: the partition is not followed.
        """
        followed = self._followed.pop(partition)
        self._owned.add(partition)
        return HandOver(committed, _from(followed.taken, committed))


def _from(ranges: Iterable[OffsetRange], offset: int) -> list[OffsetRange]:
    return [(max(first, offset), end) for first, end in ranges if end > offset]
