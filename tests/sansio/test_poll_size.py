"""How many records a poll may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.poll_size import MOST_TRIES, PollSize

MOST = 1000


class Tries:
    """How often filters were tried."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> int:
        """In all."""
        return self.number

    def poll(self, size: PollSize, records: int, each: int) -> None:
        """They are tried this many times on each record of a poll."""
        with size.measure(records):
            self.number += records * each


def test_filters_that_are_tried_often_make_polls_small() -> None:
    """At once, so that the next poll has as few tries as it should."""
    tries = Tries()
    size = PollSize(MOST, tries)
    assert size.records == MOST
    tries.poll(size, 500, 900)
    assert size.records == MOST_TRIES // 900


def test_one_record_is_always_taken() -> None:
    """However often filters are tried on it."""
    tries = Tries()
    size = PollSize(MOST, tries)
    tries.poll(size, 1, 20 * MOST_TRIES)
    assert size.records == 1


def test_a_poll_without_records_says_nothing() -> None:
    """Filters may be tried on others meanwhile."""
    tries = Tries()
    size = PollSize(MOST, tries)
    with size.measure(0):
        tries.number += 20 * MOST_TRIES
    assert size.records == MOST


def test_an_index_that_is_gone_says_nothing() -> None:
    """The number of tries is then lower than before."""
    tries = Tries()
    tries.number = 1000
    size = PollSize(MOST, tries)
    with size.measure(1):
        tries.number = 0
    assert size.records == MOST


def test_single_records_that_no_filter_is_tried_on_say_nothing_about_many() -> None:
    """Else a burst of others would hold the loop."""
    tries = Tries()
    size = PollSize(MOST, tries)
    tries.poll(size, 500, 100)
    for _ in range(100):
        tries.poll(size, 1, 0)
    assert size.records == MOST_TRIES // 100


def test_the_limit_returns_when_filters_are_tried_seldom_again() -> None:
    """It grows with each full poll, up to what it was."""
    tries = Tries()
    size = PollSize(MOST, tries)
    tries.poll(size, 500, 750)
    seen = []
    for _ in range(20):
        tries.poll(size, size.records, 0)
        seen.append(size.records)
    assert seen[:3] == [13, 17, 22]
    assert seen[-1] == MOST


@pytest.mark.parametrize("most", [1, MOST])
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30))
def test_full_polls_end_at_as_many_records_as_fit(most: int, often: list[int]) -> None:
    """Once filters are tried as often on each record."""
    tries = Tries()
    size = PollSize(most, tries)
    for each in often:
        tries.poll(size, size.records, each)
    for _ in range(40):
        tries.poll(size, size.records, often[-1])
    fit = MOST_TRIES / often[-1] if often[-1] else most
    assert min(most, max(1, int(0.7 * fit))) <= size.records <= min(most, max(1, 1.01 * fit))
