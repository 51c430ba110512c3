"""Where a reader continues in each partition, and what has to be looked up before the history can serve it.

Rules of this module:

* A reader's place is one vector: the next offset of each partition. Ids of replayed records are spelled from it, so
  they never name what the reader was not sent, unless it was before its start.
* The missing records of all partitions are sent before the history is read: the ids in the history name the last offset
  of every partition.
* A partition that the reader did not name begins, when the reader arrives, at the first undispatched offset; when it is
  added later, at its first record: what others take in the meantime is not skipped.
* Undispatched records are always sent, even those before the offset that was asked for: they could not be committed
  otherwise.
* An offset past everything in memory is unverified: the replica may not have read that far yet, or the topic was
  recreated. Only Kafka knows.
* Answers are by partition. A partition without one is put off, and the others continue meanwhile.
* A reader of the whole topic reads followed partitions, too. It is sent nothing before all of its partitions are here
  and it is known where it begins in each, so that its first id names all of them. One that counts begins a followed
  partition no later than the group's committed offset: if the partition becomes owned, it goes on from there.
* A reader that does not count (an observer) begins exactly where it asked to. It may stand after what has been read:
  it waits for that then, as one of the whole topic may whose id is newer than what is followed here.
* An answer counts only for the lookup under way. When a partition of that lookup leaves the replica, or is
  recreated, the lookup is dropped and asked again: its answer could be about another log.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.history import History
from dispatcher.sansio.ranges import Bounds, Chunk, Gap, Range
from dispatcher.sansio.records import Batch, TopicPartition


@dataclass(frozen=True, slots=True, eq=False)
class OffsetsForTime:
    """Where does a reader begin these partitions?

    Compared by identity, as each lookup is: the same one, asked later, may have another answer.
    """

    partitions: AbstractSet[TopicPartition]
    since_ms: int | None
    """What came since a time: milliseconds since the epoch, `EARLIEST` or `NOW`. None: no time was named."""
    last: int | None = None
    """The newest records of each, by number; None: no number was named."""
    committed: AbstractSet[TopicPartition] = frozenset()
    """Those of them of which the group's committed offset is the answer, if that is smaller or nothing was named."""
    exact: bool = False
    """Where nothing came since the time, the answer is the end of the log."""


@dataclass(frozen=True, slots=True, eq=False)
class LogBounds:
    """Where do the logs of these partitions begin and end?"""

    partitions: AbstractSet[TopicPartition]


@dataclass(frozen=True, slots=True, eq=False)
class ReadRanges:
    """What is the next part of these ranges?"""

    ranges: Mapping[TopicPartition, Range]

    @property
    def partitions(self) -> AbstractSet[TopicPartition]:
        """What it is about."""
        return self.ranges.keys()


Lookup = OffsetsForTime | LogBounds | ReadRanges


class CatchUp:
    """A reader's way to the history.

    Args:
        history: What it reads in the end.
        topics: What it reads.
        position: The last offset that it has seen of some partitions of these topics.
        since_ms: Where the others begin, in ms since the epoch, `EARLIEST` or `NOW`; None: as for a new reader.
        last: How many records before their ends they begin, in place of a time.
        whole: It reads the whole of its topics, followed partitions included.
        counts: What it is sent is dispatched.
    """

    def __init__(
        self,
        history: History,
        topics: frozenset[str],
        position: Mapping[TopicPartition, int],
        since_ms: int | None,
        *,
        last: int | None = None,
        whole: bool = False,
        counts: bool = True,
    ) -> None:
        self._history = history
        self._since_ms = since_ms
        self._last = last
        self._whole = whole
        self._counts = counts
        self._is_complete = not whole
        """Whether every partition of its topics was here once: one that is added after that begins at its start."""
        self.cursor = Cursor(topics, whole=whole)
        """The reader's place. Its sequence is valid while no look-up is pending."""
        self._start_unresolved: set[TopicPartition] = set()
        """Partitions that begin at a time whose offset is unknown. Until then their next offset is a new reader's."""
        self._start_resolved: set[TopicPartition] = set()
        """Partitions that were named, or began at the time: once each. Empty without a time."""
        self._unverified: dict[TopicPartition, int] = {}
        """Partitions that may have been recreated: by then their log ends before this offset."""
        self._missing: set[TopicPartition] = set()
        """Partitions whose next offset is not in memory."""
        self._put_off: set[TopicPartition] = set()
        """Partitions that had no answer when they were asked for: the others go on meanwhile."""
        self.pending = True
        """Whether something has to be looked up before the history can go on."""
        self.lookup: Lookup | None = None
        """The one under way; see `ask`."""
        next_offsets = self.cursor.next_offsets
        next_offsets.update(history.starts(self.cursor))
        if whole or self._names_start:
            self._start_resolved.update(position)
            self._start_unresolved.update(filter(self._is_start_unknown, next_offsets.keys() - position.keys()))
        for partition, offset in position.items():
            self._want(partition, offset + 1)
            if self._knows(partition):
                self._begin(partition)
        self._continue()

    def begin_earlier(self, starts: Mapping[TopicPartition, int]) -> None:
        """Begin partitions that the reader has not named at these offsets, if they are before its own."""
        next_offsets = self.cursor.next_offsets
        for partition, offset in starts.items():
            if self._knows(partition) and partition not in self._start_unresolved:
                self._want(partition, min(offset, next_offsets[partition]))
        self._continue()

    def ask(self) -> Lookup | None:
        """What to look up next; None when nothing is, a lookup is under way, or all that is left is put off."""
        if self.lookup is not None or not self.pending:
            return None
        if unresolved := self._start_unresolved - self._put_off:
            committed = frozenset(filter(self._history.is_followed, unresolved)) if self._counts else frozenset()
            self.lookup = OffsetsForTime(
                frozenset(unresolved), self._since_ms, self._last, committed, exact=not self._counts
            )
        elif unverified := self._unverified.keys() - self._put_off:
            self.lookup = LogBounds(frozenset(unverified))
        elif self._whole and not (self._is_complete and not self._start_unresolved):
            pass
        elif missing := self._missing - self._put_off:
            self.lookup = ReadRanges(
                {tp: Range(self.cursor.next_offsets[tp], self._history.begin(tp)) for tp in missing}
            )
        return self.lookup

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Partitions that had no answer may have one now."""
        self._put_off -= partitions

    def position(self, *, here: bool) -> dict[TopicPartition, int]:
        """The last seen offset of each partition: what an id names, but of partitions whose start is looked up.

        Args:
            here: Only partitions that are in the history.
        """
        self._history.locate(self.cursor)
        return {
            tp: next_offset - 1
            for tp, next_offset in self.cursor.next_offsets.items()
            if tp not in self._start_unresolved and (not here or self._knows(tp))
        }

    def next_offset(self, partition: TopicPartition) -> int | None:
        """The next offset of a partition, None when it has no start yet."""
        if self._knows(partition):
            # The vector names the others already. A live reader, which stays live, must not be given a whole one.
            self._history.locate(self.cursor)
        return None if partition in self._start_unresolved else self.cursor.next_offsets.get(partition)

    def missing_records(self) -> int:
        """About how many records lie between the reader and the head."""
        self._history.locate(self.cursor)
        ends, next_offsets = self._history.ends(self.cursor), self.cursor.next_offsets
        return sum(max(0, end - next_offsets[tp]) for tp, end in ends.items())

    def fell_behind(self) -> None:
        """The next record is no longer in memory."""
        self._history.locate(self.cursor)
        self._continue()

    @property
    def expects_partitions(self) -> bool:
        """Whether `concerns` may hold for a partition that is added to a live reader."""
        return bool(self.cursor.next_offsets) or (self._names_start and not self._whole)

    def concerns(self, partition: TopicPartition, left_at: int | None) -> bool:
        """Whether a partition that was added changes what a live reader has to be sent; see `partition_added`."""
        return (
            partition in self.cursor.next_offsets
            or self._is_start_unknown(partition)
            or (left_at is not None and left_at > self._history.end(partition))
        )

    def partition_added(self, partition: TopicPartition, left_at: int | None) -> None:
        """A partition was added: a reader that is not live continues where it was, at its time, or at the first record.

        Args:
            partition: The partition.
            left_at: The next offset when it left, if this reader was there.
        """
        stood_at = self.cursor.next_offsets.get(partition, left_at)
        self._history.locate(self.cursor)
        if self._is_start_unknown(partition):
            self._start_unresolved.add(partition)
        if stood_at is not None and left_at is not None and left_at > self._history.end(partition):
            self._want(partition, stood_at)
            self._unverified[partition] = left_at
        else:
            self._begin(partition)
        # Otherwise all its entries are yet to be published, so the sequence is right; unless it was followed before.
        if self._whole or self.cursor.next_offsets[partition] < self._history.end(partition):
            self._continue()
        else:
            self.pending = self.pending or bool(self._start_unresolved or self._unverified or self._missing)

    def handed_over(self, partition: TopicPartition, first: int) -> None:
        """A followed partition is owned now, and what comes from an offset on was not sent to anybody who counts.

        A reader that counts, and stands after that offset because its id named it, goes back to it.
        """
        self._history.locate(self.cursor)
        if self._counts and partition not in self._start_unresolved and self.cursor.next_offsets[partition] > first:
            self._drop([partition])
            self._want(partition, first)
            self._continue()

    def go_back(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """What was looked up was not sent: it is looked up again.

        Args:
            next_offsets: The first offset of each partition that was not sent.
        """
        self._history.locate(self.cursor)
        for partition, offset in next_offsets.items():
            self._want(partition, offset)
            if self._knows(partition) and offset < self._history.begin(partition):
                self._missing.add(partition)
        self.pending = self.pending or bool(self._missing)

    def restarted(self, partition: TopicPartition, next_offset: int | None, first: int) -> None:
        """A followed partition is owned now, and its history begins again at an offset.

        Args:
            partition: The partition, which was taken out and added.
            next_offset: Where the reader stood in it, None if that was being looked up.
            first: Where it begins.
        """
        self._history.locate(self.cursor)
        is_unresolved = partition in self._start_unresolved
        self._drop([partition])
        if is_unresolved:
            self._start_unresolved.add(partition)
        stands_at = first if next_offset is None else next_offset
        self._want(partition, min(stands_at, first) if self._counts else stands_at)
        self._continue()

    @property
    def has_start(self) -> bool:
        """Whether it is known where it begins in every partition, and all of them are here."""
        return self._is_complete and not self._start_unresolved

    @property
    def awaits_head(self) -> bool:
        """Whether nothing is left to look up, and it waits for others to be read: see `look_again`."""
        looks_up = self._start_unresolved or self._unverified or self._missing
        return self.pending and not (self._is_complete and looks_up)

    def look_again(self) -> None:
        """More has been read of some partition, or more partitions are here."""
        if self.awaits_head:
            self._continue()

    def partitions_removing(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions are about to leave: a reader that is not live is sent what it is owed of them when they return.

        It is owed what was read here and not handed to it, and what its id named and was never seen here.
        """
        self._history.locate(self.cursor)
        next_offsets = self.cursor.next_offsets
        for partition in partitions:
            if partition not in next_offsets or not self._knows(partition):
                continue
            if partition in self._start_unresolved or next_offsets[partition] == self._history.end(partition):
                del next_offsets[partition]
        self._drop(partitions)

    def partitions_removed(self) -> None:
        """Partitions have left the history: the last pending look-up may be gone with them."""
        # While another is pending, readers are not looked at: there may be ten thousand.
        self.look_again()

    def partition_recreated(self, partition: TopicPartition) -> None:
        """The topic of a partition was recreated: the reader's place in the new log is unknown."""
        self._drop([partition])
        self.cursor.next_offsets.pop(partition, None)
        self.partitions_removed()

    def on_offsets_for_time(self, lookup: OffsetsForTime, offsets: Mapping[TopicPartition, int | None]) -> bool:
        """Take the first offset since the time; a partition without one begins as for a new reader.

        Returns:
            Whether the lookup was still of interest.
        """
        if not self._accept(lookup, offsets):
            return False
        for partition in lookup.partitions & offsets.keys():
            self._start_unresolved.discard(partition)
            if not (self._whole and self._is_complete):
                self._start_resolved.add(partition)
            offset = offsets[partition]
            if offset is not None:
                self._want(partition, offset)
                self._lower(partition)
        self._continue()
        return True

    def on_log_bounds(self, lookup: LogBounds, bounds: Mapping[TopicPartition, Bounds]) -> list[Gap] | None:
        """Take where logs begin and end.

        Returns:
            The gaps of partitions that were recreated; None when the lookup is no longer of interest.
        """
        if not self._accept(lookup, bounds):
            return None
        gaps = []
        for partition in lookup.partitions & bounds.keys():
            first, end = bounds[partition]
            if self._unverified.pop(partition) > end:
                gaps.append(recreated(partition, self.cursor.next_offsets[partition], first))
                self._want(partition, first)
            self._lower(partition)
        self._continue()
        return gaps

    def on_chunk(
        self, lookup: ReadRanges, chunk: Chunk
    ) -> tuple[list[Gap], list[tuple[Batch, Mapping[TopicPartition, int]]]] | None:
        """Take what was read.

        Returns:
            Gaps, then batches, each with the last seen offset of every partition as of that batch; None when the
            lookup is no longer of interest.
        """
        if not self._accept(lookup, chunk.next_offsets):
            return None
        seen = self.position(here=True)
        batches: list[tuple[Batch, Mapping[TopicPartition, int]]] = []
        for batch in chunk.batches:
            seen[batch.partition] = batch.next_offset - 1
            batches.append((batch, dict(seen)))
        self.cursor.next_offsets.update(chunk.next_offsets)
        self._continue()
        return list(chunk.gaps), batches

    def _accept(self, lookup: Lookup, answered: Mapping[TopicPartition, object]) -> bool:
        """Whether an answer is to the lookup under way, which it ends; what it leaves out is put off."""
        if lookup is not self.lookup:
            return False
        self.lookup = None
        self._put_off |= lookup.partitions - answered.keys()
        return True

    def _want(self, partition: TopicPartition, offset: int) -> None:
        """Continue at an offset."""
        self.cursor.next_offsets[partition] = offset

    def _begin(self, partition: TopicPartition) -> None:
        """Continue in a partition of the history, if its next offset is certainly one of this log."""
        next_offset = self.cursor.next_offsets.get(partition)
        if next_offset is not None and next_offset > self._history.end(partition):
            self._unverified[partition] = next_offset
        else:
            self._lower(partition)

    def _lower(self, partition: TopicPartition) -> None:
        """Continue no later than a new reader would: from there on, records are undispatched.

        An observer continues at its place, and so does a reader of a followed partition, which others dispatch.
        """
        start = self._history.start(partition)
        next_offset = self.cursor.next_offsets.get(partition, start)
        if self._counts and not self._history.is_followed(partition):
            next_offset = min(next_offset, start)
        self.cursor.next_offsets[partition] = next_offset
        if next_offset < self._history.begin(partition):
            self._missing.add(partition)

    def _drop(self, partitions: Collection[TopicPartition]) -> None:
        """End all look-ups of partitions; a lookup that includes one of them is made again, without it."""
        self._start_unresolved.difference_update(partitions)
        self._missing.difference_update(partitions)
        self._put_off.difference_update(partitions)
        for partition in partitions:
            self._unverified.pop(partition, None)
        if self.lookup is not None and not self.lookup.partitions.isdisjoint(partitions):
            self.lookup = None

    def _continue(self) -> None:
        """Continue in the history, unless something has to be looked up before."""
        # Also what has left the memory meanwhile. No read starts at an unverified offset: it may be one of another log.
        self._missing = set(self._history.behind(self.cursor)) - self._start_unresolved - self._unverified.keys()
        self.pending = bool(self._start_unresolved or self._unverified or self._missing)
        is_complete = self._has_all()
        if not self.pending and (self._whole or not self._counts):
            self.pending = not is_complete or bool(self._history.beyond(self.cursor))
        if not self.pending:
            self._history.seek(self.cursor)

    def _has_all(self) -> bool:
        """Whether every partition of its topics is here, or was once."""
        if not self._is_complete and self._history.is_complete(self.cursor.topics):
            self._is_complete = True
            # What is added from now on begins at its start: a live reader keeps nothing for each partition.
            self._start_resolved.clear()
        return self._is_complete

    def _knows(self, partition: TopicPartition) -> bool:
        """Whether a partition is here, for this reader."""
        return self._history.knows(partition, whole=self._whole)

    @property
    def _names_start(self) -> bool:
        return self._since_ms is not None or self._last is not None

    def _is_start_unknown(self, partition: TopicPartition) -> bool:
        """Whether where it begins in a partition has to be looked up."""
        if partition in self._start_resolved:
            return False
        if self._whole:
            return not self._is_complete and (self._names_start or self._history.is_followed(partition))
        return self._names_start


def recreated(partition: TopicPartition, next_offset: int, first_offset: int) -> Gap:
    """The gap to send when a topic was recreated: nothing lies between the old next offset and the new log's first."""
    return Gap(partition, next_offset, first_offset - 1, "recreated")
