"""Whose connection makes room for whose."""

import pytest

from dispatcher.web.intake import Intake, Place


class Socket:
    """A connection, as the intake sees it."""

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        """Close it."""
        self.aborted = True


def take(intake: Intake, holder: str, *, idle: bool) -> tuple[Place, Socket] | None:
    """A connection, if it gets a place."""
    place = intake.take(holder)
    if place is None:
        return None
    socket = Socket()
    place.connection = socket
    place.note_idle(idle=idle)
    return place, socket


def test_idle_connections_make_room_for_an_address_with_streams() -> None:
    """A flood used to close the health check of an address with 50 streams."""
    intake = Intake(200)
    for _ in range(50):
        assert take(intake, "honest", idle=False)
    flood = [taken for _ in range(150) if (taken := take(intake, "flood", idle=True))]
    assert intake.statistics().connections.taken == 180
    assert take(intake, "honest", idle=True)
    assert [socket.aborted for _, socket in flood].count(True) == 150 - 129
    assert intake.statistics().connections.taken == 180


def test_the_holder_with_most_idle_connections_makes_room_in_the_last_tenth() -> None:
    """Even if somebody with fewer of them, who has less than the newcomer, was there first."""
    intake = Intake(200)
    small = take(intake, "small", idle=True)
    for _ in range(50):
        assert take(intake, "honest", idle=False)
    flood = [taken for _ in range(150) if (taken := take(intake, "flood", idle=True))]
    assert take(intake, "honest", idle=False)
    assert small is not None
    assert not small[1].aborted
    aborted = [number for number, (_, socket) in enumerate(flood) if socket.aborted]
    assert len(aborted) == 150 - 129 + 1 == aborted[-1] + 1


def test_a_connection_is_idle_from_its_first_moment() -> None:
    """It makes room even if it never sends a byte: nothing has noted then that it waits."""
    intake = Intake(20)
    place, socket = intake.take("silent"), Socket()
    assert place is not None
    place.connection = socket
    assert intake.statistics().idle == 1
    assert intake.evict()
    assert socket.aborted
    assert (intake.statistics().connections.taken, intake.statistics().idle) == (0, 0)


def test_the_last_tenth_is_not_taken_with_the_idle_connections_of_smaller_holders() -> None:
    """The largest holder ends its own idle ones, or is refused."""
    intake = Intake(200)
    quiet = take(intake, "quiet", idle=True)
    for _ in range(179):
        assert take(intake, "greedy", idle=False)
    assert take(intake, "greedy", idle=True) is None
    assert quiet is not None
    assert not quiet[1].aborted


def test_the_longest_idle_of_those_with_most_makes_room() -> None:
    """Idle time counts from the last request."""
    intake = Intake(20)
    taken = [take(intake, holder, idle=True) for holder in ["few"] * 2 + ["many"] * 15]
    sockets = [one[1] for one in taken if one is not None]
    assert all([len(sockets) == 17, *(take(intake, holder, idle=False) for holder in ("one", "two", "three"))])
    assert taken[2] is not None
    for idle in (False, True):
        taken[2][0].note_idle(idle=idle)
    for holder, expected in (("new", [3]), ("newer", [3, 4])):
        assert take(intake, holder, idle=False)
        assert [number for number, socket in enumerate(sockets) if socket.aborted] == expected
        statistics = intake.statistics()
        assert (statistics.connections.taken, statistics.evicted, statistics.refused) == (20, len(expected), 0)


def test_a_place_that_made_room_is_released_once() -> None:
    """Its connection ends a moment later, and must not free another one's place."""
    intake = Intake(20)
    holders = ["idle"] + ["busy"] * 16 + ["one", "two", "three"]
    taken = [take(intake, holder, idle=holder == "idle") for holder in holders]
    assert intake.statistics().connections.taken == 20
    assert take(intake, "new", idle=False)
    assert taken[0] is not None
    place, socket = taken[0]
    assert socket.aborted
    intake.release(place)
    place.note_idle(idle=True)
    assert (intake.statistics().connections.taken, intake.statistics().idle) == (20, 0)
    assert take(intake, "late", idle=False) is None
    assert (intake.statistics().refused, intake.evict()) == (1, False)


@pytest.mark.parametrize(("has_idle", "is_accepted"), [(True, True), (False, False)])
def test_in_the_last_tenth_a_holder_gives_up_its_own(has_idle: bool, is_accepted: bool) -> None:
    """Its new connection replaces its oldest idle one, not that of a smaller holder."""
    intake = Intake(20)
    quiet = take(intake, "quiet", idle=True)
    own = [take(intake, "greedy", idle=has_idle and number == 5) for number in range(17)]
    assert quiet is not None
    assert (take(intake, "greedy", idle=False) is not None) == is_accepted
    assert not quiet[1].aborted
    aborted = [number for number, one in enumerate(own) if one is not None and one[1].aborted]
    assert aborted == ([5] if is_accepted else [])
