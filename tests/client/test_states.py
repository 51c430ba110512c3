"""What the Python client and ``dispatcher tail`` make of a state's members."""

import orjson
import pytest

from dispatcher.client import State
from dispatcher.client.decoding import read_message
from dispatcher.client.events import Repeated, StateReceived
from dispatcher.command.tail_output import _told


def received(**members: object) -> State:
    """Return what the client makes of a state with these members."""
    message = {"type": "state", "state": "streaming", "replica": "a", "assigned": {"assets": [0]}, **members}
    (found,) = read_message(orjson.dumps(message).decode())
    assert isinstance(found, StateReceived)
    return found.state


@pytest.mark.parametrize(("members", "expected"), [({}, True), ({"resumable": False}, False), ({"resumable": 0}, True)])
def test_a_state_says_whether_ids_name_all_partitions(members: dict[str, object], expected: bool) -> None:
    """They do unless the state says otherwise, and ``tail`` shows it, too."""
    state = received(**members)
    assert state.resumable is expected
    assert ("too many partitions for one id" in _told(state)) is not expected


def test_a_state_says_what_is_sent_again() -> None:
    """Both name how much; without it, nothing is."""
    ranges = [("assets", 0, 20, 99), ("b", 1, 5, 5)]
    names = ("topic", "partition", "from", "to")
    state = received(repeats=[dict(zip(names, one, strict=True)) for one in ranges])
    assert state.repeats == tuple(Repeated(*one) for one in ranges)
    assert "81 offsets that the position names are sent again, and dropped" in _told(state)
    assert (received().repeats, "sent again" in _told(received())) == ((), False)
