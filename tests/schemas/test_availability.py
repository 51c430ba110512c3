"""One question that fails concerns its schema; the second concerns the registry."""

import math
import time

import pytest

from dispatcher.schemas.availability import Availability

FOREVER = 1e9


def failed(availability: Availability, wanted_at: float, *, is_silent: bool = False, is_decisive: bool = True) -> bool:
    """A question fails that is asked now."""
    began = math.nextafter(time.monotonic(), math.inf)
    return availability.failed("503", wanted_at, began, is_silent=is_silent, is_decisive=is_decisive)


def is_away(availability: Availability) -> bool:
    """Whether there is an outage."""
    return availability.outage is not None


def test_silence_is_an_outage_at_once() -> None:
    """If no schema is known, and if the caller has asked for one that is."""
    availability = Availability(FOREVER, FOREVER)
    assert failed(availability, 5, is_silent=True)
    outage = availability.outage
    assert outage is not None
    assert (outage.reason, outage.since, outage.is_silent) == ("503", 5, True)
    assert outage.rests(time.monotonic())
    assert not outage.rests(outage.ask_again_at)


def test_errors_are_an_outage_if_two_follow_each_other() -> None:
    """It is counted from the first, and is noticed once."""
    availability = Availability(FOREVER, FOREVER)
    assert not failed(availability, 5)
    assert not is_away(availability)
    assert failed(availability, 7)
    assert not failed(availability, 8)
    outage = availability.outage
    assert outage is not None
    assert outage.since == 5
    assert not outage.rests(time.monotonic()), "a registry that responds may be asked"


@pytest.mark.parametrize("is_silent", [True, False])
def test_if_a_schema_is_known_its_answer_decides(is_silent: bool) -> None:
    """However many others fail meanwhile."""
    availability = Availability(FOREVER, FOREVER)
    for wanted_at in (5, 6, 7):
        assert not failed(availability, wanted_at, is_silent=is_silent, is_decisive=False)
    assert not is_away(availability)
    assert failed(availability, 8, is_silent=is_silent)
    assert availability.outage is not None
    assert availability.outage.since == 5


def test_an_answer_ends_an_outage_and_what_came_before_it() -> None:
    """An error that follows is the first again."""
    availability = Availability(FOREVER, FOREVER)
    assert not availability.answered()
    assert failed(availability, 5, is_silent=True)
    assert availability.answered()
    assert (availability.outage, availability.failing_since) == (None, None)
    assert not failed(availability, 9)
    assert (availability.outage, availability.failing_since) == (None, 9)


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_question_that_others_overtook_concerns_its_schema(is_silent: bool) -> None:
    """The registry answered another one after this one was asked."""
    availability = Availability(FOREVER, FOREVER)
    began = time.monotonic()
    availability.answered()
    for _ in range(3):
        assert not availability.failed("slow", 5, began, is_silent=is_silent, is_decisive=True)
    assert (availability.outage, availability.failing_since) == (None, None)


def test_an_old_failure_is_outdated() -> None:
    """What fails then is the first of its kind, and an outage begins with it."""
    availability = Availability(FOREVER, 0)
    assert not failed(availability, 5)
    assert not failed(availability, 6)
    assert failed(availability, 7, is_silent=True)
    assert failed(availability, 8, is_silent=True)
    assert availability.outage is not None
    assert availability.outage.since == 8
