"""Replay from Kafka for a subscriber that has fallen out of the history: ranges in, chunks out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.sansio.records import Batch, TopicPartition

EARLIEST = -2
"""Instead of a time: from the first record that exists (Kafka's own number for it in ListOffsets)."""


NOW = -1
"""Instead of a time: from the end of the log (Kafka's own number for it in ListOffsets)."""

RECREATED = "recreated"
"""The reason of a gap between the log of a topic and that of a topic with the same name."""


class Range(NamedTuple):
    """Offsets of one partition that a subscriber still needs."""

    first: int
    """The first offset."""
    end: int
    """The offset after the last one."""


class Bounds(NamedTuple):
    """Where the log of a partition begins and ends."""

    first: int
    end: int
    """The offset that the next record will get."""


class Gap(NamedTuple):
    """Offsets that will never be sent; the next record comes after the last of them."""

    partition: TopicPartition
    first: int
    last: int
    """If the topic was recreated, the offset before the first of the new log: it is mostly below `first`."""
    reason: str

    def owed_from(self, offset: int, first_record: int) -> "Gap | None":
        """Return what a reader has to be sent of the gap; None if the reader is past it.

        Args:
            offset: The first offset that the reader needs.
            first_record: The offset of the first record after the gap.
        """
        if self.reason == RECREATED:
            # Its first offset is of the old log, and says nothing about a place in the new one.
            return self if offset <= first_record else None
        return self._replace(first=max(offset, self.first)) if offset <= self.last else None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The records of a part of some ranges."""

    batches: Sequence[Batch]
    """In the order in which Kafka delivered them; each partition's in offset order."""
    next_offsets: Mapping[TopicPartition, int]
    """Where each partition continues; the end of its range means that nothing of it is left. Offsets without a record
    (compacted, aborted, control records) are skipped. Partitions that could not be read now are left out."""
    gaps: Sequence[Gap]
    """What is missing. Each gap is to be sent before the first record after it."""

    def with_positions(
        self, position: Mapping[TopicPartition, int]
    ) -> list[tuple[Batch, Mapping[TopicPartition, int]]]:
        """Return each batch with the last seen offset of every partition as of that batch.

        Args:
            position: The last seen offset of every partition before the first batch.
        """
        seen = dict(position)
        found: list[tuple[Batch, Mapping[TopicPartition, int]]] = []
        for batch in self.batches:
            seen[batch.partition] = batch.next_offset - 1
            found.append((batch, dict(seen)))
        return found

    def absent(self, partition: TopicPartition, first: int) -> list[tuple[int, int]]:
        """Return the ranges of offsets (end excluded) that no longer hold a record, and that no gap reports.

        Compaction removes records without a trace: what was read passes over their offsets.

        Args:
            partition: A partition of which something was read.
            first: The first offset that was read.
        """
        found: list[tuple[int, int]] = []
        present = [(gap.first, gap.last + 1) for gap in self.gaps if gap.partition == partition]
        for batch in self.batches:
            if batch.partition == partition:
                present += _runs(batch.records.offsets)
        for start, end in (*sorted(present), (self.next_offsets[partition],) * 2):
            if first < start:
                found.append((first, start))
            first = max(first, end)
        return found


def _runs(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Return ranges with these offsets; mostly one, because mostly they are consecutive."""
    if offsets and offsets[-1] - offsets[0] == len(offsets) - 1:
        return [(offsets[0], offsets[-1] + 1)]
    return [(offset, offset + 1) for offset in offsets]


def recreated(partition: TopicPartition, next_offset: int, first_offset: int) -> Gap:
    """Return the gap of a recreated topic: nothing lies between the old next offset and the new log's first."""
    return Gap(partition, next_offset, first_offset - 1, RECREATED)
