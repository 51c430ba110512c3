"""Records that the group's consumer delivers although they are known: a partition that was followed is owned now.

The group's consumer begins at the committed offset, and the history already has what the follower read after it. If the
history does not reach back that far, it begins again there. Then the records are read again, but what subscribers were
sent before, and take meanwhile, counts.
"""

from bisect import bisect_left
from collections.abc import Sequence

from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.offsets import MAX_RANGES, merge
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import NO_RECORDS, Records, TopicPartition


class KnownRecords:
    """Remembers up to which offset each partition's records are known, and what is taken of those read again."""

    def __init__(self) -> None:
        self._ends: dict[TopicPartition, int] = {}
        self._read_again: dict[TopicPartition, tuple[int, list[OffsetRange]]] = {}
        """Up to where partitions are read again, and what subscribers that count have taken meanwhile."""

    def note(self, partition: TopicPartition, end: int) -> None:
        """Note that everything before an offset is known."""
        self._ends[partition] = end

    def begins_again(self, partition: TopicPartition, first: int, end: int) -> None:
        """Note that the history begins again at an offset: up to the end that it had, records are read again."""
        if first < end:
            self._read_again[partition] = end, []

    def forget(self, partition: TopicPartition) -> None:
        """Note that nothing of a partition is known."""
        self._ends.pop(partition, None)
        self._read_again.pop(partition, None)

    def taken(self, partition: TopicPartition, start: int, end: int) -> None:
        """Note that a subscriber that counts has taken a range; ignored unless the partition is read again."""
        if partition in self._read_again and start < end:
            _, taken = self._read_again[partition]
            merge(taken, start, end)
            del taken[:-MAX_RANGES]

    def taken_of(self, partition: TopicPartition, read_to: int) -> Sequence[OffsetRange]:
        """Return what was taken of a partition before it was read again up to an offset."""
        if partition not in self._read_again:
            return ()
        end, taken = self._read_again[partition]
        if read_to >= end:
            del self._read_again[partition]
        else:
            self._read_again[partition] = end, [(first, last) for first, last in taken if last > read_to]
        return [(first, last) for first, last in taken if first < read_to]

    def news(self, partition: TopicPartition, records: Records) -> Records:
        """Return the group's records without those that are known from the follower."""
        known_to = self._ends.get(partition)
        if known_to is None:
            return records
        if records.offsets[-1] < known_to:
            return NO_RECORDS
        del self._ends[partition]
        return records[bisect_left(records.offsets, known_to) :]

    def news_of_gap(self, gap: Gap) -> Gap | None:
        """Return a gap without its known part; None if all of it is known."""
        known_to = self._ends.get(gap.partition)
        if known_to is None or known_to <= gap.first:
            return gap
        return gap._replace(first=known_to) if known_to <= gap.last else None
