"""One partition of the history: which entries are in memory, and which of them are undispatched."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from itertools import dropwhile, islice
from operator import attrgetter
from typing import cast

from dispatcher.sansio.entries import Entry
from dispatcher.sansio.head import Moment
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.records import TopicPartition

_next_offset: Callable[[Entry], int] = attrgetter("batch.next_offset")


class HistoryPartition:
    """The entries of one partition, in offset order.

    Args:
        partition: The partition.
        offset: The first offset of this assignment.
        since: The newest sequence when the partition was added: entries up to this one do not name it.
        is_followed: Whether it is read without being owned.
    """

    __slots__ = (
        "begins",
        "detached",
        "ends",
        "entries",
        "is_followed",
        "kept",
        "origin",
        "partition",
        "pinned",
        "since",
        "waiting",
        "waiting_bytes",
        "waiting_records",
    )

    def __init__(self, partition: TopicPartition, offset: int, since: int, *, is_followed: bool = False) -> None:
        self.partition = partition
        self.since = since
        self.origin = offset
        self.begins = offset
        """The first offset from which on everything is in memory."""
        self.ends = offset
        """The offset after the last one in memory."""
        self.is_followed = is_followed
        """Whether it is read without being owned, for readers of the whole topic: its entries wait for nothing."""
        self.entries: deque[Entry] = deque()
        """The entries from there on."""
        self.kept: deque[Entry] = deque()
        """Those of them that cannot be evicted: the first one that waits, and all after it."""
        self.pinned = 0
        """How many of these do not wait."""
        self.detached: list[Entry] = []
        """Entries before `begins` that still wait; see `eviction`."""
        self.waiting: dict[int, Entry] = {}
        """Undispatched entries, by sequence, detached ones included."""
        self.waiting_bytes = 0
        self.waiting_records = 0

    @property
    def first_waiting(self) -> int:
        """The first undispatched offset."""
        return next(iter(self.waiting.values())).first_pending if self.waiting else self.ends

    def some_from(self, entry: Entry, number: int) -> list[Entry]:
        """Return an entry and those that follow it, at most this many in all."""
        start = bisect_right(self.entries, entry.batch.next_offset - 1, key=_next_offset)
        return list(islice(self.entries, start, start + number))

    def append(self, entry: Entry) -> None:
        """Append an undispatched entry."""
        self.ends = entry.batch.next_offset
        self.entries.append(entry)
        entry.waiting = not self.is_followed
        if entry.waiting:
            self.kept.append(entry)
            self._wait(entry)

    def _wait(self, entry: Entry) -> None:
        self.waiting[entry.sequence] = entry
        self.waiting_bytes += entry.size_bytes
        self.waiting_records += entry.record_count

    def wait_no_longer(self, evictable: "Evictable") -> list[Entry]:
        """Make the partition followed; returns the entries that were detached."""
        self.is_followed = True
        for entry in self.waiting.values():
            entry.waiting = False
        self.waiting.clear()
        self.waiting_bytes = self.waiting_records = 0
        self._unpin(evictable)
        self.pinned = 0
        detached, self.detached = self.detached, []
        return detached

    def wait_again(self, epoch: int, hand_over: HandOver) -> None:
        """Make the partition owned: from the committed offset on, what was sent to nobody waits in this epoch."""
        self.is_followed = False
        covers_from = self.begins
        for entry in self.entries:
            batch = entry.batch
            if batch.next_offset > hand_over.begins:
                batch.epoch = epoch
                # Not what it was: an earlier hand-over may have begun within the batch, and later than this one.
                batch.covers_from = max(covers_from, hand_over.begins)
                entry.dispatched = hand_over.counts(batch.covers_from, batch.next_offset)
                entry.waiting = not entry.dispatched
                entry.parked = False
                if entry.waiting:
                    # Filters may have left out records between those that count.
                    entry.pending = hand_over.pending(batch)
                    self._wait(entry)
            covers_from = batch.next_offset
        self.kept = deque(dropwhile(lambda entry: not entry.waiting, self.entries))
        self.pinned = len(self.kept) - len(self.waiting)

    def is_detached(self, entry: Entry) -> bool:
        """Whether a waiting entry is detached."""
        return entry.batch.next_offset <= self.begins

    def release(self, entry: Entry, evictable: "Evictable") -> None:
        """Note that an entry no longer waits."""
        entry.waiting = False
        del self.waiting[entry.sequence]
        self.waiting_bytes -= entry.size_bytes
        self.waiting_records -= entry.record_count
        if self.is_detached(entry):
            del self.detached[bisect_right(self.detached, entry.batch.next_offset - 1, key=_next_offset)]
            return
        self.pinned += 1
        self._unpin(evictable)

    def detach(self, evictable: "Evictable") -> None:
        """Detach the first entry, which waits."""
        self.detached.append(self.kept.popleft())
        self.evict()
        self._unpin(evictable)

    def evict(self) -> None:
        """Drop the first entry."""
        self.begins = self.entries.popleft().batch.next_offset

    def _unpin(self, evictable: "Evictable") -> None:
        """Add the entries that can be evicted now."""
        kept = self.kept
        while kept and not kept[0].waiting:
            evictable.append((self, kept.popleft()))
            self.pinned -= 1

    def waiting_between(self, first: int, end: int) -> list[Entry]:
        """Return the undispatched entries with offsets from the first to the end (exclusive)."""
        found: list[Entry] = []
        for entry in islice(self.detached, bisect_right(self.detached, first, key=_next_offset), None):
            if entry.batch.covers_from >= end:
                return found
            found.append(entry)
        at = self._place(first)
        while at < len(self.entries) and (entry := self.entries[at]).batch.covers_from < end:
            if entry.waiting:
                found.append(entry)
            at += 1
        return found

    def first_from(self, offset: int) -> Entry | None:
        """Return the first entry in memory that holds this offset or a later one; None if there is none."""
        entries = self.entries
        if not entries or entries[-1].batch.next_offset <= offset:
            return None
        if entries[0].batch.next_offset > offset:
            return entries[0]
        # Most readers miss only the last one.
        return entries[-1] if entries[-2].batch.next_offset <= offset else entries[self._place(offset)]

    def _place(self, offset: int) -> int:
        """Return the index of that entry. A binary search: a linear one through a long backlog takes milliseconds."""
        return bisect_right(self.entries, offset, key=_next_offset)

    def offset_at(self, moment: Moment) -> int:
        """Return the newest offset at a moment; the one before the first offset if the partition was added later."""
        if moment.sequence <= self.since:
            return self.origin - 1
        return cast("int", moment.snapshot.offset(moment.snapshot.layout.indexes[self.partition]))


Evictable = deque[tuple[HistoryPartition, Entry]]
"""Entries that can be evicted, each with its partition, whose entries are in offset order."""
