"""Parked records: offsets that nobody present wants, or may have, and that wait in Kafka.

Rules of this module:

* A parked record is neither dispatched nor in memory for good: a commit stops before it, and whoever wants it has it
  read again.
* Which offsets are parked is kept for each reason in blocks and runs (`offset_set`): records that are parked and others
  may alternate for hours. A partition has at most `max_ranges` of these in all. What does not fit is not parked, and
  waits in memory as if nobody were present, until fetching pauses.
* To take records out of the middle of a long run makes more of it. What does not fit then stays parked although it was
  sent, which repeats it at the worst.
* What is parked of a partition belongs to one assignment. A partition that leaves takes it along, and what was sent of
  it counts no more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dispatcher.sansio.offset_set import OffsetRange, OffsetSet
from dispatcher.sansio.records import TopicPartition


class Reason(StrEnum):
    """Why records are parked."""

    UNMATCHED = "unmatched"
    """Somebody present may have them, and nobody present wants them."""
    NOT_GRANTED = "not-granted"
    """Nobody present may have them."""
    OBSERVED = "observed"
    """Only observers are present, and memory is full."""


@dataclass(frozen=True, slots=True)
class ParkedStatistics:
    """What is parked of one partition."""

    ranges: int
    """What it uses of `max_parked_ranges`: runs and blocks."""
    offsets: int
    """In all of these together."""
    first_offset: int
    reasons: Mapping[str, int]
    """Number of offsets by reason."""
    is_full: bool
    """Whether records that are to be parked wait in memory, since there are as many ranges as there may be."""


class ParkedPartition:
    """What is parked of one partition in one assignment.

    Args:
        epoch: Of the assignment.
        max_ranges: Bound of the runs and blocks.
    """

    __slots__ = ("_by_reason", "_max_ranges", "epoch", "is_full")

    def __init__(self, epoch: int, max_ranges: int) -> None:
        self._max_ranges = max_ranges
        self._by_reason: dict[Reason, OffsetSet] = {}
        """Those that are not empty."""
        self.epoch = epoch
        self.is_full = False
        """Whether something did not fit since there was room last."""

    def __len__(self) -> int:
        return sum(map(len, self._by_reason.values()))

    @property
    def first(self) -> int:
        """The first parked offset."""
        return min(found.first for found in self._by_reason.values())

    @property
    def offsets(self) -> int:
        """How many are parked."""
        return sum(found.offsets for found in self._by_reason.values())

    def park(self, ranges: Sequence[OffsetRange], reason: Reason) -> bool:
        """Park ranges that are not parked, in order; returns whether they fit: else none of them is."""
        found = self._by_reason.setdefault(reason, OffsetSet())
        for start, end in ranges:
            found.add(start, end)
        fits = len(self) <= self._max_ranges
        if not fits:
            self.is_full = True
            for start, end in ranges:
                found.remove(start, end)
        self._drop_if_empty(reason)
        return fits

    def take(self, start: int, end: int) -> list[OffsetRange]:
        """Somebody was sent every record of a range; returns what of it was parked, and is no more."""
        taken = []
        for reason, found in tuple(self._by_reason.items()):
            for first, last in tuple(found.ranges(start, end)):
                before = len(found)
                found.remove(first, last)
                if len(found) > before and len(self) > self._max_ranges:
                    found.add(first, last)
                else:
                    taken.append((first, last))
            self._drop_if_empty(reason)
        self.is_full = self.is_full and len(self) >= self._max_ranges
        return sorted(taken)

    def free(self, start: int, end: int) -> Iterator[OffsetRange]:
        """What of a range is not parked, in order."""
        parked = [one for found in self._by_reason.values() for one in found.ranges(start, end)]
        for first, last in sorted(parked):
            if start < first:
                yield start, first
            start = last
        if start < end:
            yield start, end

    def statistics(self) -> ParkedStatistics:
        """A snapshot."""
        reasons = {str(reason): found.offsets for reason, found in self._by_reason.items()}
        return ParkedStatistics(len(self), self.offsets, self.first, reasons, self.is_full)

    def _drop_if_empty(self, reason: Reason) -> None:
        if not self._by_reason[reason]:
            del self._by_reason[reason]


class ParkedRanges:
    """What is parked, by partition.

    Args:
        max_ranges: Bound of the runs and blocks of each partition.
    """

    def __init__(self, max_ranges: int) -> None:
        self._max_ranges = max_ranges
        self._partitions: dict[TopicPartition, ParkedPartition] = {}

    def __bool__(self) -> bool:
        return bool(self._partitions)

    def find(self, partition: TopicPartition) -> ParkedPartition | None:
        """What is parked of a partition, None when nothing is."""
        return self._partitions.get(partition)

    def is_current(self, partition: TopicPartition, parked: ParkedPartition) -> bool:
        """Whether this is still what is parked of a partition."""
        return self._partitions.get(partition) is parked

    def park(self, partition: TopicPartition, epoch: int, ranges: Sequence[OffsetRange], reason: Reason) -> bool:
        """Park ranges of a partition, in order; returns whether they fit: else none of them is parked."""
        parked = self._partitions.get(partition)
        if parked is None or parked.epoch != epoch:
            parked = self._partitions[partition] = ParkedPartition(epoch, self._max_ranges)
        fits = parked.park(ranges, reason)
        self._drop_if_empty(partition)
        return fits

    def take(self, partition: TopicPartition, start: int, end: int) -> list[OffsetRange]:
        """Somebody was sent every record of a range; returns what of it was parked, and is no more."""
        parked = self._partitions.get(partition)
        if parked is None:
            return []
        taken = parked.take(start, end)
        self._drop_if_empty(partition)
        return taken

    def starts(self, topics: frozenset[str]) -> dict[TopicPartition, int]:
        """The first parked offset of each partition of some topics that has one."""
        return {tp: parked.first for tp, parked in self._partitions.items() if tp.topic in topics}

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions leave, or begin again."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def statistics(self) -> dict[TopicPartition, ParkedStatistics]:
        """A snapshot of each partition with parked records."""
        return {tp: parked.statistics() for tp, parked in self._partitions.items()}

    def _drop_if_empty(self, partition: TopicPartition) -> None:
        if not self._partitions[partition]:
            del self._partitions[partition]
