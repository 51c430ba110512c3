"""Which partitions are thought to be readable, and how long one that is not rests."""

from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.unreadable import (
    FORGOTTEN_SECONDS,
    LONGEST_PATIENCE_SECONDS,
    LONGEST_REST_SECONDS,
    PATIENCE_SECONDS,
    REST_SECONDS,
    Asked,
    Unreadable,
)

A, B = (TopicPartition("assets", n) for n in range(2))
NONE: frozenset[TopicPartition] = frozenset()
BOTH = frozenset({A, B})


def test_a_partition_that_failed_rests_and_the_others_do_not() -> None:
    """Partitions that nobody asked about are unknown."""
    unreadable = Unreadable()
    unreadable.read(BOTH)
    unreadable.failed([A], 10)
    assert unreadable.ask(BOTH, 10) == Asked(frozenset({B}), NONE, frozenset({A}))
    assert len(unreadable) == 1


def test_after_its_rest_one_attempt_is_due_for_everybody() -> None:
    """The second question finds it resting again."""
    unreadable = Unreadable()
    unreadable.failed([A], 10)
    after = 10 + REST_SECONDS
    assert unreadable.ask(BOTH, after) == Asked(frozenset({B}), frozenset({A}), NONE)
    assert unreadable.ask(BOTH, after) == Asked(frozenset({B}), NONE, frozenset({A}))


def test_failures_in_a_row_double_the_rest_and_the_patience_up_to_a_bound() -> None:
    """Slow brokers get more time, and missing ones are asked less often."""
    unreadable, now = Unreadable(), 0.0
    for failures in range(1, 20):
        unreadable.failed([A], now)
        rest = min(REST_SECONDS * 2 ** (failures - 1), LONGEST_REST_SECONDS)
        assert unreadable.ask([A], now + rest - 0.01).resting
        assert unreadable.patience(BOTH) == min(PATIENCE_SECONDS * 2**failures, LONGEST_PATIENCE_SECONDS)
        now += rest
        assert unreadable.ask([A], now).due
    assert unreadable.patience([B]) == PATIENCE_SECONDS


def test_a_leader_that_answers_makes_it_readable_and_a_record_makes_it_well() -> None:
    """Failures count until something was read."""
    unreadable = Unreadable()
    unreadable.failed([A], 10)
    unreadable.answered([A, B])
    assert unreadable.ask([A], 10).readable == {A}
    assert unreadable.patience([A]) > PATIENCE_SECONDS
    unreadable.read([A])
    assert unreadable.patience([A]) == PATIENCE_SECONDS


def test_a_failure_that_nobody_asks_about_is_forgotten() -> None:
    """Topics are created and deleted, and the memory for them must not grow."""
    unreadable = Unreadable()
    unreadable.failed([A], 0)
    unreadable.failed([B], REST_SECONDS + FORGOTTEN_SECONDS + 1)
    assert unreadable.ask(BOTH, REST_SECONDS + FORGOTTEN_SECONDS + 1) == Asked(frozenset({A}), NONE, frozenset({B}))
