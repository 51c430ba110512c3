"""The replica's state, sent to many: in slices, before the records that it names, and every departure."""

import itertools
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
import trio
import trio.testing

from dispatcher.hub import fan_out, heartbeats
from dispatcher.hub.announcements import Announcements, SentState
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.heartbeats import HEARTBEAT_SLICES, PIECE
from dispatcher.invariants import invariants
from dispatcher.sansio.encoding.wire import SSE_VALUE, WEBSOCKET
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition
from tests.hub.test_fan_out import GreedyTransport
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport, beat, settle, unchunked
from tests.sansio.test_wire import EventSource

THREE = TopicPartition("assets", 2)


class CountingTransport(RecordingTransport):
    """Counts the writes of all."""

    written = 0
    by_tasks = 0

    def __init__(self) -> None:
        super().__init__()
        self.gate.set()

    def try_send(self, data: bytes) -> int:
        """One more, from the hub."""
        CountingTransport.written += 1
        return super().try_send(data)

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """One more, from the subscriber's task."""
        CountingTransport.written += 1
        CountingTransport.by_tasks += 1
        await super().send_all(buffers)


def states(transport: RecordingTransport) -> list[tuple[str, list[int]]]:
    """Return what the stream said about the replica, without what it said about the stream."""
    told = [orjson.loads(data) for _, kind, data in transport.events if kind == "state"]
    return [(state["state"], state["assigned"].get("assets", [])) for state in told]


async def many(nursery: trio.Nursery, bench: Bench, number: int) -> list[CountingTransport]:
    """This many live subscribers with nothing to do."""
    nursery.start_soon(bench.hub.run)
    transports = [CountingTransport() for _ in range(number)]
    for transport in transports:
        await nursery.start(bench.serve, transport)
    await settle()
    CountingTransport.written = CountingTransport.by_tasks = 0
    return transports


async def test_between_two_turns_of_others_a_slice_is_sent_the_state(nursery: trio.Nursery) -> None:
    """Sending to three thousand at once held `/livez` for half a second; no task wakes for it."""
    bench = Bench()
    transports = await many(nursery, bench, 5 * fan_out.STATE_SLICE)
    bench.hub.set_state(ReplicaState.REBALANCING)
    turns = [0]
    while turns[-1] < len(transports):
        await trio.lowlevel.checkpoint()
        turns.append(CountingTransport.written)
    # Trio runs tasks in any order, so there may be two slices between two turns of one task.
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= 2 * fan_out.STATE_SLICE
    await settle()
    assert (CountingTransport.written, CountingTransport.by_tasks) == (len(transports), 0)
    assert {states(transport)[-1][0] for transport in transports} == {"rebalancing"}


async def test_the_state_comes_before_the_records_that_it_names(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are published in the same step, when only the first slice has the state."""
    monkeypatch.setattr(fan_out, "STATE_SLICE", 1)
    bench = Bench()
    transports = await many(nursery, bench, 5)
    bench.hub.assigned([THREE])
    bench.publish(THREE)
    await settle()
    for transport in transports:
        kinds = [kind for _, kind, _ in transport.events]
        assert kinds[-2:] == ["state", "message"]
        assert states(transport)[-1] == ("streaming", [0, 1, 2])
    assert CountingTransport.by_tasks == 0


async def test_no_heartbeat_overtakes_the_state(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position without departed partitions would look to clients as if these were forgotten."""
    monkeypatch.setattr(fan_out, "STATE_SLICE", 1)
    bench = Bench()
    transports = await many(nursery, bench, 3)
    bench.publish(ONE, TWO)
    await settle()
    before = [len(transport.writes) for transport in transports]
    bench.hub.unassigned([ONE])
    for subscriber in bench.hub._registry.everybody.values():
        subscriber.heartbeat(bench.hub.heartbeat_bytes(FEED, at_head=True))
    await settle()
    for transport, number in zip(transports, before, strict=True):
        sent = b"".join(transport.writes[number:])
        assert 0 <= sent.index(b"event: state") < sent.index(b"id: assets:1=1\n")


async def test_every_state_in_which_partitions_left_is_sent(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds even if they return before a subscriber's slice, because its place in them changed."""
    monkeypatch.setattr(fan_out, "STATE_SLICE", 1)
    bench = Bench()
    transports = await many(nursery, bench, 4)
    bench.hub.unassigned([ONE])
    bench.hub.assigned([ONE])
    bench.hub.unassigned([TWO])
    bench.hub.assigned([TWO])
    await settle()
    for transport in transports:
        assigned = [partitions for _, partitions in states(transport)]
        assert assigned[-1] == [0, 1]
        assert [1] in assigned
        assert [0] in assigned[assigned.index([1]) :]


async def test_a_state_that_a_socket_takes_in_part_comes_whole() -> None:
    """It is cut at every byte, with a record after it."""
    whole = len(Bench().hub.announcements.data(FEED, catching_up=False)) + 10
    for most_bytes in range(whole):
        bench = Bench()
        transport = GreedyTransport(0)
        async with trio.open_nursery() as inner:
            inner.start_soon(bench.hub.run)
            transport.gate.set()
            await inner.start(bench.serve, transport)
            await settle()
            transport.left = most_bytes
            bench.hub.unassigned([TWO])
            bench.publish(ONE)
            await settle()
            assert states(transport)[-1] == ("streaming", [0])
            assert transport.values == ["0"]
            inner.cancel_scope.cancel()


async def test_whoever_leaves_within_a_pass_is_sent_nothing(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its channel is closed by then, which must not end the replica."""
    monkeypatch.setattr(fan_out, "STATE_SLICE", 1)
    bench = Bench()
    await many(nursery, bench, 20)
    gone = CountingTransport()
    async with trio.open_nursery() as leaving:
        await leaving.start(bench.serve, gone)
        await settle()
        before = len(gone.writes)
        bench.hub.set_state(ReplicaState.REBALANCING)
        await trio.lowlevel.checkpoint()
        leaving.cancel_scope.cancel()
    await settle()
    assert len(gone.writes) == before
    assert bench.hub.subscribers == 20


@pytest.mark.parametrize(
    ("whole", "followed", "state"),
    [(True, [ONE, TWO], "streaming"), (True, [], "standby"), (False, [ONE, TWO], "standby")],
)
def test_a_replica_in_standby_streams_what_it_follows(
    whole: bool, followed: Sequence[TopicPartition], state: str
) -> None:
    """Whole-topic streams get it; others learn that the replica has left its group."""
    announcements = Announcements(ReplicaState.WAITING, "replica", 15)
    announcements.change(ReplicaState.STANDBY, [], followed)
    feed = feed_of(WEBSOCKET, frozenset({"assets"}), whole=whole)
    data = announcements.data(feed, catching_up=False)
    assert f'"state":"{state}"'.encode() in data


def data_of(announcements: Announcements, feed: Feed) -> dict[str, Any]:
    """The present state of a live subscriber."""
    found: dict[str, Any] = orjson.loads(announcements.data(feed, catching_up=False)[WEBSOCKET_HEADER:])
    return found


WEBSOCKET_HEADER = 4
"""Bytes before a message of 126 to 65,535 bytes (RFC 6455, section 5.2)."""

WEBSOCKET_FEED = feed_of(WEBSOCKET, frozenset({"assets"}))


def test_a_replica_without_partitions_of_a_feed_lets_it_wait() -> None:
    """Partitions of other topics make no difference to this client."""
    announcements = Announcements(ReplicaState.STREAMING, "replica", 15)
    announcements.change(ReplicaState.STREAMING, [TopicPartition("other", 0)])
    assert data_of(announcements, WEBSOCKET_FEED)["state"] == "waiting"


def test_a_state_says_what_is_wrong_with_the_topics_of_its_stream() -> None:
    """Other topics are left out, and so are too long ids unless there are any."""
    announcements = Announcements(ReplicaState.STREAMING, "replica", 15)
    announcements.change(ReplicaState.STREAMING, [ONE], degraded={"assets": "under-replicated", "other": "no-leader"})
    found = data_of(announcements, WEBSOCKET_FEED)
    assert (found["degraded"], "resumable" in found) == ({"assets": "under-replicated"}, False)
    announcements.change(ReplicaState.STREAMING, [TopicPartition("assets", number * 10**6) for number in range(2000)])
    found = data_of(announcements, WEBSOCKET_FEED)
    assert ("degraded" in found, found["resumable"]) == (False, False)


def test_the_first_state_names_what_the_request_asked_for_in_vain() -> None:
    """Only this stream's state has it; others share their bytes."""
    announcements = Announcements(ReplicaState.STREAMING, "replica", 15)
    announcements.change(ReplicaState.STREAMING, [ONE])
    first = b"".join(SentState(announcements, ["sinse"]).news(FEED, "", catching_up=False))
    assert b'"ignored":["sinse"]' in first
    assert b"ignored" not in b"".join(SentState(announcements).news(FEED, "", catching_up=False))


def test_what_was_asked_for_in_vain_is_kept_until_the_first_state_is_sent() -> None:
    """An open stream keeps nothing of it."""
    sent = SentState(Announcements(ReplicaState.STREAMING, "replica", 15), ["sinse"])
    mark = sent.mark()
    for _ in range(2):
        assert b'"ignored":["sinse"]' in b"".join(sent.news(FEED, "", catching_up=False))
        assert not sent._ignored
        sent.reset(mark)


def test_a_state_names_what_one_stream_is_sent_again() -> None:
    """In its first state or in one more, and once; others are sent the bytes that they share."""
    announcements = Announcements(ReplicaState.STREAMING, "replica", 15)
    announcements.change(ReplicaState.STREAMING, [ONE])
    sent = SentState(announcements)
    again = {"topic": "assets", "partition": 0, "from": 20, "to": 99}
    for _ in range(2):
        (data,) = sent.news(FEED, "assets:0=19", catching_up=True, repeats=[(ONE, Range(20, 100))])
        (event,) = EventSource().feed(unchunked(data)).events
        assert orjson.loads(event[2])["repeats"] == [again]
    assert list(sent.news(FEED, "", catching_up=True)) == []
    assert b"repeats" not in b"".join(SentState(announcements).news(FEED, "", catching_up=True))


@pytest.mark.parametrize("assigned_first", [True, False])
async def test_a_stream_whose_partition_begins_before_its_id_says_so(
    nursery: trio.Nursery, assigned_first: bool
) -> None:
    """Whether the partition is here when it connects or is added later; before the first record that it has seen."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    if not assigned_first:
        await nursery.start(bench.serve, transport, {ONE: 2})
        await settle()
    bench.publish(*[ONE] * 4)
    if assigned_first:
        await nursery.start(bench.serve, transport, {ONE: 2})
    await settle()
    bench.publish(ONE)
    await settle()
    said = [orjson.loads(data).get("repeats") if kind == "state" else data for _, kind, data in transport.events]
    again = [{"topic": "assets", "partition": 0, "from": 0, "to": 2}]
    assert [each for each in said if each] == [again, "0", "1", "2", "3", "4"]


def test_the_first_state_echoes_the_filter() -> None:
    """It contains the filter as the server understood it."""
    announcements = Announcements(ReplicaState.STREAMING, "replica", 15)
    feed = feed_of(SSE_VALUE, frozenset({"assets"}), read_filter({"exact": {"key": "1"}}))
    assert b'"exact"' in b"".join(SentState(announcements).news(feed, "", catching_up=False))


async def test_heartbeats_are_spread_over_their_interval_and_made_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Each live subscriber gets one per interval, and subscribers of a feed share the bytes."""
    del autojump_clock
    bench = Bench(heartbeat_seconds=10)
    transports = await many(nursery, bench, 2 * HEARTBEAT_SLICES)
    before = [len(transport.writes) for transport in transports]
    # Between two ticks, so that each second has one of them.
    await trio.sleep(0.5)
    sent = [CountingTransport.written]
    for _ in range(HEARTBEAT_SLICES):
        await trio.sleep(1)
        sent.append(CountingTransport.written)
    assert [after - so_far for so_far, after in itertools.pairwise(sent)] == [2] * HEARTBEAT_SLICES
    beats = [transport.writes[number:] for transport, number in zip(transports, before, strict=True)]
    assert {len(one) for one in beats} == {1}
    assert bench.hub.statistics().heartbeats == 2 * HEARTBEAT_SLICES


async def test_heartbeats_of_many_subscribers_are_spread_further(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold up nothing for long, and whoever has left meanwhile gets none; those of few are sent at once."""
    del autojump_clock
    bench = Bench(heartbeat_seconds=10)
    transports = await many(nursery, bench, HEARTBEAT_SLICES * 3 * PIECE)
    assert [len(piece.due) for piece in bench.hub._heartbeats.pieces(5)] == [3 * PIECE]
    monkeypatch.setattr(heartbeats, "UNDIVIDED", 3 * PIECE - 1)
    await trio.sleep(1.1)
    sent = [CountingTransport.written]
    for _ in range(2 * 3):
        await trio.sleep(1 / 3)
        sent.append(CountingTransport.written)
    assert [after - so_far for so_far, after in itertools.pairwise(sent)] == [PIECE] * 2 * 3
    assert bench.hub.statistics().heartbeats == (1 + 2 * 3) * PIECE
    pieces = bench.hub._heartbeats.pieces(5)
    assert [len(piece.due) for piece in pieces] == [PIECE] * 3
    numbers = [number for piece in pieces for subscribers in piece.looked_at for number in subscribers]
    assert sorted(numbers) == sorted(bench.hub._registry.everybody)
    before = [len(transport.writes) for transport in transports]
    pieces[0].due[0].leave()
    await settle()
    bench.hub._heartbeats.beat(pieces[0])
    await settle()
    assert sum(len(one.writes) for one in transports) - sum(before) == PIECE - 1


async def test_whoever_is_silent_is_ended_at_every_tick() -> None:
    """This does not depend on whether its own heartbeat is due."""
    bench = Bench()
    asked: list[float] = []

    class Asked(RecordingTransport):
        def end_if_silent(self, now: float) -> None:
            asked.append(now)

    for _ in range(3):
        bench.hub.subscribe(FEED, Asked())
    beat(bench.hub, 1)
    assert (len(asked), bench.hub.statistics().heartbeats) == (3, 1)


async def test_buffers_are_checked_with_the_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer above its bound and impossible counts are counted and logged; correct ones are not."""
    violated: list[dict[str, object]] = []
    monkeypatch.setattr(invariants, "violated", lambda _invariant, **more: violated.append(more))
    bench = Bench()
    bench.publish(ONE)
    subscriber = bench.hub.subscribe(FEED, RecordingTransport())
    beat(bench.hub, subscriber.number % HEARTBEAT_SLICES)
    assert violated == []
    subscriber._buffer.size_bytes = bench.settings.subscriber_buffer_bytes + 1
    bench.hub.history.waiting_bytes = -1
    beat(bench.hub, subscriber.number % HEARTBEAT_SLICES)
    assert [set(more) for more in violated] == [{"subscriber", "size_bytes"}, {"size_bytes", "waiting_bytes"}]


async def test_the_position_of_a_heartbeat_is_that_of_its_scope() -> None:
    """Only whole-topic readers may resume with a followed partition, and no position is ahead of what is offered."""
    bench = Bench()
    bench.hub.followed.follow(THREE, 5)
    bench.publish(ONE)
    whole = feed_of(FEED.wire, FEED.topics, whole=True)
    texts = [bench.hub.heartbeat_bytes(feed, at_head=True) for feed in (FEED, whole)]
    assert [b"2=4" in text for text in texts] == [False, True]
    assert b"assets" not in bench.hub.heartbeat_bytes(whole, at_head=False)


def test_a_stream_knows_whether_it_was_sent_the_present_state() -> None:
    """This is right even if its socket took nothing of it in the end."""
    announcements = Announcements(ReplicaState.STREAMING, "replica", 15)
    sent = SentState(announcements)
    assert (sent.is_first, sent.is_current) == (True, False)
    mark = sent.mark()
    assert len(list(sent.news(FEED, "", catching_up=False))) == 1
    assert (sent.is_first, sent.is_current) == (False, True)
    assert list(sent.news(FEED, "", catching_up=False)) == []
    sent.reset(mark)
    assert (sent.is_first, sent.is_current) == (True, False)
