"""How a subscriber that acknowledges reaches the head: it is sent no more than fits into its window.

A batch of the history that does not fit is sent in parts: the cursor stays inside the batch. Records replayed from
Kafka are held here until there is room, at most one chunk of them. If the subscriber's partitions change meanwhile, the
cursor returns to the first record that was not sent, and the rest is looked up again.

*Thread*: Trio's.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import trio

from dispatcher.errors import FellBehindError
from dispatcher.hub.encoder import Encoder, wanted_indexes
from dispatcher.hub.feed import Feed
from dispatcher.hub.lookups import Lookups
from dispatcher.hub.resumption import LOOK_RECORDS, Resumption
from dispatcher.sansio.acknowledgements import Acknowledgements
from dispatcher.sansio.deliveries import Delivery
from dispatcher.sansio.entries import EncodedEntry, Entry, Selection
from dispatcher.sansio.history import History
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.parking import ParkedPartition
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import Batch, TopicPartition

WRITE_ENTRIES = 64
"""Maximum number of entries in one write. Each is a delivery to be acknowledged, which takes about 10 µs: with one
record per entry, a write of 256 KiB would hold the loop for 15 ms or more, and several such writes may share a turn."""


class _Held(NamedTuple):
    """Replayed records that have not been sent yet."""

    batch: Batch
    seen: Mapping[TopicPartition, int]
    """The last seen offset of every partition as of the end of the batch."""
    indexes: Sequence[int]
    """The indexes of the records that are still to be sent."""
    parked: ParkedPartition | None
    stand_for: Sequence[OffsetRange]
    """For each of these records, the parked offsets that it releases once it is done."""


class AckedResumption(Resumption):
    """Reads the history and replayed records as far as the window allows.

    Args:
        acks: The window.
        history: See `Resumption`, as for the other arguments.
    """

    def __init__(
        self, acks: Acknowledgements, history: History, encoder: Encoder, lookups: Lookups, feed: Feed, **where: object
    ) -> None:
        super().__init__(history, encoder, lookups, feed, **where)  # type: ignore[arg-type] # as `Resumption` takes them
        self._acks = acks
        self._held: deque[_Held | Gap] = deque()
        self._is_blocked = False
        """Whether the window has no room for the next entry of the history."""

    @property
    def is_held(self) -> bool:
        """Whether it holds replayed records for lack of room."""
        return bool(self._held)

    @property
    def has_more(self) -> bool:
        """Whether there is something to read in the history, and room for it."""
        return not self._held and not self._is_blocked and super().has_more

    @property
    def is_at_head(self) -> bool:
        """Whether everything was handed out, regardless of the window."""
        return not self._held and super().is_at_head

    def take(self, write_bytes: int) -> list[EncodedEntry]:
        """The next entries of the history, joined up to a size, as many as fit into the window."""
        taken: list[EncodedEntry] = []
        self.in_part = []
        self._awaits_decoding = False
        cursor = self.cursor
        records, window_bytes = self._acks.room()
        size_bytes = looked_at = 0
        has_room = True
        self._history.locate(cursor)
        try:
            while size_bytes < write_bytes and looked_at < LOOK_RECORDS and len(taken) < WRITE_ENTRIES:
                has_room = records > 0 and size_bytes < window_bytes
                entry = self._history.next(cursor) if has_room else None
                if entry is None or self._has_to_wait(entry):
                    break
                looked_at += entry.record_count if self._feed.wanted is not None else 0
                item, has_room = self._fit(entry, records, window_bytes - size_bytes, is_first=not taken)
                if item is not None:
                    taken.append(item)
                    records -= item[0].record_count
                    size_bytes += len(item[1])
                if not has_room:
                    break
        except FellBehindError:
            self._catch_up.fell_behind()
        now = trio.current_time()
        for delivery in deliveries(taken):
            self._acks.sent(delivery, now)
        # Only now: trimming may drop these records, if other subscribers were sent them.
        self._history.trim()
        self._is_blocked = not has_room
        return taken

    def look_at_window(self) -> None:
        """Note that the window may have room again."""
        self._is_blocked = False

    def take_replay_output(self) -> list[bytes]:
        """Take the output of look-ups that precedes the history, as much as fits into the window."""
        found = super().take_replay_output()
        now = trio.current_time()
        while self._held:
            held = self._held[0]
            if isinstance(held, Gap):
                found += self._encode_gaps([held])
                # Not earlier: while it is held, it is in no write, and it may be given back.
                self._count_gaps([held])
                self._held.popleft()
                continue
            records, window_bytes = self._acks.room()
            count = min(len(held.indexes), records, _fitting(held.batch, window_bytes))
            if not count and self._acks.outstanding_records:
                break
            count = max(1, count)
            now_sent, rest = held.indexes[:count], held.indexes[count:]
            partition, sent = held.batch.partition, held.batch.records.take(now_sent)
            seen = held.seen if not rest else {**held.seen, partition: sent.offsets[-1]}
            found.append(self._encoder.chosen(self._feed, Batch(partition, sent), seen))
            delivery = Delivery(
                partition,
                held.batch.records,
                now_sent,
                len(found[-1]),
                parked=held.parked,
                stand_for=held.stand_for[:count],
            )
            self._acks.sent(delivery, now)
            self.record_count += len(now_sent)
            if rest:
                self._held[0] = held._replace(indexes=rest, stand_for=held.stand_for[count:])
            else:
                self._held.popleft()
        return found

    def take_replayed_ranges(self) -> list[tuple[TopicPartition, int, int]]:
        """The ranges that count once they are sent; none while some of them are held."""
        return super().take_replayed_ranges() if not self._held else []

    def ask(self) -> None:
        """Look up what is missing, once everything that was looked up before has been sent."""
        if not self._held:
            super().ask()

    # Called by the hub, which needs the cursor at the first record that was not sent.

    def partition_added(self, partition: TopicPartition, left_at: int | None) -> None:
        """See `Resumption`."""
        self._give_back()
        super().partition_added(partition, left_at)

    def partition_recreated(self, partition: TopicPartition, next_offset: int | None, first_offset: int) -> None:
        """See `Resumption`."""
        self._give_back()
        super().partition_recreated(partition, next_offset, first_offset)

    def partitions_removing(self, partitions: Collection[TopicPartition]) -> None:
        """See `Resumption`."""
        self._give_back()
        super().partitions_removing(partitions)

    def handed_over(self, partition: TopicPartition, first: int) -> None:
        """See `Resumption`."""
        self._give_back()
        super().handed_over(partition, first)

    def restarted(self, partition: TopicPartition, next_offset: int | None, first: int) -> None:
        """See `Resumption`."""
        self._give_back()
        super().restarted(partition, next_offset, first)

    def next_offset(self, partition: TopicPartition) -> int | None:
        """The next offset of a partition; None if it has no start yet."""
        return _first_offsets(self._held).get(partition, super().next_offset(partition))

    def position(self) -> Mapping[TopicPartition, int]:
        """The last seen offset of each partition, also of those that are not assigned."""
        held = {partition: first - 1 for partition, first in _first_offsets(self._held).items()}
        return {**super().position(), **held}

    def place(self, partition: TopicPartition) -> int | None:
        """The next offset in a partition of the history; None if the history does not have it. Changes nothing."""
        if not self._history.knows(partition, whole=self._feed.whole):
            return None
        return self.cursor.next_offsets.get(partition, self._history.end(partition))

    def _fit(self, entry: Entry, records: int, size_bytes: int, *, is_first: bool) -> tuple[EncodedEntry | None, bool]:
        """As much of an entry as there is room for; the cursor returns to the rest.

        Returns:
            The part that is sent, if any, and whether it is all of the entry.
        """
        feed, batch, first_offset = self._feed, entry.batch, self.cursor.first_offset
        offsets = batch.records.offsets
        has_own_ids = entry.sequence <= self.cursor.named_to
        if feed.wanted is None:
            if not has_own_ids and first_offset <= batch.first_offset and entry.record_count <= records:
                part = self._encoder.entry(feed, entry)
                if len(part) <= size_bytes or (is_first and not self._acks.outstanding_records and len(offsets) <= 1):
                    return (entry, part), True
            indexes: Sequence[int] = range(bisect_left(offsets, first_offset), len(offsets))
        else:
            # One record more than fits shows whether anything is left; looking at all of it each time would cost more.
            indexes = wanted_indexes(feed, batch, first_offset, records + 1)
        if not indexes and batch.gap_from(first_offset) is None:
            return None, True
        count = min(len(indexes), records, _fitting(batch, size_bytes))
        if not count and indexes:
            if not is_first or self._acks.outstanding_records:
                self.cursor.return_to(entry, first_offset)
                return None, False
            count = 1
        is_whole = count == len(indexes)
        if not is_whole:
            self.cursor.return_to(entry, offsets[indexes[count - 1]] + 1)
        place = self._catch_up.position(here=True) if has_own_ids else None
        some = self._encoder.some(feed, entry, indexes[:count], first_offset, is_last=is_whole, position=place)
        return some, is_whole

    def _put_gaps(self, gaps: Sequence[Gap]) -> None:
        self._held += gaps

    def _put_replayed(
        self, batch: Batch, seen: Mapping[TopicPartition, int], read_to: Mapping[TopicPartition, int]
    ) -> None:
        if batch.gap is not None:
            self._held.append(batch.gap)
        indexes: Sequence[int] = range(len(batch.records))
        if self._feed.wanted is not None:
            indexes = wanted_indexes(self._feed, batch, batch.first_offset)
        if indexes:
            self._count_selected(batch, indexes, read_to[batch.partition])
            read = self._parked_read(batch, indexes, read_to)
            parked, stand_for = (None, ()) if read is None else (read.parked, read.ranges)
            self._held.append(_Held(batch, seen, indexes, parked, stand_for))

    def _say_position(self) -> None:
        """Send an id by itself, unless it would name held records."""
        if not self._held:
            super()._say_position()

    def _give_back(self) -> None:
        """Return to the first records that were not sent."""
        if self._held:
            next_offsets = _first_offsets(self._held)
            self._held.clear()
            # They would count with the next write, although nobody was sent them.
            self._replayed_ranges = [
                (tp, first, last)
                for tp, first, end in self._replayed_ranges
                if first < (last := min(end, next_offsets.get(tp, end)))
            ]
            self._catch_up.go_back(next_offsets)


def deliveries(taken: Iterable[EncodedEntry]) -> Iterable[Delivery]:
    """The deliveries of a write that the client has to acknowledge."""
    for offered, part in taken:
        if isinstance(offered, Selection):
            indexes: Sequence[int] = offered.indexes[1:] if offered.has_gap else offered.indexes
            entry = offered.entry
        else:
            indexes, entry = range(offered.record_count), offered
        if indexes:
            yield Delivery(entry.batch.partition, entry.batch.records, indexes, len(part), entry)


def _first_offsets(held: Iterable[_Held | Gap]) -> dict[TopicPartition, int]:
    """The first offset of each partition that is held."""
    found: dict[TopicPartition, int] = {}
    for each in held:
        if isinstance(each, Gap):
            found.setdefault(each.partition, each.first)
        else:
            found.setdefault(each.batch.partition, each.batch.records.offsets[each.indexes[0]])
    return found


def _fitting(batch: Batch, size_bytes: int) -> int:
    """How many records of a batch fit into this many bytes, by their mean size."""
    number = len(batch.records)
    return size_bytes * number // batch.records.size_bytes if number else 0
