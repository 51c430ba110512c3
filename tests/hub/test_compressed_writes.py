"""Compressed writes that subscribers share, wherever they begin to read."""

from collections.abc import Sequence

import pytest

from dispatcher.hub import compressed_writes
from dispatcher.hub.compressed_writes import GROUP_ENTRIES, LARGE_BYTES, CompressedWrites
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.sansio.encoding.compression import Compression
from dispatcher.sansio.entries import EncodedEntry, Entry, Part
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.records import Batch, Record, TopicPartition

ONE = TopicPartition("assets", 0)
COMPRESSION = Compression(6, 256)
FEED = feed_of(COMPRESSION.websocket, frozenset({"assets"}))
SNAPSHOT = Snapshot.of(Layout([ONE]), (0,))


class Joining:
    """Counts what is made."""

    def __init__(self) -> None:
        self.made: list[list[int]] = []
        self.writes = CompressedWrites(self.join)

    def join(self, _feed: Feed, items: Sequence[EncodedEntry]) -> bytes:
        """The parts, joined."""
        self.made.append([entry.sequence for entry, _ in items])
        return b"".join([part.records for _, part in items])


def items_of(sizes: Sequence[int]) -> list[EncodedEntry]:
    """Entries with parts of these sizes."""
    batch = Batch(ONE, (Record(0, None, None, b"", ()),))
    return [
        (Entry(number, batch, SNAPSHOT, 1), Part(b"", bytes([number % 256]) * size, has_ids=False))
        for number, size in enumerate(sizes)
    ]


def test_readers_from_anywhere_share_all_but_the_first_piece() -> None:
    """The history is cut at the same entries for all of them, so more readers add little work."""
    joining = Joining()
    items = items_of([10] * 10 * GROUP_ENTRIES)
    for start in range(5):
        data = joining.writes.write(FEED, items[start:])
        assert data == b"".join([part.records for _, part in items[start:]])
    assert len(joining.made) == 10 + 4


def test_large_entries_are_pieces_of_their_own() -> None:
    """Other readers may have got the small entries before them in other groups."""
    joining = Joining()
    items = items_of([10, 10, LARGE_BYTES, 10, LARGE_BYTES, LARGE_BYTES - 1])
    joining.writes.write(FEED, items)
    assert joining.made == [[0, 1], [2], [3], [4], [5]]


def test_a_round_is_one_piece_and_is_kept_for_those_that_could_not_take_it() -> None:
    """Subscribers with full sockets write the same bytes later."""
    joining = Joining()
    items = items_of([10] * (GROUP_ENTRIES + 1))
    data = joining.writes.round(FEED, items)
    assert joining.writes.write(FEED, items) is data
    assert joining.writes.write(FEED, items[:1]) == items[0][1].records
    assert joining.made == [list(range(GROUP_ENTRIES + 1)), [0]]


def test_parts_that_were_encoded_again_are_other_ones() -> None:
    """After a change of partitions, their ids are different."""
    joining = Joining()
    (first,), (second,) = items_of([10]), items_of([10])
    joining.writes.write(FEED, [first])
    joining.writes.write(FEED, [second])
    assert joining.made == [[0], [0]]


def test_what_was_not_used_for_longest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The total is bounded, but one write is always kept, however large."""
    monkeypatch.setattr(compressed_writes, "KEPT_BYTES", 100)
    joining = Joining()
    first, second, third, large = items_of([20, 20, 20, 500])
    for item in (first, second, first, third, first, second):
        joining.writes.write(FEED, [item])
        assert joining.writes.size_bytes <= 100
    assert joining.made == [[0], [1], [2], [1]]
    for item in (large, large, first):
        joining.writes.write(FEED, [item])
    assert joining.made[4:] == [[3], [0]]
    assert joining.writes.size_bytes == 40
