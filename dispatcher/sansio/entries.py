"""Entries of the history, the rounds in which they are offered, and a reader's place among them."""

from collections.abc import Iterable, Sequence

from dispatcher.sansio.head import Moment
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.records import NO_RECORDS, Batch, Records, TopicPartition

GAP = -1
"""Stands for the gap of a batch among the indexes of its records."""

OFFSET_BYTES = 8
"""What an entry holds for each partition of the replica: an offset in its snapshot."""


class Part:
    """What one write holds of one batch, unframed: the records of several parts are joined, and framed together.

    Args:
        gap: What comes before the records; empty for nothing.
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

    __slots__ = (
        "batch",
        "dispatched",
        "encoded",
        "parked",
        "pending",
        "record_count",
        "removed",
        "size_bytes",
        "version",
        "waiting",
    )

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
        """Whether each of its records was sent to some subscriber that counts, or settled."""
        self.pending: set[int] | None = None
        """Indexes of the records that were neither dispatched nor settled; None: all of them. See `settle`."""
        self.parked = False
        """Whether some of its records are parked, or were: such are not dispatched, and it need not stay for them."""
        self.waiting = True
        """Whether it has to stay until it is dispatched. Entries of followed partitions need not."""
        self.removed = False
        """Its partition has left the replica: it is not handed out again."""

    def settle(self, indexes: Iterable[int]) -> set[int]:
        """Note that some records were dispatched, or are wanted by nobody.

        Args:
            indexes: Theirs; `GAP` for the gap before them.

        Returns:
            Those of which it was not noted before.
        """
        if self.pending is None:
            self.pending = set(range(GAP if self.batch.gap else 0, self.record_count))
        settled = self.pending.intersection(indexes)
        self.pending -= settled
        return settled

    @property
    def first_pending(self) -> int:
        """The first offset of those that were neither dispatched nor settled."""
        batch, pending = self.batch, self.pending
        if not pending or not pending.isdisjoint((GAP, 0)):
            return batch.covers_from
        return batch.records.offsets[min(pending)]

    def forget(self) -> None:
        """Let go of all that takes room: a subscriber's channel may still hold it for bytes that are to be sent."""
        self.encoded.clear()
        self.batch.records = NO_RECORDS


class Selection(Moment):
    """The records of an entry that one filter wants; beside an entry it is what is offered, sent and dispatched.

    Args:
        entry: The entry.
        indexes: Of the records, in order; `GAP` first if the gap goes with them.
    """

    __slots__ = ("dispatched", "entry", "indexes", "ranges", "record_count")

    def __init__(self, entry: Entry, indexes: Sequence[int]) -> None:
        super().__init__(entry.sequence, entry.snapshot)
        self.entry = entry
        self.indexes = indexes
        self.ranges = covered(entry.batch, indexes)
        """The offsets that a commit may pass once these records were dispatched."""
        self.record_count = len(indexes) - (indexes[0] == GAP)
        self.dispatched = False

    @property
    def batch(self) -> Batch:
        """The whole batch."""
        return self.entry.batch

    @property
    def removed(self) -> bool:
        """Whether the partition has left the replica."""
        return self.entry.removed


def covered(batch: Batch, indexes: Iterable[int], records: Records | None = None) -> list[tuple[int, int]]:
    """The ranges of offsets (the end excluded) for which some records of a batch stand, in order, joined.

    Offsets without a record belong to the record after them, as in `Batch.covers_from`. What is before that is not ours
    to commit: a partition that was followed has been handed over in the middle of the batch.

    Args:
        batch: The batch.
        indexes: Of the records.
        records: Those of the batch, which may have let go of them.
    """
    offsets = (batch.records if records is None else records).offsets
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if index == GAP:
            start, end = batch.covers_from, offsets[0] if offsets else batch.next_offset
        else:
            start, end = offsets[index - 1] + 1 if index else batch.covers_from, offsets[index] + 1
            if index == 0 and batch.gap is not None:
                start = offsets[0]
        start = max(start, batch.covers_from)
        if start >= end:
            continue
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges


Offered = Entry | Selection
"""All records of an entry, or some."""

EncodedEntry = tuple[Offered, Part]
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

    def return_to(self, entry: Entry, offset: int) -> None:
        """The next entry to read is the one that it was handed last, from an offset on."""
        self.next_offsets[entry.batch.partition] = offset
        self.sequence = entry.sequence - 1
