"""What the group's consumer brings of a partition that was followed."""

import pytest

from dispatcher.sansio.known_records import KnownRecords
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
