"""The questions that a reader asks of Kafka."""

from dispatcher.sansio.lookups import LogBounds, OffsetsForTime, ReadRanges
from dispatcher.sansio.ranges import NOW, Range
from dispatcher.sansio.records import TopicPartition

A = TopicPartition("assets", 0)


def test_each_question_names_its_partitions() -> None:
    """Whatever the question, its partitions are known."""
    for lookup in (OffsetsForTime({A}, NOW), LogBounds({A}), ReadRanges({A: Range(1, 3)})):
        assert lookup.partitions == {A}


def test_two_questions_are_never_the_same() -> None:
    """The same question may have another answer later."""
    assert LogBounds(frozenset({A})) != LogBounds(frozenset({A}))
