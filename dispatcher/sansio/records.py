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
rounds up: resident memory grew by 106 to 181 bytes a record (values of 50 to 5,000 bytes, with and without keys,
CPython 3.11 on 64 bits), and by 40 more where offsets are not consecutive.
"""

HEADER_OVERHEAD_BYTES = 160
"""The same of a header."""

BATCH_OVERHEAD_BYTES = 1024
"""What a batch costs besides its records, with its place in the history and its indexes."""


Headers = tuple[tuple[str, bytes | None], ...]
"""(name, value) pairs; a name may repeat."""


class TopicPartition(NamedTuple):
    """One partition of a topic; sorts by topic, then number."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"


class Record(NamedTuple):
    """One Kafka record; its topic and partition are its batch's."""

    offset: int
    timestamp_ms: int | None
    """Milliseconds since the epoch (create or append time, as the topic is set), None when the record has none."""
    key: bytes | None
    value: bytes | None
    """None is a tombstone."""
    headers: Headers


class Records(Sequence[Record]):
    """Records by column: what is done to all of them is done to a column at a time, without an object for each.

    As a sequence it gives a `Record` at a time, for code that wants one. Its parts are as long as each other.

    Args:
        offsets: See `Record`, as for the others. A ``range`` where they are consecutive, as they mostly are.
        timestamps_ms: In milliseconds since the epoch.
        keys: None where there is none.
        values: None where it is a tombstone.
        headers: Empty where there are none.
        decoded: What keys and values were decoded to, where topics ask for it.
        asked: The same where subscribers ask for it: the others are sent what Kafka delivered.
        spelling: How keys and values are written that were not.
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
        """Memory that they hold, payload and overhead."""
        if any(headers):
            for name, content in chain.from_iterable(headers):
                self.size_bytes += HEADER_OVERHEAD_BYTES + len(name) + len(content or b"")
        if decoded is not None:
            self.size_bytes += decoded.size_bytes
        if asked is not None:
            self.size_bytes += asked.size_bytes

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Records":
        """These records."""
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
        """Some of them, one at least."""
        columns = (self.offsets, self.timestamps_ms, self.keys, self.values, self.headers)
        decoded, asked = self.decoded and self.decoded.take(indexes), self.asked and self.asked.take(indexes)
        taken = ([column[index] for index in indexes] for column in columns)
        return Records(*taken, decoded=decoded, asked=asked, spelling=self.spelling)  # type: ignore[arg-type] # as above

    @property
    def shown_values(self) -> Sequence[bytes | None]:
        """The values as JSON where they were decoded, else as Kafka delivered them."""
        decoded = self.decoded
        if decoded is None:
            return self.values
        return [value if found is None else found for value, found in zip(self.values, decoded.values, strict=True)]

    def with_decoded(self, decoded: Decoded) -> "Records":
        """The same records with what they were decoded to."""
        return Records(self.offsets, self.timestamps_ms, self.keys, self.values, self.headers, decoded=decoded)

    def with_asked(self, asked: Decoded | None) -> "Records":
        """The same records with what they were decoded to for subscribers that ask."""
        return Records(self.offsets, self.timestamps_ms, self.keys, self.values, self.headers, asked=asked)

    def as_asked(self) -> "Records":
        """The same records for subscribers that ask for what they were decoded to."""
        return self if self.asked is None else self.with_decoded(self.asked)

    def spelled(self, spelling: Spelling) -> "Records":
        """The same records for an encoder, which writes their keys and values in this way."""
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
    """Consecutive records of one partition taken in one poll, in offset order, at least one.

    A gap may come before the records, and then there need not be any: the batch stands for the offsets of the gap.

    ``covers_from`` to ``next_offset`` (exclusive) is the range that this batch stands for. It starts where the
    batch before ended, so offsets without a record (compacted, aborted, control records) belong to the batch
    after them and never leave a hole in what can be committed.
    """

    __slots__ = (
        "covers_from",
        "epoch",
        "first_offset",
        "gap",
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
        if records:
            first_offset, next_offset = records.offsets[0], records.offsets[-1] + 1
        elif gap is not None:
            first_offset, next_offset = gap.first, gap.last + 1
        else:
            raise ValueError("a batch holds at least one record, or a gap")
        self.partition = partition
        self.records = records
        """Empty once the history has let the batch go; its offsets stay known."""
        self.epoch = epoch
        """The assignment epoch in which the batch was taken."""
        self.covers_from = first_offset if covers_from is None else covers_from
        self.leader_epoch = leader_epoch
        """Leader epoch of the last record (KIP-320), None when unknown."""
        self.gap = gap
        """What subscribers have to be sent before the records."""
        self.first_offset = first_offset
        """Offset of the first record, or of the gap."""
        self.next_offset = next_offset
        """Offset after the last record: what a commit of this batch carries."""
        self.taken_at: float | None = None
        """When it crossed into this replica's thread, on a clock that only goes forward; None: it is followed."""
        self.size_bytes = BATCH_OVERHEAD_BYTES + records.size_bytes
        """Memory that it holds."""

    def __repr__(self) -> str:
        return f"<Batch {self.partition} {self.first_offset}..{self.next_offset - 1} epoch {self.epoch}>"
