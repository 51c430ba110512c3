"""Parked ranges: what is in them after any order of parking and taking, and their bound."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.entries import covered
from dispatcher.sansio.offset_set import BLOCK_OFFSETS
from dispatcher.sansio.parking import ParkedPartition, ParkedRanges, ParkedStatistics, Reason
from dispatcher.sansio.records import Batch, Record, TopicPartition

ONE, TWO = TopicPartition("orders", 0), TopicPartition("audit", 1)

FIRSTS = st.builds(
    lambda block, within: block * BLOCK_OFFSETS + within, st.integers(0, 4), st.sampled_from((0, 1, 5, 1023))
)
STEPS = st.lists(
    st.tuples(st.booleans(), FIRSTS, st.sampled_from((1, 3, 1024, 2600)), st.sampled_from(Reason)),
    min_size=1,
    max_size=10,
)


@given(steps=STEPS, max_ranges=st.integers(1, 8))
@settings(max_examples=60)
def test_what_was_parked_and_not_taken_is_parked(steps: list[tuple[bool, int, int, Reason]], max_ranges: int) -> None:
    """This holds in any order, within the bound of runs and blocks."""
    parked, expected = ParkedPartition(1, max_ranges), dict[int, Reason]()
    for parks, start, length, reason in steps:
        offsets = set(range(start, start + length))
        before = len(parked)
        if parks and offsets.isdisjoint(expected):
            if parked.park([(start, start + length)], reason):
                expected.update(dict.fromkeys(offsets, reason))
            else:
                assert parked.is_full
                assert len(parked) == before
        elif not parks:
            taken = {offset for first, end in parked.take(start, start + length) for offset in range(first, end)}
            refused = offsets & expected.keys() - taken
            assert not refused or before + 2 > max_ranges, "only the middle of a run is refused, without room"
            for offset in taken:
                del expected[offset]
        free = {offset for first, end in parked.free(start, start + length) for offset in range(first, end)}
        assert free == offsets - expected.keys()
        if expected:
            assert parked.first == min(expected)
            found = parked.statistics()
            assert found.reasons == Counter(str(reason) for reason in expected.values())
            assert (found.offsets, found.ranges) == (len(expected), len(parked))
        else:
            assert not parked
        assert len(parked) <= max_ranges


def test_an_hour_of_records_that_alternate_is_parked() -> None:
    """Every block of 1,024 offsets fits: ten million with the default bound."""
    max_ranges = 1_000
    parked, bound = ParkedPartition(1, max_ranges), max_ranges * BLOCK_OFFSETS
    for block in range(bound // BLOCK_OFFSETS):
        first = block * BLOCK_OFFSETS
        # A block costs the same whichever of its offsets are parked: a few stand for all that alternate.
        assert parked.park(
            [(first + 1, first + 2), (first + 3, first + 4), (first + 1021, first + 1022)], Reason.UNMATCHED
        )
    assert len(parked) == max_ranges
    assert not parked.is_full
    assert parked.park([(5, 6)], Reason.UNMATCHED), "where others are parked there is room for more"
    assert parked.take(1021, 1022) == [(1021, 1022)], "and whoever wants one takes it"
    assert not parked.park([(bound, bound + 1)], Reason.UNMATCHED)


def test_a_partition_takes_its_ranges_along() -> None:
    """When it leaves or begins again, what was found before is outdated."""
    ranges = ParkedRanges(10)
    assert not ranges
    assert ranges.park(ONE, 1, [(3, 5), (7, 8)], Reason.UNMATCHED)
    assert ranges.park(TWO, 2, [(0, 1)], Reason.NOT_GRANTED)
    assert ranges.starts(frozenset({"orders", "none"})) == {ONE: 3}
    first = ranges.find(ONE)
    assert first is not None
    assert ranges.is_current(ONE, first)
    assert ranges.statistics()[ONE] == ParkedStatistics(1, 3, 3, {"unmatched": 3}, is_full=False)
    ranges.park(ONE, 3, [(9, 10)], Reason.UNMATCHED)
    assert not ranges.is_current(ONE, first)
    assert ranges.starts(frozenset({"orders"})) == {ONE: 9}
    assert ranges.take(ONE, 0, 20) == [(9, 10)]
    assert ranges.find(ONE) is None
    assert ranges.take(ONE, 0, 20) == []
    ranges.forget([ONE, TWO])
    assert not ranges


def test_what_does_not_fit_is_not_parked_until_there_is_room() -> None:
    """All ranges of a batch are parked or none; a block that is in use needs no room."""
    ranges, far = ParkedRanges(2), 10 * BLOCK_OFFSETS
    assert ranges.park(ONE, 1, [(0, 1), (far, far + 1)], Reason.UNMATCHED)
    assert not ranges.park(ONE, 1, [(3, 4), (2 * far, 2 * far + 1)], Reason.UNMATCHED)
    assert list(ranges.statistics()) == [ONE]
    assert ranges.statistics()[ONE].offsets == 2
    assert ranges.park(ONE, 1, [(3, 4)], Reason.UNMATCHED)
    assert not ranges.park(ONE, 1, [(4, 5)], Reason.NOT_GRANTED)
    assert ranges.statistics()[ONE].is_full
    assert ranges.take(ONE, 0, 4) == [(0, 1), (3, 4)]
    assert not ranges.statistics()[ONE].is_full
    assert ranges.park(ONE, 1, [(4, 5)], Reason.NOT_GRANTED)
    assert not ParkedRanges(1).park(ONE, 1, [(0, 1), (far, far + 1)], Reason.UNMATCHED)


def test_nothing_before_the_beginning_of_an_assignment_is_covered() -> None:
    """A followed partition is handed over in the middle of a batch."""
    batch = Batch(ONE, [Record(offset, None, None, None, ()) for offset in range(10)])
    assert covered(batch, [0, 1, 5, 6]) == [(0, 2), (5, 7)]
    batch.covers_from = 6
    assert covered(batch, [0, 1, 5, 6]) == [(6, 7)]
    assert covered(batch, [0, 1]) == []


def test_without_room_the_middle_of_a_long_run_stays_parked() -> None:
    """It was sent, and is repeated at worst; its ends can always be taken."""
    parked, end = ParkedPartition(1, 3), 20 * BLOCK_OFFSETS
    parked.park([(0, end)], Reason.UNMATCHED)
    assert [parked.take(offset, offset + 1) for offset in (5 * BLOCK_OFFSETS, end // 2)] == [
        [(5 * BLOCK_OFFSETS, 5 * BLOCK_OFFSETS + 1)],
        [],
    ]
    assert (len(parked), parked.offsets) == (3, end - 1)
    assert parked.take(0, 5 * BLOCK_OFFSETS + 2) == [
        (0, 5 * BLOCK_OFFSETS),
        (5 * BLOCK_OFFSETS + 1, 5 * BLOCK_OFFSETS + 2),
    ]
    assert parked.take(end - BLOCK_OFFSETS, end + 10) == [(end - BLOCK_OFFSETS, end)]
    assert list(parked.free(0, 1)) == [(0, 1)]
    assert list(parked.free(7 * BLOCK_OFFSETS, 7 * BLOCK_OFFSETS + 1)) == []
    assert list(parked.free(0, end)) == [(0, 5 * BLOCK_OFFSETS + 2), (end - BLOCK_OFFSETS, end)]


def test_what_is_absent_takes_no_room_unless_it_comes_first() -> None:
    """Commits stop before what comes first; later holes wait until they come first."""
    parked = ParkedPartition(1, 10)
    length = 3 * BLOCK_OFFSETS
    assert parked.park([(0, length)], Reason.UNMATCHED)
    absent = (0, 2), (length // 2, length // 2 + 1), (length - 2, length)
    assert [parked.take(*part, splits=False) for part in absent] == [[(0, 2)], [], []]
    assert len(parked) == 2
    assert parked.take(2, length // 2) == [(2, length // 2)]
    assert parked.take(*absent[1], splits=False) == [absent[1]]
