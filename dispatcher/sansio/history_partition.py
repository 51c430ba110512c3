"""One partition of the history: which of its entries are in memory, and which of them are undispatched."""

from collections import deque
from typing import cast

from dispatcher.sansio.entries import Entry
from dispatcher.sansio.head import Moment
from dispatcher.sansio.records import TopicPartition


class HistoryPartition:
    """The entries of one partition, in offset order.

    Args:
        partition: Which one.
        offset: The first offset of this assignment.
        since: The newest sequence when it was added: entries up to this one do not name it.
    """

    __slots__ = (
        "begins",
        "ends",
        "entries",
        "origin",
        "partition",
        "since",
        "waiting",
        "waiting_bytes",
        "waiting_records",
    )

    def __init__(self, partition: TopicPartition, offset: int, since: int) -> None:
        self.partition = partition
        self.since = since
        self.origin = offset
        self.begins = offset
        """The first offset that is in memory."""
        self.ends = offset
        """The offset after the last one."""
        self.entries: deque[Entry] = deque()
        self.waiting: dict[int, Entry] = {}
        """Undispatched entries, by sequence."""
        self.waiting_bytes = 0
        self.waiting_records = 0

    @property
    def first_waiting(self) -> int:
        """The first undispatched offset."""
        return next(iter(self.waiting.values())).batch.covers_from if self.waiting else self.ends

    def append(self, entry: Entry) -> None:
        """Put an undispatched entry at the end."""
        self.ends = entry.batch.next_offset
        self.entries.append(entry)
        self.waiting[entry.sequence] = entry
        self.waiting_bytes += entry.size_bytes
        self.waiting_records += entry.record_count

    def dispatched(self, entry: Entry) -> None:
        """An entry waits no longer."""
        del self.waiting[entry.sequence]
        self.waiting_bytes -= entry.size_bytes
        self.waiting_records -= entry.record_count

    def first_from(self, offset: int) -> Entry | None:
        """The first entry in memory that holds an offset or a later one; None when there is none."""
        first = None
        for entry in reversed(self.entries):
            if entry.batch.next_offset <= offset:
                break
            first = entry
        return first

    def offset_at(self, moment: Moment) -> int:
        """The newest offset at a moment; the one before its first if it was added later."""
        if moment.sequence <= self.since:
            return self.origin - 1
        return cast("int", moment.snapshot.offsets[moment.snapshot.layout.indexes[self.partition]])
