"""Entries of the history, how they are offered, and a reader's place among them."""

from collections.abc import Mapping, Sequence

from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.records import NO_RECORDS, Batch, TopicPartition

OFFSET_BYTES = 8
"""What an entry holds for each partition of the replica: a place in its snapshot."""


class Entry:
    """One batch in the history, with what was encoded from it."""

    __slots__ = (
        "batch",
        "bytes",
        "dispatched",
        "encoded",
        "own_index",
        "records",
        "retired",
        "retirements",
        "sequence",
        "snapshot",
    )

    def __init__(self, sequence: int, batch: Batch, snapshot: Snapshot, own_index: int) -> None:
        self.sequence = sequence
        self.batch = batch
        self.snapshot = snapshot
        """The positions of all partitions when the batch was published, its own included."""
        self.own_index = own_index
        """Place of the batch's partition in the snapshot's layout."""
        self.encoded: dict[object, bytes] = {}
        """Ready-made bytes by feed: encoded once, the same object for every subscriber."""
        self.bytes = batch.size_bytes + OFFSET_BYTES * len(snapshot.offsets)
        self.records = len(batch.records)
        """Number of records, known also when they are gone."""
        self.dispatched = False
        self.retirements = 0
        """How often partitions had left the history when its snapshot and `encoded` were last right."""
        self.retired = False
        """Its partition has left the replica: nobody is handed it any more."""

    def forget(self) -> None:
        """Let go of all that takes room: a subscriber's channel may still hold it for bytes that are to be sent."""
        self.encoded.clear()
        self.batch.records = NO_RECORDS


Item = tuple[Entry, bytes]
"""An entry and its bytes for the feed: when the history lets the entry go, these bytes are all that is held."""


class Offer:
    """What is offered to each live subscriber of a feed, and all that is the same for each.

    Args:
        items: Entries in order, one at least, each with its bytes.
    """

    __slots__ = ("data", "entries", "first_sequence", "items", "last", "last_sequence", "records", "size_bytes")

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.entries = [entry for entry, _ in items]
        self.data = items[0][1] if len(items) == 1 else b"".join([data for _, data in items])
        """The bytes of all of them."""
        self.size_bytes = len(self.data)
        self.records = sum([entry.records for entry in self.entries])
        self.last = self.entries[-1]
        self.first_sequence, self.last_sequence = self.entries[0].sequence, self.last.sequence


class Cursor:
    """A reader's place in the history.

    Of the backlog that was there when it came, it gets each partition from an offset on. Of what came later it gets
    everything.

    Args:
        topics: What it reads.
        sequence: It gets what is behind this.
        backlog_to: The head of the history when it came.
        starts: Of each partition that was there, the first offset that it gets.
        partitions: How many partitions had come by then.
    """

    __slots__ = ("backlog_to", "partitions", "seen", "sequence", "starts", "topics")

    def __init__(
        self,
        topics: frozenset[str],
        sequence: int,
        *,
        backlog_to: int = 0,
        starts: Mapping[TopicPartition, int] | None = None,
        partitions: int = 0,
    ) -> None:
        self.topics = topics
        self.sequence = sequence
        self.backlog_to = backlog_to
        self.starts = starts or {}
        self.partitions = partitions
        self.seen: Entry | None = None
        """The last entry that it was handed."""

    def wants(self, partition: TopicPartition, sequence: int, next_offset: int) -> bool:
        """Whether an entry of this partition, sequence and end is to come for this reader."""
        if sequence <= self.sequence or partition.topic not in self.topics:
            return False
        return sequence > self.backlog_to or next_offset > self.starts.get(partition, next_offset)

    def handed(self, entry: Entry) -> None:
        """Move behind an entry."""
        self.sequence = entry.sequence
        self.seen = entry

    def first_of(self, entry: Entry) -> int:
        """The first offset of an entry of the backlog that this reader gets: some may lie before its start."""
        return max(entry.batch.first_offset, self.starts.get(entry.batch.partition, 0))
