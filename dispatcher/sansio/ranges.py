"""Replay from Kafka for a subscriber that has fallen out of the history: ranges in, chunks out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.sansio.records import Batch, TopicPartition

EARLIEST = -2
"""Instead of a time: from the first record that is there (Kafka's own number for it in ListOffsets)."""


NOW = -1
"""Instead of a time: from the end of the log (Kafka's own number for it in ListOffsets)."""


class Range(NamedTuple):
    """Offsets of one partition that a subscriber still has to be sent."""

    first: int
    """The next one."""
    end: int
    """The first one that is no longer part of it."""


class Bounds(NamedTuple):
    """Where the log of a partition begins and ends."""

    first: int
    end: int
    """The offset of the next record that will be written."""


class Gap(NamedTuple):
    """Offsets that will never be sent; the next record is past the last of them."""

    partition: TopicPartition
    first: int
    last: int
    """Below `first` when the partition is another log now."""
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of some ranges."""

    batches: Sequence[Batch]
    """In the order in which Kafka gave them; each partition's in offset order."""
    next_offsets: Mapping[TopicPartition, int]
    """Where each partition continues; at the end of its range none of it is left. Offsets without a record (compacted,
    aborted, control records) are skipped. Partitions that could not be read now are left out."""
    gaps: Sequence[Gap]
    """What is missing, to be sent before the first record after it."""

    def with_positions(
        self, position: Mapping[TopicPartition, int]
    ) -> list[tuple[Batch, Mapping[TopicPartition, int]]]:
        """Each batch, with the last seen offset of every partition as of that batch.

        Args:
            position: The last seen offset of every partition before all of them.
        """
        seen = dict(position)
        found: list[tuple[Batch, Mapping[TopicPartition, int]]] = []
        for batch in self.batches:
            seen[batch.partition] = batch.next_offset - 1
            found.append((batch, dict(seen)))
        return found


def recreated(partition: TopicPartition, next_offset: int, first_offset: int) -> Gap:
    """The gap to send when a topic was recreated: nothing lies between the old next offset and the new log's first."""
    return Gap(partition, next_offset, first_offset - 1, "recreated")
