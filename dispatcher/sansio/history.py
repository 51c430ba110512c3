"""A bounded log of recent and undispatched batches, in the order in which they were published.

Rules of this module:

* One sequence spans all partitions: a reader that continues after a given entry sees what live subscribers saw, in the
  same order, so the bytes encoded for them, ids included, can be reused.
* An undispatched entry stays until it is dispatched or its partition leaves. An entry of a followed partition need not
  be dispatched here, so it can be evicted at any time.
* Dispatched entries stay while the total is within ``history_bytes``; `eviction` decides which go first. One that waits
  for long does not keep the later ones of its partition in memory: it is detached from them.
* A reader is never handed a hole: if its next records are no longer in memory it gets an error, and its cursor still
  says from which offset on it has to read Kafka.
* An entry's id names the partitions that are assigned when the entry is handed out, not those assigned when it was
  published. A partition that was added later is named with the offset before its first one: no reader of that entry has
  been sent more of it, and an id without it would lose where its reader began.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dispatcher.errors import FellBehindError
from dispatcher.sansio.entries import Cursor, Entry, Part
from dispatcher.sansio.eviction import Eviction
from dispatcher.sansio.head import Head, Moment
from dispatcher.sansio.history_partitions import HistoryPartitions
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.parking import ParkedRanges
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.records import Batch, TopicPartition


@dataclass(frozen=True, slots=True)
class HistoryStatistics:
    """A snapshot of the history."""

    entries: int
    size_bytes: int
    """Memory of all entries, including their encoded bytes."""
    waiting_bytes: int
    """Memory of the undispatched entries."""
    waiting_records: int


class History(HistoryPartitions):
    """The log between the poller and the subscribers.

    Args:
        history_bytes: Bound of the total. Only undispatched entries can exceed it; flow control bounds these.
        max_parked_ranges: Bound of the parked ranges per partition.
    """

    def __init__(self, history_bytes: int, max_parked_ranges: int = 1) -> None:
        super().__init__()
        self.history_bytes = history_bytes
        self.parked = ParkedRanges(max_parked_ranges)
        """Ranges that are neither dispatched nor kept: they are read again for subscribers that want them."""
        self.head = 0
        """Sequence of the newest entry; the first entry has 1."""
        self._entries: dict[int, Entry] = {}
        self._sequences: list[int] = []
        self._eviction = Eviction()
        self._head = Head()
        self._renewed: Snapshot | None = None
        """The last snapshot that replaced that of an entry: the next entry shares most of it."""
        self._moment: Moment | None = None
        """The current head, kept for readers that become live before it moves."""
        self.trimmed_to = 0
        """The newest trimmed sequence: a reader past it has missed nothing."""

    @property
    def layout(self) -> Layout:
        """The order of the assigned partitions."""
        return self._head.layout

    def lay_out(self, partitions: Collection[TopicPartition], followed: Collection[TopicPartition] = ()) -> None:
        """Set the partitions that are here; those that have left were removed before.

        Args:
            partitions: All partitions that are here.
            followed: Which of them are followed; each such change also needs `follow`, `disown` or `own`.
        """
        self._head.lay_out(partitions, followed, self.counts_now())
        self._moment = None

    def follow(self, partition: TopicPartition, offset: int) -> None:
        """Follow a partition that is not here, from an offset on.

        Raises:
            KeyError: the partition is in no layout (`lay_out`).
        """
        self._head.move(partition, offset - 1)
        self._open(partition, offset, self.head, is_followed=True)
        self._moment = None

    def disown(self, partitions: Collection[TopicPartition]) -> None:
        """Follow partitions that were owned: their entries stay, and no longer wait for anything."""
        self.parked.forget(partitions)
        for tp in partitions:
            partition = self._partitions[tp]
            self._version += 1
            self.waiting_bytes -= partition.waiting_bytes
            for entry in self._eviction.disowned(partition):
                self._drop(entry)
            self._note_owner(partition)
        self._moment = None
        self.trim()

    def own(self, tp: TopicPartition, epoch: int, hand_over: HandOver) -> bool:
        """Own a partition that was followed, if its entries reach up to where it continues.

        What counts already is dispatched; the rest, from the committed offset on, waits in the new epoch.

        Args:
            tp: The partition.
            epoch: The epoch of its assignment.
            hand_over: Where it continues, and what counts.

        Returns:
            Whether the partition is owned now. Otherwise nothing has changed, and it has to be removed and to begin
                again.
        """
        partition = self._partitions[tp]
        if not partition.begins <= hand_over.counted_to <= partition.ends:
            return False
        self._version += 1
        partition.wait_again(epoch, hand_over)
        self._note_owner(partition)
        self.waiting_bytes += partition.waiting_bytes
        self._eviction.waits_again(partition)
        self._moment = None
        return True

    def append(self, batch: Batch) -> Entry:
        """Append a batch to the log, undispatched, and make room for it.

        Raises:
            KeyError: the batch's partition is not assigned (`lay_out`).
        """
        self._head.move(batch.partition, batch.next_offset - 1)
        self.head += 1
        partition = self._partitions.get(batch.partition)
        if partition is None:
            partition = self._open(batch.partition, batch.covers_from, self.head - 1)
        entry = Entry(self.head, batch, self._head.snapshot(), self._version)
        self._moment = None
        self._entries[self.head] = entry
        self._sequences.append(self.head)
        partition.append(entry)
        self._note(partition)
        self.size_bytes += entry.size_bytes
        self.trim()
        # Not earlier: if waiting entries leave no room, a followed one would be evicted before anybody was offered it.
        if entry.waiting:
            self.waiting_bytes += entry.size_bytes
        else:
            self._eviction.appended(partition, entry)
        return entry

    def encode(self, entry: Entry, feed: object, encode: Callable[[Entry], Part]) -> Part:
        """Return the entry's part of a write for a feed; it is encoded when first needed, and counted in the bound."""
        data = entry.encoded.get(feed)
        if data is None:
            data = entry.encoded[feed] = encode(entry)
            if not entry.removed and (entry.waiting or entry.sequence in self._entries):
                self._resize(entry, len(data))
        return data

    def dispatched(self, entry: Entry) -> bool:
        """Mark an entry as dispatched; returns False if it was already, or has left."""
        if entry.dispatched or entry.removed:
            return False
        entry.dispatched = True
        self.release(entry)
        return True

    def release(self, entry: Entry) -> None:
        """Allow an entry to be evicted: all of it is dispatched, settled or parked."""
        if entry.waiting and not entry.removed:
            partition = self._partitions[entry.batch.partition]
            self._eviction.released(partition, entry)
            self._note(partition)
            self.waiting_bytes -= entry.size_bytes
            if partition.is_detached(entry):
                self._drop(entry)
            self.trim()

    def reached(self, partition: TopicPartition, offset: int) -> None:
        """Note that the log was read up to an offset, and that the new part holds no record.

        Raises:
            KeyError: the partition is not assigned (`lay_out`).
        """
        found = self._partitions.get(partition) or self._open(partition, offset, self.head)
        found.ends = max(found.ends, offset)
        self._note(found)
        self._head.move(partition, found.ends - 1)
        self._moment = None

    def snapshot(self) -> Snapshot:
        """Return the head: the newest offset of each assigned partition."""
        return self._head.snapshot()

    def seek(self, cursor: Cursor, unfinished: Iterable[TopicPartition]) -> None:
        """Set a cursor's sequence to just before the first entry that its vector wants; see `unfinished`."""
        first = self._first_wanted(cursor, unfinished)
        cursor.sequence = self.head if first is None else first.sequence - 1

    def became_live(self, cursor: Cursor) -> None:
        """Note that a reader has been handed everything; its vector keeps only partitions that are not here."""
        if self._moment is None:
            self._moment = Moment(self.head, self._head.snapshot())
        cursor.seen = self._moment
        cursor.next_offsets = self._offsets_elsewhere(cursor)

    def next(self, cursor: Cursor) -> Entry | None:
        """Return the next entry for a cursor, which moves past it; None at the head.

        Raises:
            FellBehindError: an entry that the cursor has not seen was trimmed; the cursor stays.
        """
        return next(self.ahead(cursor), None)

    def ahead(self, cursor: Cursor) -> Iterator[Entry]:
        """Yield all entries for a cursor, which moves past each of them, and finally to the head.

        Nothing may be appended, removed or trimmed until the last entry has been taken.

        Raises:
            FellBehindError: an entry that the cursor has not seen was trimmed; the cursor stays.
        """
        if cursor.sequence < self.trimmed_to and (behind := self.behind(cursor, self.unfinished(cursor))):
            raise FellBehindError(f"records of {behind[0]} that come next are no longer in memory")
        entries, version, topics, next_offsets = self._entries, self._version, cursor.topics, cursor.next_offsets
        sequence = cursor.sequence
        left_out: AbstractSet[TopicPartition] = frozenset() if cursor.whole else self._followed
        while (entry := entries.get(sequence + 1) or self._after(sequence)) is not None:
            sequence, batch = entry.sequence, entry.batch
            tp = batch.partition
            if left_out and tp in left_out:
                continue
            if tp.topic in topics and batch.next_offset > (start := next_offsets[tp]):
                if entry.version != version:
                    self._renew(entry)
                next_offsets[tp] = batch.next_offset
                cursor.first_offset, cursor.sequence = start, sequence
                yield entry
        cursor.sequence = self.head

    def remove(self, partitions: Collection[TopicPartition]) -> None:
        """Remove partitions: their entries are not handed out again, and ids no longer name them.

        Readers of the remaining entries may never have been handed the earlier records of these partitions: an id that
        named them would make their new owner skip those records. Entries are corrected when they are handed out.
        """
        self.parked.forget(partitions)
        gone = [found for partition in partitions if (found := self._leave(partition)) is not None]
        for removed in gone:
            self._head.move(removed.partition, None)
            for entry in (*removed.detached, *removed.entries):
                entry.removed = True
                self._entries.pop(entry.sequence, None)
                self._drop(entry)
            self.waiting_bytes -= removed.waiting_bytes
        self._moment = None
        self._eviction.forget(gone)
        self._compact()

    def trim(self) -> None:
        """Evict entries until the bound holds, and detach those that wait if that is needed for it."""
        if self.size_bytes <= self.history_bytes:
            return
        while self.size_bytes > self.history_bytes and (entry := self._eviction.next()) is not None:
            self.trimmed_to = max(self.trimmed_to, entry.sequence)
            del self._entries[entry.sequence]
            if not entry.waiting:
                self._drop(entry)
        self._compact()

    def _drop(self, entry: Entry) -> None:
        """Count the memory of an entry no longer, and free it."""
        self.size_bytes -= entry.size_bytes
        entry.forget()

    @property
    def is_counted(self) -> bool:
        """Whether the counts on which the bounds rest are possible; if not, there is a bug."""
        return 0 <= self.waiting_bytes <= self.size_bytes

    def statistics(self) -> HistoryStatistics:
        """A snapshot of the history."""
        return HistoryStatistics(
            entries=len(self._entries),
            size_bytes=self.size_bytes,
            waiting_bytes=self.waiting_bytes,
            waiting_records=sum(partition.waiting_records for partition in self._partitions.values()),
        )

    def _renew(self, entry: Entry) -> None:
        """Give an entry a snapshot of the present partitions, and drop what was encoded with the old snapshot."""
        layout, more_bytes = self._head.layout, -entry.snapshot.size_bytes - sum(map(len, entry.encoded.values()))
        self._renewed = entry.snapshot = Snapshot.of(layout, self._offsets_at(entry, layout.partitions), self._renewed)
        entry.version = self._version
        self._resize(entry, more_bytes + entry.snapshot.size_bytes)
        entry.encoded.clear()

    def _after(self, sequence: int) -> Entry | None:
        """Return the first entry after a sequence; None at the head."""
        at = bisect_right(self._sequences, sequence)
        while at < len(self._sequences):
            entry = self._entries.get(self._sequences[at])
            if entry is not None:
                return entry
            at += 1
        return None

    def _compact(self) -> None:
        """Drop the sequences of entries that left once these are the majority, which keeps the cost low."""
        if len(self._sequences) > 64 and len(self._sequences) > 2 * len(self._entries):
            self._sequences = list(self._entries)
