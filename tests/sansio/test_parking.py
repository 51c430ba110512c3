"""Parked ranges: what is in them after any order of parking and taking, and their bound."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.entries import covered
from dispatcher.sansio.parking import ParkedPartition, ParkedRanges, ParkedStatistics, Reason
from dispatcher.sansio.records import Batch, Record, TopicPartition

ONE, TWO = TopicPartition("orders", 0), TopicPartition("audit", 1)

STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 30), st.integers(1, 6), st.sampled_from(Reason)), min_size=1, max_size=40
)


@given(steps=STEPS, max_ranges=st.integers(2, 12))
def test_ranges_hold_what_was_parked_and_not_taken(steps: list[tuple[bool, int, int, Reason]], max_ranges: int) -> None:
    """Whatever the order; sorted, disjoint, joined where they may be, and never more than the bound."""
    parked, expected = ParkedPartition(1, max_ranges), dict[int, Reason]()
    for parks, start, length, reason in steps:
        offsets = set(range(start, start + length))
        if parks and offsets.isdisjoint(expected):
            if parked.park([(start, start + length)], reason):
                expected.update(dict.fromkeys(offsets, reason))
            else:
                assert parked.is_full
                assert len(parked) == max_ranges
        elif not parks:
            taken = {offset for first, end in parked.take(start, start + length) for offset in range(first, end)}
            refused = offsets & expected.keys() - taken
            assert not refused or 2 * len(parked) >= max_ranges, "half of the bound is for taking from the middle"
            for offset in taken:
                del expected[offset]
        free = {offset for first, end in parked.free(start, start + length) for offset in range(first, end)}
        assert free == offsets - expected.keys()
        found = {offset: reason for first, end, reason in parked._ranges for offset in range(first, end)}
        assert found == expected
        assert parked.offsets == len(expected)
        assert len(parked) <= max_ranges
        for before, after in zip(parked._ranges, parked._ranges[1:], strict=False):
            assert before[1] < after[0] or (before[1] == after[0] and before[2] is not after[2])
        if expected:
            assert parked.first == min(expected)


def test_a_partition_takes_its_ranges_along() -> None:
    """When it leaves, or begins again in another epoch; what was found before is not current any more."""
    ranges = ParkedRanges(10)
    assert not ranges
    assert ranges.park(ONE, 1, [(3, 5), (7, 8)], Reason.UNMATCHED)
    assert ranges.park(TWO, 2, [(0, 1)], Reason.NOT_GRANTED)
    assert ranges.starts(frozenset({"orders", "none"})) == {ONE: 3}
    first = ranges.find(ONE)
    assert first is not None
    assert ranges.is_current(ONE, first)
    assert ranges.statistics()[ONE] == ParkedStatistics(2, 3, 3, {"unmatched": 2}, is_full=False)
    ranges.park(ONE, 3, [(9, 10)], Reason.UNMATCHED)
    assert not ranges.is_current(ONE, first)
    assert ranges.starts(frozenset({"orders"})) == {ONE: 9}
    assert ranges.take(ONE, 0, 20) == [(9, 10)]
    assert ranges.find(ONE) is None
    assert ranges.take(ONE, 0, 20) == []
    ranges.forget([ONE, TWO])
    assert not ranges


def test_what_does_not_fit_is_not_parked_until_there_is_room() -> None:
    """All ranges of a batch, or none; one that continues the last range needs no room."""
    ranges = ParkedRanges(2)
    assert ranges.park(ONE, 1, [(0, 1), (2, 3)], Reason.UNMATCHED)
    assert not ranges.park(ONE, 1, [(4, 5)], Reason.UNMATCHED)
    assert ranges.park(ONE, 1, [(3, 4)], Reason.UNMATCHED)
    assert not ranges.park(ONE, 1, [(4, 5)], Reason.NOT_GRANTED)
    assert ranges.statistics()[ONE].is_full
    assert ranges.take(ONE, 0, 1) == [(0, 1)]
    assert not ranges.statistics()[ONE].is_full
    assert ranges.park(ONE, 1, [(4, 5)], Reason.NOT_GRANTED)
    assert not ParkedRanges(1).park(ONE, 1, [(0, 1), (2, 3)], Reason.UNMATCHED)


def test_nothing_before_the_beginning_of_an_assignment_is_covered() -> None:
    """A followed partition is handed over in the middle of a batch."""
    batch = Batch(ONE, [Record(offset, None, None, None, ()) for offset in range(10)])
    assert covered(batch, [0, 1, 5, 6]) == [(0, 2), (5, 7)]
    batch.covers_from = 6
    assert covered(batch, [0, 1, 5, 6]) == [(6, 7)]
    assert covered(batch, [0, 1]) == []


def test_what_is_taken_out_of_the_middle_uses_half_of_the_bound() -> None:
    """Beyond that it stays parked; from either end more can be taken."""
    parked = ParkedPartition(1, 4)
    parked.park([(0, 20)], Reason.UNMATCHED)
    assert [parked.take(offset, offset + 1) for offset in (5, 10, 15)] == [[(5, 6)], [], []]
    assert (len(parked), parked.offsets) == (2, 19)
    assert parked.take(0, 6) == [(0, 5)]
    assert parked.take(18, 30) == [(18, 20)]
    assert parked.free(0, 30) == [(0, 6), (18, 30)]
