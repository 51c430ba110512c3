"""What Kafka delivers: topic partitions, records, and batches of consecutive records."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, overload

from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.spelling import AUTO, Spelling, as_text

if TYPE_CHECKING:
    from dispatcher.sansio.ranges import Gap

RECORD_OVERHEAD_BYTES = 240
"""What one record costs in this process besides its payload: the objects that hold it.

Two ``bytes`` headers (66), an ``int`` or two (32 each), a slot in each of five columns (40), and what the allocator
rounds up: resident memory grew by 106 to 181 bytes per record (values of 50 to 5,000 bytes, with and without keys,
CPython 3.11 on 64 bits), and by 40 more if offsets are not consecutive.
"""

HEADER_OVERHEAD_BYTES = 160
"""The same for a header."""

BATCH_OVERHEAD_BYTES = 1024
"""What a batch costs besides its records, including its place in the history and its indexes."""


Headers = tuple[tuple[str, bytes | None], ...]
"""(name, value) pairs; a name may repeat."""


class TopicPartition(NamedTuple):
    """One partition of a topic; sorts by topic, then number."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"


class Record(NamedTuple):
    """One Kafka record; its batch has the topic and the partition."""

    offset: int
    timestamp_ms: int | None
    """Milliseconds since the epoch (creation or append time, as the topic is configured); None if the record has
    none."""
    key: bytes | None
    value: bytes | None
    """None is a tombstone."""
    headers: Headers


class Records(Sequence[Record]):
    """Records in columns: operations on all of them work on one column at a time, without an object per record.

    As a sequence it yields `Record` objects, for code that needs them. All columns have the same length.

    Args:
        offsets: The offsets; a ``range`` if they are consecutive, as they mostly are.
        timestamps_ms: Milliseconds since the epoch.
        keys: None for a record without a key.
        values: None for a tombstone.
        headers: Empty for a record without headers.
        decoded: The decoded keys and values, if the topic's settings ask for them.
        asked: The decoded keys and values, if only subscribers ask for them: others are sent what Kafka delivered.
        spelling: How keys and values that were not decoded are written.
    """

    __slots__ = ("asked", "decoded", "headers", "keys", "offsets", "size_bytes", "spelling", "timestamps_ms", "values")

    def __init__(
        self,
        offsets: Sequence[int],
        timestamps_ms: Sequence[int | None],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Sequence[Headers],
        *,
        decoded: Decoded | None = None,
        asked: Decoded | None = None,
        spelling: Spelling = AUTO,
    ) -> None:
        self.spelling = spelling
        self.offsets = offsets
        self.timestamps_ms = timestamps_ms
        self.keys = keys
        self.values = values
        self.headers = headers
        self.decoded = decoded
        self.asked = asked
        self.size_bytes = RECORD_OVERHEAD_BYTES * len(offsets) + self._length(values) + self._length(keys)
        """Memory of payload and overhead."""
        if any(headers):
            for name, content in chain.from_iterable(headers):
                self.size_bytes += HEADER_OVERHEAD_BYTES + len(name) + len(content or b"")
        if decoded is not None:
            self.size_bytes += decoded.size_bytes
        if asked is not None:
            self.size_bytes += asked.size_bytes

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Records":
        """Return these records in columns."""
        columns = tuple(zip(*records, strict=True))
        return cls(*columns) if columns else NO_RECORDS

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[Record]:
        return map(Record, self.offsets, self.timestamps_ms, self.keys, self.values, self.headers)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> "Records": ...

    def __getitem__(self, index: int | slice) -> "Record | Records":
        columns = (self.offsets, self.timestamps_ms, self.keys, self.values, self.headers)
        if isinstance(index, slice):
            decoded, asked = self.decoded and self.decoded.part(index), self.asked and self.asked.part(index)
            parts = (column[index] for column in columns)
            return Records(*parts, decoded=decoded, asked=asked, spelling=self.spelling)  # type: ignore[arg-type] # each of its own type
        return Record(*(column[index] for column in columns))  # type: ignore[arg-type] # the same

    def take(self, indexes: Sequence[int]) -> "Records":
        """Return some of the records, at least one."""
        columns = (self.offsets, self.timestamps_ms, self.keys, self.values, self.headers)
        decoded, asked = self.decoded and self.decoded.take(indexes), self.asked and self.asked.take(indexes)
        taken = ([column[index] for index in indexes] for column in columns)
        return Records(*taken, decoded=decoded, asked=asked, spelling=self.spelling)  # type: ignore[arg-type] # as above

    @property
    def shown_values(self) -> Sequence[bytes | None]:
        """The values as JSON if they were decoded, or else as Kafka delivered them."""
        decoded = self.decoded
        if decoded is None:
            return self.values
        return [value if found is None else found for value, found in zip(self.values, decoded.values, strict=True)]

    def with_decoded(self, decoded: Decoded) -> "Records":
        """Return the same records with their decoded keys and values."""
        return Records(self.offsets, self.timestamps_ms, self.keys, self.values, self.headers, decoded=decoded)

    def with_asked(self, asked: Decoded | None) -> "Records":
        """Return the same records, with decoded keys and values for subscribers that ask for them."""
        return Records(self.offsets, self.timestamps_ms, self.keys, self.values, self.headers, asked=asked)

    def as_asked(self) -> "Records":
        """Return the same records as they look to subscribers that ask for decoded ones."""
        return self if self.asked is None else self.with_decoded(self.asked)

    def spelled(self, spelling: Spelling) -> "Records":
        """Return the same records for an encoder that writes keys and values in this way."""
        keys = as_text(self.keys) if spelling.key == "text" else self.keys
        values = as_text(self.values) if spelling.value == "text" else self.values
        return Records(
            self.offsets, self.timestamps_ms, keys, values, self.headers, decoded=self.decoded, spelling=spelling
        )

    @staticmethod
    def _length(column: Iterable[bytes | None]) -> int:
        return sum(map(len, filter(None, column)))


NO_RECORDS = Records((), (), (), (), ())


class Batch:
    """Consecutive records of one partition from one poll, in offset order; at least one.

    A gap may precede the records, and then there need not be any: the batch represents the offsets of the gap.

    ``covers_from`` to ``next_offset`` (exclusive) is the range that the batch represents. It starts where the previous
    batch ended, so offsets without a record (compacted, aborted, control records) belong to the batch after them and
    never leave a hole in what can be committed.
    """

    __slots__ = (
        "covers_from",
        "epoch",
        "first_offset",
        "gap",
        "gap_end",
        "leader_epoch",
        "next_offset",
        "partition",
        "records",
        "size_bytes",
        "taken_at",
    )

    def __init__(
        self,
        partition: TopicPartition,
        records: Records | Iterable[Record],
        *,
        epoch: int = 0,
        covers_from: int | None = None,
        leader_epoch: int | None = None,
        gap: "Gap | None" = None,
    ) -> None:
        if not isinstance(records, Records):
            records = Records.of(records)
        offsets = records.offsets
        if offsets:
            first_offset, next_offset = offsets[0], offsets[-1] + 1
        elif gap is not None:
            first_offset, next_offset = gap.first, gap.last + 1
        else:
            raise ValueError("a batch holds at least one record, or a gap")
        self.partition = partition
        self.records = records
        """Empty once the history has evicted the batch; its offsets stay known."""
        self.epoch = epoch
        """The epoch of the assignment in which the batch was received."""
        self.covers_from = first_offset if covers_from is None else covers_from
        self.leader_epoch = leader_epoch
        """The leader epoch of the last record (KIP-320); None if unknown."""
        self.gap = gap
        """A gap that subscribers have to be sent before the records."""
        self.gap_end = first_offset if offsets else next_offset
        """The offset after the gap, if there is one: that of the first record, or else the batch's next offset."""
        self.first_offset = first_offset
        """The offset of the first record, or the first offset of the gap."""
        self.next_offset = next_offset
        """The offset after the last record, which a commit of this batch carries."""
        self.taken_at: float | None = None
        """When it arrived in Trio's thread, on a clock that only moves forward; None for a followed partition."""
        self.size_bytes = BATCH_OVERHEAD_BYTES + records.size_bytes
        """Memory that the batch takes."""

    def gap_from(self, offset: int) -> "Gap | None":
        """Return what a reader that needs this offset and later ones has to be sent of the gap; None if nothing."""
        return None if self.gap is None else self.gap.owed_from(offset, self.gap_end)

    def __repr__(self) -> str:
        return f"<Batch {self.partition} {self.first_offset}..{self.next_offset - 1} epoch {self.epoch}>"
