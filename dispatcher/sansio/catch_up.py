"""Where a reader continues in each partition, and what has to be looked up before the history can serve it.

Rules of this module:

* A reader's place is one vector: the next offset of each partition. Ids of replayed records are spelled from it, so
  they never name what the reader was not sent, unless it was before its start.
* The missing records of all partitions are sent before the history is read: the ids in the history name the last offset
  of every partition.
* A partition that the reader did not name begins, when the reader arrives, at the first undispatched offset; when it is
  added later, at its first record: what others take in the meantime is not skipped. To a reader of the whole topic one
  that was added after its id was spelled is added later, too, and its first record is that of the log.
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

from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import LogBounds, Lookup, OffsetsForTime, ReadRanges
from dispatcher.sansio.open_lookups import OpenLookups
from dispatcher.sansio.ranges import Bounds, Chunk, Gap, recreated
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.sansio.starts import Starts


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
        self._whole = whole
        self._counts = counts
        self.cursor = Cursor(topics, whole=whole)
        """The reader's place. Its sequence is valid while no look-up is pending."""
        self._starts = Starts(history, topics, since_ms, last, whole=whole, counts=counts)
        self._open = OpenLookups(history, self.cursor, counts=counts)
        self.pending = True
        """Whether something has to be looked up before the history can go on."""
        next_offsets = self.cursor.next_offsets = history.starts(self.cursor)
        position = self._starts.named(position, next_offsets)
        if whole or self._starts.are_named:
            self._starts.resolved.update(position)
            self._open.unresolved.update(filter(self._starts.is_unknown, next_offsets.keys() - position.keys()))
        for partition, offset in position.items():
            self._want(partition, offset + 1)
            if self._knows(partition):
                self._open.begin(partition)
        self._continue()

    def begin_earlier(self, starts: Mapping[TopicPartition, int]) -> None:
        """Begin partitions that the reader has not named at these offsets, if they are before its own."""
        for partition in [tp for tp in starts if self._knows(tp) and tp not in self._open.unresolved]:
            self._want(partition, min(starts[partition], self.cursor.next_offsets[partition]))
        self._continue()

    def ask(self) -> Lookup | None:
        """What to look up next; None when nothing is, a lookup is under way, or all that is left is put off."""
        return self._open.ask(self._starts) if self.pending else None

    @property
    def lookup(self) -> Lookup | None:
        """The one under way; see `ask`."""
        return self._open.lookup

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Partitions that had no answer may have one now."""
        self._open.put_off -= partitions

    def position(self, *, here: bool) -> dict[TopicPartition, int]:
        """The last seen offset of each partition: what an id names, but of partitions whose start is looked up.

        Args:
            here: Only partitions that are in the history.
        """
        self._history.locate(self.cursor)
        return {
            tp: next_offset - 1
            for tp, next_offset in self.cursor.next_offsets.items()
            if tp not in self._open.unresolved and (not here or self._knows(tp))
        }

    def next_offset(self, partition: TopicPartition) -> int | None:
        """The next offset of a partition, None when it has no start yet."""
        if self._knows(partition):
            # The vector names the others already. A live reader, which stays live, must not be given a whole one.
            self._history.locate(self.cursor)
        return None if partition in self._open.unresolved else self.cursor.next_offsets.get(partition)

    def missing_records(self) -> int:
        """About how many records lie between the reader and the head."""
        self._history.locate(self.cursor)
        return self._history.missing_records(self.cursor)

    def fell_behind(self) -> None:
        """The next record is no longer in memory."""
        self._history.locate(self.cursor)
        self._continue()

    @property
    def expects_partitions(self) -> bool:
        """Whether `concerns` may hold for a partition that is added to a live reader."""
        return bool(self.cursor.next_offsets) or self._starts.are_named or self._whole

    def concerns(self, partition: TopicPartition, left_at: int | None) -> bool:
        """Whether a partition that was added changes what a live reader has to be sent; see `partition_added`."""
        return (
            partition in self.cursor.next_offsets
            or self._starts.is_elsewhere(partition)
            or (left_at is not None and left_at > self._history.end(partition))
        )

    def partition_added(self, partition: TopicPartition, left_at: int | None) -> None:
        """A partition was added: a reader that is not live continues where it was, at its time, or at the first record.

        Args:
            partition: The partition.
            left_at: The next offset when it left, if this reader was there.
        """
        stood_at = self._starts.added(partition, self.cursor.next_offsets, left_at)
        self._history.locate(self.cursor)
        if self._starts.is_unknown(partition):
            self._open.unresolved.add(partition)
        if stood_at is not None and left_at is not None and left_at > self._history.end(partition):
            self._want(partition, stood_at)
            self._open.unverified[partition] = left_at
        else:
            self._open.begin(partition)
        # Otherwise all its entries are yet to be published, so the sequence is right; unless it was followed before.
        if self._whole or self.cursor.next_offsets[partition] < self._history.end(partition):
            self._continue()
        else:
            self.pending = self.pending or self._open.is_any

    def handed_over(self, partition: TopicPartition, first: int) -> None:
        """A followed partition is owned now, and what comes from an offset on was not sent to anybody who counts.

        A reader that counts, and stands after that offset because its id named it, goes back to it.
        """
        self._history.locate(self.cursor)
        if self._counts and partition not in self._open.unresolved and self.cursor.next_offsets[partition] > first:
            self._open.drop([partition])
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
                self._open.missing.add(partition)
        self.pending = self.pending or bool(self._open.missing)

    def restarted(self, partition: TopicPartition, next_offset: int | None, first: int) -> None:
        """A followed partition is owned now, and its history begins again at an offset.

        Args:
            partition: The partition, which was taken out and added.
            next_offset: Where the reader stood in it, None if that was being looked up.
            first: Where it begins.
        """
        self._history.locate(self.cursor)
        is_unresolved = partition in self._open.unresolved
        self._open.drop([partition])
        if is_unresolved:
            self._open.unresolved.add(partition)
        stands_at = first if next_offset is None else next_offset
        self._want(partition, min(stands_at, first) if self._counts else stands_at)
        self._continue()

    @property
    def has_start(self) -> bool:
        """Whether it is known where it begins in every partition, and all of them are here."""
        return self._starts.is_complete and not self._open.unresolved

    @property
    def awaits_head(self) -> bool:
        """Whether nothing is left to look up, and it waits for others to be read: see `look_again`."""
        return self.pending and not (self._starts.is_complete and self._open.is_any)

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
            if partition in self._open.unresolved or next_offsets[partition] == self._history.end(partition):
                del next_offsets[partition]
        self._open.drop(partitions)

    def partitions_removed(self) -> None:
        """Partitions have left the history: the last pending look-up may be gone with them."""
        # While another is pending, readers are not looked at: there may be ten thousand.
        self.look_again()

    def partition_recreated(self, partition: TopicPartition) -> None:
        """The topic of a partition was recreated: the reader's place in the new log is unknown."""
        self._open.drop([partition])
        self.cursor.next_offsets.pop(partition, None)
        self.partitions_removed()

    def on_offsets_for_time(self, lookup: OffsetsForTime, offsets: Mapping[TopicPartition, int | None]) -> bool:
        """Take the first offset since the time; a partition without one begins as for a new reader.

        Returns:
            Whether the lookup was still of interest.
        """
        if not self._open.accept(lookup, offsets):
            return False
        for partition in lookup.partitions & offsets.keys():
            self._open.unresolved.discard(partition)
            if not (self._whole and self._starts.is_complete):
                self._starts.resolved.add(partition)
            offset = offsets[partition]
            if offset is not None:
                self._want(partition, offset)
                self._open.lower(partition)
        self._continue()
        return True

    def on_log_bounds(self, lookup: LogBounds, bounds: Mapping[TopicPartition, Bounds]) -> list[Gap] | None:
        """Take where logs begin and end.

        Returns:
            The gaps of partitions that were recreated; None when the lookup is no longer of interest.
        """
        if not self._open.accept(lookup, bounds):
            return None
        gaps = []
        for partition in lookup.partitions & bounds.keys():
            first, end = bounds[partition]
            if self._open.unverified.pop(partition) > end:
                gaps.append(recreated(partition, self.cursor.next_offsets[partition], first))
                self._want(partition, first)
            self._open.lower(partition)
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
        if not self._open.accept(lookup, chunk.next_offsets):
            return None
        batches = chunk.with_positions(self.position(here=True))
        self.cursor.next_offsets.update(chunk.next_offsets)
        self._continue()
        return list(chunk.gaps), batches

    def _want(self, partition: TopicPartition, offset: int) -> None:
        """Continue at an offset."""
        self.cursor.next_offsets[partition] = offset

    def _continue(self) -> None:
        """Continue in the history, unless something has to be looked up before."""
        self._open.find_missing()
        self.pending = self._open.is_any
        is_complete = self._starts.have_all()
        if not self.pending and (self._whole or not self._counts):
            self.pending = not is_complete or bool(self._history.beyond(self.cursor))
        if not self.pending:
            self._history.seek(self.cursor)

    def _knows(self, partition: TopicPartition) -> bool:
        """Whether a partition is here, for this reader."""
        return self._history.knows(partition, whole=self._whole)
