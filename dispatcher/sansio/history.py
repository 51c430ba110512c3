"""A bounded log of recent and undispatched batches, in the order in which they were published.

Rules of this module:

* One sequence over all partitions: whoever reads on from a given entry sees what live subscribers saw, in the same
  order, so the bytes encoded for them, ids included, can be reused.
* An undispatched entry stays until it is dispatched or its partition leaves. One of a followed partition need not be
  dispatched here, so it can go from the first moment on.
* Dispatched entries stay while everything together is within ``history_bytes``; the one dispatched first goes
  first, and never one that has an older entry of its partition still waiting before it.
* A reader is never handed a hole: it gets an error when what comes next is no longer in memory, and its cursor still
  says from which offset on it has to read Kafka.
* An entry's id names the partitions that are assigned when it is handed out, not those of the time when it was
  published. A partition that was added later is named with the offset before its first one: no reader of that
  entry has been sent more of it, and an id that left it out would forget where its reader began.
"""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dispatcher.errors import FellBehindError
from dispatcher.sansio.entries import OFFSET_BYTES, Cursor, Entry, Part
from dispatcher.sansio.head import Head, Moment
from dispatcher.sansio.history_partition import HistoryPartition
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.parking import ParkedRanges
from dispatcher.sansio.position import Layout, Snapshot
from dispatcher.sansio.records import Batch, TopicPartition


@dataclass(frozen=True, slots=True)
class HistoryStatistics:
    """A snapshot of the history."""

    entries: int
    size_bytes: int
    """Memory of all entries, their encoded bytes included."""
    waiting_bytes: int
    """Memory of the undispatched ones."""
    waiting_records: int


class History:
    """The log between the poller and the subscribers.

    Args:
        history_bytes: bound of everything together, as long as dispatched entries can make room.
        max_parked_ranges: Bound of what is parked of each partition.
    """

    def __init__(self, history_bytes: int, max_parked_ranges: int = 1) -> None:
        self.history_bytes = history_bytes
        self.parked = ParkedRanges(max_parked_ranges)
        """What is neither dispatched nor kept: it is read again for whoever wants it."""
        self.head = 0
        """Sequence of the newest entry; the first one has 1."""
        self.size_bytes = 0
        self.waiting_bytes = 0
        self._entries: dict[int, Entry] = {}
        self._sequences: list[int] = []
        self._partitions: dict[TopicPartition, HistoryPartition] = {}
        self._followed: set[TopicPartition] = set()
        """Those of them that are followed."""
        self._expected: Mapping[str, int] = {}
        """How many partitions each topic has, as far as that is known."""
        self._known: Counter[str] = Counter()
        """How many of them are here."""
        self._dispatched: deque[Entry] = deque()
        self._head = Head()
        self._moment: Moment | None = None
        """The head now, for those that become live before it moves."""
        self._version = 0
        """Changes with each partition that is added or removed."""
        self._trimmed_to = 0
        """The newest trimmed sequence: a reader past it has missed nothing."""

    @property
    def layout(self) -> Layout:
        """The order of the assigned partitions."""
        return self._head.layout

    def lay_out(self, partitions: Collection[TopicPartition], followed: Collection[TopicPartition] = ()) -> None:
        """These partitions are here from now on; those that have left were removed before.

        Args:
            partitions: All of them.
            followed: Those of them that are followed; each changes by `follow`, `disown` or `own` as well.
        """
        self._head.lay_out(partitions, followed)
        self._moment = None

    def expect(self, topics: Mapping[str, int]) -> None:
        """Take note of how many partitions topics have."""
        self._expected = topics

    @property
    def expected(self) -> Mapping[str, int]:
        """How many partitions each topic has, as far as that is known."""
        return self._expected

    def is_complete(self, topics: frozenset[str]) -> bool:
        """Whether every partition of these topics is here."""
        return all(topic in self._expected and self._known[topic] >= self._expected[topic] for topic in topics)

    def follow(self, partition: TopicPartition, offset: int) -> None:
        """A partition that is not here is followed from an offset on.

        Raises:
            KeyError: it is in no layout (`lay_out`).
        """
        self._head.move(partition, offset - 1)
        self._open(partition, offset, self.head).is_followed = True
        self._followed.add(partition)
        self._moment = None

    def disown(self, partitions: Collection[TopicPartition]) -> None:
        """Owned partitions are followed from now on: their entries stay, and wait for nothing any more."""
        self.parked.forget(partitions)
        for tp in partitions:
            partition = self._partitions[tp]
            self._version += 1
            partition.is_followed = True
            self._followed.add(tp)
            self.waiting_bytes -= partition.waiting_bytes
            self._dispatched += partition.wait_no_longer()
        self._moment = None
        self.trim()

    def own(self, tp: TopicPartition, epoch: int, hand_over: HandOver) -> bool:
        """A followed partition is owned from now on, if its entries reach up to where it goes on.

        What counts at once is dispatched; what does not, from the committed offset on, waits in the new epoch.

        Args:
            tp: The partition.
            epoch: Of its assignment.
            hand_over: Where it goes on, and what counts.

        Returns:
            Whether it is: otherwise nothing has changed, and the partition has to be taken out and begin again.
        """
        partition = self._partitions[tp]
        if not partition.begins <= hand_over.counted_to <= partition.ends:
            return False
        self._version += 1
        partition.is_followed = False
        self._followed.discard(tp)
        partition.wait_again(epoch, hand_over)
        self.waiting_bytes += partition.waiting_bytes
        self._dispatched = deque(entry for entry in self._dispatched if not entry.waiting)
        self._moment = None
        return True

    def append(self, batch: Batch) -> Entry:
        """Put a batch at the end of the log, undispatched, and make room for it.

        Raises:
            KeyError: its partition is not assigned (`lay_out`).
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
        self.size_bytes += entry.size_bytes
        if entry.waiting:
            self.waiting_bytes += entry.size_bytes
        else:
            self._dispatched.append(entry)
        self.trim()
        return entry

    def encode(self, entry: Entry, feed: object, encode: Callable[[Entry], Part]) -> Part:
        """The entry's part of a write for a feed, made when first asked for and counted in the history's bound."""
        data = entry.encoded.get(feed)
        if data is None:
            data = entry.encoded[feed] = encode(entry)
            if not entry.removed and entry.sequence in self._entries:
                self._resize(entry, len(data))
        return data

    def dispatched(self, entry: Entry) -> bool:
        """Mark an entry as dispatched; False when it was already, or has left."""
        if entry.dispatched or entry.removed:
            return False
        entry.dispatched = True
        self.release(entry)
        return True

    def release(self, entry: Entry) -> None:
        """Let an entry go when there is no room: all of it is dispatched, settled or parked."""
        if entry.waiting and not entry.removed:
            self._partitions[entry.batch.partition].release(entry)
            self.waiting_bytes -= entry.size_bytes
            self._dispatched.append(entry)
            self.trim()

    def reached(self, partition: TopicPartition, offset: int) -> None:
        """Take note that the log was read up to an offset, and that the new part holds no record.

        Raises:
            KeyError: the partition is not assigned (`lay_out`).
        """
        found = self._partitions.get(partition) or self._open(partition, offset, self.head)
        found.ends = max(found.ends, offset)
        self._head.move(partition, found.ends - 1)
        self._moment = None

    def knows(self, partition: TopicPartition, *, whole: bool = True) -> bool:
        """Whether it is known from which offset on a partition is in memory.

        Args:
            partition: The partition.
            whole: False: and it is owned.
        """
        return partition in self._partitions and (whole or partition not in self._followed)

    def is_followed(self, partition: TopicPartition) -> bool:
        """Whether a partition is here without being owned."""
        return partition in self._followed

    def begin(self, partition: TopicPartition) -> int:
        """The first offset of a known partition that is in memory: what is before it has to be read from Kafka."""
        return self._partitions[partition].begins

    def end(self, partition: TopicPartition) -> int:
        """The offset after the last one of a known partition."""
        return self._partitions[partition].ends

    def ends(self, cursor: Cursor) -> dict[TopicPartition, int]:
        """The offset after the last one of each known partition that a cursor reads."""
        return {tp: partition.ends for tp, partition in self._read_by(cursor)}

    def start(self, partition: TopicPartition) -> int:
        """Where a new reader begins a known partition: at the first offset that nobody has been sent, else its end."""
        return self._partitions[partition].first_waiting

    def starts(self, cursor: Cursor) -> dict[TopicPartition, int]:
        """Where a new reader begins each known partition that it reads."""
        return {tp: partition.first_waiting for tp, partition in self._read_by(cursor)}

    def snapshot(self) -> Snapshot:
        """The head now: the newest offset of each assigned partition."""
        return self._head.snapshot()

    def seek(self, cursor: Cursor) -> None:
        """Set a cursor's sequence to just before the first entry that its vector wants."""
        sequence, next_offsets = self.head, cursor.next_offsets
        for tp, partition in self._read_by(cursor):
            if (start := next_offsets[tp]) >= partition.ends:
                continue
            first = partition.first_from(start)
            if first is not None:
                sequence = min(sequence, first.sequence - 1)
        cursor.sequence = sequence

    def became_live(self, cursor: Cursor) -> None:
        """A reader has been handed everything: keep of its vector only partitions that are not in the history."""
        if self._moment is None:
            self._moment = Moment(self.head, self._head.snapshot())
        cursor.seen = self._moment
        whole = cursor.whole
        cursor.next_offsets = {tp: n for tp, n in cursor.next_offsets.items() if not self.knows(tp, whole=whole)}

    def locate(self, cursor: Cursor) -> None:
        """Write down the vector of a reader that was live; does nothing when it is known."""
        seen, cursor.seen = cursor.seen, None
        if seen is not None:
            for tp, partition in self._read_by(cursor):
                if tp not in cursor.next_offsets:
                    cursor.next_offsets[tp] = partition.offset_at(seen) + 1

    def behind(self, cursor: Cursor) -> list[TopicPartition]:
        """Partitions whose next offset is no longer in memory."""
        next_offsets = cursor.next_offsets
        return [tp for tp, partition in self._read_by(cursor) if next_offsets[tp] < partition.begins]

    def beyond(self, cursor: Cursor) -> list[TopicPartition]:
        """Partitions whose next offset is after what has been read of them."""
        next_offsets = cursor.next_offsets
        return [tp for tp, partition in self._read_by(cursor) if next_offsets[tp] > partition.ends]

    def next(self, cursor: Cursor) -> Entry | None:
        """The next entry for a cursor, None at the head; the cursor moves past it.

        Raises:
            FellBehindError: an entry that the cursor has not seen was trimmed; the cursor stays.
        """
        return next(self.ahead(cursor), None)

    def ahead(self, cursor: Cursor) -> Iterator[Entry]:
        """All entries for a cursor, which moves past each of them, and to the head in the end.

        Nothing may be appended, removed or trimmed before the last one that is taken.

        Raises:
            FellBehindError: an entry that the cursor has not seen was trimmed; the cursor stays.
        """
        if cursor.sequence < self._trimmed_to and (behind := self.behind(cursor)):
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

    def waiting(self) -> dict[TopicPartition, int]:
        """Undispatched bytes of each partition."""
        return {tp: partition.waiting_bytes for tp, partition in self._partitions.items()}

    def waiting_records(self, partition: TopicPartition) -> int:
        """Undispatched records of one partition."""
        found = self._partitions.get(partition)
        return 0 if found is None else found.waiting_records

    def waiting_of(self, partition: TopicPartition) -> Collection[Entry]:
        """The undispatched entries of a partition, in order."""
        found = self._partitions.get(partition)
        return () if found is None else found.waiting.values()

    def waiting_entries(self, topic: str) -> list[Entry]:
        """The undispatched entries of a topic."""
        return [e for tp, found in self._partitions.items() if tp.topic == topic for e in found.waiting.values()]

    def waiting_between(self, partition: TopicPartition, first: int, end: int) -> list[Entry]:
        """The undispatched entries of a partition with offsets from the first to the end (exclusive)."""
        found = self._partitions.get(partition)
        return [] if found is None else found.waiting_between(first, end)

    def remove(self, partitions: Collection[TopicPartition]) -> None:
        """Take partitions out: their entries are not handed out again, and no id names them.

        Readers of the remaining entries may never have been handed the earlier records of these partitions: an id that
        named them would make their new owner skip those records. Entries are mended when they are handed out.
        """
        self.parked.forget(partitions)
        for partition in partitions:
            removed = self._partitions.pop(partition, None)
            if removed is None:
                continue
            self._version += 1
            self._known[partition.topic] -= 1
            self._followed.discard(partition)
            self._head.move(partition, None)
            for entry in removed.entries:
                entry.removed = True
                del self._entries[entry.sequence]
                self.size_bytes -= entry.size_bytes
                entry.forget()
            self.waiting_bytes -= removed.waiting_bytes
        self._moment = None
        self._dispatched = deque(entry for entry in self._dispatched if not entry.removed)
        self._compact()

    def trim(self) -> None:
        """Evict dispatched entries, in the order of their dispatch, until the bound holds."""
        tries = len(self._dispatched)
        while self.size_bytes > self.history_bytes and tries:
            tries -= 1
            entry = self._dispatched.popleft()
            partition = self._partitions[entry.batch.partition]
            if partition.entries[0] is not entry:
                self._dispatched.append(entry)
                continue
            partition.entries.popleft()
            partition.begins = entry.batch.next_offset
            self._trimmed_to = max(self._trimmed_to, entry.sequence)
            del self._entries[entry.sequence]
            self.size_bytes -= entry.size_bytes
            entry.forget()
            tries = len(self._dispatched)  # those after it in its partition can go now
        self._compact()

    def statistics(self) -> HistoryStatistics:
        """A snapshot of the history."""
        return HistoryStatistics(
            entries=len(self._entries),
            size_bytes=self.size_bytes,
            waiting_bytes=self.waiting_bytes,
            waiting_records=sum(partition.waiting_records for partition in self._partitions.values()),
        )

    def _resize(self, entry: Entry, more_bytes: int) -> None:
        entry.size_bytes += more_bytes
        self.size_bytes += more_bytes
        if entry.waiting:
            self.waiting_bytes += more_bytes
            self._partitions[entry.batch.partition].waiting_bytes += more_bytes

    def _open(self, partition: TopicPartition, offset: int, since: int) -> HistoryPartition:
        self._version += 1
        opened = HistoryPartition(partition, offset, since)
        self._partitions[partition] = opened
        self._known[partition.topic] += 1
        return opened

    def _read_by(self, cursor: Cursor) -> Iterator[tuple[TopicPartition, HistoryPartition]]:
        """The known partitions that a cursor reads."""
        topics, whole = cursor.topics, cursor.whole
        for tp, partition in self._partitions.items():
            if tp.topic in topics and (whole or not partition.is_followed):
                yield tp, partition

    def _renew(self, entry: Entry) -> None:
        """Make an entry's snapshot one of the present partitions, and drop what was encoded with the old one."""
        before, entry.version = entry.snapshot, self._version
        layout = self._head.layout
        offsets = tuple(
            None if (found := self._partitions.get(tp)) is None else found.offset_at(entry) for tp in layout.partitions
        )
        entry.snapshot = Snapshot(layout, offsets)
        more_offsets = len(offsets) - len(before.offsets)
        self._resize(entry, OFFSET_BYTES * more_offsets - sum(map(len, entry.encoded.values())))
        entry.encoded.clear()

    def _after(self, sequence: int) -> Entry | None:
        """The first entry after a sequence, None at the head."""
        at = bisect_right(self._sequences, sequence)
        while at < len(self._sequences):
            entry = self._entries.get(self._sequences[at])
            if entry is not None:
                return entry
            at += 1
        return None

    def _compact(self) -> None:
        """Sequences of entries that left are dropped once they are the most, which keeps this cheap."""
        if len(self._sequences) > 64 and len(self._sequences) > 2 * len(self._entries):
            self._sequences = list(self._entries)
