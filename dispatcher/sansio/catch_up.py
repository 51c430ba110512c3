"""Where a reader continues in each partition, and what has to be looked up before the history can serve it.

Rules of this module:

* A reader's place is one vector: the next offset of each partition. The ids of replayed records are made from it, so
  they never cover records that the reader was not sent, except those before its start.
* The missing records of all partitions are sent before the history is read, because ids in the history name the last
  offset of every partition.
* A partition that the reader did not name begins at the first undispatched offset as of the reader's arrival. A
  partition that is added later begins at its first record, so that records that others take in the meantime are not
  skipped. For a reader of the whole topic, a partition that was created after its id was made counts as added later,
  and its first record is the first of its log.
* Undispatched records are always sent, even those before the requested offset: otherwise they could not be committed.
* An offset past everything in memory is unverified: the replica may not have read that far yet, or the topic was
  recreated. Only Kafka knows.
* Answers are per partition. A partition without an answer is postponed, and the others continue meanwhile.
* A reader of the whole topic also reads followed partitions. It is sent nothing until all of its partitions are here
  and each has a start, so that its first id names all of them. If it counts, it begins a followed partition no later
  than at the group's committed offset, because it continues from there if the partition becomes owned.
* A reader that does not count (an observer) begins exactly where it asked to. That may be past what has been read: it
  then waits, as a reader of the whole topic does whose id is newer than what is followed here.
* An answer counts only for the look-up under way. When a partition of the look-up leaves the replica, or is recreated,
  the look-up is dropped and repeated, because its answer could be about another log.
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
    """Takes one reader to the history.

    Args:
        history: The history that the reader reads in the end.
        topics: The reader's topics.
        position: The last offset that it has seen, for some partitions of these topics.
        since_ms: Where the others begin, in ms since the epoch, `EARLIEST` or `NOW`; None: as for a new reader.
        last: How many records before their ends the other partitions begin, instead of at a time.
        whole: Whether it reads the whole of its topics, followed partitions included.
        counts: Whether records that it is sent become dispatched.
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
        """The reader's place. Its sequence is valid only while no look-up is pending."""
        self._starts = Starts(history, topics, since_ms, last, whole=whole, counts=counts)
        self._open = OpenLookups(history, self.cursor, counts=counts)
        self.repeats = self._open.repeats
        """What it is sent again although its position names it."""
        self.pending = True
        """Whether something has to be looked up before the history can continue."""
        next_offsets = self.cursor.next_offsets = history.starts(self.cursor)
        if whole or self._starts.are_named:
            here = set(next_offsets)
            position = self._starts.named(position, here)
            self._starts.resolved.update(position)
            self._open.unresolved.update(self._starts.unknown_of(here.difference(position)))
        self._continue(self._open.begin_all(position))

    def begin_earlier(self, starts: Mapping[TopicPartition, int]) -> None:
        """Move the starts of partitions that the reader has not named back to these offsets, if they are earlier."""
        for partition in [tp for tp in starts if self._knows(tp) and tp not in self._open.unresolved]:
            self._want(partition, min(starts[partition], self.cursor.next_offsets[partition]))
        self._continue()

    def ask(self) -> Lookup | None:
        """Return what to look up next; None if nothing is, a look-up is under way, or the rest is postponed."""
        return self._open.ask(self._starts) if self.pending else None

    @property
    def lookup(self) -> Lookup | None:
        """The look-up under way; see `ask`."""
        return self._open.lookup

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Note that partitions without an answer may have one now."""
        self._open.put_off -= partitions

    def position(self, *, here: bool) -> dict[TopicPartition, int]:
        """Return the last seen offset of each partition for an id, except where the start is being looked up.

        Args:
            here: Whether to leave out partitions that are not in the history.
        """
        self._history.locate(self.cursor)
        return {
            tp: next_offset - 1
            for tp, next_offset in self.cursor.next_offsets.items()
            if tp not in self._open.unresolved and (not here or self._knows(tp))
        }

    def next_offset(self, partition: TopicPartition) -> int | None:
        """Return the next offset of a partition; None if it has no start yet."""
        if self._knows(partition):
            # The vector already names the other partitions. A live reader must not be given a whole vector.
            self._history.locate(self.cursor)
        return None if partition in self._open.unresolved else self.cursor.next_offsets.get(partition)

    def missing_records(self) -> int:
        """Return about how many records lie between the reader and the head."""
        self._history.locate(self.cursor)
        return self._history.missing_records(self.cursor)

    def fell_behind(self) -> None:
        """Note that the next record is no longer in memory."""
        self._history.locate(self.cursor)
        self._continue()

    @property
    def expects_partitions(self) -> bool:
        """Whether `concerns` can be true for a partition that is added to a live reader."""
        return bool(self.cursor.next_offsets) or self._starts.are_named or self._whole

    def concerns(self, partition: TopicPartition, left_at: int | None) -> bool:
        """Whether an added partition changes what a live reader has to be sent; see `partition_added`."""
        return (
            partition in self.cursor.next_offsets
            or self._starts.is_elsewhere(partition)
            or (left_at is not None and left_at > self._history.end(partition))
        )

    def partition_added(self, partition: TopicPartition, left_at: int | None) -> None:
        """Add a partition; a reader that is not live continues where it was, at its time, or at the first record.

        Args:
            partition: The partition.
            left_at: The next offset when the partition left, if this reader was there.
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
        # Otherwise all its entries are still to be published, so the sequence is right, unless it was followed before.
        if self._whole or self.cursor.next_offsets[partition] < self._history.end(partition):
            self._continue()
        else:
            self.pending = self.pending or self._open.is_any

    def handed_over(self, partition: TopicPartition, first: int) -> None:
        """Note that a followed partition is owned now; from an offset on, its records were sent to nobody who counts.

        A reader that counts and whose id named later records goes back to that offset.
        """
        self._history.locate(self.cursor)
        if self._counts and partition not in self._open.unresolved and self.cursor.next_offsets[partition] > first:
            self._open.drop([partition])
            self._open.repeat_from(partition, first)
            self._continue()

    def go_back(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Go back: what was looked up was not sent, so it is looked up again.

        Args:
            next_offsets: The first offset that was not sent, per partition.
        """
        self._history.locate(self.cursor)
        for partition, offset in next_offsets.items():
            self._want(partition, offset)
            if self._knows(partition) and offset < self._history.begin(partition):
                self._open.missing.add(partition)
        self.pending = self.pending or bool(self._open.missing)

    def restarted(self, partition: TopicPartition, next_offset: int | None, first: int) -> None:
        """Note that a followed partition is owned now, and that its history begins again at an offset.

        Args:
            partition: The partition, which was removed and added.
            next_offset: The reader's next offset in it; None if that was being looked up.
            first: Where its history begins.
        """
        self._history.locate(self.cursor)
        is_unresolved = partition in self._open.unresolved
        self._open.drop([partition])
        if is_unresolved:
            self._open.unresolved.add(partition)
        self._want(partition, first if next_offset is None else next_offset)
        if self._counts:
            self._open.repeat_from(partition, first)
        self._continue()

    @property
    def has_start(self) -> bool:
        """Whether the start in every partition is known, and all of them are here."""
        return self._starts.is_complete and not self._open.unresolved

    @property
    def awaits_head(self) -> bool:
        """Whether nothing is left to look up and the reader waits for records to be read; see `look_again`."""
        return self.pending and not (self._starts.is_complete and self._open.is_any)

    def look_again(self) -> None:
        """Note that some partition was read further, or that partitions were added."""
        if self.awaits_head:
            self._continue()

    def partitions_removing(self, partitions: Collection[TopicPartition]) -> None:
        """Note that partitions are about to leave; a reader that is not live is sent the rest when they return.

        The rest is what was read here and not handed to it, and what its id named and was never read here.
        """
        self._history.locate(self.cursor)
        next_offsets = self.cursor.next_offsets
        for partition in filter(self._knows, next_offsets.keys() & partitions):
            if partition in self._open.unresolved or next_offsets[partition] == self._history.end(partition):
                del next_offsets[partition]
        self._open.drop(partitions)

    def partitions_removed(self) -> None:
        """Note that partitions have left the history: the last pending look-up may have gone with them."""
        # While a look-up is pending, the others are not checked: there may be ten thousand readers.
        self.look_again()

    def partition_recreated(self, partition: TopicPartition) -> None:
        """Note that the topic of a partition was recreated: the reader's place in the new log is unknown."""
        self._open.drop([partition])
        self.cursor.next_offsets.pop(partition, None)
        self.partitions_removed()

    def on_offsets_for_time(self, lookup: OffsetsForTime, offsets: Mapping[TopicPartition, int | None]) -> bool:
        """Take the first offsets since a time; a partition without one begins as for a new reader.

        Returns:
            Whether the look-up was still wanted.
        """
        if not self._open.accept(lookup, offsets):
            return False
        answered = lookup.partitions & offsets.keys()
        self._open.unresolved -= answered
        if not (self._whole and self._starts.is_complete):
            self._starts.resolved |= answered
        self._open.lower_all({tp: offset for tp in answered if (offset := offsets[tp]) is not None})
        self._continue()
        return True

    def on_log_bounds(self, lookup: LogBounds, bounds: Mapping[TopicPartition, Bounds]) -> list[Gap] | None:
        """Take the bounds of logs.

        Returns:
            The gaps of partitions that were recreated; None if the look-up is no longer wanted.
        """
        if not self._open.accept(lookup, bounds):
            return None
        gaps = []
        for partition in lookup.partitions & bounds.keys():
            first, end = bounds[partition]
            if is_recreated := self._open.unverified.pop(partition) > end:
                gaps.append(recreated(partition, self.cursor.next_offsets[partition], first))
                self._want(partition, first)
            self._open.lower(partition, was_seen=not is_recreated)
        self._continue()
        return gaps

    def on_chunk(
        self, lookup: ReadRanges, chunk: Chunk
    ) -> tuple[list[Gap], list[tuple[Batch, Mapping[TopicPartition, int]]]] | None:
        """Take what was read from Kafka.

        Returns:
            Gaps, then batches, each with the last seen offset of every partition as of that batch; None if the look-up
            is no longer wanted.
        """
        if not self._open.accept(lookup, chunk.next_offsets):
            return None
        batches = chunk.with_positions(self.position(here=True))
        self.cursor.next_offsets.update(chunk.next_offsets)
        self.cursor.named_to = max(self.cursor.named_to, self._history.trimmed_to)
        self._continue()
        return list(chunk.gaps), batches

    def _want(self, partition: TopicPartition, offset: int) -> None:
        """Continue a partition at an offset."""
        self.cursor.next_offsets[partition] = offset

    def _continue(self, unfinished: Collection[TopicPartition] | None = None) -> None:
        """Continue in the history, unless something has to be looked up first; see `History.unfinished`."""
        if unfinished is None:
            unfinished = self._history.unfinished(self.cursor)
        self._open.find_missing(unfinished)
        self.pending = self._open.is_any
        is_complete = self._starts.have_all()
        if not self.pending and (self._whole or not self._counts):
            self.pending = not is_complete or self._history.is_beyond(self.cursor, unfinished)
        if not self.pending:
            self._history.seek(self.cursor, unfinished)

    def _knows(self, partition: TopicPartition) -> bool:
        """Whether a partition is here for this reader."""
        return self._history.knows(partition, whole=self._whole)
