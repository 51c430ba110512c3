"""How late a round is: how long what it hands out has waited."""

import pytest

from dispatcher.hub.round_times import RoundTimes


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_the_latest_round_counts_from_its_oldest_publication_to_its_end() -> None:
    """Each call asks about the time since the one before."""
    clock = Clock()
    times = RoundTimes(now=clock)
    for waits, takes in ((0.5, 0.25), (0.25, 1.0), (0.0, 0.25)):
        times.published()
        clock.seconds += waits
        times.began()
        clock.seconds += takes
        times.ended()
    assert (times.rounds, times.seconds) == (3, 0.25)
    assert [times.take_late_seconds(), times.take_late_seconds()] == [1.25, 0]


def test_what_has_not_been_handed_out_counts_as_it_waits() -> None:
    """A round that takes long is late before it ends, and so is what waits for it."""
    clock = Clock()
    times = RoundTimes(now=clock)
    times.published()
    clock.seconds += 1
    assert times.take_late_seconds() == 1
    times.began()
    clock.seconds += 1
    times.published()
    clock.seconds += 1
    assert times.take_late_seconds() == 3
    times.ended()
    assert [times.take_late_seconds(), times.take_late_seconds()] == [3, 1]


@pytest.mark.parametrize("begins", [False, True])
def test_what_was_withdrawn_waits_no_longer(*, begins: bool) -> None:
    """A round that goes on without it is not late."""
    clock = Clock()
    times = RoundTimes(now=clock)
    times.published()
    if begins:
        times.began()
    clock.seconds += 1
    times.withdrawn()
    times.ended()
    assert times.take_late_seconds() == 0


def test_lingering_is_not_late() -> None:
    """The setting asks for it."""
    clock = Clock()
    times = RoundTimes(0.5, now=clock)
    assert times.take_late_seconds() == 0
    for waits, late_seconds in ((0.25, 0), (0.75, 0.25)):
        times.published()
        clock.seconds += waits
        times.began()
        times.ended()
        assert times.take_late_seconds() == late_seconds
