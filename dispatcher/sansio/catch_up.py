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
    """From which offset on do these partitions hold what came since a time?

    Compared by identity, as each lookup is: the same one, asked later, may have another answer.
    """

    partitions: AbstractSet[TopicPartition]
    since_ms: int
    """Milliseconds since the epoch, or `EARLIEST`."""


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
        since_ms: Where the others begin, in ms since the epoch, or `EARLIEST`; None: as for a new reader.
    """

    def __init__(
        self, history: History, topics: frozenset[str], position: Mapping[TopicPartition, int], since_ms: int | None
    ) -> None:
        self._history = history
        self._since_ms = since_ms
        self.cursor = Cursor(topics)
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
        next_offsets.update(history.starts(topics))
        if since_ms is not None:
            self._start_resolved.update(position)
            self._start_unresolved.update(next_offsets.keys() - position.keys())
        for partition, offset in position.items():
            self._want(partition, offset + 1)
            if history.knows(partition):
                self._begin(partition)
        self._continue()

    def ask(self) -> Lookup | None:
        """What to look up next; None when nothing is, a lookup is under way, or all that is left is put off."""
        if self.lookup is not None or not self.pending:
            return None
        if self._since_ms is not None and (unresolved := self._start_unresolved - self._put_off):
            self.lookup = OffsetsForTime(frozenset(unresolved), self._since_ms)
        elif unverified := self._unverified.keys() - self._put_off:
            self.lookup = LogBounds(frozenset(unverified))
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
            if tp not in self._start_unresolved and (not here or self._history.knows(tp))
        }

    def next_offset(self, partition: TopicPartition) -> int | None:
        """The next offset of a partition, None when it has no start yet."""
        if self._history.knows(partition):
            # The vector names the others already. A live reader, which stays live, must not be given a whole one.
            self._history.locate(self.cursor)
        return None if partition in self._start_unresolved else self.cursor.next_offsets.get(partition)

    def missing_records(self) -> int:
        """About how many records lie between the reader and the head."""
        self._history.locate(self.cursor)
        ends, next_offsets = self._history.ends(self.cursor.topics), self.cursor.next_offsets
        return sum(max(0, end - next_offsets[tp]) for tp, end in ends.items())

    def fell_behind(self) -> None:
        """The next record is no longer in memory."""
        self._history.locate(self.cursor)
        self._continue()

    @property
    def expects_partitions(self) -> bool:
        """Whether `concerns` may hold for a partition that is added to a live reader."""
        return bool(self.cursor.next_offsets) or self._since_ms is not None

    def concerns(self, partition: TopicPartition, left_at: int | None) -> bool:
        """Whether a partition that was added changes what a live reader has to be sent; see `partition_added`."""
        return (
            partition in self.cursor.next_offsets
            or self._begins_at_time(partition)
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
        if self._begins_at_time(partition):
            self._start_unresolved.add(partition)
        if stood_at is not None and left_at is not None and left_at > self._history.end(partition):
            self._want(partition, stood_at)
            self._unverified[partition] = left_at
        else:
            self._begin(partition)
        # Otherwise all its entries are yet to be published, so the sequence is right.
        self.pending = self.pending or bool(self._start_unresolved or self._unverified or self._missing)

    def partitions_removing(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions are about to leave: a reader that is not live is sent what it is owed of them when they return.

        It is owed what was read here and not handed to it, and what its id named and was never seen here.
        """
        self._history.locate(self.cursor)
        next_offsets = self.cursor.next_offsets
        for partition in partitions:
            if partition not in next_offsets or not self._history.knows(partition):
                continue
            if partition in self._start_unresolved or next_offsets[partition] == self._history.end(partition):
                del next_offsets[partition]
        self._drop(partitions)

    def partitions_removed(self) -> None:
        """Partitions have left the history: the last pending look-up may be gone with them."""
        # While another is pending, readers are not looked at: there may be ten thousand.
        if self.pending and not (self._start_unresolved or self._unverified or self._missing):
            self._continue()

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
        """Continue no later than a new reader would: from there on, records are undispatched."""
        start = self._history.start(partition)
        next_offset = min(self.cursor.next_offsets.get(partition, start), start)
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
        if not self.pending:
            self._history.seek(self.cursor)

    def _begins_at_time(self, partition: TopicPartition) -> bool:
        return self._since_ms is not None and partition not in self._start_resolved


def recreated(partition: TopicPartition, next_offset: int, first_offset: int) -> Gap:
    """The gap to send when a topic was recreated: nothing lies between the old next offset and the new log's first."""
    return Gap(partition, next_offset, first_offset - 1, "recreated")
