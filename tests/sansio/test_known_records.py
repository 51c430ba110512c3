"""What the group's consumer brings of a partition that was followed."""

import pytest

from dispatcher.sansio.known_records import KnownRecords
from dispatcher.sansio.offsets import MAX_RANGES
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import Record, Records, TopicPartition

A = TopicPartition("assets", 0)


def records(*offsets: int) -> Records:
    """Records with these offsets."""
    return Records.of([Record(offset, None, None, b"value", ()) for offset in offsets])


def test_records_that_the_history_has_are_left_out() -> None:
    """Known records are left out, even within a batch; later ones are news."""
    known = KnownRecords()
    assert list(known.news(A, records(3)).offsets) == [3]
    known.note(A, 5)
    assert list(known.news(A, records(3, 4)).offsets) == []
    assert list(known.news(A, records(4, 5, 6)).offsets) == [5, 6]
    assert list(known.news(A, records(2)).offsets) == [2], "a log that begins again"


def test_a_partition_that_is_forgotten_brings_news_only() -> None:
    """Its log was replaced, or it has left."""
    known = KnownRecords()
    known.note(A, 5)
    known.forget(A)
    known.forget(A)
    assert list(known.news(A, records(3)).offsets) == [3]


@pytest.mark.parametrize(
    ("known_to", "first"),
    [(None, 3), (3, 3), (5, 5), (7, 7), (8, None)],
)
def test_of_a_gap_the_part_that_was_followed_is_left_out(known_to: int | None, first: int | None) -> None:
    """Subscribers have got its records, or the gap itself."""
    known = KnownRecords()
    if known_to is not None:
        known.note(A, known_to)
    news = known.news_of_gap(Gap(A, 3, 7, "expired"))
    assert news == (None if first is None else Gap(A, first, 7, "expired"))


def test_what_is_taken_of_records_that_are_read_again_is_returned_as_they_come() -> None:
    """Each range once, until everything has been read again."""
    known = KnownRecords()
    known.taken(A, 0, 9)
    assert known.taken_of(A, 9) == (), "nothing is read again"
    known.begins_again(A, 9, 9)
    known.taken(A, 0, 9)
    assert known.taken_of(A, 9) == (), "the history has all of it"
    known.begins_again(A, 3, 9)
    for start, end in ((3, 5), (6, 8), (7, 7)):
        known.taken(A, start, end)
    assert known.taken_of(A, 4) == [(3, 5)]
    assert known.taken_of(A, 5) == [(3, 5)]
    known.taken(A, 8, 9)
    assert known.taken_of(A, 9) == [(6, 9)]
    known.taken(A, 3, 9)
    assert known.taken_of(A, 9) == ()


def test_of_a_partition_that_is_forgotten_nothing_is_read_again() -> None:
    """What was taken was of another log."""
    known = KnownRecords()
    known.begins_again(A, 3, 9)
    known.taken(A, 3, 5)
    known.forget(A)
    assert known.taken_of(A, 9) == ()


def test_few_ranges_are_kept_of_what_is_taken() -> None:
    """The lowest are forgotten first."""
    known = KnownRecords()
    known.begins_again(A, 0, 10_000)
    for number in range(MAX_RANGES + 5):
        known.taken(A, 2 * number, 2 * number + 1)
    taken = known.taken_of(A, 10_000)
    assert (len(taken), taken[0]) == (MAX_RANGES, (10, 11))
