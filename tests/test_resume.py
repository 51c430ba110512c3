"""Resume without Kafka and sockets: history, replay and live, and the seams between them (guarantees G2 and G9)."""

import json
from collections.abc import Sequence

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.errors import SubscriberGoneError
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.records import TopicPartition
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport, settle, unchunked
from tests.sansio.test_wire import EventSource

TINY = {"history_bytes": 3000, "pause_above_bytes": 2000, "resume_below_bytes": 1000}
"""Room for two batches: whoever is further behind has to be sent what is read again."""


async def dispatched(bench: Bench, nursery: trio.Nursery) -> RecordingTransport:
    """A subscriber that takes everything at once, so that nothing waits."""
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    return transport


async def resumed(bench: Bench, nursery: trio.Nursery, **offsets: int) -> RecordingTransport:
    """A subscriber that comes back with a position: ``one`` and ``two`` are the last seen offsets."""
    position = {{"one": ONE, "two": TWO}[name]: offset for name, offset in offsets.items()}
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport, position)
    await settle()
    return transport


async def test_what_is_in_memory_comes_from_memory(nursery: trio.Nursery) -> None:
    """Each partition continues after its own offset, then live, without asking Kafka."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    for _ in range(3):
        bench.publish(ONE, TWO)
        await settle()
    back = await resumed(bench, nursery, one=2, two=1)
    bench.publish(ONE)
    await settle()
    assert back.values == ["3", "4", "5", "6"]
    assert bench.replays.asked == []


async def test_what_is_no_longer_in_memory_is_read_again(nursery: trio.Nursery) -> None:
    """Replay, history and live give each record once in order; every id names both partitions."""
    bench = Bench(**TINY)
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    for _ in range(6):
        bench.publish(ONE, TWO)
        await settle()
    back = await resumed(bench, nursery, one=0, two=3)
    bench.publish(ONE)
    await settle()
    numbers = [int(value) for value in back.values]
    assert sorted(numbers) == [2, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    for partition in (0, 1):
        own = [number for number in numbers if number % 2 == partition]
        assert own == sorted(own)
    assert bench.replays.asked[0][ONE].first == 1
    ids = [event_id for event_id, kind, _ in back.events if kind == "message"]
    assert all(parse_position(event_id).keys() == {ONE, TWO} for event_id in ids)


async def test_what_nobody_has_taken_comes_in_any_case(nursery: trio.Nursery) -> None:
    """The client saw it on a replica that died before committing: it is repeated, or never committed."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    bench.publish(ONE, ONE, ONE)
    back = await resumed(bench, nursery, one=1)
    assert back.values == ["0", "1", "2"]
    assert len(bench.dispatched) == 3


async def test_a_subscriber_that_is_too_slow_for_the_memory_goes_on(nursery: trio.Nursery) -> None:
    """Its state stays `catching-up`, and it misses nothing."""
    bench = Bench(subscriber_buffer_bytes=100, **TINY)
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    slow = RecordingTransport()
    slow.gate.set()
    await nursery.start(bench.serve, slow)
    await settle()
    bench.publish(ONE)
    await settle()
    slow.gate = trio.Event()
    for _ in range(10):
        bench.publish(ONE, TWO)
        await settle()
    slow.gate.set()
    await settle()
    bench.publish(TWO)
    await settle()
    assert sorted(map(int, slow.values)) == list(range(22))
    assert len(bench.replays.asked) > 0


async def test_a_partition_that_comes_later_goes_on_from_its_place(nursery: trio.Nursery) -> None:
    """A client named it before the replica had it; the same connection honours that."""
    bench = Bench(**TINY)
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    for _ in range(4):
        bench.publish(TWO)
        await settle()
    bench.hub.unassigned([TWO])
    back = await resumed(bench, nursery, two=1)
    bench.publish(ONE)
    await settle()
    assert back.values == ["4"]
    bench.hub.assigned([TWO])
    bench.publish(ONE, TWO)
    await settle()
    assert back.values == ["4", "2", "3", "5", "6"]
    bench.publish(ONE)
    await settle()
    assert back.values[5:] == ["7"]


async def test_since_a_time_each_partition_begins_there_once(nursery: trio.Nursery) -> None:
    """Named positions take precedence, later partitions begin there, returning ones do not."""
    bench = Bench(**TINY)
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    for _ in range(4):
        bench.publish(ONE, TWO)
        await settle()
    bench.hub.unassigned([TWO])
    back = RecordingTransport()
    back.gate.set()
    await nursery.start(bench.serve, back, None, 3)
    await settle()
    assert back.values == ["4", "6"]
    bench.hub.assigned([TWO])
    bench.publish(TWO)
    await settle()
    assert back.values == ["4", "6", "3", "5", "7", "8"]
    bench.hub.unassigned([TWO])
    bench.hub.assigned([TWO])
    bench.publish(TWO)
    await settle()
    assert back.values[6:] == ["9"]
    named = RecordingTransport()
    named.gate.set()
    await nursery.start(bench.serve, named, {ONE: 5}, 8)
    await settle()
    assert sorted(named.values) == ["6", "8", "9"]


async def test_what_comes_while_it_is_read_for_is_not_passed_over(nursery: trio.Nursery) -> None:
    """This includes unnamed and newly added partitions, even if others took the records."""
    bench = Bench(history_bytes=3500, pause_above_bytes=2000, resume_below_bytes=1000)
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    bench.publish(TWO)
    await settle()
    bench.hub.unassigned([TWO])
    bench.publish(ONE, ONE, ONE, ONE)
    await settle()
    bench.replays.gate = trio.Event()
    back = await resumed(bench, nursery, one=1)
    bench.hub.assigned([TWO])
    bench.publish(TWO, TWO)
    await settle()
    since = RecordingTransport()
    since.gate.set()
    await nursery.start(bench.serve, since, None, 99)
    await settle()
    bench.publish(ONE)
    await settle()
    bench.replays.gate.set()
    await settle()
    assert back.values == ["2", "3", "4", "5", "6", "7"]
    assert since.values == ["7"], "nothing came since: it begins with what was new when it came"


async def test_no_id_names_what_has_not_come_of_a_partition_that_has_left(nursery: trio.Nursery) -> None:
    """Otherwise its new owner would skip records, from history, channel or round."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    live = await dispatched(bench, nursery)
    bench.publish(ONE, ONE, TWO)
    await settle()
    slow = RecordingTransport()
    slow.gate.set()
    await nursery.start(bench.serve, slow)
    await settle()
    slow.gate = trio.Event()
    bench.publish(TWO)
    await settle()
    bench.publish(ONE, TWO)
    await settle()
    bench.publish(ONE, TWO)
    bench.hub.unassigned([ONE])
    back = await resumed(bench, nursery, one=0, two=1)
    slow.gate.set()
    await settle()
    for transport, values, most in ((live, "0123457", 4), (slow, "357", 1), (back, "2357", 0)):
        assert sorted(transport.values) == list(values)
        ids = [parse_position(event_id) for event_id, kind, _ in transport.events if kind == "message"]
        assert max(position.get(ONE, 0) for position in ids) == most


async def test_a_partition_that_was_away_is_reported_though_the_socket_was_full(nursery: trio.Nursery) -> None:
    """Otherwise its records would jump without a report."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    slow = await dispatched(bench, nursery)
    slow.gate = trio.Event()
    bench.publish(TWO)
    await settle()
    bench.hub.unassigned([ONE])
    bench.hub.assigned([ONE])
    bench.hub.unassigned([TWO])
    slow.gate.set()
    await settle()
    assigned = [json.loads(data)["assigned"]["assets"] for _, kind, data in slow.events if kind == "state"]
    assert assigned[-2:] == [[1], [0]]
    bench.hub.unassigned([ONE])
    await settle()
    assert [kind for _, kind, _ in slow.events].count("state") == len(assigned) + 1


async def test_what_was_read_of_a_partition_that_has_left_is_sent_to_nobody(nursery: trio.Nursery) -> None:
    """It leaves while the chunk is under way."""
    bench = Bench(**TINY)
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    for _ in range(5):
        bench.publish(ONE, TWO)
        await settle()
    bench.replays.gate = trio.Event()
    back = await resumed(bench, nursery, one=0)
    bench.hub.unassigned([ONE])
    bench.replays.gate.set()
    await settle()
    bench.publish(TWO)
    await settle()
    assert back.values == ["10"]


async def test_an_end_without_a_record_is_a_place_too(nursery: trio.Nursery) -> None:
    """Without any record, the end of the log says how far Kafka must be read again."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    for _ in range(3):
        bench.publish(TWO)
        await settle()
    bench.hub.unassigned([TWO])
    bench.hub.assigned([TWO])
    back = await resumed(bench, nursery, two=0)
    assert back.values == []
    bench.hub.reached(TWO, 3)
    await settle()
    assert back.values == ["1", "2"]


async def test_a_subscriber_that_leaves_during_its_replay_is_forgotten(nursery: trio.Nursery) -> None:
    """The chunk that arrives for it later is dropped."""
    bench = Bench(**TINY)
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    for _ in range(6):
        bench.publish(ONE)
        await settle()
    bench.replays.gate = trio.Event()
    async with trio.open_nursery() as short:
        short.start_soon(bench.serve, RecordingTransport(), {ONE: 0})
        await settle()
        assert bench.hub.subscriber_statistics()[1].replaying
        short.cancel_scope.cancel()
    bench.replays.gate.set()
    await settle()
    assert bench.hub.subscribers == 1


class CutTransport(RecordingTransport):
    """Takes this many bytes, and breaks."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.left = most_bytes

    def try_send(self, data: bytes) -> int:
        """Take what fits; a socket does not tell of its end here."""
        taken = data[: max(0, self.left)]
        self.writes.append(taken)
        self.kept = data[len(taken) :] if taken else b""
        self.left -= len(taken)
        return len(taken)

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Take what fits."""
        await trio.lowlevel.checkpoint()
        data = self.unkept(buffers)
        self.writes.append(data[: self.left])
        self.left -= len(data)
        if self.left < 0:
            raise SubscriberGoneError("cut")


@settings(max_examples=100, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 900), min_size=1, max_size=8),
    published=st.lists(st.sampled_from([ONE, TWO]), max_size=30),
    tiny=st.booleans(),
    other=st.booleans(),
    feed=st.sampled_from([FEED, feed_of(WEBSOCKET, FEED.topics)]),
)
def test_a_client_that_is_cut_anywhere_has_every_record_once(
    cuts: list[int], published: list[TopicPartition], tiny: bool, other: bool, feed: Feed
) -> None:
    """It resumes from any byte with its last id, and drops repeats by the id's first pair."""

    async def main() -> None:
        bench = Bench(**(TINY if tiny else {}))
        bench.hub.reached(ONE, 0)
        bench.hub.reached(TWO, 0)
        received: list[str] = []
        last_id = ""
        left = [ONE, *published]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.hub.run)
            if other:
                await dispatched(bench, nursery)
            # The first connection lasts until the client has an id.
            for cut in [10**9, *cuts, 10**9]:
                transport = CutTransport(cut)
                async with trio.open_nursery() as connection:
                    position = parse_position(last_id) if last_id else None
                    await connection.start(bench.serve, transport, position, None, feed)
                    await settle()
                    now, left = (left[:4], left[4:]) if last_id else (left[:1], left[1:])
                    for partition in now:
                        bench.publish(partition)
                        await settle()
                    connection.cancel_scope.cancel()
                ids, last_id = (_ids if feed is FEED else _message_ids)(b"".join(transport.writes), last_id)
                received += [event_id.split(",")[0] for event_id in ids]
            nursery.cancel_scope.cancel()
        assert set(received) == {f"assets:{tp.partition}={record.offset}" for tp, record in bench.replays.log}
        for number in (0, 1):
            own = [int(name.partition("=")[2]) for name in received if name.startswith(f"assets:{number}=")]
            news = [offset for n, offset in enumerate(own) if offset > max(own[:n], default=-1)]
            assert news == sorted(set(own)), "dropping repeats drops nothing else"

    trio.run(main)


def _ids(data: bytes, last_id: str) -> tuple[list[str], str]:
    """The ids of the records that an EventSource got, and its last event id."""
    body = unchunked(data)
    source = EventSource(last_id).feed(body[: body.rfind(b"\n") + 1])
    return [event_id for event_id, kind, _ in source.events if kind == "message"], source.last_event_id


def _message_ids(data: bytes, last_id: str) -> tuple[list[str], str]:
    """The own pairs of the records in whole WebSocket messages, and the position of the last message."""
    pairs: list[str] = []
    while len(data) > 1:
        size_bytes, start = data[1], 2
        if size_bytes > 125:
            start = 4 if size_bytes == 126 else 10
            size_bytes = int.from_bytes(data[2:start], "big")
        payload, whole = data[start : start + size_bytes], len(data) >= start + size_bytes
        if payload and whole:
            message = json.loads(payload)
            pairs += ["{topic}:{partition}={offset}".format(**record) for record in message.get("records", ())]
            last_id = message["id"] if message["type"] == "records" else last_id
        data = data[start + size_bytes :]
    return pairs, last_id


async def test_statistics_count_subscribers_that_get_a_replay(nursery: trio.Nursery) -> None:
    """They count while something is missing, and not afterwards."""
    bench = Bench(**TINY)
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    for _ in range(6):
        bench.publish(ONE)
        await settle()
    bench.replays.gate = trio.Event()
    await resumed(bench, nursery, one=0)
    assert [s.replaying for s in bench.hub.subscriber_statistics()] == [False, True]
    bench.replays.gate.set()
    await settle()
    assert [s.replaying for s in bench.hub.subscriber_statistics()] == [False, False]


async def test_the_first_state_carries_the_position_at_which_the_stream_begins(nursery: trio.Nursery) -> None:
    """A client cut before its first record resumes there, even if others took it."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    bench.publish(ONE, TWO, ONE)
    early = RecordingTransport()
    await nursery.start(bench.serve, early)
    await settle()
    socket = RecordingTransport()
    await nursery.start(bench.serve, socket, None, None, feed_of(WEBSOCKET, FEED.topics))
    other = await dispatched(bench, nursery)
    assert len(bench.dispatched) == 3
    early.gate.set()
    socket.gate.set()
    bench.hub.unassigned([TWO])
    await settle()
    first, *later = [event for event in early.events if event[1] == "state"]
    assert parse_position(first[0]) == {ONE: -1, TWO: 0}
    assert b'"id":"assets:0=-1,1=0"}' in socket.writes[0], "the same in a message"
    assert later
    assert b"".join(early.writes).count(b"\nid: ") == 1 + len(early.values), "later states have none"
    back = await resumed(bench, nursery, one=-1)
    assert (back.values, other.values) == (["0", "2"], ["0", "1", "2"])


async def test_the_first_state_names_what_is_elsewhere_and_nothing_that_is_looked_up(nursery: trio.Nursery) -> None:
    """An EventSource keeps only the last id, and would otherwise lose these."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    await dispatched(bench, nursery)
    bench.publish(ONE, TWO)
    await settle()
    bench.hub.unassigned([TWO])
    bench.replays.gate = trio.Event()
    back = await resumed(bench, nursery, two=7)
    since = RecordingTransport()
    since.gate.set()
    await nursery.start(bench.serve, since, {TWO: 7}, 0)
    await settle()
    assert parse_position(back.events[0][0]) == {ONE: 0, TWO: 7}
    assert parse_position(since.events[0][0]) == {TWO: 7}


async def test_no_id_names_what_waits_while_other_partitions_are_read(nursery: trio.Nursery) -> None:
    """A client cut there would lose records that others took."""
    bench = Bench(**TINY)
    nursery.start_soon(bench.hub.run)
    taker = await dispatched(bench, nursery)
    for _ in range(6):
        bench.publish(ONE)
        await settle()
    taker.gate = trio.Event()
    bench.publish(TWO, TWO)
    bench.replays.gate = trio.Event()
    back = await resumed(bench, nursery, one=0)
    taker.gate.set()
    await settle()
    bench.replays.gate.set()
    await settle()
    seen = -1
    for event_id, kind, value in back.events:
        position = parse_position(event_id or "assets:1=-1")
        seen = max(seen, int(value)) if kind == "message" and value in {"6", "7"} else seen
        assert position[TWO] <= max(seen, 5), (event_id, back.values)
    assert sorted(back.values) == ["1", "2", "3", "4", "5", "6", "7"]


async def test_no_id_forgets_a_partition_that_came_after_the_records_in_memory(nursery: trio.Nursery) -> None:
    """A client cut there would begin it as a new client does."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    bench.publish(ONE, ONE)
    await settle()
    bench.hub.reached(TWO, 2)
    back = await resumed(bench, nursery)
    assert [parse_position(event_id)[TWO] for event_id, _, _ in back.events] == [1, 1, 1, 1]


async def test_a_partition_recreated_while_away_is_reported(nursery: trio.Nursery) -> None:
    """Readers that were there when it left get the gap, even if the new log is longer."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    live = await dispatched(bench, nursery)
    bench.publish(ONE, TWO, ONE)
    await settle()
    bench.hub.unassigned([ONE])
    late = await dispatched(bench, nursery)
    bench.hub.assigned([ONE])
    bench.hub.partition_recreated(ONE, 3)
    bench.hub.reached(ONE, 3)
    bench.publish(ONE)
    await settle()
    gaps = [json.loads(data) for _, kind, data in live.events if kind == "gap"]
    assert gaps == [{"topic": "assets", "partition": 0, "from": 3, "to": 2, "reason": "recreated"}]
    assert [live.values, late.values] == [["0", "1", "2", "3"], ["3"]]
    assert "gap" not in [kind for _, kind, _ in late.events]
