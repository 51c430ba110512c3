"""Records that the group's consumer delivers although they are known: a partition that was followed is owned now.

The group's consumer begins at the committed offset, and the history already has what the follower read after it.
"""

from bisect import bisect_left

from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import NO_RECORDS, Records, TopicPartition


class KnownRecords:
    """Remembers up to which offset each partition's records are known."""

    def __init__(self) -> None:
        self._ends: dict[TopicPartition, int] = {}

    def note(self, partition: TopicPartition, end: int) -> None:
        """Note that everything before an offset is known."""
        self._ends[partition] = end

    def forget(self, partition: TopicPartition) -> None:
        """Note that nothing of a partition is known."""
        self._ends.pop(partition, None)

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
