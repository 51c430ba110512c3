"""How many partitions topics have, and which of them are new to those who read the whole."""

import pytest

from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.topic_counts import TopicCounts

NOBODY: frozenset[str] = frozenset()
A = frozenset({"a"})


def is_new(counts: TopicCounts, number: int) -> bool:
    """Of a partition of the topic that is read."""
    return counts.is_new(TopicPartition("a", number))


def test_a_topic_never_has_fewer_partitions_than_some_broker_has_said() -> None:
    """Brokers learn of partitions at different times, and some do not answer."""
    counts = TopicCounts()
    assert counts.counted({"a": 6}, {}, NOBODY, NOBODY) == {"a": 6}
    assert counts.counted({"a": 4, "b": 1}, {}, NOBODY, NOBODY) == {"a": 6, "b": 1}
    assert counts.counted({}, {}, NOBODY, NOBODY) == {"a": 6, "b": 1}


@pytest.mark.parametrize(
    ("reason", "known"),
    [("missing", 0), ("deleted", 0), ("unauthorized", 0), ("leaderless", 6), ("registry", 6)],
)
def test_a_topic_that_is_not_there_has_no_partitions_until_it_is(reason: str, known: int) -> None:
    """Other problems, and problems of found topics, change nothing."""
    counts = TopicCounts()
    assert counts.counted({"a": 6}, {"a": reason}, NOBODY, NOBODY) == {"a": 6}
    assert counts.counted({}, {"a": reason}, NOBODY, NOBODY) == {"a": known}
    assert counts.counted({"a": 6}, {}, NOBODY, NOBODY) == {"a": 6}


def test_partitions_that_were_added_while_somebody_reads_are_new() -> None:
    """They stay new until the follower has released the topic."""
    counts = TopicCounts()
    counts.counted({"a": 2}, {}, A, NOBODY)
    assert not is_new(counts, 1)
    counts.counted({"a": 3}, {}, A, A)
    assert (is_new(counts, 1), is_new(counts, 2)) == (False, True)
    counts.counted({"a": 3}, {}, NOBODY, NOBODY)
    assert is_new(counts, 2), "a reader may be on its way from one connection to the next"
    counts.forget(["a", "b"])
    assert not is_new(counts, 2)


def test_a_created_topic_is_not_new_to_later_readers() -> None:
    """Nobody reads it any more, and its log may have become long."""
    counts = TopicCounts()
    counts.counted({}, {"a": "missing"}, A, NOBODY)
    counts.counted({"a": 1}, {}, NOBODY, A)
    assert is_new(counts, 0), "it is still followed"
    counts.counted({"a": 1}, {}, NOBODY, NOBODY)
    assert not is_new(counts, 0)


def test_a_topic_that_a_broker_does_not_know_for_a_moment_is_not_new() -> None:
    """Otherwise a long log would be read from its start."""
    counts = TopicCounts()
    counts.counted({"a": 6}, {}, A, NOBODY)
    assert not is_new(counts, 0)
    counts.counted({}, {"a": "deleted"}, A, A)
    counts.counted({"a": 7}, {}, A, A)
    assert (is_new(counts, 5), is_new(counts, 6)) == (False, True)


@pytest.mark.parametrize(
    ("reason", "whole", "new"),
    [("deleted", A, True), ("missing", A, True), ("missing", NOBODY, False), ("unauthorized", A, False)],
)
def test_a_topic_that_is_created_while_somebody_waits_for_it_is_new(
    reason: str, whole: frozenset[str], new: bool
) -> None:
    """Hidden topics, and those that nobody waited for, are not."""
    counts = TopicCounts()
    counts.counted({}, {"a": reason}, whole, NOBODY)
    counts.counted({"a": 1}, {}, A, NOBODY)
    assert is_new(counts, 0) == new
