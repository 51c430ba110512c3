"""Encodes what subscribers are sent: entries of the history once per feed, the rest for one subscriber.

*Thread*: Trio's.
"""

from bisect import bisect_left
from collections.abc import Mapping

from dispatcher.hub.feed import Feed
from dispatcher.hub.statistics import EncoderStatistics
from dispatcher.sansio.entries import Entry
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

    def entry(self, feed: Feed, entry: Entry) -> bytes:
        """The entry's bytes for a feed, encoded when first asked for."""
        return self._history.encode(entry, feed, lambda entry: self._encode_entry(feed, entry))

    def part(self, feed: Feed, entry: Entry, first_offset: int) -> bytes:
        """The entry's records from an offset on, encoded for one subscriber that has the others already."""
        self._parts += 1
        records, gap = entry.batch.records, entry.batch.gap
        wanted = records[bisect_left(records.offsets, first_offset) :]
        gap = gap._replace(first=first_offset) if gap is not None and first_offset <= gap.last else None
        return _encode(feed, Batch(entry.batch.partition, wanted, gap=gap), entry.snapshot)

    def replayed(self, feed: Feed, batch: Batch, seen: Mapping[TopicPartition, int]) -> bytes:
        """A replayed batch, encoded for one subscriber: what it has seen is its own."""
        self._replayed += 1
        return _encode(feed, batch, self.snapshot(seen))

    def snapshot(self, position: Mapping[TopicPartition, int]) -> Snapshot:
        """A position, in the layout of the assigned partitions if it names no other: sorting them costs more."""
        layout = self._history.layout
        if not position.keys() <= layout.indexes.keys():
            layout = Layout(position)
        return Snapshot(layout, tuple(map(position.get, layout.partitions)))

    def statistics(self) -> EncoderStatistics:
        """A snapshot."""
        return EncoderStatistics(self._entries, self._parts, self._replayed)

    def _encode_entry(self, feed: Feed, entry: Entry) -> bytes:
        self._entries += 1
        return _encode(feed, entry.batch, entry.snapshot)


def _encode(feed: Feed, batch: Batch, snapshot: Snapshot) -> bytes:
    topic, number = batch.partition
    gap = batch.gap
    data = b"" if gap is None else feed.wire.gap(topic, number, gap.first, gap.last, gap.reason)
    if batch.records:
        suffix = snapshot.id_suffix(snapshot.layout.indexes[batch.partition], feed.topics)
        data += feed.wire.records(batch, f"{batch.partition}=", suffix)
    return data
