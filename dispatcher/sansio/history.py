"""A bounded log of recent and undispatched batches, in the order in which they were published.

Rules of this module:

* One sequence over all partitions: whoever reads it from one place on sees what live subscribers saw, in
  the same order, and the bytes encoded for them (with their positions) fit him too.
* An undispatched entry stays until it is dispatched or its partition leaves.
* Dispatched entries stay while everything together is within ``history_bytes``; the one dispatched first goes
  first, and never one that has an older entry of its partition still waiting before it.
* A reader is never handed a hole: it is told that it fell behind.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dispatcher.errors import FellBehindError
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.records import Batch, TopicPartition


class Entry:
    """One batch in the history, with what was encoded from it."""

    __slots__ = ("batch", "bytes", "dispatched", "encoded", "own_index", "records", "retired", "sequence", "snapshot")

    def __init__(self, sequence: int, batch: Batch, snapshot: Snapshot, own_index: int) -> None:
        self.sequence = sequence
        self.batch = batch
        self.snapshot = snapshot
        """The positions of all partitions when the batch was published, its own included."""
        self.own_index = own_index
        """Place of the batch's partition in the snapshot's layout."""
        self.encoded: dict[object, bytes] = {}
        """Ready-made bytes by feed: encoded once, the same object for every subscriber."""
        self.bytes = batch.size_bytes
        self.records = len(batch.records)
        """Number of records, known also when they are gone."""
        self.dispatched = False
        self.retired = False
        """Its partition has left the replica: nobody is handed it any more."""

    def forget(self) -> None:
        """Let go of all that takes room: a subscriber's channel may still hold it for bytes that are to be sent."""
        self.encoded.clear()
        self.batch.records = ()


@dataclass(slots=True)
class _Partition:
    entries: deque[Entry] = field(default_factory=deque)
    waiting: dict[int, Entry] = field(default_factory=dict)
    waiting_bytes: int = 0
    waiting_records: int = 0
    trimmed_to: int = 0


class Cursor:
    """A reader's place in the history.

    Of the backlog that was there when it came, it gets what nobody had taken by then: each partition from its
    first undispatched entry on. Of what came later it gets everything.

    Args:
        topics: What it reads.
        sequence: It gets what is behind this.
        backlog_to: The head of the history when it came.
        starts: In the backlog, the first sequence of each partition that it gets.
    """

    __slots__ = ("_backlog_to", "_starts", "sequence", "topics")

    def __init__(
        self,
        topics: frozenset[str],
        sequence: int,
        *,
        backlog_to: int,
        starts: Mapping[TopicPartition, int],
    ) -> None:
        self.topics = topics
        self.sequence = sequence
        self._backlog_to = backlog_to
        self._starts = starts

    def wants(self, partition: TopicPartition, sequence: int) -> bool:
        """Whether an entry of this partition and sequence is to come for this reader."""
        if sequence <= self.sequence or partition.topic not in self.topics:
            return False
        return sequence > self._backlog_to or sequence >= self._starts.get(partition, self._backlog_to + 1)


@dataclass(frozen=True, slots=True)
class HistoryStatistics:
    """A snapshot of the history."""

    entries: int
    bytes: int
    """Memory of all entries, their encoded bytes included."""
    waiting_bytes: int
    """Memory of the undispatched ones."""
    waiting_records: int


class History:
    """The log between the poller and the subscribers.

    Args:
        history_bytes: bound of everything together, as long as dispatched entries can make room.
    """

    def __init__(self, history_bytes: int) -> None:
        self.history_bytes = history_bytes
        self.head = 0
        """Sequence of the newest entry; the first one has 1."""
        self.bytes = 0
        self.waiting_bytes = 0
        self._entries: dict[int, Entry] = {}
        self._sequences: list[int] = []
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._dispatched: deque[Entry] = deque()
        self._trimmed_to = 0
        """The newest sequence that was trimmed: behind it nobody has a hole."""

    def append(self, batch: Batch, snapshot: Snapshot, own_index: int) -> Entry:
        """Put a batch at the end of the log, undispatched, and make room for it."""
        self.head += 1
        entry = Entry(self.head, batch, snapshot, own_index)
        self._entries[self.head] = entry
        self._sequences.append(self.head)
        partition = self._partitions.setdefault(batch.partition, _Partition())
        partition.entries.append(entry)
        partition.waiting[entry.sequence] = entry
        partition.waiting_bytes += entry.bytes
        partition.waiting_records += entry.records
        self.bytes += entry.bytes
        self.waiting_bytes += entry.bytes
        self.trim()
        return entry

    def encode(self, entry: Entry, feed: object, encode: Callable[[Entry], bytes]) -> bytes:
        """The entry's bytes for a feed, made when first asked for and counted in the history's bound."""
        data = entry.encoded.get(feed)
        if data is None:
            data = entry.encoded[feed] = encode(entry)
            if not entry.retired and entry.sequence in self._entries:
                entry.bytes += len(data)
                self.bytes += len(data)
                if not entry.dispatched:
                    self.waiting_bytes += len(data)
                    self._partitions[entry.batch.partition].waiting_bytes += len(data)
        return data

    def dispatched(self, entry: Entry) -> bool:
        """Mark an entry as dispatched; False when it was already, or has left."""
        if entry.dispatched or entry.retired:
            return False
        entry.dispatched = True
        partition = self._partitions[entry.batch.partition]
        del partition.waiting[entry.sequence]
        partition.waiting_bytes -= entry.bytes
        partition.waiting_records -= entry.records
        self.waiting_bytes -= entry.bytes
        self._dispatched.append(entry)
        self.trim()
        return True

    def cursor(self, topics: frozenset[str]) -> "Cursor":
        """A cursor before the first undispatched entry of each partition of these topics, else at the head."""
        starts = {
            tp: next(iter(partition.waiting))
            for tp, partition in self._partitions.items()
            if partition.waiting and tp.topic in topics
        }
        sequence = min(starts.values(), default=self.head + 1) - 1
        return Cursor(topics, sequence, backlog_to=self.head, starts=starts)

    def next(self, cursor: "Cursor") -> Entry | None:
        """The next entry for a cursor, None at the head; the cursor moves behind it.

        Raises:
            FellBehindError: an entry that the cursor has not seen was trimmed; the cursor stays.
        """
        if cursor.sequence < self._trimmed_to:
            for tp, partition in self._partitions.items():
                if cursor.wants(tp, partition.trimmed_to):
                    raise FellBehindError(f"records of {tp} that come next are no longer in memory")
        sequence = cursor.sequence
        while (entry := self._after(sequence)) is not None:
            sequence = entry.sequence
            if cursor.wants(entry.batch.partition, sequence):
                break
        cursor.sequence = self.head if entry is None else sequence
        return entry

    def waiting(self) -> dict[TopicPartition, int]:
        """Undispatched bytes of each partition."""
        return {tp: partition.waiting_bytes for tp, partition in self._partitions.items()}

    def waiting_records(self, partition: TopicPartition) -> int:
        """Undispatched records of one partition."""
        found = self._partitions.get(partition)
        return 0 if found is None else found.waiting_records

    def retire(self, partition: TopicPartition) -> None:
        """Take a partition out: its entries are handed to nobody any more."""
        retired = self._partitions.pop(partition, None)
        if retired is None:
            return
        for entry in retired.entries:
            entry.retired = True
            del self._entries[entry.sequence]
            self.bytes -= entry.bytes
            entry.forget()
        self.waiting_bytes -= retired.waiting_bytes
        self._dispatched = deque(entry for entry in self._dispatched if not entry.retired)
        self._compact()

    def trim(self) -> None:
        """Let dispatched entries go, the one dispatched first before the others, until the bound is kept."""
        tries = len(self._dispatched)
        while self.bytes > self.history_bytes and tries:
            tries -= 1
            entry = self._dispatched.popleft()
            partition = self._partitions[entry.batch.partition]
            if partition.entries[0] is not entry:
                self._dispatched.append(entry)
                continue
            partition.entries.popleft()
            partition.trimmed_to = entry.sequence
            self._trimmed_to = max(self._trimmed_to, entry.sequence)
            del self._entries[entry.sequence]
            self.bytes -= entry.bytes
            entry.forget()
        self._compact()

    def statistics(self) -> HistoryStatistics:
        """A snapshot of the history."""
        return HistoryStatistics(
            entries=len(self._entries),
            bytes=self.bytes,
            waiting_bytes=self.waiting_bytes,
            waiting_records=sum(partition.waiting_records for partition in self._partitions.values()),
        )

    def _after(self, sequence: int) -> Entry | None:
        """The first entry behind a sequence, None at the head."""
        entry = self._entries.get(sequence + 1)
        if entry is not None or sequence >= self.head:
            return entry
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
