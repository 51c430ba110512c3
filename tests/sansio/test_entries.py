"""Entries: what of a batch was dispatched, what a filter selects of it, and which offsets that stands for."""

import pytest

from dispatcher.sansio.entries import GAP, Cursor, Entry, Part, Round, Selection, covered, joined
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.position import OFFSET_BYTES, Snapshot
from dispatcher.sansio.ranges import Gap, recreated
from dispatcher.sansio.records import Batch, Record, TopicPartition

TP = TopicPartition("assets", 0)
HERE = Snapshot.of(Layout([TP]), (9,))
RETENTION = Gap(TP, 3, 4, "retention")


def records(*offsets: int) -> list[Record]:
    """Records at these offsets."""
    return [Record(offset, None, None, b"value", ()) for offset in offsets]


def entry(batch: Batch, sequence: int = 1) -> Entry:
    """An entry with this batch."""
    return Entry(sequence, batch, HERE, 1)


def test_an_entry_knows_which_of_its_records_are_pending() -> None:
    """Each is noted once, in any order, and the first remaining one is known."""
    found = entry(Batch(TP, records(5, 6, 9), covers_from=4))
    assert found.first_pending == 4
    assert found.settle([1, 2]) == {1, 2}
    assert found.settle([1]) == set()
    assert found.first_pending == 4
    assert found.settle([0, 1]) == {0}
    assert not found.pending


def test_the_first_that_is_pending_may_be_in_the_middle() -> None:
    """Its own offset counts then, because those before it were dispatched."""
    found = entry(Batch(TP, records(5, 6, 9)))
    found.settle([0])
    assert found.first_pending == 6


def test_a_gap_goes_with_an_entry_and_with_what_was_selected_of_it() -> None:
    """A selection may leave it out."""
    with_gap = entry(Batch(TP, records(5, 6), gap=RETENTION, covers_from=3))
    assert (with_gap.has_gap, entry(Batch(TP, records(5))).has_gap) == (True, False)
    assert (Selection(with_gap, [GAP, 0]).has_gap, Selection(with_gap, [0]).has_gap) == (True, False)


def test_a_gap_is_pending_beside_the_records() -> None:
    """It is sent before them, so it comes first."""
    found = entry(Batch(TP, records(5, 6), gap=RETENTION, covers_from=3))
    assert found.settle([0]) == {0}
    assert found.first_pending == 3
    assert found.settle([GAP]) == {GAP}
    assert found.first_pending == 6


def test_what_an_entry_holds_can_be_let_go() -> None:
    """Sizes and offsets stay known to holders of the entry."""
    found = entry(Batch(TP, records(5, 6)))
    size_bytes = found.size_bytes
    assert size_bytes == found.batch.size_bytes + 2 * OFFSET_BYTES, "an offset in a chunk"
    found.encoded["feed"] = Part(b"", b"encoded", has_ids=True)
    found.forget()
    assert (found.encoded, len(found.batch.records)) == ({}, 0)
    assert (found.record_count, found.size_bytes, found.batch.next_offset) == (2, size_bytes, 7)


def test_a_selection_stands_beside_its_entry() -> None:
    """It has the same place and batch, some of the records, and perhaps the gap."""
    whole = entry(Batch(TP, records(5, 6, 7), gap=RETENTION, covers_from=3))
    found = Selection(whole, [GAP, 0, 2])
    assert (found.sequence, found.snapshot, found.batch, found.record_count) == (1, HERE, whole.batch, 2)
    assert found.ranges == [(3, 6), (7, 8)]
    assert Selection(whole, [1]).record_count == 1
    whole.removed = True
    assert found.removed


@pytest.mark.parametrize(
    ("batch", "indexes", "expected"),
    [
        (Batch(TP, records(5, 6, 9)), [0, 1, 2], [(5, 10)]),
        (Batch(TP, records(5, 6, 9), covers_from=2), [0], [(2, 6)]),
        (Batch(TP, records(5, 6, 9)), [0, 2], [(5, 6), (7, 10)]),
        (Batch(TP, records(5, 6), gap=RETENTION, covers_from=3), [GAP], [(3, 5)]),
        (Batch(TP, records(5, 6), gap=RETENTION, covers_from=3), [0], [(5, 6)]),
        (Batch(TP, [], gap=RETENTION), [GAP], [(3, 5)]),
        (Batch(TP, records(5, 6, 9), covers_from=7), [0, 1], []),
        (Batch(TP, records(5, 6, 9), covers_from=7), [0, 2], [(7, 10)]),
    ],
)
def test_records_stand_for_the_offsets_before_them(
    batch: Batch, indexes: list[int], expected: list[tuple[int, int]]
) -> None:
    """Empty offsets belong to the next record, a gap has its own, and earlier ones are not ours."""
    assert covered(batch, indexes) == expected


@pytest.mark.parametrize("covers_from", [2, 5, 6, 7, 9, 10])
@pytest.mark.parametrize("gap", [None, RETENTION])
def test_consecutive_records_stand_for_the_same_as_each_of_them(covers_from: int, gap: Gap | None) -> None:
    """Without a look at each."""
    batch = Batch(TP, records(5, 6, 9), covers_from=covers_from, gap=gap)
    for first in range(4):
        for end in range(4):
            assert covered(batch, range(first, end)) == covered(batch, list(range(first, end)))


def test_records_that_a_batch_has_let_go_of_may_be_given() -> None:
    """A subscriber may still be writing records that the history has dropped."""
    batch = Batch(TP, records(5, 6, 9))
    kept = batch.records
    entry(batch).forget()
    assert covered(batch, [2], kept) == [(7, 10)]


@pytest.mark.parametrize("gap", [RETENTION, recreated(TP, 50, 3)])
def test_a_gap_ends_where_it_did_when_its_batch_has_let_go_of_the_records(gap: Gap) -> None:
    """It never stands for these records."""
    batch = Batch(TP, records(5, 6), gap=gap, covers_from=3)
    before = covered(batch, [GAP])
    entry(batch).forget()
    assert before == covered(batch, [GAP]) == [(3, 5)]


def test_a_round_counts_what_it_has() -> None:
    """It counts once for all subscribers that it is offered to."""
    first, second = entry(Batch(TP, records(5, 6))), Selection(entry(Batch(TP, records(7, 8)), 2), [1])
    part = Part(b"gap", b"records", has_ids=False)
    found = Round([(first, part), (second, part)], b"all of it")
    assert (found.first_sequence, found.last_sequence, found.last) == (1, 2, second)
    assert (found.record_count, found.size_bytes, found.entries) == (3, 9, [first, second])
    assert len(part) == 10


def test_a_new_cursor_has_been_handed_nothing() -> None:
    """It has topics, but no place yet."""
    cursor = Cursor(frozenset({"assets"}), whole=True)
    assert (cursor.sequence, cursor.next_offsets, cursor.seen, cursor.whole) == (0, {}, None, True)


def test_a_cursor_returns_to_the_entry_that_it_was_handed_last() -> None:
    """It reads the entry again from the given offset."""
    cursor = Cursor(frozenset({"assets"}))
    cursor.sequence, cursor.next_offsets = 3, {TP: 7}
    cursor.return_to(entry(Batch(TP, records(5, 6)), sequence=3), 6)
    assert (cursor.sequence, cursor.next_offsets) == (2, {TP: 6})


def test_items_are_joined_into_writes_up_to_a_size() -> None:
    """One item always fits, and the order stays."""
    items = [(entry(Batch(TP, records(offset))), Part(b"", b"x" * 4, has_ids=True)) for offset in range(3)]
    assert joined([], 8) == ()
    assert joined(items[:1], 1) == (items[:1],)
    assert joined(items, 8) == [items[:2], items[2:]]
    assert joined(items, 1) == [[item] for item in items]
