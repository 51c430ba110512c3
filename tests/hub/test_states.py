"""The replica's state, sent to many: in slices, before the records that it names, and every departure."""

import itertools
from collections.abc import Sequence

import orjson
import pytest
import trio

from dispatcher.hub import fan_out
from dispatcher.hub.announcements import Announcements
from dispatcher.hub.feed import feed_of
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.records import TopicPartition
from tests.hub.test_fan_out import GreedyTransport
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport, settle

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
    """What the stream said of the replica, without what it said of the stream alone."""
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
    """Three thousand at once held `/livez` for half a second; and no task wakes for it."""
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
    """They are published in the same step, while none but the first slice has been sent the state."""
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
    """Its position no longer names what has left: before the state says so, a client would take it for forgotten."""
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
    """Though they are back before the slice of a subscriber has come: its place in them is no longer the same."""
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
    """Cut at every byte, with a record after it."""
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
    """Its channel is closed by then: that must not end the replica."""
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
    """To streams of the whole topic; it sends the others that it has left its group."""
    announcements = Announcements(ReplicaState.WAITING, "replica", 15)
    announcements.change(ReplicaState.STANDBY, [], followed)
    feed = feed_of(WEBSOCKET, frozenset({"assets"}), whole=whole)
    data = announcements.data(feed, catching_up=False)
    assert f'"state":"{state}"'.encode() in data
