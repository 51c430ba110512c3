"""Parked records: offsets that nobody present wants or is allowed to see, and that wait in Kafka.

Rules of this module:

* A parked record is not dispatched and need not stay in memory: commits stop before it, and it is read again for any
  subscriber that wants it.
* Parked offsets are stored per reason in blocks and runs (`offset_set`), because parked and other records may alternate
  for hours. A partition has at most `max_ranges` of these in all. Records that do not fit are not parked: they wait in
  memory as if nobody were present, until fetching pauses.
* Taking records out of the middle of a long run makes two of it. If there is no room for that, records stay parked
  although they were sent, which at worst repeats them.
* Parked ranges belong to one assignment of their partition. They are gone when the partition leaves, and records of
  them that are sent later no longer count.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dispatcher.sansio.offset_set import OffsetRange, OffsetSet
from dispatcher.sansio.records import TopicPartition


class Reason(StrEnum):
    """Why records are parked."""

    UNMATCHED = "unmatched"
    """Somebody present may see them, but nobody present wants them."""
    NOT_GRANTED = "not-granted"
    """Nobody present may see them."""
    OBSERVED = "observed"
    """Only observers are present, and memory is full."""


@dataclass(frozen=True, slots=True)
class ParkedStatistics:
    """What is parked in one partition."""

    ranges: int
    """How much of `max_parked_ranges` is in use: runs and blocks."""
    offsets: int
    """How many offsets are parked."""
    first_offset: int
    reasons: Mapping[str, int]
    """How many offsets are parked for each reason."""
    is_full: bool
    """Whether records that should be parked wait in memory, because there are as many ranges as allowed."""


class ParkedPartition:
    """What is parked in one partition, in one assignment.

    Args:
        epoch: The epoch of the assignment.
        max_ranges: Bound of the runs and blocks.
    """

    __slots__ = ("_by_reason", "_max_ranges", "epoch", "is_full")

    def __init__(self, epoch: int, max_ranges: int) -> None:
        self._max_ranges = max_ranges
        self._by_reason: dict[Reason, OffsetSet] = {}
        """The parked offsets by reason; empty sets are removed."""
        self.epoch = epoch
        self.is_full = False
        """Whether something did not fit since there was last room."""

    def __len__(self) -> int:
        return sum(map(len, self._by_reason.values()))

    @property
    def first(self) -> int:
        """The first parked offset."""
        return min(found.first for found in self._by_reason.values())

    @property
    def offsets(self) -> int:
        """How many offsets are parked."""
        return sum(found.offsets for found in self._by_reason.values())

    def park(self, ranges: Sequence[OffsetRange], reason: Reason) -> bool:
        """Park ranges that are not parked, in order; returns whether they fit. If they do not, nothing is parked."""
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

    def take(self, start: int, end: int, *, splits: bool = True) -> list[OffsetRange]:
        """Note that somebody was sent every record of a range; returns the parts that were parked until now.

        Without `splits`, what would take room stays parked, unless it comes first: many holes could take all of it.
        """
        taken = []
        head = None if splits or not self else self.first
        for reason, found in tuple(self._by_reason.items()):
            for first, last in tuple(found.ranges(start, end)):
                before = len(found)
                found.remove(first, last)
                if len(found) > before and (len(self) > self._max_ranges or (head is not None and first != head)):
                    found.add(first, last)
                else:
                    taken.append((first, last))
            self._drop_if_empty(reason)
        self.is_full = self.is_full and len(self) >= self._max_ranges
        return sorted(taken)

    def free(self, start: int, end: int) -> Iterator[OffsetRange]:
        """Yield the parts of a range that are not parked, in order."""
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
    """What is parked, per partition.

    Args:
        max_ranges: Bound of the runs and blocks of each partition.
    """

    def __init__(self, max_ranges: int) -> None:
        self._max_ranges = max_ranges
        self._partitions: dict[TopicPartition, ParkedPartition] = {}

    def __bool__(self) -> bool:
        return bool(self._partitions)

    def find(self, partition: TopicPartition) -> ParkedPartition | None:
        """Return what is parked in a partition; None if nothing is."""
        return self._partitions.get(partition)

    def is_current(self, partition: TopicPartition, parked: ParkedPartition) -> bool:
        """Whether this is still what is parked in the partition."""
        return self._partitions.get(partition) is parked

    def park(self, partition: TopicPartition, epoch: int, ranges: Sequence[OffsetRange], reason: Reason) -> bool:
        """Park ranges of a partition, in order; returns whether they fit. If they do not, nothing is parked."""
        parked = self._partitions.get(partition)
        if parked is None or parked.epoch != epoch:
            parked = self._partitions[partition] = ParkedPartition(epoch, self._max_ranges)
        fits = parked.park(ranges, reason)
        self._drop_if_empty(partition)
        return fits

    def take(self, partition: TopicPartition, start: int, end: int, *, splits: bool = True) -> list[OffsetRange]:
        """See `ParkedPartition.take`."""
        parked = self._partitions.get(partition)
        if parked is None:
            return []
        taken = parked.take(start, end, splits=splits)
        self._drop_if_empty(partition)
        return taken

    def starts(self, topics: frozenset[str]) -> dict[TopicPartition, int]:
        """Return the first parked offset of each partition of some topics that has one."""
        return {tp: parked.first for tp, parked in self._partitions.items() if tp.topic in topics}

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget what is parked in partitions that leave, or begin again."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def statistics(self) -> dict[TopicPartition, ParkedStatistics]:
        """Return a snapshot of each partition with parked records."""
        return {tp: parked.statistics() for tp, parked in self._partitions.items()}

    def _drop_if_empty(self, partition: TopicPartition) -> None:
        if not self._partitions[partition]:
            del self._partitions[partition]
