"""Entries of the history, the rounds in which they are offered, and a reader's place among them."""

from collections.abc import Iterable, Sequence

from dispatcher.sansio.head import Moment
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.records import NO_RECORDS, Batch, Records, TopicPartition

GAP = -1
"""Stands for a batch's gap among the indexes of its records."""


Ranges = list[tuple[int, int]]
"""Ranges of offsets, each with its end excluded."""


class Part:
    """One batch's share of a write, unframed: the records of several parts are joined and framed together.

    Args:
        gap: The gap event before the records; empty if there is no gap.
        records: The records, joined as on the wire; empty if there are none.
        has_ids: Whether each record carries the position, so that the write itself need not.
    """

    __slots__ = ("gap", "has_ids", "records")

    def __init__(self, gap: bytes, records: bytes, *, has_ids: bool) -> None:
        self.gap = gap
        self.records = records
        self.has_ids = has_ids

    def __len__(self) -> int:
        """Return the size in bytes, without the framing."""
        return len(self.gap) + len(self.records)


class Entry(Moment):
    """One batch in the history, with what was encoded from it.

    Args:
        sequence: The entry's number in the history.
        batch: The batch that it holds.
        snapshot: The newest offset of every partition when the batch was published, this batch included.
        version: The version of the history's set of partitions for which the snapshot was made; see `History.ahead`.
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
        """Encoded bytes by feed: encoded once, and the same object for every subscriber."""
        self.size_bytes = batch.size_bytes + snapshot.size_bytes
        self.record_count = len(batch.records)
        """The number of records, known even after they have been dropped."""
        self.dispatched = False
        """Whether every record was settled, or sent to some subscriber that counts."""
        self.pending: set[int] | None = None
        """Indexes of the records that are neither dispatched nor settled; None means all of them. See `settle`."""
        self.parked = False
        """Whether any record is or was parked: parked records are not dispatched, and do not keep the entry in
        memory."""
        self.waiting = True
        """Whether it has to stay until it is dispatched. Entries of followed partitions need not."""
        self.removed = False
        """Whether its partition has left the replica; such an entry is not handed out again."""

    def settle(self, indexes: Iterable[int]) -> set[int]:
        """Note that some records were dispatched, or are wanted by nobody.

        Args:
            indexes: The indexes of the records, and `GAP` for the gap before them.

        Returns:
            The indexes for which this was not noted before.
        """
        if self.pending is None:
            self.pending = set(range(GAP if self.batch.gap else 0, self.record_count))
        settled = self.pending.intersection(indexes)
        self.pending -= settled
        return settled

    @property
    def has_gap(self) -> bool:
        """Whether a gap precedes the records."""
        return self.batch.gap is not None

    @property
    def first_pending(self) -> int:
        """Return the first offset that is neither dispatched nor settled."""
        batch, pending = self.batch, self.pending
        if not pending or not pending.isdisjoint((GAP, 0)):
            return batch.covers_from
        return batch.records.offsets[min(pending)]

    def forget(self) -> None:
        """Drop everything large: a subscriber's channel may still hold the entry for bytes that are to be sent."""
        self.encoded.clear()
        self.batch.records = NO_RECORDS


class Selection(Moment):
    """The records of an entry that one filter wants; offered, sent and dispatched like an entry.

    Args:
        entry: The entry.
        indexes: The indexes of the records, in order, preceded by `GAP` if the gap goes with them.
        ranges: What they cover (`covered`), if that is known.
    """

    __slots__ = ("dispatched", "entry", "indexes", "ranges", "record_count")

    def __init__(self, entry: Entry, indexes: Sequence[int], ranges: Ranges | None = None) -> None:
        super().__init__(entry.sequence, entry.snapshot)
        self.entry = entry
        self.indexes = indexes
        self.ranges = covered(entry.batch, indexes) if ranges is None else ranges
        """The ranges of offsets that a commit may pass once these records are dispatched."""
        self.record_count = len(indexes) - (indexes[0] == GAP)
        self.dispatched = False

    @property
    def has_gap(self) -> bool:
        """Whether the gap goes with them."""
        return self.indexes[0] == GAP

    @property
    def batch(self) -> Batch:
        """The whole batch."""
        return self.entry.batch

    @property
    def removed(self) -> bool:
        """Whether the partition has left the replica."""
        return self.entry.removed


def covered(batch: Batch, indexes: Iterable[int], records: Records | None = None) -> Ranges:
    """Return the ranges of offsets (end excluded) that some records of a batch stand for, in order and joined.

    Offsets without a record belong to the record after them, as in `Batch.covers_from`. Offsets before that are not
    ours to commit: a followed partition was handed over in the middle of the batch.

    Args:
        batch: The batch.
        indexes: The indexes of the records; a ``range`` of consecutive ones costs as much as one record.
        records: The batch's records, if the batch itself may have dropped them; for `GAP` alone none are needed.
    """
    offsets = (batch.records if records is None else records).offsets
    ranges: Ranges = []
    more = 0
    if isinstance(indexes, range) and indexes:
        # Consecutive records touch: the end of a long batch costs as much as one record.
        indexes, more = indexes[:1], len(indexes) - 1
    for index in indexes:
        if index == GAP:
            start, end = batch.covers_from, batch.gap_end
        else:
            start, end = offsets[index - 1] + 1 if index else batch.covers_from, offsets[index + more] + 1
            if index == 0 and batch.gap is not None:
                start = batch.gap_end
        start = max(start, batch.covers_from)
        if start >= end:
            continue
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges


Offered = Entry | Selection
"""All records of an entry, or some of them."""

EncodedEntry = tuple[Offered, Part]
"""An entry and its bytes for the feed: once the history has evicted the entry, only these bytes are held."""


def joined(items: Sequence[EncodedEntry], max_bytes: int) -> Sequence[Sequence[EncodedEntry]]:
    """Divide items into writes of up to this size, in order; one item always fits."""
    if len(items) <= 1:
        return (items,) if items else ()
    writes: list[list[EncodedEntry]] = [[]]
    size_bytes = 0
    for item in items:
        if writes[-1] and size_bytes + len(item[1]) > max_bytes:
            writes.append([])
            size_bytes = 0
        writes[-1].append(item)
        size_bytes += len(item[1])
    return writes


class Round:
    """What is offered to every live subscriber of a feed, with everything that is the same for all of them.

    Args:
        items: Entries in order, each with its bytes; at least one.
        data: The bytes of all entries as one write.
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
    """The place of a reader.

    The cursor of a reader that is not live is a vector, the next offset of every partition; its sequence follows from
    that. A live reader is at the head, and its cursor holds the moment up to which it was handed everything. Moments
    are shared, so this costs nothing per partition.

    Args:
        topics: The topics that the reader reads.
        whole: Whether it also reads partitions that the replica follows.
    """

    __slots__ = ("first_offset", "named_to", "next_offsets", "seen", "sequence", "topics", "whole")

    def __init__(self, topics: frozenset[str], *, whole: bool = False) -> None:
        self.topics = topics
        self.whole = whole
        self.sequence = 0
        """Every entry up to this one was handed to the reader, or is not for it."""
        self.named_to = 0
        """Ids of entries up to this sequence may name less than the reader was sent: it needs ids of its own there."""
        self.next_offsets: dict[TopicPartition, int] = {}
        """The next offset of every partition; for a live reader, only of partitions that are not in the history."""
        self.seen: Moment | None = None
        """The moment up to which the reader was handed everything, while the vector is not kept; see
        `History.locate`."""
        self.first_offset = 0
        """The first offset that the reader needs of the entry that it was handed last."""

    def return_to(self, entry: Entry, offset: int) -> None:
        """Make the next entry the one that the reader was handed last, from an offset on."""
        self.next_offsets[entry.batch.partition] = offset
        self.sequence = entry.sequence - 1
