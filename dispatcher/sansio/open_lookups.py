"""What a reader still has to look up, partition by partition, and the one look-up that is under way.

An answer counts only for the look-up under way. Answers are per partition: a partition without one is postponed, and
the others continue meanwhile. A partition that leaves, or is recreated, ends the look-up that includes it.
"""

from collections.abc import Collection, Iterable, Mapping

from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import LogBounds, Lookup, ReadRanges
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.repeats import Repeats
from dispatcher.sansio.starts import Starts


class OpenLookups:
    """What has to be looked up before a reader can use the history.

    Args:
        history: The history that it reads in the end.
        cursor: Its place, whose vector says what is missing.
        counts: Whether records that it is sent become dispatched.
    """

    __slots__ = (
        "_counts",
        "_cursor",
        "_history",
        "lookup",
        "missing",
        "put_off",
        "repeats",
        "unresolved",
        "unverified",
    )

    def __init__(self, history: History, cursor: Cursor, *, counts: bool = True) -> None:
        self._history = history
        self._cursor = cursor
        self._counts = counts
        self.unresolved: set[TopicPartition] = set()
        """Partitions that begin at a time whose offset is unknown. Until it is known, their next offset is that of a
        new reader."""
        self.unverified: dict[TopicPartition, int] = {}
        """Partitions that may have been recreated: if they were, their log ends before this offset."""
        self.missing: set[TopicPartition] = set()
        """Partitions whose next offset is not in memory."""
        self.put_off: set[TopicPartition] = set()
        """Partitions that had no answer when they were asked about; the others continue meanwhile."""
        self.lookup: Lookup | None = None
        """The look-up under way; see `ask`."""
        self.repeats = Repeats()
        """What the reader is sent again although its position names it."""

    @property
    def is_any(self) -> bool:
        """Whether something has to be looked up, postponed or not."""
        return bool(self.unresolved or self.unverified or self.missing)

    def ask(self, starts: Starts) -> Lookup | None:
        """Return what to look up next; None if nothing is, a look-up is under way, or the rest is postponed."""
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
        """Whether an answer belongs to the look-up under way, which it ends; postpones partitions without one."""
        if lookup is not self.lookup:
            return False
        self.lookup = None
        self.put_off |= lookup.partitions - answered.keys()
        return True

    def begin_all(self, position: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """Continue where an id says, in the partitions where a new reader would not begin at the same offset.

        A thousand readers may do this at once, and most of them have seen all of most partitions.

        Returns:
            The unfinished partitions; see `History.unfinished`. May name one more than once.
        """
        next_offsets = self._cursor.next_offsets
        start_of = next_offsets.get
        moved: dict[TopicPartition, int] = {}
        later = []
        for partition, offset in position.items():
            start = start_of(partition)
            if start != (next_offset := offset + 1):
                moved[partition] = next_offset
                if start is not None and start < next_offset:
                    later.append(partition)
        unfinished = self._history.waiting_in(next_offsets)
        unfinished += filter(next_offsets.__contains__, moved)
        next_offsets.update(moved)
        for partition in later:
            self.begin(partition)
        return unfinished

    def begin(self, partition: TopicPartition) -> None:
        """Continue in a partition of the history, if its next offset certainly belongs to this log."""
        next_offset = self._cursor.next_offsets.get(partition)
        if next_offset is not None and next_offset > self._history.end(partition):
            self.unverified[partition] = next_offset
        else:
            self.lower(partition, was_seen=True)

    def lower(self, partition: TopicPartition, *, was_seen: bool) -> None:
        """Continue no later than a new reader would, because records from there on are undispatched.

        An observer continues at its place, and so does a reader of a followed partition, whose records others dispatch.

        Args:
            partition: The partition.
            was_seen: Whether its next offset follows what the reader has seen, rather than a time that it named.
        """
        start = self._history.start(partition)
        next_offset = self._cursor.next_offsets.get(partition, start)
        if self._counts and not self._history.is_followed(partition):
            if was_seen:
                self.repeats.note(partition, start, next_offset)
            next_offset = min(next_offset, start)
        self._cursor.next_offsets[partition] = next_offset
        if next_offset < self._history.begin(partition):
            self.missing.add(partition)

    def lower_all(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Continue partitions of the history at offsets that a time led to, but no later than `lower` allows."""
        next_offsets = self._cursor.next_offsets
        next_offsets.update(offsets)
        if self._counts:
            starts, followed = self._history.starts(self._cursor), self._history.followed
            late = [tp for tp, offset in offsets.items() if offset > starts.get(tp, offset) and tp not in followed]
            next_offsets.update({tp: starts[tp] for tp in late})

    def repeat_from(self, partition: TopicPartition, first: int) -> None:
        """Continue at an offset at the latest, although the reader's position names what follows it."""
        next_offset = self._cursor.next_offsets[partition]
        self.repeats.note(partition, first, next_offset)
        self._cursor.next_offsets[partition] = min(first, next_offset)

    def find_missing(self, unfinished: Iterable[TopicPartition]) -> None:
        """Find the partitions whose next offset is not in memory, including those that were evicted meanwhile.

        Args:
            unfinished: See `History.unfinished`.
        """
        # No read starts at an unverified offset, because it may belong to another log.
        self.missing = set(self._history.behind(self._cursor, unfinished)) - self.unresolved - self.unverified.keys()

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """End all look-ups of partitions; a look-up that includes one of them is repeated without it."""
        self.unresolved.difference_update(partitions)
        self.missing.difference_update(partitions)
        self.put_off.difference_update(partitions)
        self.repeats.forget(partitions)
        for partition in partitions:
            self.unverified.pop(partition, None)
        if self.lookup is not None and not self.lookup.partitions.isdisjoint(partitions):
            self.lookup = None
