"""Entries of the history, the rounds in which they are offered, and a reader's place among them."""

from collections.abc import Sequence

from dispatcher.sansio.head import Moment
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.records import NO_RECORDS, Batch, TopicPartition

OFFSET_BYTES = 8
"""What an entry holds for each partition of the replica: an offset in its snapshot."""


class Part:
    """What one write holds of one batch: parts are joined, and framed together.

    Args:
        gap: What comes before the records, framed; empty for nothing.
        records: The records as the wire joins them; empty for none.
        has_ids: Whether each record carries the position, so that a write need not.
    """

    __slots__ = ("gap", "has_ids", "records")

    def __init__(self, gap: bytes, records: bytes, *, has_ids: bool) -> None:
        self.gap = gap
        self.records = records
        self.has_ids = has_ids

    def __len__(self) -> int:
        """Its size in bytes, without what framing adds."""
        return len(self.gap) + len(self.records)


class Entry(Moment):
    """One batch in the history, with what was encoded from it.

    Args:
        sequence: Its number in the history.
        batch: What it holds.
        snapshot: The newest offset of every partition when the batch was published, its own included.
        version: The version of the history's partitions that the snapshot is about; see `History.ahead`.
    """

    __slots__ = ("batch", "dispatched", "encoded", "record_count", "removed", "size_bytes", "version", "waiting")

    def __init__(self, sequence: int, batch: Batch, snapshot: Snapshot, version: int) -> None:
        super().__init__(sequence, snapshot)
        self.batch = batch
        self.version = version
        self.encoded: dict[object, Part] = {}
        """Ready-made bytes by feed: encoded once, the same object for every subscriber."""
        self.size_bytes = batch.size_bytes + OFFSET_BYTES * len(snapshot.offsets)
        self.record_count = len(batch.records)
        """Number of records, known also when they are gone."""
        self.dispatched = False
        """Whether some subscriber that counts has been sent all of it."""
        self.waiting = True
        """Whether it has to stay until it is dispatched. Entries of followed partitions need not."""
        self.removed = False
        """Its partition has left the replica: it is not handed out again."""

    def forget(self) -> None:
        """Let go of all that takes room: a subscriber's channel may still hold it for bytes that are to be sent."""
        self.encoded.clear()
        self.batch.records = NO_RECORDS


EncodedEntry = tuple[Entry, Part]
"""An entry and its bytes for the feed: when the history lets the entry go, these bytes are all that is held."""


class Round:
    """What is offered to each live subscriber of a feed, and all that is the same for each.

    Args:
        items: Entries in order, one at least, each with its bytes.
        data: All of them as one write.
    """

    __slots__ = ("data", "entries", "first_sequence", "items", "last", "last_sequence", "record_count", "size_bytes")

    def __init__(self, items: Sequence[EncodedEntry], data: bytes) -> None:
        self.items = items
        self.entries = [entry for entry, _ in items]
        self.data = data
        self.size_bytes = len(self.data)
        self.record_count = sum([entry.record_count for entry in self.entries])
        self.last = self.entries[-1]
        self.first_sequence, self.last_sequence = self.entries[0].sequence, self.last.sequence


class Cursor:
    """A reader's place.

    For a reader that is not live it is a vector, the next offset of every partition, and the sequence follows from it.
    A live one is at the head, and holds the moment up to which it was handed everything: that is shared, so it costs
    nothing per partition.

    Args:
        topics: What it reads.
        whole: Also of partitions that the replica follows.
    """

    __slots__ = ("first_offset", "next_offsets", "seen", "sequence", "topics", "whole")

    def __init__(self, topics: frozenset[str], *, whole: bool = False) -> None:
        self.topics = topics
        self.whole = whole
        self.sequence = 0
        """Every entry up to this one was handed to it, or is not for it."""
        self.next_offsets: dict[TopicPartition, int] = {}
        """The next offset of every partition; of a live reader, only of those that are not in the history."""
        self.seen: Moment | None = None
        """The moment up to which it was handed everything, while the vector does not say so; see `History.locate`."""
        self.first_offset = 0
        """The first offset that it needs of the entry that it was handed last."""
