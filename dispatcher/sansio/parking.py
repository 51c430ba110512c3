"""Parked ranges: offsets of records that nobody present wants, or may have, and that wait in Kafka.

Rules of this module:

* A parked record is neither dispatched nor in memory for good: a commit stops before it, and whoever wants it has it
  read again.
* The ranges of a partition are sorted and disjoint; those that touch and have the same reason are one.
* A partition has at most `max_ranges` of them. What does not fit is not parked, and waits in memory as if nobody were
  present, until fetching pauses.
* To take records out of the middle of a range makes two of it. That may use half of the bound; beyond that the records
  stay parked although they were sent, which repeats them at the worst.
* The ranges of a partition belong to one assignment. A partition that leaves takes them along, and what was sent of
  them counts no more.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dispatcher.sansio.records import TopicPartition

OffsetRange = tuple[int, int]
"""First offset, and the one after the last."""


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
    offsets: int
    """In all of these ranges together."""
    first_offset: int
    reasons: Mapping[str, int]
    """Number of ranges by reason."""
    is_full: bool
    """Whether records that are to be parked wait in memory, since there are as many ranges as there may be."""


class ParkedPartition:
    """The parked ranges of one partition in one assignment.

    Args:
        epoch: Of the assignment.
        max_ranges: Bound of the ranges.
    """

    __slots__ = ("_max_ranges", "_ranges", "epoch", "is_full", "offsets")

    def __init__(self, epoch: int, max_ranges: int) -> None:
        self._max_ranges = max_ranges
        self._ranges: list[tuple[int, int, Reason]] = []
        self.epoch = epoch
        self.offsets = 0
        """In all ranges together."""
        self.is_full = False
        """Whether something did not fit since there was room last."""

    def __len__(self) -> int:
        return len(self._ranges)

    @property
    def first(self) -> int:
        """The first parked offset."""
        return self._ranges[0][0]

    def park(self, ranges: Sequence[OffsetRange], reason: Reason) -> bool:
        """Park ranges that are not parked, in order; returns whether they fit: else none of them is."""
        at = bisect_left(self._ranges, (ranges[0][0],))
        joins = at > 0 and self._ranges[at - 1][1:] == (ranges[0][0], reason)
        if len(self._ranges) + len(ranges) - joins > self._max_ranges:
            self.is_full = True
            return False
        for start, end in ranges:
            self._insert(start, end, reason)
            self.offsets += end - start
        return True

    def take(self, start: int, end: int) -> list[OffsetRange]:
        """Somebody was sent every record of a range; returns what of it was parked, and is no more."""
        taken = []
        at = self._first_at(start)
        while at < len(self._ranges) and self._ranges[at][0] < end:
            first, last, reason = self._ranges[at]
            low, high = max(first, start), min(last, end)
            left = [(one, other, reason) for one, other in ((first, low), (high, last)) if one < other]
            if len(left) > 1 and 2 * len(self._ranges) >= self._max_ranges:
                break
            self._ranges[at : at + 1] = left
            at += len(left)
            taken.append((low, high))
            self.offsets -= high - low
        self.is_full = self.is_full and len(self._ranges) >= self._max_ranges
        return taken

    def free(self, start: int, end: int) -> list[OffsetRange]:
        """What of a range is not parked."""
        found = []
        at = self._first_at(start)
        while at < len(self._ranges) and self._ranges[at][0] < end:
            first, last, _ = self._ranges[at]
            if start < first:
                found.append((start, first))
            start, at = last, at + 1
        return [*found, (start, end)] if start < end else found

    def statistics(self) -> ParkedStatistics:
        """A snapshot."""
        reasons = Counter(str(reason) for _, _, reason in self._ranges)
        return ParkedStatistics(len(self._ranges), self.offsets, self.first, reasons, self.is_full)

    def _first_at(self, offset: int) -> int:
        """Where the first range is that ends after an offset."""
        at = bisect_right(self._ranges, (offset, math.inf))
        return at - 1 if at and self._ranges[at - 1][1] > offset else at

    def _insert(self, start: int, end: int, reason: Reason) -> None:
        at = bisect_left(self._ranges, (start,))
        if at < len(self._ranges) and self._ranges[at][0] == end and self._ranges[at][2] is reason:
            end = self._ranges.pop(at)[1]
        if at and self._ranges[at - 1][1] == start and self._ranges[at - 1][2] is reason:
            at -= 1
            start = self._ranges.pop(at)[0]
        self._ranges.insert(at, (start, end, reason))


class ParkedRanges:
    """What is parked, by partition.

    Args:
        max_ranges: Bound of the ranges of each partition.
    """

    def __init__(self, max_ranges: int) -> None:
        self._max_ranges = max_ranges
        self._partitions: dict[TopicPartition, ParkedPartition] = {}

    def __bool__(self) -> bool:
        return bool(self._partitions)

    def find(self, partition: TopicPartition) -> ParkedPartition | None:
        """The ranges of a partition, None when it has none."""
        return self._partitions.get(partition)

    def is_current(self, partition: TopicPartition, parked: ParkedPartition) -> bool:
        """Whether ranges are still those of a partition."""
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
