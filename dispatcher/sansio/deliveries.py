"""What a client that acknowledges was sent, write by write, until it is done.

*Thread*: pure data; one thread at a time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from dispatcher.sansio.entries import Entry
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.parking import ParkedPartition
from dispatcher.sansio.records import Records, TopicPartition

_NONE: frozenset[int] = frozenset()
"""One for all deliveries of which nothing was refused: a window may hold as many of them as records."""


class Delivery:
    """Records of one partition that one write held, in offset order.

    Args:
        partition: Theirs.
        records: The records of the batch that they belong to.
        indexes: Those of them that were sent, one at least.
        size_bytes: What the write held of them. A record counts for an equal share of it.
        entry: The entry of the history that holds the batch; None for records that were replayed from Kafka.
        parked: What was parked of the partition when they were replayed.
        stand_for: For each of these records, the offsets that are parked no more when it is done.
    """

    __slots__ = (
        "begin",
        "each_bytes",
        "end",
        "entry",
        "indexes",
        "last",
        "parked",
        "partition",
        "records",
        "set_aside",
        "stand_for",
    )

    def __init__(
        self,
        partition: TopicPartition,
        records: Records,
        indexes: Sequence[int],
        size_bytes: int,
        entry: Entry | None = None,
        *,
        parked: ParkedPartition | None = None,
        stand_for: Sequence[OffsetRange] = (),
    ) -> None:
        self.partition = partition
        self.records = records
        self.indexes = indexes
        self.each_bytes = max(1, size_bytes // len(indexes))
        self.entry = entry
        self.parked = parked
        self.stand_for = stand_for
        self.begin, self.end = 0, len(indexes)
        """The places of `indexes` that are outstanding; those before are done, those after were sent again."""
        self.last = records.offsets[indexes[-1]]
        self.set_aside: set[int] | frozenset[int] = _NONE
        """The places among them that were refused."""

    def place_of(self, offset: int) -> int:
        """The place of the first record with this offset or a later one."""
        return bisect_left(self.indexes, offset, self.begin, self.end, key=self.records.offsets.__getitem__)

    def place_after(self, offset: int) -> int:
        """The place of the first record with a later offset."""
        if offset >= self.last:
            return self.end
        return bisect_right(self.indexes, offset, self.begin, self.end, key=self.records.offsets.__getitem__)

    def offset_at(self, place: int) -> int:
        """The offset of the record at a place."""
        return self.records.offsets[self.indexes[place]]


class Done(NamedTuple):
    """Records that became done."""

    delivery: Delivery
    first: int
    """The place of the first of them in the delivery."""
    end: int
    """The place after the last one."""

    @property
    def indexes(self) -> Sequence[int]:
        """Their indexes in the batch."""
        return self.delivery.indexes[self.first : self.end]
