"""What Kafka delivers: topic partitions, records, and batches of consecutive records."""

from collections.abc import Collection
from typing import NamedTuple

RECORD_OVERHEAD_BYTES = 320
"""What one record costs in this process beside its payload: the objects that hold it.

Measured with CPython 3.11 on 64 bits: a five-field tuple (96), two ``bytes`` headers (66), two ``int`` (64), the
slot in the batch (8), and what the allocator rounds up.
"""

HEADER_OVERHEAD_BYTES = 160
"""The same of a header."""

BATCH_OVERHEAD_BYTES = 1024
"""What a batch costs beside its records, with its place in the history and its indexes."""


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
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def size_bytes(self) -> int:
        """Memory that this record holds, payload and overhead."""
        return size_bytes_of((self,))


def size_bytes_of(records: Collection[Record]) -> int:
    """Memory that records hold, payload and overhead; of many at once, for less than of each."""
    size_bytes = RECORD_OVERHEAD_BYTES * len(records)
    for _, _, key, value, headers in records:
        if value:
            size_bytes += len(value)
        if key:
            size_bytes += len(key)
        for header, content in headers:
            size_bytes += HEADER_OVERHEAD_BYTES + len(header) + len(content or b"")
    return size_bytes


class Batch:
    """Consecutive records of one partition taken in one poll, in offset order, at least one.

    ``covers_from`` to ``next_offset`` (exclusive) is the range that this batch stands for. It starts where the
    batch before ended, so offsets without a record (compacted, aborted, control records) belong to the batch
    behind them and never leave a hole in what can be committed.
    """

    __slots__ = (
        "covers_from",
        "epoch",
        "first_offset",
        "leader_epoch",
        "next_offset",
        "partition",
        "records",
        "size_bytes",
    )

    def __init__(
        self,
        partition: TopicPartition,
        records: tuple[Record, ...],
        *,
        epoch: int = 0,
        covers_from: int | None = None,
        leader_epoch: int | None = None,
        records_bytes: int | None = None,
    ) -> None:
        if not records:
            raise ValueError("a batch holds at least one record")
        self.partition = partition
        self.records = records
        """Empty once the history has let the batch go; its offsets stay known."""
        self.epoch = epoch
        """The assignment epoch in which the batch was taken."""
        self.covers_from = records[0].offset if covers_from is None else covers_from
        self.leader_epoch = leader_epoch
        """Leader epoch of the last record (KIP-320), None when unknown."""
        self.first_offset = records[0].offset
        """Offset of the first record."""
        self.next_offset = records[-1].offset + 1
        """Offset behind the last record: what a commit of this batch carries."""
        self.size_bytes = BATCH_OVERHEAD_BYTES + (size_bytes_of(records) if records_bytes is None else records_bytes)
        """Memory that it holds; who has the sum of its records need not let it be counted again."""

    def __repr__(self) -> str:
        return f"<Batch {self.partition} {self.first_offset}..{self.next_offset - 1} epoch {self.epoch}>"
