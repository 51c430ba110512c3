"""Records replayed from Kafka for one subscriber, until its socket takes them, and which of those records count.

Records sent from the history are counted by their entries. Replayed records have no entries: this module counts the
offsets that they cover, in followed partitions, among parked records, and where undispatched records precede what is
handed out from memory, and reports them once the records are sent.

*Thread*: Trio's.
"""

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed import Feed
from dispatcher.hub.parking import ParkedRead, gap_reads, reads
from dispatcher.sansio.entries import Selection, covered
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import ReadRanges
from dispatcher.sansio.ranges import Chunk, Gap
from dispatcher.sansio.records import Batch, TopicPartition


class Replayed:
    """Encodes replayed records, and counts them.

    Args:
        history: Knows what is followed and what is parked.
        encoder: Makes the bytes of records.
        feed: What the subscriber asked for.
    """

    def __init__(self, history: History, encoder: Encoder, feed: Feed) -> None:
        self.record_count = 0
        """The number of replayed records."""
        self._history = history
        self._encoder = encoder
        self._feed = feed
        self._replay_output: list[bytes] = []
        """The output to be sent before the history is read."""
        self._replayed_ranges: list[tuple[TopicPartition, int, int]] = []
        """The part of it that counts by its offsets: partition, first offset, and the one after the last."""
        self._ranges_under_way: list[tuple[TopicPartition, int, int]] = []
        """The same of the current write."""
        self._parked_reads: list[ParkedRead] = []
        """The part of it that was parked."""
        self._parked_under_way: list[ParkedRead] = []
        """The same of the current write, or of the last one."""

    def take_replay_output(self) -> list[bytes]:
        """Take the output that has to be sent before the history is read."""
        found, self._replay_output = self._replay_output, []
        return found

    def take_replayed_ranges(self) -> list[tuple[TopicPartition, int, int]]:
        """Take the ranges that count once the output is sent: as they are by then."""
        self._ranges_under_way, self._replayed_ranges = self._replayed_ranges, []
        return self._ranges_under_way

    def forget_ranges(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Count nothing of partitions that has not been sent whole by now."""
        for ranges in (self._ranges_under_way, self._replayed_ranges):
            if ranges:
                ranges[:] = [found for found in ranges if found[0] not in partitions]
        for parked in (self._parked_under_way, self._parked_reads):
            if parked:
                parked[:] = [found for found in parked if found.partition not in partitions]

    def waiting_under_way(self, partitions: Container[TopicPartition]) -> list[Selection]:
        """What waits in some partitions for the current write, because this replays it."""
        found = []
        for partition, first, end in self._ranges_under_way:
            for entry in self._history.waiting_between(partition, first, end) if partition in partitions else ():
                offsets, pending = entry.batch.records.offsets, entry.pending
                indexes = range(bisect_left(offsets, first), bisect_left(offsets, end))
                if indexes if pending is None else not pending.isdisjoint(indexes):
                    found.append(Selection(entry, indexes))
        return found

    def take_parked_reads(self) -> list[ParkedRead]:
        """Take the reads that release parked records once the output is sent: as they are by then."""
        self._parked_under_way, self._parked_reads = self._parked_reads, []
        return self._parked_under_way

    def _put_chunk(
        self,
        lookup: ReadRanges,
        chunk: Chunk,
        gaps: list[Gap],
        batches: Iterable[tuple[Batch, Mapping[TopicPartition, int]]],
    ) -> None:
        """Add one chunk.

        Args:
            lookup: The look-up.
            chunk: The answer.
            gaps: Its gaps that are to be reported.
            batches: Its batches, each with the last seen offset of every partition as of that batch.
        """
        if self._feed.wanted is not None:
            self._replayed_ranges += [
                (gap.partition, gap.first, gap.last + 1) for gap in gaps if self._counts_offsets(gap.partition)
            ]
        else:
            self._replayed_ranges += [
                (tp, lookup.ranges[tp].first, next_offset)
                for tp, next_offset in chunk.next_offsets.items()
                if self._counts_offsets(tp)
            ]
        read_to = {tp: one.first for tp, one in lookup.ranges.items()}
        for batch, seen in batches:
            # After the records that precede it: a gap moves clients past its last offset.
            before = [gap for gap in gaps if gap.partition == batch.partition and gap.last < batch.first_offset]
            gaps = [gap for gap in gaps if gap not in before]
            self._put_gaps(before)
            self._put_replayed(batch, seen, read_to)
            read_to[batch.partition] = batch.next_offset
        self._put_gaps(gaps)
        self._count_absent(lookup, chunk)

    def _put_gaps(self, gaps: Sequence[Gap]) -> None:
        self._replay_output += self._encode_gaps(gaps)
        self._count_gaps(gaps)

    def _count_gaps(self, gaps: Sequence[Gap]) -> None:
        """Count gaps of a chunk, which are in the next write, in the place of parked and of waiting records."""
        if gaps and self._feed.counts:
            history = self._history
            counted = [gap for gap in gaps if self._feed.counts_for(gap.partition.topic)]
            self._parked_reads += gap_reads(history.parked, counted)
            # Nobody can acknowledge these records any more: to have sent the gap is enough.
            missing = [gap for gap in counted if history.waits_before(gap.partition)]
            self._parked_reads += [ParkedRead(gap.partition, None, [(gap.first, gap.last + 1)]) for gap in missing]

    def _put_replayed(
        self, batch: Batch, seen: Mapping[TopicPartition, int], read_to: Mapping[TopicPartition, int]
    ) -> None:
        indexes, data = self._encoder.replayed(self._feed, batch, seen)
        if data:
            self._replay_output.append(data)
            self.record_count += len(indexes)
            self._count_selected(batch, indexes, read_to[batch.partition])
            if read := self._parked_read(batch, indexes, read_to):
                self._parked_reads.append(read)

    def _parked_read(
        self, batch: Batch, indexes: Sequence[int], read_to: Mapping[TopicPartition, int]
    ) -> ParkedRead | None:
        """The parked part of a replayed batch that counts if these records are sent."""
        parked = self._history.parked
        is_counted = parked and self._feed.counts_for(batch.partition.topic)
        return reads(parked, read_to, batch, indexes) if is_counted else None

    def _counts_offsets(self, partition: TopicPartition) -> bool:
        """Whether replayed records of a partition count by their offsets: nothing else reports them."""
        history = self._history
        return self._feed.counts and (history.is_followed(partition) or history.waits_before(partition))

    def _count_selected(self, batch: Batch, indexes: Sequence[int], covers_from: int) -> None:
        """If there is a filter, count only the records sent: nobody was sent those that it left out."""
        if self._feed.wanted is not None and self._counts_offsets(batch.partition):
            batch.covers_from = min(batch.covers_from, covers_from)
            self._replayed_ranges += [(batch.partition, first, end) for first, end in covered(batch, indexes)]

    def _count_absent(self, lookup: ReadRanges, chunk: Chunk) -> None:
        """Let commits pass what waits or is parked, and was removed from the log by compaction: it cannot be sent."""
        for tp in chunk.next_offsets:
            parked = self._history.parked.find(tp)
            kinds = [*([None] if self._history.waits_before(tp) else ()), *([] if parked is None else [parked])]
            if kinds and self._feed.counts_for(tp.topic) and (absent := chunk.absent(tp, lookup.ranges[tp].first)):
                self._parked_reads += [ParkedRead(tp, kind, absent, is_sent=False) for kind in kinds]

    def _encode_gaps(self, gaps: Iterable[Gap]) -> Iterator[bytes]:
        for gap in gaps:
            yield self._feed.wire.gap(gap.partition.topic, gap.partition.partition, gap.first, gap.last, gap.reason)
