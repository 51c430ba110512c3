"""What may be committed: records that a socket took, and records that every present subscriber asked not to be sent.

The latter are settled, and counted. Records of topics with ``commit_on = "acked"`` may be committed once a client has
acknowledged them; it is not enough that a socket took them.

A record is settled when subscribers of its topic are present, the grant of at least one of them allows it, and none of
their filters wants it. If no grant allows it, or its topic parks, it is parked (`parking`). If no subscriber of its
topic is present, it waits, as a wanted record waits for a socket. When a feed gets its first subscriber, or loses its
last one, waiting records are examined again.

*Thread*: Trio's.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import trio

from dispatcher.hub.feed import Feed
from dispatcher.hub.feed_registry import FeedRegistry, Matches
from dispatcher.hub.parking import ParkedRead, Parking
from dispatcher.sansio.entries import GAP, Entry, Offered, Selection, covered
from dispatcher.sansio.history import History
from dispatcher.sansio.parking import Reason
from dispatcher.sansio.records import Batch, Records, TopicPartition
from dispatcher.settings import Settings

PARKED_RECORDS = 2_000
"""Maximum number of a topic's records parked at once because nobody takes them; more follow at the next crossing."""

SLICE_RECORDS = 500
"""Maximum number of records between two yields: about 3 µs each, and more where filters read long JSON. Each filter
that is tried on a record counts like a record."""

PART_RECORDS = 16
"""How many records of a batch are examined together, at least: how much work they are is known only afterwards."""

PAUSE_SECONDS = 0.05
PAUSE_RATIO = 3.0
"""Between two examinations of the waiting records, other tasks get the loop for this many times as long as one took."""


class Settlement:
    """Decides which records may be committed.

    Args:
        settings: Decide which topics park their unmatched records.
        history: Holds the waiting records.
        feeds: The subscribers by feed, and what they want.
        on_dispatched: Called with a batch and a range of its offsets (the end excluded) that may be committed. A range
            may be passed more than once.
        on_first_dispatched: Called with a batch, how many of its records were dispatched for the first time, and the
            ranges of offsets that they cover.
        on_undecided: Called with an entry that must be decoded before filters can be evaluated.
    """

    def __init__(
        self,
        settings: Settings,
        history: History,
        feeds: FeedRegistry,
        on_dispatched: Callable[[Batch, int, int], None],
        on_first_dispatched: Callable[[Batch, int, Iterable[tuple[int, int]]], None] = lambda _b, _n, _ranges: None,
        *,
        on_undecided: Callable[[Entry], None] = lambda _entry: None,
    ) -> None:
        self._on_undecided = on_undecided
        self._on_first_dispatched = on_first_dispatched
        self._history = history
        self._feeds = feeds
        self._on_dispatched = on_dispatched
        self._acked_topics = settings.acked_topics
        self._put_aside_topics = settings.put_aside_topics
        self.parking = Parking(settings, history.parked, on_dispatched, lambda topic: self.feeds_changed([topic]))
        self._changed: set[str] = set()
        self._wake_up = trio.Event()
        self.unmatched: Counter[str] = Counter()
        """Records that no present subscriber wanted, since the start, by topic."""
        self.dispatched_records = 0
        self.deliveries = 0

    def dispatched(self, feed: Feed, entries: Iterable[Offered], subscribers: int) -> None:
        """Note that this many subscribers' sockets, all of one feed, accepted every byte of these entries."""
        if subscribers:
            counts = feed.counts
            for offered in entries:
                self.deliveries += offered.record_count * subscribers
                if counts and not offered.dispatched:
                    self._first_dispatched(feed, offered)

    def acked(self, entry: Entry, records: Records, indexes: Sequence[int]) -> None:
        """Note that records of an entry were acknowledged, or gaps that nobody acknowledges were sent.

        Args:
            entry: The entry, which may have left the history.
            records: The records of its batch, which may have dropped them since.
            indexes: The indexes of those that were acknowledged; `GAP` for the gap before them.
        """
        if entry.dispatched:
            return
        number = len(entry.settle(indexes) - {GAP})
        self.dispatched_records += number
        if not entry.pending:
            self._has_nothing_pending(entry)
            entry.dispatched = not entry.parked
        ranges = covered(entry.batch, indexes, records)
        self._on_first_dispatched(entry.batch, number, ranges)
        for start, end in ranges:
            self.dispatched_records += self.parking.dispatched(entry.batch, start, end)

    def acked_between(self, partition: TopicPartition, first: int, end: int) -> None:
        """The same for all records between two offsets (the end excluded), whichever entries they are in."""
        waiting = self._history.waiting_between(partition, first, end)
        self.acked_of([(entry, entry.batch.records) for entry in waiting], first, end)

    def acked_of(self, entries: Iterable[tuple[Entry, Records]], first: int, end: int) -> None:
        """The same for the records of these entries, which may have left the history."""
        for entry, records in entries:
            offsets = records.offsets
            self.acked(entry, records, range(bisect_left(offsets, first), bisect_left(offsets, end)))

    def settle(self, entry: Entry, matches: Matches, part: range | None = None) -> None:
        """Settle the records of an entry that no present subscriber wants.

        Args:
            entry: The entry.
            matches: The filtered feeds that want some of them.
            part: The indexes of the records that were matched, if these are not all.
        """
        batch = entry.batch
        topic = batch.partition.topic
        if self._feeds.wants_all(topic) or entry.dispatched or not entry.waiting:
            return
        parks = self.parking.parks(topic)
        # Feeds that want the same records may share the list of these.
        counted = {id(indexes): indexes for feeds, indexes in matches if any(feed.counts_for(topic) for feed in feeds)}
        wanted = list(counted.values())
        unmatched = set(self._feeds.allowed(batch, part)).difference(*wanted)
        settled = set() if parks else entry.settle(unmatched)
        if settled:
            self.unmatched[topic] += len(settled)
        ranges = covered(batch, sorted(settled))
        has_parked = (parks or self._feeds.has_grants(topic)) and self._park(entry, unmatched, wanted, part)
        if not (settled or has_parked):
            return
        if not entry.pending:
            self._has_nothing_pending(entry)
        for start, end in ranges:
            self._on_dispatched(batch, start, end)

    def _park(self, entry: Entry, unmatched: set[int], wanted: Sequence[Sequence[int]], part: range | None) -> bool:
        """Park what no present subscriber wants and was not settled; returns whether anything was parked."""
        if not self._feeds.is_read(entry.batch.partition.topic):
            return False
        pending = entry.pending if entry.pending is not None else range(entry.record_count)
        left = set(pending).difference(*wanted, [GAP])
        if part is not None:
            left.intersection_update(part)
        by_reason = ((Reason.UNMATCHED, left & unmatched), (Reason.NOT_GRANTED, left - unmatched))
        parked = [self.parking.park(entry, indexes, reason) for reason, indexes in by_reason if indexes]
        return True in parked

    def _has_nothing_pending(self, entry: Entry) -> None:
        if entry.parked:
            self._history.release(entry)
        else:
            self._history.dispatched(entry)

    def park_observed(self, topic: str) -> None:
        """Park the oldest waiting records of a topic: only observers are present, and memory is full.

        They are read again for the first subscriber that counts. A gap, and what follows it, stays in memory, because a
        gap cannot be read again. A parked record has no deadline, so none is parked in topics whose records have one.
        """
        if topic in self._put_aside_topics:
            return
        left, closed = PARKED_RECORDS, set()
        for entry in self._history.waiting_entries(topic):
            partition = entry.batch.partition
            if left <= 0:
                return
            if partition in closed:
                continue
            pending = range(entry.record_count) if entry.pending is None else entry.pending
            if entry.batch.gap is not None or not self.parking.park(entry, pending, Reason.OBSERVED):
                closed.add(partition)
                continue
            left -= entry.record_count
            self._has_nothing_pending(entry)

    def parked_replayed(self, reads: Iterable[ParkedRead]) -> None:
        """Note that a socket accepted replayed records that were parked."""
        self.dispatched_records += self.parking.replayed(reads)

    def put_aside(self, entry: Entry, indexes: Iterable[int], ranges: Iterable[tuple[int, int]]) -> None:
        """Let commits pass records that no socket has taken, and that will no longer wait for one.

        Args:
            entry: The entry; its partition may have left since.
            indexes: The indexes of the records; `GAP` for the gap before them.
            ranges: The offsets that they cover (`covered`), determined while the entry still had its records.
        """
        if not entry.dispatched and not entry.removed:
            entry.settle(indexes)
            if not entry.pending:
                self._has_nothing_pending(entry)
        batch = entry.batch
        for start, end in ranges:
            # If the partition was handed over meanwhile, the batch begins where the group continues.
            if end > batch.covers_from:
                # Release what was parked since, or a new subscriber would begin there.
                self.parking.dispatched(batch, max(start, batch.covers_from), end)

    def feeds_changed(self, topics: Iterable[str]) -> None:
        """A feed has gained its first subscriber, or lost its last: examine the waiting records again."""
        changed = [topic for topic in topics if self._feeds.has_filters(topic)]
        if changed and self._history.waiting_bytes:
            self._changed.update(changed)
            self._wake_up.set()

    async def run(self) -> None:
        """Examine the waiting records whenever feeds have changed, until cancelled. *Cancellation*: safe."""
        while True:
            await self._wake_up.wait()
            self._wake_up = trio.Event()
            topics, self._changed = self._changed, set()
            began = trio.current_time()
            await self._look(topics)
            await trio.sleep(max(PAUSE_SECONDS, PAUSE_RATIO * (trio.current_time() - began)))

    async def _look(self, topics: Iterable[str]) -> None:
        looked_at = 0
        for topic in topics:
            for entry in self._history.waiting_entries(topic):
                first = 0
                # While others have the loop, the entry may be dispatched, or its records dropped.
                while first < len(entry.batch.records) and not (entry.dispatched or entry.removed):
                    if looked_at >= SLICE_RECORDS:
                        looked_at = 0
                        await trio.lowlevel.checkpoint()
                        continue
                    if not self._feeds.has_filters(topic) or self._feeds.wants_all(topic):
                        break
                    filters, tried = self._feeds.filters(topic), self._feeds.tried(topic)
                    if not first and self._feeds.is_undecided(entry.batch):
                        looked_at += filters
                        self._on_undecided(entry)
                    size = max(PART_RECORDS, SLICE_RECORDS // filters)
                    part = range(first, min(first + size, len(entry.batch.records)))
                    self.settle(entry, self._feeds.match(entry.batch, part), part)
                    looked_at += len(part) + self._feeds.tried(topic) - tried
                    first = part.stop

    def _first_dispatched(self, feed: Feed, offered: Offered) -> None:
        if offered.batch.partition.topic in self._acked_topics:
            if feed.acks and offered.has_gap:
                # Nobody can acknowledge a gap: having sent it is enough.
                self.acked(offered.entry if isinstance(offered, Selection) else offered, offered.batch.records, [GAP])
            return
        if isinstance(offered, Selection):
            self._first_selected(offered)
            return
        batch, pending = offered.batch, offered.pending
        # A removed entry's write was under way when its partition was revoked: the tracker still needs to know.
        offered.dispatched = True
        self._history.release(offered)
        number = offered.record_count if pending is None else len(pending - {GAP})
        self.dispatched_records += number
        self._on_first_dispatched(batch, number, ((batch.covers_from, batch.next_offset),))
        self.dispatched_records += self.parking.dispatched(batch, batch.covers_from, batch.next_offset)

    def _first_selected(self, selection: Selection) -> None:
        selection.dispatched = True
        entry = selection.entry
        if not entry.dispatched:
            number = len(entry.settle(selection.indexes) - {GAP})
            self.dispatched_records += number
            self._on_first_dispatched(entry.batch, number, selection.ranges)
            if not entry.pending:
                self._has_nothing_pending(entry)
                entry.dispatched = not entry.parked
        for start, end in selection.ranges:
            # If the partition was handed over meanwhile, the batch begins where the group continues.
            if end > (begins := entry.batch.covers_from):
                self.dispatched_records += self.parking.dispatched(entry.batch, max(start, begins), end)
