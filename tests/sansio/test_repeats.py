"""What a reader is sent again although its position names it, until that is announced."""

from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.repeats import Repeats

A, B = TopicPartition("assets", 0), TopicPartition("assets", 1)


def test_ranges_are_announced_once() -> None:
    """In order of their partitions, and no range where a reader does not go back."""
    repeats = Repeats()
    repeats.note(B, 3, 9)
    repeats.note(A, 1, 2)
    repeats.note(TopicPartition("assets", 2), 5, 5)
    assert repeats.take() == [(A, Range(1, 2)), (B, Range(3, 9))]
    assert list(repeats.take()) == []


def test_ranges_of_one_partition_are_joined() -> None:
    """A reader may go back more than once before its next state is sent."""
    repeats = Repeats()
    repeats.note(A, 5, 9)
    repeats.note(A, 2, 6)
    assert repeats.take() == [(A, Range(2, 9))]


def test_a_partition_that_leaves_is_not_announced() -> None:
    """Where it begins when it returns is another question."""
    repeats = Repeats()
    repeats.forget([A])
    repeats.note(A, 2, 9)
    repeats.note(B, 2, 9)
    repeats.forget([A, TopicPartition("assets", 2)])
    assert repeats.take() == [(B, Range(2, 9))]
