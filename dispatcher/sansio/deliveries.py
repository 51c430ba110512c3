"""What a client that acknowledges has been sent, write by write, until it is done.

*Thread*: pure data, for one thread at a time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from dispatcher.sansio.entries import Entry
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.parking import ParkedPartition
from dispatcher.sansio.records import Records, TopicPartition

_NONE: frozenset[int] = frozenset()
"""Shared by all deliveries of which nothing was refused: a window may hold as many deliveries as records."""


class Delivery:
    """Records of one partition in one write, in offset order.

    Args:
        partition: The partition of the records.
        records: All records of the batch.
        indexes: The indexes of the records that were sent; at least one.
        size_bytes: Their bytes in the write; each record counts for an equal share.
        entry: The entry of the history that holds the batch; None if the records were replayed from Kafka.
        parked: The parked ranges of the partition at the time of the replay.
        stand_for: For each record, the offsets that are no longer parked once it is done.
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
        "waiting",
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
        """The outstanding part of `indexes`: records before it are done, and records after it were sent again."""
        self.last = records.offsets[indexes[-1]]
        self.set_aside: set[int] | frozenset[int] = _NONE
        """The places of refused records in it."""
        self.waiting: Sequence[tuple[Entry, Records]] = ()
        """If it was replayed, and its partition is being revoked: the entries that wait for these records, and all
        records of each. The history has dropped both."""

    def place_of(self, offset: int) -> int:
        """Return the place of the first record with this offset or a later one."""
        return bisect_left(self.indexes, offset, self.begin, self.end, key=self.records.offsets.__getitem__)

    def place_after(self, offset: int) -> int:
        """Return the place of the first record with a later offset."""
        if offset >= self.last:
            return self.end
        return bisect_right(self.indexes, offset, self.begin, self.end, key=self.records.offsets.__getitem__)

    def offset_at(self, place: int) -> int:
        """Return the offset of the record at a place."""
        return self.records.offsets[self.indexes[place]]


class Done(NamedTuple):
    """Records that became done."""

    delivery: Delivery
    first: int
    """The place of the first of these records in the delivery."""
    end: int
    """The place after the last of them."""

    @property
    def indexes(self) -> Sequence[int]:
        """Return their indexes in the batch."""
        return self.delivery.indexes[self.first : self.end]
