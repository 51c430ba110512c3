"""What readers find on their sockets is what the dispatcher's own encoders put there, wherever it is cut."""

import pytest

from dispatcher.sansio.encoding.wire import SSE_VALUE, WEBSOCKET, Wire
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.chaos.streams import CLOSE, PING, Control, Item, Parser, SseParser, WebSocketParser, pairs

TOPIC = "chaos-1-classic-readers"
STATE = {"state": "streaming", "replica": "a", "assigned": {TOPIC: [0, 3]}, "heartbeat_seconds": 15.0}
GAP = {"topic": TOPIC, "partition": 3, "from": 1, "to": 2, "reason": "expired"}
ITEMS = [("state", STATE), (3, 17), (3, 18), ("gap", GAP), (3, 19), ("goodbye", None)]


def batch(*offsets: int) -> Batch:
    """Records of partition 3 with values of digits."""
    records = tuple(Record(offset, 1_795_429_533_864, None, b"0" * 200, ()) for offset in offsets)
    return Batch(TopicPartition(TOPIC, 3), records)


def records_of(wire: Wire, *offsets: int, suffix: str = "") -> bytes:
    """One write with records of partition 3."""
    position = "" if wire.has_record_ids else f"{TOPIC}:3={offsets[-1]}{suffix}"
    return wire.records([wire.encode_records(batch(*offsets), suffix)], position)


def stream(wire: Wire) -> bytes:
    """All kinds of events; the last id is a heartbeat's."""
    records = [records_of(wire, *offsets, suffix=",0=5") for offsets in ((17, 18), (19,))]
    state = wire.state("streaming", "a", {TOPIC: [0, 3]}, 15.0)
    gap, goodbye = wire.gap(TOPIC, 3, 1, 2, "expired"), wire.goodbye(1012, "restart", 1000)
    heartbeat = wire.heartbeat(f"{TOPIC}:0=6,3=19")
    return b"".join([state, records[0], gap, records[1], heartbeat, goodbye])


def read(parser: Parser, data: bytes, step: int) -> list[Item]:
    """What comes of it in pieces of this size."""
    return [item for at in range(0, len(data), step) for item in parser.feed(data[at : at + step])]


def shown(items: list[Item]) -> list[tuple[object, object]]:
    """Records as they are; of controls the kind, and what is in them if it matters."""
    return [
        (item.kind, None if item.kind == "goodbye" else {k: v for k, v in item.payload.items() if k != "type"})
        if isinstance(item, Control)
        else item
        for item in items
        if not isinstance(item, Control) or item.kind != PING
    ]


@pytest.mark.parametrize("step", [1, 7, 100, 100_000])
def test_sse_in_pieces(step: int) -> None:
    """A chunked stream is read, and a heartbeat that moves the id is no record."""
    parser = SseParser()
    assert shown(read(parser, b"b\r\nretry: 1000\n\n\r\n" + stream(SSE_VALUE), step)) == ITEMS
    assert parser.last_id == f"{TOPIC}:0=6,3=19"


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_state_that_carries_a_position(step: int) -> None:
    """The stream resumes where it began if nothing else arrived, whatever the order of the lines."""
    for lines in ("retry: 1\nid: t:0=-1\nevent: state\ndata: {}\n\n", "event: state\ndata: {}\nid: t:0=-1\n\n"):
        parser = SseParser()
        assert read(parser, lines.encode(), step) == [Control("state", {})]
        assert parser.last_id == "t:0=-1"


@pytest.mark.parametrize("step", [1, 7, 100, 100_000])
def test_websocket_in_pieces(step: int) -> None:
    """Frames of all lengths, pings, a close and a heartbeat that moves the id are read."""
    parser = WebSocketParser()
    read(parser, stream(WEBSOCKET), step)
    assert parser.last_id == f"{TOPIC}:0=6,3=19"
    parser = WebSocketParser()
    large = records_of(WEBSOCKET, *range(20, 420))
    items = read(parser, stream(WEBSOCKET) + large + b"\x88\x02\x03\xf4", step)
    kinds = [item.kind for item in items if isinstance(item, Control)]
    assert kinds == ["state", "gap", PING, "goodbye", CLOSE]
    assert shown(items)[:-1] == [*ITEMS, *((3, offset) for offset in range(20, 420))]
    assert parser.last_id == f"{TOPIC}:3=419"


@pytest.mark.parametrize(("parser", "wire"), [(SseParser(), SSE_VALUE), (WebSocketParser(), WEBSOCKET)])
def test_what_is_cut_does_not_count(parser: Parser, wire: Wire) -> None:
    """An incomplete event counts neither as a record nor for its id."""
    first, second = (records_of(wire, offset) for offset in (17, 18))
    cut = second.rindex(b"0") if wire is WEBSOCKET else second.rindex(b"\n\n") + 1
    assert list(parser.feed(first + second[:cut])) == [(3, 17)]
    assert parser.last_id == f"{TOPIC}:3=17"


def test_the_pairs_of_an_id() -> None:
    """Digits in a topic's name are not offsets; -1 means that nothing was seen."""
    assert pairs(f"{TOPIC}:3=17,0=-1,12=5") == {3: 17, 0: -1, 12: 5}
    assert pairs("") == {}
