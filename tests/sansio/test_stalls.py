"""Partitions that are not fetched although they have records: when they are restarted, and when that is given up."""

from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.stalls import (
    LOOK_SECONDS,
    REBUILD_SECONDS,
    REPEAT_SECONDS,
    STALLED_SECONDS,
    Stall,
    StallLimit,
    StallStatistics,
    StallWatch,
)

ONE, TWO = TopicPartition("assets", 1), TopicPartition("assets", 2)


def suspected(next_offset: int = 5, log_end: int = 9) -> StallWatch:
    """A watch at time 10 that suspects a partition which its leader has more records of."""
    watch = StallWatch()
    assert list(watch.look({ONE: next_offset}, (), 0.0)) == []
    assert list(watch.look({ONE: next_offset}, (), LOOK_SECONDS)) == [ONE]
    watch.answered({ONE: log_end}, 10.0)
    return watch


def test_leaders_are_asked_about_partitions_that_stand_still() -> None:
    """Not about paused, new or moved ones, and not before a check is due."""
    watch = StallWatch()
    paused = TopicPartition("assets", 3)
    assert list(watch.look({ONE: 5, TWO: 5, paused: 5}, {paused}, 0.0)) == []
    assert list(watch.look({ONE: 5, TWO: 5, paused: 5}, {paused}, LOOK_SECONDS - 0.1)) == []
    assert [watch.is_due(LOOK_SECONDS - 0.1), watch.is_due(LOOK_SECONDS)] == [False, True]
    assert list(watch.look({ONE: 5, TWO: 6, paused: 5}, {paused}, LOOK_SECONDS)) == [ONE]


def test_a_partition_that_stands_still_before_records_is_restarted_once() -> None:
    """After the same time again, it is reported as not helped."""
    watch = suspected()
    assert watch.is_due(10.0)
    due = 10.0 + STALLED_SECONDS
    assert watch.stalled({ONE: 5}, (), due - 0.1, idle=True) == []
    assert watch.stalled({ONE: 5}, (), due, idle=True) == [Stall(ONE, 5, 9, was_restarted=False)]
    assert watch.stalled({ONE: 5}, (), due, idle=True) == []
    watch.answered({ONE: 12}, due + 1)
    due += STALLED_SECONDS
    for at in (due, due + REPEAT_SECONDS):
        assert watch.stalled({ONE: 5}, (), at, idle=True) == [Stall(ONE, 5, 9, was_restarted=True)]
        assert watch.stalled({ONE: 5}, (), at + REPEAT_SECONDS - 0.1, idle=True) == []


def test_a_partition_that_moves_leaves_or_is_paused_is_not_stalled() -> None:
    """Earlier suspicions are dropped, and later ones start over."""
    for next_offsets, paused in (({ONE: 6}, ()), ({}, ()), ({ONE: 5}, {ONE})):
        watch = suspected()
        assert watch.stalled(next_offsets, paused, 10.0, idle=True) == []
        assert watch.stalled({ONE: 5}, (), 100.0, idle=True) == []
    watch = suspected()
    watch.look({ONE: 6}, (), 2 * LOOK_SECONDS)
    watch.answered({ONE: 9}, 20.0)
    assert watch.stalled({ONE: 6}, (), 20.0 + STALLED_SECONDS, idle=True) == [Stall(ONE, 6, 9, was_restarted=False)]


def test_a_partition_behind_a_full_queue_is_not_stalled() -> None:
    """Its records wait their turn until the queue has been empty once."""
    watch = suspected()
    assert watch.stalled({ONE: 5}, (), 100.0, idle=False) == []
    assert [stall.partition for stall in watch.stalled({ONE: 5}, (), 101.0, idle=True)] == [ONE]


def test_a_quiet_partition_is_not_stalled() -> None:
    """Its leader has nothing more, does not answer, or the partition has left."""
    watch = suspected(next_offset=9, log_end=9)
    watch.answered({TWO: 7}, 10.0)
    assert watch.stalled({ONE: 9, TWO: 0}, (), 100.0, idle=True) == []


def test_a_consumer_is_rebuilt_when_a_restart_has_not_helped() -> None:
    """Pauses between rebuilds double, and start over after a long rest."""
    limit = StallLimit()
    first, again, other = Stall(ONE, 5, 9, False), Stall(ONE, 5, 9, True), Stall(TWO, 0, 3, True)
    assert limit.take([first], 0.0) is None
    reason = limit.take([again, other], 10.0)
    assert reason == "assets:1 and 1 more is not fetched from offset 5, although its leader has records up to 9"
    at = 10.0 + REBUILD_SECONDS[0]
    assert limit.take([again], at - 0.1) is None
    assert limit.take([again], at) == "assets:1 is not fetched from offset 5, although its leader has records up to 9"
    assert limit.take([again], at + REBUILD_SECONDS[0]) is None
    assert limit.take([again], at + 2 * REBUILD_SECONDS[0]) is not None
    rested = at + 20 * REBUILD_SECONDS[1]
    assert limit.take([again], rested) is not None
    assert limit.take([again], rested + REBUILD_SECONDS[0]) is not None
    assert limit.statistics() == StallStatistics(restarts=1, rebuilds=5)
