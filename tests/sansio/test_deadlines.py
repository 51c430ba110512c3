"""Which waiting records are overdue."""

from dispatcher.sansio.deadlines import GRACE_SECONDS, Action, Deadline, DeadlineWatch, Overdue, overdue
from dispatcher.sansio.entries import GAP, Entry
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, TopicPartition

ONE, OTHER = TopicPartition("assets", 0), TopicPartition("orders", 0)


def entry(sequence: int, *times_ms: int | None, gap: bool = False) -> Entry:
    """Records at offsets that begin at ten times the sequence."""
    first = 10 * sequence
    records = [Record(first + n, time_ms, None, b"x", ()) for n, time_ms in enumerate(times_ms)]
    before = Gap(ONE, first - 5, first - 1, "expired") if gap else None
    batch = Batch(ONE, records or NO_RECORDS, gap=before)
    return Entry(sequence, batch, Snapshot.of(Layout([ONE]), (first,)), 1)


def indexes(found: list[Overdue]) -> list[tuple[int, list[int]]]:
    """By sequence."""
    return [(one.entry.sequence, one.indexes) for one in found]


def test_each_record_is_judged_by_its_own_time() -> None:
    """Records without a time, and settled ones, are never overdue."""
    first, second = entry(1, 100, 300, 200), entry(2, None, 50, 201)
    assert indexes(overdue([first, second], 200)) == [(1, [0, 2]), (2, [1])]
    first.settle([0])
    assert indexes(overdue([first, second], 200)) == [(1, [2]), (2, [1])]
    assert overdue([first, second], 49) == []


def test_what_is_being_written_is_passed_over() -> None:
    """It may be dispatched in a moment."""
    assert indexes(overdue([entry(1, 100), entry(2, 100)], 200, {1})) == [(2, [0])]


def test_a_gap_goes_with_the_overdue_record_after_it() -> None:
    """The gap may be in an earlier batch; without such a record it waits for a subscriber."""
    alone, own, young = entry(1, gap=True), entry(2, 100, gap=True), entry(3, 300, gap=True)
    found = overdue([alone, own, young], 200)
    assert indexes(found) == [(1, [GAP]), (2, [GAP, 0])]
    assert [one.records for one in found] == [[], [0]]
    assert overdue([alone], 200) == []
    assert indexes(overdue([alone, young, own], 200)) == [(2, [GAP, 0])]
    assert indexes(overdue([alone, entry(4, 100), own], 200, {4})) == [(2, [GAP, 0])]
    own.settle([GAP])
    assert indexes(overdue([own], 200)) == [(2, [0])]
    alone.settle([GAP])
    assert indexes(overdue([alone, own], 200)) == [(2, [0])]


def test_a_partition_that_was_just_assigned_has_a_time_of_grace() -> None:
    """It is as long as the deadline, at most half a minute, and starts with each assignment."""
    short, long = Deadline(5, Action.SKIP), Deadline(3600, Action.LOG)
    assert (short.grace_seconds, long.grace_seconds, long.cutoff_ms(3_600_001)) == (5, GRACE_SECONDS, 1)
    watch = DeadlineWatch({"assets": short})
    assert watch.look({ONE: 1, OTHER: 1}, 0) == {}
    assert watch.look({ONE: 1, OTHER: 1}, 4.9) == {}
    assert watch.look({ONE: 1, OTHER: 1}, 5) == {ONE: short}
    assert watch.look({ONE: 2}, 6) == {}
    assert watch.look({}, 100) == {}
    assert watch.look({ONE: 2}, 100) == {}
    assert watch.look({ONE: 2}, 105) == {ONE: short}


def test_an_overdue_record_is_reported_as_one_news() -> None:
    """It is reported once, however often it is found."""
    watch = DeadlineWatch({"assets": Deadline(0.001, Action.LOG)})
    watch.look({ONE: 1}, 0)
    first, second = entry(1, 100, 100), entry(2, 100)
    assert watch.news(ONE, overdue([first], 200)) == 2
    assert watch.news(ONE, overdue([first, second], 200)) == 1
    assert watch.news(ONE, overdue([first, second], 200)) == 0
