"""Takes one subscriber to the head: it reads the history, after looking up in Kafka what precedes it.

Records that are no longer in memory are replayed from Kafka, one chunk whenever the socket has taken the previous one.
When no record is missing between the last chunk and the history, the subscriber reads the history. It is sent the
missing records of all partitions first, because the ids in the history name the last offset of every partition.

*Thread*: Trio's.
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from collections.abc import Set as AbstractSet

import trio

from dispatcher.errors import FellBehindError
from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed import Feed
from dispatcher.hub.lookups import Lookups
from dispatcher.hub.replayed import Replayed
from dispatcher.sansio.catch_up import CatchUp
from dispatcher.sansio.entries import EncodedEntry, Entry
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import LogBounds, OffsetsForTime, ReadRanges
from dispatcher.sansio.ranges import Bounds, Chunk, recreated
from dispatcher.sansio.records import TopicPartition

LOOK_RECORDS = 500
"""Maximum number of records that a filter looks at between two yields: 1 to 5 µs each."""

SILENT_RECORDS = 10_000
"""A subscriber whose filter wanted none of this many records of the history is sent an id by itself."""


class Resumption(Replayed):
    """Reads the history for a subscriber that is not live, and asks for what is missing (`lookups.LookupClient`).

    Args:
        history: Recent and undispatched batches.
        encoder: Makes the bytes of records.
        lookups: Looks things up in Kafka.
        feed: What the subscriber asked for.
        position: The last offsets that it has seen, of some partitions.
        since_ms: Where the others begin, in ms since the epoch, `EARLIEST` or `NOW`; None: as for a new subscriber.
        last: Alternatively, they begin this many records before their ends.
        wake: Called when there may be something to send or to look up.
    """

    def __init__(
        self,
        history: History,
        encoder: Encoder,
        lookups: Lookups,
        feed: Feed,
        *,
        position: Mapping[TopicPartition, int],
        since_ms: int | None,
        last: int | None = None,
        wake: Callable[[], None],
    ) -> None:
        super().__init__(history, encoder, feed)
        self.owner: Hashable = None
        """The owner: subscribers of one owner share its turns."""
        self.lookup_scope = trio.CancelScope()
        """The scope of look-ups for this subscriber alone; cancelled when it leaves."""
        self.closed = False
        self.decodes = feed.decodes
        """Topics that are decoded because it asks."""
        self._lookups = lookups
        self._wake = wake
        self._catch_up = CatchUp(
            history, feed.topics, position, since_ms, last=last, whole=feed.whole, counts=feed.counts
        )
        self.cursor, self.repeats = self._catch_up.cursor, self._catch_up.repeats
        """Where the subscriber is in the history, and what it is sent again although its position covers it."""
        self.looks_at_parked = False
        """Whether it began at the parked records: once it has caught up, none of them are left for its feed."""
        self.in_part: list[tuple[Entry, int]] = []
        """Entries of followed partitions of which the last `take` took only the end, and the offset where that
        begins."""
        self._needed_kafka = False
        self._awaits_decoding = False
        """Whether the next entry must be decoded before this subscriber, which asks for that, can take it."""
        self._unwanted = 0
        """Number of records in the history since its filter last wanted one."""

    # Answers to look-ups (lookups.LookupClient).

    def on_offsets_for_time(self, lookup: OffsetsForTime, offsets: Mapping[TopicPartition, int | None]) -> None:
        """Take the offset of each partition's first record at or after its time."""
        if self._catch_up.on_offsets_for_time(lookup, offsets):
            self._wake()

    def on_log_bounds(self, lookup: LogBounds, bounds: Mapping[TopicPartition, Bounds]) -> None:
        """Take where logs begin and end."""
        gaps = self._catch_up.on_log_bounds(lookup, bounds)
        if gaps is not None:
            self._replay_output += self._encode_gaps(gaps)
            self._wake()

    def on_chunk(self, lookup: ReadRanges, chunk: Chunk) -> None:
        """Take replayed records."""
        found = self._catch_up.on_chunk(lookup, chunk)
        if found is not None:
            self._put_chunk(lookup, chunk, *found)
            if self._feed.wanted is not None and not self._replay_output:
                self._say_position()
            self._wake()

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Note that partitions without an answer may be looked up again."""
        self._catch_up.ask_again(partitions)
        self._wake()

    # Called by the hub.

    def partition_added(self, partition: TopicPartition, left_at: int | None) -> None:
        """Note that a partition is in the history now; see `CatchUp.partition_added`."""
        self._catch_up.partition_added(partition, left_at)
        self._wake()

    def partition_recreated(self, partition: TopicPartition, next_offset: int | None, first_offset: int) -> None:
        """Note that the topic of a partition was recreated.

        Args:
            partition: The partition.
            next_offset: The next offset in the old log, if it is known.
            first_offset: The first offset of the new log.
        """
        if next_offset is not None:
            self._replay_output += self._encode_gaps([recreated(partition, next_offset, first_offset)])
        self._catch_up.partition_recreated(partition)
        self._drop_lookup()
        self._wake()

    def partitions_removing(self, partitions: Collection[TopicPartition]) -> None:
        """Note that partitions are leaving the history; the hub has withdrawn their records that were not offered."""
        self._catch_up.partitions_removing(partitions)
        self._drop_lookup()

    def handed_over(self, partition: TopicPartition, first: int) -> None:
        """Note that a followed partition is owned now, and that nobody was sent its records from an offset on."""
        self._catch_up.handed_over(partition, first)
        self._drop_lookup()
        self._wake()

    def restarted(self, partition: TopicPartition, next_offset: int | None, first: int) -> None:
        """Note that a followed partition is owned now, and starts over in the history; see `CatchUp.restarted`."""
        self._catch_up.restarted(partition, next_offset, first)
        self._drop_lookup()
        self._wake()

    def refresh(self) -> None:
        """Check whether what it waits for has arrived; its task calls this before it waits again."""
        self._catch_up.look_again()

    def look_again(self) -> None:
        """Look again: more was read of some partition, or more is known about the topics."""
        self._catch_up.look_again()
        self._wake()

    def partitions_removed(self) -> None:
        """Note that partitions have left."""
        self._catch_up.partitions_removed()
        self._wake()

    # Called by the subscriber.

    @property
    def pending(self) -> bool:
        """Whether something must be looked up before the history can be read."""
        return self._catch_up.pending

    @property
    def expects_partitions(self) -> bool:
        """Whether an added partition may send the live subscriber back to catching up."""
        return self._catch_up.expects_partitions

    def concerns(self, partition: TopicPartition, left_at: int | None) -> bool:
        """Whether a partition that was added changes what a live subscriber has to be sent."""
        return self._catch_up.concerns(partition, left_at)

    def position(self) -> Mapping[TopicPartition, int]:
        """The last seen offset of each partition, also of those that are not assigned."""
        return self._catch_up.position(here=False)

    def next_offset(self, partition: TopicPartition) -> int | None:
        """The next offset of a partition; None if it has no start yet."""
        return self._catch_up.next_offset(partition)

    def missing_records(self) -> int:
        """An estimate of the records between the subscriber and the head."""
        return self._catch_up.missing_records()

    @property
    def awaits_head(self) -> bool:
        """Whether it waits until more has been read."""
        return self._catch_up.awaits_head

    @property
    def has_start(self) -> bool:
        """Whether its start is known in every partition."""
        return self._catch_up.has_start

    def begin_at_parked(self, starts: Mapping[TopicPartition, int]) -> None:
        """Begin at these offsets at the latest: parked records may be for this subscriber."""
        self.looks_at_parked = True
        if starts:
            self._catch_up.begin_earlier(starts)

    def take(self, write_bytes: int) -> list[EncodedEntry]:
        """The next entries of the history, joined up to a size; one entry always fits. Empty at the head."""
        taken: list[EncodedEntry] = []
        self.in_part = []
        self._awaits_decoding = False
        size_bytes = looked_at = 0
        cursor, feed = self.cursor, self._feed
        self._history.locate(cursor)
        try:
            for entry in self._history.ahead(cursor):
                if feed.decodes and self._has_to_wait(entry):
                    break
                item: EncodedEntry | None
                place = self._catch_up.position(here=True) if entry.sequence <= cursor.named_to else None
                if feed.wanted is not None or place is not None:
                    item = self._encoder.wanted(feed, entry, cursor.first_offset, place)
                    looked_at += entry.record_count
                elif cursor.first_offset > entry.batch.first_offset:
                    item = self._encoder.rest(feed, entry, cursor.first_offset)
                    if feed.counts and self._history.is_followed(entry.batch.partition):
                        # As long as it is followed, ranges are kept of what was sent; see `Subscriber.handing_over`.
                        item = entry, item[1]
                        self.in_part.append((entry, cursor.first_offset))
                        self._replayed_ranges.append(
                            (entry.batch.partition, cursor.first_offset, entry.batch.next_offset)
                        )
                else:
                    item = entry, entry.encoded.get(feed.key) or self._encoder.entry(feed, entry)
                if item is not None:
                    taken.append(item)
                    size_bytes += len(item[1])
                if size_bytes >= write_bytes or looked_at >= LOOK_RECORDS:
                    break
        except FellBehindError:
            self._catch_up.fell_behind()
        # Encoding for this reader made the history grow; on a quiet topic no publish would trim it.
        self._history.trim()
        self._unwanted = 0 if taken else self._unwanted + looked_at
        if self._unwanted >= SILENT_RECORDS and self.has_more:
            self._unwanted = 0
            self._say_position()
        return taken

    @property
    def has_more(self) -> bool:
        """Whether the history holds entries that it has not looked at yet, and may read now."""
        return not self._awaits_decoding and not self._catch_up.pending and self.cursor.sequence < self._history.head

    @property
    def is_at_head(self) -> bool:
        """Whether it was handed everything that was published."""
        return not self._catch_up.pending and self.cursor.sequence >= self._history.head

    def decided(self) -> None:
        """Note that the entry for which it waits was decoded, or has left the history."""
        self._awaits_decoding = False
        self._wake()

    def skip_to_head(self) -> None:
        """Move to the head: the live subscriber wants nothing before it."""
        self._history.became_live(self.cursor)
        self.cursor.sequence = self._history.head

    def go_live(self) -> bool:
        """Note that the subscriber has been handed everything; returns whether it needed Kafka for that."""
        self._history.became_live(self.cursor)
        needed_kafka, self._needed_kafka = self._needed_kafka, False
        return needed_kafka

    def ask(self) -> None:
        """Look up what is missing before the history, one look-up at a time: the socket has taken earlier answers."""
        lookup = self._catch_up.ask()
        if lookup is not None:
            self._needed_kafka = True
            self._lookups.ask(self, lookup)

    def close(self) -> None:
        """Note that the subscriber has left: it wants no answer."""
        self.closed = True
        self._lookups.asked.leave(self)
        # The callback holds the subscriber: without this cycle its memory is freed as soon as its connection has ended.
        self._wake = _nothing
        self.lookup_scope.cancel()

    def _has_to_wait(self, entry: Entry) -> bool:
        """Whether an entry has to be decoded first; if so, the cursor returns to it."""
        batch = entry.batch
        self._awaits_decoding = self._feed.awaits(batch.partition.topic, batch.records)
        if self._awaits_decoding:
            self.cursor.return_to(entry, self.cursor.first_offset)
            self._lookups.asked.wait(self, entry)
        return self._awaits_decoding

    def _say_position(self) -> None:
        """Send an id by itself: nothing was wanted for long, and a resume should not have to repeat that search."""
        feed = self._feed
        snapshot = self._encoder.snapshot(self._catch_up.position(here=True))
        if position := snapshot.format(feed.topics, whole=feed.whole):
            self._replay_output.append(feed.wire.heartbeat(position))

    def _drop_lookup(self) -> None:
        """End a look-up whose answer would be discarded, so that others in line are served sooner."""
        if self._catch_up.lookup is None:
            self.lookup_scope.cancel()


def _nothing() -> None:
    """Wake no task: the subscriber has left."""
