"""Whose connection makes room for whose."""

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
    """Seen with 256 descriptors: a health check from an address with 50 streams was closed, for those of a flooder."""
    intake = Intake(200)
    for _ in range(50):
        assert take(intake, "honest", idle=False)
    flood = [taken for _ in range(150) if (taken := take(intake, "flood", idle=True))]
    assert intake.statistics().connections.taken == 180
    assert take(intake, "honest", idle=True)
    assert [socket.aborted for _, socket in flood].count(True) == 150 - 129
    assert intake.statistics().connections.taken == 180


def test_the_last_tenth_is_not_taken_with_the_idle_connections_of_smaller_holders() -> None:
    """One that has most of them ends its own idle ones, or is refused."""
    intake = Intake(200)
    quiet = take(intake, "quiet", idle=True)
    for _ in range(179):
        assert take(intake, "greedy", idle=False)
    assert take(intake, "greedy", idle=True) is None
    assert quiet is not None
    assert not quiet[1].aborted
