"""Encodes what subscribers are sent: entries of the history once per feed, the rest for one subscriber.

*Thread*: Trio's.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from dispatcher.hub.feed import Feed
from dispatcher.hub.statistics import EncoderStatistics
from dispatcher.sansio.entries import EncodedEntry, Entry, Part
from dispatcher.sansio.history import History
from dispatcher.sansio.position import Layout, Snapshot
from dispatcher.sansio.records import Batch, TopicPartition


class Encoder:
    """Makes the bytes of records.

    Args:
        history: Keeps what is encoded for many, within its bound.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._entries = self._parts = self._replayed = 0

    def entry(self, feed: Feed, entry: Entry) -> Part:
        """The entry's part of a write to a feed's subscribers, encoded when first asked for."""
        return self._history.encode(entry, feed.key, lambda entry: self._encode_entry(feed, entry))

    def rest(self, feed: Feed, entry: Entry, first_offset: int) -> Part:
        """The entry's records from an offset on, encoded for one subscriber that has the others already."""
        self._parts += 1
        records, gap = entry.batch.records, entry.batch.gap
        wanted = records[bisect_left(records.offsets, first_offset) :]
        gap = gap._replace(first=first_offset) if gap is not None and first_offset <= gap.last else None
        return _part(feed, Batch(entry.batch.partition, wanted, gap=gap), entry.snapshot)

    def write(self, feed: Feed, items: Sequence[EncodedEntry]) -> bytes:
        """What a socket is handed in one write: parts of entries, framed, and the position that they lead to."""
        data = b""
        records: list[bytes] = []
        last = items[0]
        for item in items:
            part = item[1]
            if part.gap:
                if records:
                    data += _framed(feed, records, last[1], last[0].batch, last[0].snapshot)
                    records = []
                data += part.gap
            if part.records:
                records.append(part.records)
                last = item
        return data + _framed(feed, records, last[1], last[0].batch, last[0].snapshot) if records else data

    def replayed(self, feed: Feed, batch: Batch, seen: Mapping[TopicPartition, int]) -> bytes:
        """A replayed batch as a write to one subscriber: what it has seen is its own."""
        self._replayed += 1
        snapshot = self.snapshot(seen)
        part = _part(feed, batch, snapshot)
        return part.gap + _framed(feed, [part.records], part, batch, snapshot) if part.records else part.gap

    def snapshot(self, position: Mapping[TopicPartition, int]) -> Snapshot:
        """A position, in the layout of the assigned partitions if it names no other: sorting them costs more."""
        layout = self._history.layout
        if not position.keys() <= layout.indexes.keys():
            layout = Layout(position)
        return Snapshot(layout, tuple(map(position.get, layout.partitions)))

    def statistics(self) -> EncoderStatistics:
        """A snapshot."""
        return EncoderStatistics(self._entries, self._parts, self._replayed)

    def _encode_entry(self, feed: Feed, entry: Entry) -> Part:
        self._entries += 1
        return _part(feed, entry.batch, entry.snapshot)


def _part(feed: Feed, batch: Batch, snapshot: Snapshot) -> Part:
    wire, gap = feed.wire, batch.gap
    if not feed.whole:
        snapshot = snapshot.owned()
    before = b"" if gap is None else wire.gap(*batch.partition, gap.first, gap.last, gap.reason)
    suffix = None
    if wire.has_record_ids:
        suffix = snapshot.short_suffix(snapshot.layout.indexes[batch.partition], feed.topics)
    records = wire.encode_records(batch, suffix) if batch.records else b""
    return Part(before, records, has_ids=suffix is not None)


def _framed(feed: Feed, records: Sequence[bytes], last: Part, batch: Batch, snapshot: Snapshot) -> bytes:
    """Records as they leave, with the position of the last batch unless its records carry it themselves."""
    if not feed.whole:
        snapshot = snapshot.owned()
    position = "" if last.has_ids else snapshot.format(feed.topics, snapshot.layout.indexes[batch.partition])
    return feed.wire.records(records, position)
