"""What a reader still has to look up, partition by partition, and the one lookup that is under way.

An answer counts only for the lookup under way. It is by partition: what it leaves out is put off, and the others
continue meanwhile. A partition that leaves, or is recreated, ends the lookup that includes it.
"""

from collections.abc import Collection, Mapping

from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import LogBounds, Lookup, ReadRanges
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.starts import Starts


class OpenLookups:
    """What lies between a reader and the history.

    Args:
        history: What it reads in the end.
        cursor: Its place, whose vector says what is missing.
        counts: What it is sent is dispatched.
    """

    __slots__ = ("_counts", "_cursor", "_history", "lookup", "missing", "put_off", "unresolved", "unverified")

    def __init__(self, history: History, cursor: Cursor, *, counts: bool = True) -> None:
        self._history = history
        self._cursor = cursor
        self._counts = counts
        self.unresolved: set[TopicPartition] = set()
        """Partitions that begin at a time whose offset is unknown. Until then their next offset is a new reader's."""
        self.unverified: dict[TopicPartition, int] = {}
        """Partitions that may have been recreated: by then their log ends before this offset."""
        self.missing: set[TopicPartition] = set()
        """Partitions whose next offset is not in memory."""
        self.put_off: set[TopicPartition] = set()
        """Partitions that had no answer when they were asked for: the others go on meanwhile."""
        self.lookup: Lookup | None = None
        """The one under way; see `ask`."""

    @property
    def is_any(self) -> bool:
        """Whether something has to be looked up, put off or not."""
        return bool(self.unresolved or self.unverified or self.missing)

    def ask(self, starts: Starts) -> Lookup | None:
        """What to look up next; None when nothing is, a lookup is under way, or all that is left is put off."""
        if self.lookup is not None:
            return None
        if unresolved := self.unresolved - self.put_off:
            self.lookup = starts.lookup(unresolved)
        elif unverified := self.unverified.keys() - self.put_off:
            self.lookup = LogBounds(frozenset(unverified))
        elif starts.whole and not (starts.is_complete and not self.unresolved):
            pass
        elif missing := self.missing - self.put_off:
            next_offsets, begin = self._cursor.next_offsets, self._history.begin
            self.lookup = ReadRanges({tp: Range(next_offsets[tp], begin(tp)) for tp in missing})
        return self.lookup

    def accept(self, lookup: Lookup, answered: Mapping[TopicPartition, object]) -> bool:
        """Whether an answer is to the lookup under way, which it ends; what it leaves out is put off."""
        if lookup is not self.lookup:
            return False
        self.lookup = None
        self.put_off |= lookup.partitions - answered.keys()
        return True

    def begin(self, partition: TopicPartition) -> None:
        """Continue in a partition of the history, if its next offset is certainly one of this log."""
        next_offset = self._cursor.next_offsets.get(partition)
        if next_offset is not None and next_offset > self._history.end(partition):
            self.unverified[partition] = next_offset
        else:
            self.lower(partition)

    def lower(self, partition: TopicPartition) -> None:
        """Continue no later than a new reader would: from there on, records are undispatched.

        An observer continues at its place, and so does a reader of a followed partition, which others dispatch.
        """
        start = self._history.start(partition)
        next_offset = self._cursor.next_offsets.get(partition, start)
        if self._counts and not self._history.is_followed(partition):
            next_offset = min(next_offset, start)
        self._cursor.next_offsets[partition] = next_offset
        if next_offset < self._history.begin(partition):
            self.missing.add(partition)

    def find_missing(self) -> None:
        """Find the partitions whose next offset is not in memory, also those that have left it meanwhile."""
        # No read starts at an unverified offset: it may be one of another log.
        self.missing = set(self._history.behind(self._cursor)) - self.unresolved - self.unverified.keys()

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """End all look-ups of partitions; a lookup that includes one of them is made again, without it."""
        self.unresolved.difference_update(partitions)
        self.missing.difference_update(partitions)
        self.put_off.difference_update(partitions)
        for partition in partitions:
            self.unverified.pop(partition, None)
        if self.lookup is not None and not self.lookup.partitions.isdisjoint(partitions):
            self.lookup = None
