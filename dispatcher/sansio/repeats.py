"""Which offsets a reader is sent again, although its position already names them.

Nobody's dispatch of them is committed: a replica crashed before it could commit, or an operator has reset the group's
offsets. Clients drop such records as repeats, so the reader's next state says which ones they are.
"""

from collections.abc import Collection, Sequence

from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition


class Repeats:
    """Collects ranges of offsets until they are announced."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: dict[TopicPartition, Range] = {}

    def note(self, partition: TopicPartition, first: int, next_offset: int) -> None:
        """Note that a reader at an offset returns to an earlier one; nothing, if that is not earlier."""
        if first < next_offset:
            known = self._ranges.get(partition, Range(first, next_offset))
            self._ranges[partition] = Range(min(known.first, first), max(known.end, next_offset))

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Drop what was not announced: the partitions have left, or their topic was recreated."""
        if self._ranges:
            for partition in partitions:
                self._ranges.pop(partition, None)

    def take(self) -> Sequence[tuple[TopicPartition, Range]]:
        """The ranges that were not taken yet, sorted by partition."""
        if not self._ranges:
            return ()
        ranges, self._ranges = self._ranges, {}
        return sorted(ranges.items())
