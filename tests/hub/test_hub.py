"""Hub and subscribers without Kafka and sockets: the seam, the bounds, and what is counted as dispatched."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import pytest
import trio
import trio.testing

from dispatcher.errors import SubscriberGoneError, UnavailableError
from dispatcher.hub import fan_out
from dispatcher.hub.acked_subscriber import AckWindow
from dispatcher.hub.asked_decoding import AskedDecoder
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.hub import Hub
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.encoding.wire import SSE_VALUE, WEBSOCKET
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings
from testbed.patience import seconds
from tests.sansio.test_wire import EventSource

ONE, TWO = TopicPartition("assets", 0), TopicPartition("assets", 1)
FEED = feed_of(SSE_VALUE, frozenset({"assets"}))
GOODBYE = Goodbye(1012, "test", 1000)


class RecordingTransport:
    """Keeps what it is given; takes it only when its gate is open."""

    name = "recording"
    ended = False

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.kept = b""
        """What was taken in part and is not written yet."""
        self.gate = trio.Event()
        self.broken = False

    def end_if_silent(self, now: float) -> None:
        """Nobody is asked for an answer."""

    def try_send(self, data: bytes) -> int:
        """Take all or nothing."""
        if not self.gate.is_set() or self.broken:
            return 0
        self.writes.append(data)
        return len(data)

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Wait for the gate, then take all."""
        await self.gate.wait()
        if self.broken:
            raise SubscriberGoneError("put in on purpose")
        self.writes.append(self.unkept(buffers))

    def unkept(self, buffers: Sequence[bytes | memoryview]) -> bytes:
        """All bytes to be written, those first that were kept."""
        kept, self.kept = self.kept, b""
        return kept + b"".join(buffers)

    @property
    def events(self) -> list[tuple[str, str, str]]:
        """Return what an EventSource makes of it; an incomplete event does not count."""
        body = unchunked(b"".join(self.writes))
        return EventSource().feed(body[: body.rfind(b"\n\n") + 2]).events

    @property
    def values(self) -> list[str]:
        """The values of the records."""
        return [data for _, kind, data in self.events if kind == "message"]


def unchunked(data: bytes) -> bytes:
    """The part of the body that has arrived."""
    body = b""
    while b"\r\n" in data:
        length, _, data = data.partition(b"\r\n")
        size = int(length, 16)
        body += data[:size]
        data = data[size + 2 :]
    return body


class RecordedLog:
    """What was published, to be read again: two records at a time."""

    def __init__(self) -> None:
        self.log: list[tuple[TopicPartition, Record]] = []
        self.asked: list[Mapping[TopicPartition, Range]] = []
        self.gate = trio.Event()
        self.gate.set()

    async def read(
        self,
        ranges: Mapping[TopicPartition, Range],
        max_bytes: int,  # noqa: ARG002
        client: Hashable = None,  # noqa: ARG002
    ) -> Chunk:
        """The next two records of the ranges."""
        self.asked.append(ranges)
        await self.gate.wait()
        found = [
            Batch(partition, (record,))
            for partition, record in self.log
            if partition in ranges and ranges[partition].first <= record.offset < ranges[partition].end
        ]
        places = {p: part.first if found[2:] else part.end for p, part in ranges.items()}
        places.update({batch.partition: batch.next_offset for batch in found[:2] if found[2:]})
        return Chunk(found[:2], places, ())

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """The log as it is now."""
        await self.gate.wait()
        log = {p: [record.offset for partition, record in self.log if partition == p] for p in partitions}
        return {p: Bounds(offsets[0], offsets[-1] + 1) for p, offsets in log.items()}

    async def offsets_since(
        self, partitions: Iterable[TopicPartition], since_ms: int
    ) -> Mapping[TopicPartition, int | None]:
        """A record's time is its offset."""
        await self.gate.wait()
        log = [(partition, record.offset) for partition, record in self.log]
        return {p: next((o for q, o in log if q == p and o >= since_ms), None) for p in partitions}

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The group has committed nothing."""
        return dict.fromkeys(partitions, 0)


def beat(hub: Hub, part: int) -> None:
    """Send the heartbeats of one slice, all of them at once."""
    for piece in hub._heartbeats.pieces(part):
        hub._heartbeats.beat(piece)


class Bench:
    """A hub with two partitions, and the dispatched batches that it reported."""

    log = RecordedLog
    """What replays read."""
    decoder: AskedDecoder | None = None
    """Decodes for subscribers that ask."""

    def __init__(self, **settings: object) -> None:
        self.dispatched: list[Batch] = []
        self.ranges: dict[TopicPartition, set[int]] = {}
        """Offsets that a commit may pass."""
        self.replays = self.log()
        self.settings = Settings(client_id="replica", **settings)  # type: ignore[arg-type]
        self.hub = Hub(self.settings, self._dispatched, self.replays, decoder=self.decoder)
        self.hub.assigned([ONE, TWO])
        self.hub.set_state(ReplicaState.STREAMING)
        self.number = 0

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        self.dispatched.append(batch)
        self.ranges.setdefault(batch.partition, set()).update(range(start, end))

    def publish(self, *partitions: TopicPartition) -> None:
        """One record for each; the value counts up."""
        for partition in partitions:
            record = Record(self.number, None, None, str(self.number).encode(), ())
            self.replays.log.append((partition, record))
            self.hub.publish(Batch(partition, (record,)))
            self.number += 1

    async def serve(
        self,
        transport: RecordingTransport,
        position: Mapping[TopicPartition, int] | None = None,
        since_ms: int | None = None,
        feed: Feed = FEED,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Subscribe for as long as the stream lasts."""
        with subscribed(self.hub, feed, transport, position, since_ms) as subscriber:
            task_status.started()
            with suppress(SubscriberGoneError):
                await subscriber.run()


@contextmanager
def subscribed(
    hub: Hub,
    feed: Feed,
    transport: RecordingTransport,
    position: Mapping[TopicPartition, int] | None = None,
    since_ms: int | None = None,
) -> Iterator[Subscriber]:
    """A subscriber for the body of the ``with`` block."""
    subscriber = hub.subscribe(feed, transport, position, since_ms)
    try:
        yield subscriber
    finally:
        hub.unsubscribe(subscriber)
        hub.unsubscribe(subscriber)


async def settle() -> None:
    """Let every task go as far as it can."""
    await trio.testing.wait_all_tasks_blocked()


async def test_what_waits_goes_to_the_first_subscriber_and_then_it_is_live(nursery: trio.Nursery) -> None:
    """It catches up and then streams, in order and without a repeat, and every batch is dispatched once."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    bench.publish(ONE, TWO, ONE)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    bench.publish(TWO, ONE)
    await settle()
    assert transport.values == ["0", "1", "2", "3", "4"]
    states = [data for _, kind, data in transport.events if kind == "state"]
    assert ['"catching-up"' in states[0], '"streaming"' in states[1], 2] == [True, True, len(states)]
    assert [(b.first_offset, b.next_offset) for b in bench.dispatched] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert [event_id for event_id, kind, _ in transport.events if kind == "message"] == [
        "assets:0=0,1=0",
        "assets:1=1,0=0",
        "assets:0=2,1=1",
        "assets:1=3,0=2",
        "assets:0=4,1=3",
    ]


async def test_what_waits_during_a_write_joins_the_next_one(nursery: trio.Nursery) -> None:
    """All subscribers are handed the very same bytes."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    first, second = RecordingTransport(), RecordingTransport()
    await nursery.start(bench.serve, first)
    await nursery.start(bench.serve, second)
    await settle()
    bench.publish(ONE, TWO, ONE, TWO)
    assert bench.dispatched == []
    first.gate.set()
    second.gate.set()
    await settle()
    assert len(first.writes) == 2
    assert ["0", "1", "2", "3"] == first.values == second.values
    assert len(bench.dispatched) == 4
    assert (bench.hub.statistics().deliveries, bench.hub.statistics().dispatched_records) == (8, 4)


async def test_a_full_channel_sends_the_subscriber_back_to_catching_up(nursery: trio.Nursery) -> None:
    """It delays nobody, holds nothing, and gets everything in order when it reads again."""
    bench = Bench(subscriber_buffer_bytes=100)
    nursery.start_soon(bench.hub.run)
    slow, fast = RecordingTransport(), RecordingTransport()
    fast.gate.set()
    await nursery.start(bench.serve, slow)
    await nursery.start(bench.serve, fast)
    await settle()
    slow.gate = trio.Event()
    for _ in range(50):
        bench.publish(ONE, TWO)
        await settle()
    assert len(fast.values) == 100
    assert [s.state for s in bench.hub.subscriber_statistics()] == ["catching-up", "live"]
    assert (await bench.hub.census.take())[0].buffered_bytes == 0
    slow.gate.set()
    await settle()


async def test_a_broken_write_is_not_dispatched(nursery: trio.Nursery) -> None:
    """Records that a broken socket was given go to the next subscriber."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    bench.publish(ONE, TWO)
    broken, healthy = RecordingTransport(), RecordingTransport()
    broken.broken = True
    broken.gate.set()
    await bench.serve(broken)
    assert bench.dispatched == []
    healthy.gate.set()
    await nursery.start(bench.serve, healthy)
    await settle()
    assert healthy.values == ["0", "1"]
    assert len(bench.dispatched) == 2


async def test_a_cancelled_write_is_not_dispatched() -> None:
    """The subscriber is gone, and what it held does not count."""
    bench = Bench()
    bench.publish(ONE)
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.serve, RecordingTransport())
        await settle()
        assert bench.hub.has_first_writes_for([ONE])
        assert not bench.hub.has_first_writes_for([TWO])
        nursery.cancel_scope.cancel()
    assert bench.dispatched == []
    assert not bench.hub.has_first_writes_for([ONE])
    assert bench.hub.subscribers == 0


async def test_a_revoked_partition_is_handed_to_nobody(nursery: trio.Nursery) -> None:
    """The write under way finishes and counts; later records are dropped, and other partitions continue."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    await nursery.start(bench.serve, transport)
    await settle()
    transport.gate.set()
    await settle()
    transport.gate = trio.Event()
    bench.publish(ONE)
    await settle()
    bench.publish(ONE, TWO)
    bench.hub.unassigned([ONE])
    assert bench.hub.has_first_writes_for([ONE])
    transport.gate.set()
    await settle()
    assert transport.values == ["0", "2"]
    assert [batch.partition for batch in bench.dispatched] == [ONE, TWO]
    assert '"assigned":{"assets":[1]}' in transport.events[-2][2] + transport.events[-1][2]


async def test_goodbye_is_said_after_the_write_under_way(nursery: trio.Nursery) -> None:
    """New subscribers are refused, and everybody has left once it is said."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    await nursery.start(bench.serve, transport)
    await settle()
    bench.hub.say_goodbye(lambda: GOODBYE)
    with pytest.raises(UnavailableError, match="test"), subscribed(bench.hub, FEED, transport):
        pass
    transport.gate.set()
    with trio.fail_after(seconds(5)):
        await bench.hub.wait_no_subscribers()
    assert [kind for _, kind, _ in transport.events] == ["state", "goodbye"]


async def test_heartbeats_come_in_time_and_carry_the_position(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - pytest-trio looks for it among the arguments
) -> None:
    """Even a busy stream gets one every `heartbeat_seconds`, because a WebSocket's answer counts."""
    bench = Bench(heartbeat_seconds=10)
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    # Between two slices.
    await trio.sleep(1.5)
    bench.publish(ONE)
    await settle()
    so_far = len(transport.writes)
    await trio.sleep(30)
    assert sum(b"\nid: " in write for write in transport.writes[so_far:]) == 3
    assert b"10\r\nid: assets:0=0\n\n\r\n" in transport.writes[-1]

    async def ping(websocket: RecordingTransport) -> None:
        with subscribed(bench.hub, feed_of(WEBSOCKET, FEED.topics), websocket) as subscriber:
            await subscriber.run()

    websocket = RecordingTransport()
    websocket.gate.set()
    nursery.start_soon(ping, websocket)
    for _ in range(10):
        await trio.sleep(3)
        bench.publish(TWO)
    assert 2 <= sum(b"\x89\x00" in write for write in websocket.writes) <= 3


async def test_states_are_sent_only_on_change(nursery: trio.Nursery) -> None:
    """Each change is sent once, however often the state is set."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    for state in (ReplicaState.STREAMING, ReplicaState.BROKER_DOWN, ReplicaState.BROKER_DOWN, ReplicaState.STREAMING):
        bench.hub.set_state(state)
        await settle()
    assert [data.split('"')[3] for _, kind, data in transport.events if kind == "state"] == [
        "streaming",
        "broker-down",
        "streaming",
    ]


async def test_a_batch_that_leaves_the_history_when_it_is_dispatched(nursery: trio.Nursery) -> None:
    """A full history evicts the batch at once, and its dispatch is counted nevertheless."""
    bench = Bench(history_bytes=1, pause_above_bytes=1, resume_below_bytes=1)
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    bench.publish(ONE, TWO)
    await settle()
    assert transport.values == ["0", "1"]
    assert [batch.next_offset for batch in bench.dispatched] == [1, 2]
    assert bench.hub.statistics().history.entries == 0


async def test_a_heartbeat_names_no_position_ahead_of_the_records_beside_it(nursery: trio.Nursery) -> None:
    """A client cut between the two would skip a record that it never got."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    with subscribed(bench.hub, FEED, transport) as subscriber:
        nursery.start_soon(subscriber.run)
        await settle()
        bench.publish(ONE)
        subscriber.heartbeat(bench.hub.heartbeat_bytes(FEED, at_head=True))
        await settle()
        assert b"id: assets:0=0\n\n" not in transport.writes
        subscriber.heartbeat(bench.hub.heartbeat_bytes(FEED, at_head=True))
        await settle()
        text = b"".join(transport.writes)
        assert text.index(b"data: 0\n") < text.index(b"id: assets:0=0\n\n")
        nursery.cancel_scope.cancel()


async def test_what_was_revoked_holds_no_records(nursery: trio.Nursery) -> None:
    """A slow subscriber's channel may keep the entry, but records and other formats' bytes are freed."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    transport.gate = trio.Event()
    bench.publish(TWO)
    await settle()
    bench.publish(ONE)
    entry = next(e for e in bench.hub.history._entries.values() if e.batch.partition == ONE)
    bench.hub.unassigned([ONE])
    assert not entry.batch.records
    assert not entry.encoded


async def test_the_hub_knows_which_topics_are_read() -> None:
    """A topic is read as long as a subscriber of it is there."""
    bench = Bench()
    assert not bench.hub.has_readers("assets")
    with subscribed(bench.hub, FEED, RecordingTransport()):
        assert bench.hub.has_readers("assets")
        assert not bench.hub.has_readers("others")
    assert not bench.hub.has_readers("assets")


async def test_a_full_or_stopping_replica_takes_nobody(nursery: trio.Nursery) -> None:
    """A refused subscriber goes to another replica."""
    bench = Bench(max_subscribers=1)
    nursery.start_soon(bench.hub.run)
    with (
        subscribed(bench.hub, FEED, RecordingTransport()),
        pytest.raises(UnavailableError, match="full: it already has 1 subscribers"),
        subscribed(bench.hub, FEED, RecordingTransport()),
    ):
        pass
    with subscribed(bench.hub, FEED, RecordingTransport()):
        assert bench.hub.subscribers == 1


async def test_a_recreated_topic_begins_again_for_everybody(nursery: trio.Nursery) -> None:
    """Readers of the old log, and those that were to begin at its end, get a gap."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    reader, newcomer = RecordingTransport(), RecordingTransport()
    for transport in (reader, newcomer):
        transport.gate.set()
    await nursery.start(bench.serve, reader)
    bench.publish(ONE, ONE)
    await settle()
    bench.hub.unassigned([ONE])
    await nursery.start(bench.serve, newcomer)
    await settle()
    bench.hub.partition_recreated(ONE, 0, replaces=2)
    bench.number = 0
    bench.publish(ONE)
    await settle()
    gaps = [[data for _, kind, data in one.events if kind == "gap"] for one in (reader, newcomer)]
    assert [len(found) for found in gaps] == [1, 1]
    assert all('"from":2' in found[0] and "recreated" in found[0] for found in gaps)
    assert (reader.values, newcomer.values) == (["0", "1", "0"], ["0"])


async def test_what_is_wrong_with_topics_is_said_when_it_changes(nursery: trio.Nursery) -> None:
    """It is sent once, and again when it is over."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    for degraded in ({"assets": "no-leader"}, {"assets": "no-leader"}, {}):
        bench.hub.set_degraded(degraded)
        await settle()
    states = [data for _, kind, data in transport.events if kind == "state"]
    assert ["no-leader" in state for state in states] == [False, True, False]


async def test_how_many_partitions_topics_have_is_said_when_it_changes(nursery: trio.Nursery) -> None:
    """A topic may grow."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    for count in (2, 2, 3):
        bench.hub.expect({"assets": count})
        await settle()
    states = [data for _, kind, data in transport.events if kind == "state"]
    assert ['"partitions":{"assets":2}' in state for state in states] == [False, True, False]
    assert '"partitions":{"assets":3}' in states[2]


async def test_offsets_without_a_record_are_known_to_be_read(nursery: trio.Nursery) -> None:
    """A partition may begin or continue with them, and nobody waits for a record there."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport, {TWO: 4})
    await settle()
    for offset in (5, 9):
        bench.hub.reached(TWO, offset)
    await settle()
    bench.number = 9
    bench.publish(TWO)
    await settle()
    assert (transport.values, bench.hub.history.end(TWO)) == (["9"], 10)


async def test_filters_are_matched_once_for_all_and_what_nobody_wants_is_settled(nursery: trio.Nursery) -> None:
    """When a filter arrives or leaves, waiting records are looked at again."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    wanted = feed_of(SSE_VALUE, FEED.topics, read_filter({"exists": {"key": True}}))
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport, None, None, wanted)
    bench.publish(ONE, TWO)
    await settle()
    assert (transport.values, bench.ranges) == ([], {ONE: {0}, TWO: {1}})
    assert bench.hub.statistics().unmatched == {"assets": 2}


async def test_whoever_wants_a_whole_topic_or_leaves_is_noticed() -> None:
    """Its partitions are followed while such a reader is there; others change nothing."""
    bench = Bench()
    found = []
    for feed in (FEED, feed_of(SSE_VALUE, FEED.topics, whole=True)):
        bench.hub.whole_topics_changed = trio.Event()
        subscriber = bench.hub.subscribe(feed, RecordingTransport())
        found.append(bench.hub.whole_topics_changed.is_set())
        bench.hub.whole_topics_changed = trio.Event()
        bench.hub.unsubscribe(subscriber)
        found.append(bench.hub.whole_topics_changed.is_set())
    assert found == [False, False, True, True]


async def test_whoever_acknowledges_has_a_window_and_leaves_what_is_parked_to_the_next(nursery: trio.Nursery) -> None:
    """This holds even while others with the same feed stay."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    feed = feed_of(WEBSOCKET, FEED.topics, acks=True)
    window = AckWindow(10, 1000, 30, 2)
    first, second = (bench.hub.subscribe(feed, RecordingTransport(), window=window) for _ in range(2))
    assert bench.hub.statistics().acking.subscribers == 2
    for number, one in enumerate((first, second), 1):
        bench.hub.unsubscribe(one)
        assert bench.hub.statistics().acking.subscribers == 2 - number


async def test_late_rounds_hold_the_poller_back(nursery: trio.Nursery) -> None:
    """It waits until everything was offered."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    value = b"x" * fan_out.CONGESTED_BYTES
    bench.hub.publish(Batch(ONE, (Record(0, None, None, value, ()),)))
    congested = [bench.hub.is_congested]
    with trio.fail_after(seconds(5)):
        await bench.hub.wait_settled()
    congested.append(bench.hub.is_congested)
    assert congested == [True, False]
    assert len(transport.values) == 1


async def test_a_partition_that_leaves_without_having_begun_is_left_nowhere() -> None:
    """Nothing of it was read here, so nobody is owed anything."""
    bench = Bench()
    bench.hub.reached(ONE, 3)
    bench.hub.unassigned([ONE, TWO])
    assert bench.hub.statistics().registry.departed == 1
    assert bench.hub.partitions == 0


async def test_an_id_of_more_partitions_than_are_known_lets_them_be_counted_now(nursery: trio.Nursery) -> None:
    """An id that names a partition as not seen yet does not, nor does one without scope=topic."""
    bench = Bench()
    bench.hub.expect({"assets": 2})
    whole = feed_of(SSE_VALUE, frozenset({"assets"}), whole=True)
    for feed, position, grown in (
        (whole, {ONE: 5, TopicPartition("assets", 2): -1}, False),
        (FEED, {TopicPartition("assets", 2): 0}, False),
        (whole, {TopicPartition("assets", 2): 0}, True),
    ):
        await nursery.start(bench.serve, RecordingTransport(), position, None, feed)
        assert bench.hub.topics_have_grown.is_set() == grown
    nursery.cancel_scope.cancel()
