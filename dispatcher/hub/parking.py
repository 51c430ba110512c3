"""Parks records that no present subscriber wants or may have: they wait in Kafka, not in memory.

A partition's commits stop before its first parked record; fetching continues, and later records are served. A new
subscriber begins at the first parked record of each partition, unless it names an id or a time at which to begin.

*Thread*: Trio's.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog

from dispatcher.hub.feed import Feed
from dispatcher.sansio.entries import Entry, covered
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.parking import ParkedPartition, ParkedRanges, Reason
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import NO_RECORDS, Batch, TopicPartition
from dispatcher.settings import Settings

log = structlog.get_logger(__name__)


class ParkedRead(NamedTuple):
    """A part of a chunk that was replayed for a subscriber that counts, while records of its partition were parked."""

    partition: TopicPartition
    parked: ParkedPartition | None
    """What was parked; None where Kafka no longer has records that wait in memory: a gap, or compacted offsets."""
    ranges: Sequence[OffsetRange]
    """For each record that is sent, each gap, and each hole that compaction left, the offsets that it covers."""
    is_sent: bool = True
    """Whether records or gaps were sent; False if nothing is left of the records."""


def reads(
    ranges: ParkedRanges, chunk_firsts: Mapping[TopicPartition, int], batch: Batch, indexes: Sequence[int]
) -> ParkedRead | None:
    """The parked offsets that a replayed batch releases once these records are sent; None if there are none.

    Args:
        ranges: The parked offsets.
        chunk_firsts: For each partition, the offset at which the part of the chunk before this batch ends.
        batch: The replayed batch.
        indexes: The indexes of the records that are sent.
    """
    parked = ranges.find(batch.partition)
    if parked is None or not indexes:
        return None
    # Offsets without a record belong to the next record, as they did when they were parked.
    batch.covers_from = min(batch.covers_from, chunk_firsts[batch.partition])
    return ParkedRead(batch.partition, parked, [one for index in indexes for one in covered(batch, [index])])


def gap_reads(ranges: ParkedRanges, gaps: Iterable[Gap]) -> list[ParkedRead]:
    """The parked offsets that gaps in a chunk release: the records are gone, and the gap reports that."""
    found = [(gap, ranges.find(gap.partition)) for gap in gaps if gap.first <= gap.last]
    return [ParkedRead(gap.partition, one, [(gap.first, gap.last + 1)]) for gap, one in found if one is not None]


class Parking:
    """Knows which records are parked, and which feeds want none of them.

    Args:
        settings: Decide which topics park their unmatched records.
        ranges: The parked offsets.
        on_dispatched: Called with a batch and a range of its offsets (the end excluded) that may be committed.
        on_room: Called with a topic whose records can be parked again.
    """

    def __init__(
        self,
        settings: Settings,
        ranges: ParkedRanges,
        on_dispatched: Callable[[Batch, int, int], None],
        on_room: Callable[[str], None],
    ) -> None:
        self.ranges = ranges
        self._topics = frozenset(topic for topic in settings.topics if settings.table(topic).unmatched == "park")
        self._on_dispatched = on_dispatched
        self._on_room = on_room
        self._seen: set[Feed] = set()
        """Feeds with a subscriber that has looked at all parked records: none of them is for these feeds."""
        self.records: Counter[str] = Counter()
        """Number of records parked since the start, by topic."""

    def parks(self, topic: str) -> bool:
        """Whether records that no present subscriber wants are parked, not settled."""
        return topic in self._topics

    def park(self, entry: Entry, indexes: Iterable[int], reason: Reason) -> bool:
        """Park waiting records of an entry; returns False if there is no room."""
        batch, chosen = entry.batch, sorted(indexes)
        tp, ranges = batch.partition, covered(batch, chosen)
        found = self.ranges.find(tp)
        was_full = found is not None and found.is_full
        if ranges and not self.ranges.park(tp, batch.epoch, ranges, reason):
            if not was_full:
                log.warning("no room to park records (max_parked_ranges)", partition=str(tp), reason=str(reason))
            return False
        entry.settle(chosen)
        entry.parked = True
        self.records[tp.topic] += len(chosen)
        return True

    def dispatched(self, batch: Batch, start: int, end: int) -> int:
        """Note that a socket took a range of a batch in memory; returns how many of its records were parked."""
        tp = batch.partition
        found = self.ranges.find(tp)
        if found is None or found.epoch != batch.epoch:
            # Records of an earlier assignment release nothing of this one.
            self._on_dispatched(batch, start, end)
            return 0
        taken, offsets = self._take(tp, start, end), batch.records.offsets
        parked = self.ranges.find(tp)
        for first, last in [(start, end)] if parked is None else parked.free(start, end):
            self._on_dispatched(batch, first, last)
        return sum(bisect_left(offsets, last) - bisect_left(offsets, first) for first, last in taken)

    def replayed(self, reads: Iterable[ParkedRead]) -> int:
        """Note that a socket took replayed records; returns how many of them were parked."""
        number = 0
        for tp, parked, ranges, is_sent in reads:
            for start, end in ranges:
                if parked is None or not self.ranges.is_current(tp, parked):
                    break
                taken = self._take(tp, start, end, splits=is_sent)
                number += is_sent and bool(taken)
                for first, last in taken:
                    stands_for = Gap(tp, first, last - 1, "parked")
                    batch = Batch(tp, NO_RECORDS, epoch=parked.epoch, gap=stands_for)
                    self._on_dispatched(batch, first, last)
        return number

    def starts(self, feed: Feed) -> Mapping[TopicPartition, int]:
        """Where a new subscriber of this feed begins, if parked records may be for it."""
        return {} if not self.ranges or feed in self._seen else self.ranges.starts(feed.counted)

    def has_looked(self, feed: Feed) -> None:
        """Note that a subscriber that began at the parked records has caught up."""
        self._seen.add(feed)

    def has_left(self, feed: Feed) -> None:
        """Note that a feed has lost its last subscriber, or one that may not have acknowledged all parked records."""
        self._seen.discard(feed)

    def _take(self, tp: TopicPartition, start: int, end: int, *, splits: bool = True) -> list[OffsetRange]:
        found = self.ranges.find(tp)
        was_full = found is not None and found.is_full
        taken = self.ranges.take(tp, start, end, splits=splits)
        found = self.ranges.find(tp)
        if was_full and not (found is not None and found.is_full):
            self._on_room(tp.topic)
        return taken
