"""Encodes what subscribers are sent: entries of the history once per feed, everything else for one subscriber.

*Thread*: Trio's.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from dispatcher.hub.compressed_writes import CompressedWrites
from dispatcher.hub.feed import Feed
from dispatcher.hub.statistics import CompressionStatistics, EncoderStatistics
from dispatcher.sansio.encoding.compression import Compression
from dispatcher.sansio.entries import GAP, Cursor, EncodedEntry, Entry, Part, Selection
from dispatcher.sansio.history import History
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.record_view import View
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.sansio.spelling import Spelling

IDS_KEPT = 8
"""How many ids are kept as spelled last."""


class Encoder:
    """Makes the bytes of records.

    Args:
        history: Keeps bytes that many subscribers share, within its bound.
        compression: For the feeds of clients that accept it; None if it is off.
        spellings: How keys and values of certain topics are written, where the settings decide that, not the bytes.
    """

    def __init__(
        self,
        history: History,
        compression: Compression | None = None,
        spellings: Mapping[str, Spelling] | None = None,
    ) -> None:
        self._history = history
        self._spellings = spellings or {}
        self.compression = compression
        self._writes = CompressedWrites(self._join)
        self._entries = self._parts = self._replayed = 0
        self._id = lru_cache(IDS_KEPT)(_id)

    def entry(self, feed: Feed, entry: Entry) -> Part:
        """The entry's part of a write to a feed's subscribers, encoded when first asked for."""
        return self._history.encode(entry, feed.key, lambda entry: self._encode_entry(feed, entry))

    def selections(self, entry: Entry, wanted: Mapping[Feed, Sequence[int]]) -> Iterator[tuple[Feed, Selection, Part]]:
        """Some records of an entry for each of several feeds, after the entry's gap.

        Filters may want the same records, as the same list: these are joined once.

        Args:
            entry: The entry.
            wanted: The indexes of the records by feed, in order; all feeds are shown the same (`Feed.decodes`).
        """
        gap = entry.batch.gap
        lists = {id(indexes): (*indexes,) for indexes in wanted.values()}
        indexes_of_all = sorted(set().union(*lists.values()))
        encoded = self.choose(next(iter(wanted)), entry.batch, entry.snapshot, indexes_of_all)
        made: dict[tuple[Feed, tuple[int, ...]], tuple[Selection, Part]] = {}
        for feed, indexes in wanted.items():
            key = feed.shared, lists[id(indexes)]
            if key in made:
                first, part = made[key]
                yield feed, Selection(entry, first.indexes, first.ranges), part
                continue
            part = encoded.part(feed, key[1], _gap(feed, gap))
            selection = Selection(entry, key[1] if gap is None else (GAP, *key[1]))
            made[key] = selection, part
            yield feed, selection, part

    def wanted(
        self, feed: Feed, entry: Entry, first_offset: int, position: Mapping[TopicPartition, int] | None = None
    ) -> EncodedEntry | None:
        """The records from an offset on that a feed wants, encoded for one subscriber, or None; see `some`."""
        indexes = wanted_indexes(feed, entry.batch, first_offset)
        if not indexes and entry.batch.gap_from(first_offset) is None:
            return None
        return self.some(feed, entry, indexes, first_offset, is_last=True, position=position)

    def some(
        self,
        feed: Feed,
        entry: Entry,
        indexes: Sequence[int],
        first_offset: int,
        *,
        is_last: bool,
        position: Mapping[TopicPartition, int] | None = None,
    ) -> EncodedEntry:
        """Some records of an entry, encoded for one subscriber.

        Args:
            feed: The subscriber's feed.
            entry: The entry.
            indexes: The indexes of the records, in order; the gap before them is included unless it precedes
                `first_offset`.
            first_offset: The first offset that the subscriber needs.
            is_last: Whether it is sent no later records of the entry: then their position is the entry's.
            position: The subscriber's own position after these records, if their ids are to be made from it.
        """
        self._parts += 1
        batch, gap = entry.batch, entry.batch.gap_from(first_offset)
        snapshot = entry.snapshot if position is None else self.snapshot(position)
        if not is_last and position is None:
            own = snapshot.layout.indexes[batch.partition]
            snapshot = snapshot.ending(own, batch.records.offsets[indexes[-1]])
        selection = Selection(entry, indexes if gap is None else [GAP, *indexes])
        selection.snapshot = snapshot
        return selection, self.choose(feed, batch, snapshot, indexes).part(feed, indexes, _gap(feed, gap))

    def rest(self, feed: Feed, entry: Entry, first_offset: int) -> tuple[Selection, Part]:
        """The entry's records from an offset on, encoded for one subscriber that already has the earlier ones."""
        self._parts += 1
        records, gap = entry.batch.records, entry.batch.gap_from(first_offset)
        first = bisect_left(records.offsets, first_offset)
        # Nobody may have been sent the records before these, so they must not count with the rest.
        indexes: Sequence[int] = range(first, len(records))
        selection = Selection(entry, indexes if gap is None else [GAP, *indexes])
        batch = Batch(entry.batch.partition, records[first:], gap=gap)
        return selection, _part(feed, self.shown(feed, batch), entry.snapshot)

    def round(self, feed: Feed, items: Sequence[EncodedEntry]) -> bytes:
        """One write for all sockets: parts of entries, framed, and the position after them."""
        return self._writes.round(feed, items) if feed.wire.compresses else self._join(feed, items)

    def write(self, feed: Feed, items: Sequence[EncodedEntry]) -> bytes:
        """The same for a socket that may be out of step with others: compressed in pieces that they share."""
        return self._writes.write(feed, items) if feed.wire.compresses else self._join(feed, items)

    def _join(self, feed: Feed, items: Sequence[EncodedEntry]) -> bytes:
        if len(items) == 1 and items[0][1].records and not items[0][1].gap:
            ((offered, part),) = items
            return self._framed(feed, [part.records], part, offered.batch, offered.snapshot)
        data = b""
        records: list[bytes] = []
        last = items[0]
        for item in items:
            part = item[1]
            if part.gap:
                if records:
                    data += self._framed(feed, records, last[1], last[0].batch, last[0].snapshot)
                    records = []
                data += feed.wire.frame(part.gap)
            if part.records:
                records.append(part.records)
                last = item
        return data + self._framed(feed, records, last[1], last[0].batch, last[0].snapshot) if records else data

    def replayed(self, feed: Feed, batch: Batch, seen: Mapping[TopicPartition, int]) -> tuple[Sequence[int], bytes]:
        """A replayed batch as a write to one subscriber, with the subscriber's own position.

        Returns:
            The indexes of the records that it wants, and the bytes; both are empty if it wants none.
        """
        self._replayed += 1
        snapshot = self.snapshot(seen)
        if feed.predicate is None:
            indexes: Sequence[int] = range(len(batch.records))
            part = _part(feed, self.shown(feed, batch), snapshot)
        else:
            indexes = wanted_indexes(feed, batch, batch.first_offset)
            part = self.choose(feed, batch, snapshot, indexes).part(feed, indexes, _gap(feed, batch.gap))
        gap = feed.wire.frame(part.gap) if part.gap else b""
        return indexes, gap + (self._framed(feed, [part.records], part, batch, snapshot) if part.records else b"")

    def chosen(self, feed: Feed, batch: Batch, seen: Mapping[TopicPartition, int]) -> bytes:
        """Replayed records, all of which the subscriber wants, as a write to it."""
        self._replayed += 1
        snapshot = self.snapshot(seen)
        part = _part(feed, self.shown(feed, batch), snapshot)
        return self._framed(feed, [part.records], part, batch, snapshot)

    def snapshot(self, position: Mapping[TopicPartition, int]) -> Snapshot:
        """A position, in the layout of the assigned partitions if it names no others, which saves sorting them."""
        layout = self._history.layout
        if not position.keys() <= layout.indexes.keys():
            layout = Layout(position)
        return Snapshot.of(layout, tuple(map(position.get, layout.partitions)))

    def place(self, feed: Feed, cursor: Cursor) -> Snapshot | None:
        """The place of a subscriber; None if it names a partition that is not assigned."""
        self._history.locate(cursor)
        head = self._history.snapshot()
        return (head if feed.whole else head.owned()).moved_to(cursor.next_offsets, feed.topics)

    def choose(self, feed: Feed, batch: Batch, snapshot: Snapshot, indexes: Sequence[int]) -> "Selected":
        """Some records of a batch, to be encoded; the cost does not depend on the rest of the batch.

        Args:
            feed: The feed for which they are encoded, or one that is shown the same.
            batch: The batch.
            snapshot: The offsets of other partitions in the ids.
            indexes: The indexes of the records, in order.
        """
        chosen = self.shown(feed, Batch(batch.partition, batch.records.take(indexes))) if indexes else batch
        return Selected(chosen, snapshot, indexes)

    def shown(self, feed: Feed, batch: Batch) -> Batch:
        """The batch as it is encoded for a feed: decoded if the feed asks, and in the spelling of its topic."""
        spelling = self._spellings.get(batch.partition.topic)
        if (spelling is None and not feed.decodes) or not batch.records:
            return batch
        records = feed.reads(batch.partition.topic, batch.records)
        return Batch(batch.partition, records if spelling is None else records.spelled(spelling), gap=batch.gap)

    def statistics(self) -> EncoderStatistics:
        """A snapshot."""
        compression: CompressionStatistics | None = None
        if self.compression is not None:
            deflater = self.compression.deflater
            compression = CompressionStatistics(deflater.input_bytes, deflater.output_bytes, self._writes.size_bytes)
        return EncoderStatistics(self._entries, self._parts, self._replayed, compression)

    def _framed(self, feed: Feed, records: Sequence[bytes], last: Part, batch: Batch, snapshot: Snapshot) -> bytes:
        """Framed records, with the position of the last batch unless its records carry it themselves."""
        if last.has_ids:
            return feed.wire.records(records, "")
        if not feed.whole:
            snapshot = snapshot.owned()
        own = snapshot.layout.indexes[batch.partition]
        return feed.wire.records(records, self._id(snapshot, feed.topics, own, whole=feed.whole))

    def _encode_entry(self, feed: Feed, entry: Entry) -> Part:
        self._entries += 1
        return _part(feed, self.shown(feed, entry.batch), entry.snapshot)


def _part(feed: Feed, batch: Batch, snapshot: Snapshot) -> Part:
    suffix = _suffix(feed, batch, snapshot)
    records = feed.wire.encode_records(batch, suffix) if batch.records else b""
    return Part(_gap(feed, batch.gap), records, has_ids=suffix is not None)


def _suffix(feed: Feed, batch: Batch, snapshot: Snapshot) -> str | None:
    """What follows each record's own pair in its id; None if the records have no ids."""
    if not feed.wire.has_record_ids:
        return None
    if not feed.whole:
        snapshot = snapshot.owned()
    return snapshot.short_suffix(snapshot.layout.indexes[batch.partition], feed.topics, whole=feed.whole)


def _gap(feed: Feed, gap: Gap | None) -> bytes:
    return b"" if gap is None else feed.wire.encode_gap(*gap.partition, gap.first, gap.last, gap.reason)


def wanted_indexes(feed: Feed, batch: Batch, first_offset: int, most: int | None = None) -> Sequence[int]:
    """The indexes of the records from an offset on that a feed wants; no more than `most` of them."""
    predicate, records = feed.predicate, batch.records
    left = range(bisect_left(records.offsets, first_offset), len(records))
    if predicate is None:
        return left[:most]
    view = View(batch.partition, feed.reads(batch.partition.topic, records))
    return list(islice((n for n in left if predicate(view.at(n))), most))


class Selected:
    """Some records of a batch, encoded once for each format and set of topics, and joined for each feed.

    Args:
        batch: These records alone, as they are to be encoded.
        snapshot: The offsets of other partitions in the ids.
        indexes: The indexes of these records within their batch, in order.
    """

    __slots__ = ("_batch", "_encoded", "_positions", "_snapshot")

    def __init__(self, batch: Batch, snapshot: Snapshot, indexes: Sequence[int]) -> None:
        self._batch = batch
        self._snapshot = snapshot
        self._positions = {index: number for number, index in enumerate(indexes)}
        self._encoded: dict[Feed, tuple[Sequence[bytes], bool]] = {}

    def part(self, feed: Feed, indexes: Sequence[int], gap: bytes) -> Part:
        """The records with these indexes, in the format of a feed, after a gap."""
        found = self._encoded.get(feed.shared)
        if found is None:
            suffix = _suffix(feed, self._batch, self._snapshot)
            each = feed.wire.encode_each(self._batch, suffix) if self._positions else ()
            found = self._encoded[feed.shared] = each, suffix is not None
        encoded, has_ids = found
        positions = self._positions
        records = feed.wire.separator.join([encoded[positions[index]] for index in indexes])
        return Part(gap, records, has_ids=has_ids)


def _id(snapshot: Snapshot, topics: frozenset[str], own: int, *, whole: bool) -> str:
    """The id of a write. Subscribers that catch up at the same time read the same entries, up to the same one."""
    return snapshot.format(topics, own, whole=whole)
