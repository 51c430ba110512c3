"""Rounds of the fan-out: slices, partial writes, and what holds the poller back."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from dispatcher.hub import fan_out
from dispatcher.hub.feed import feed_of
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.records import Batch, Record
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport, settle


class ObservedTransport(RecordingTransport):
    """Calls back before it takes anything."""

    def __init__(self, callback: Callable[[], None]) -> None:
        super().__init__()
        self.gate.set()
        self.callback = callback

    def try_send(self, data: bytes) -> int:
        """Call back, then take all."""
        self.callback()
        return super().try_send(data)


async def test_a_partition_that_leaves_within_a_round_is_handed_to_nobody_else(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new owner sends its records; what else is in the round goes on."""
    monkeypatch.setattr(fan_out, "SLICE", 1)
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    first, second = ObservedTransport(lambda: bench.hub.unassigned([ONE])), ObservedTransport(lambda: None)
    await nursery.start(bench.serve, first)
    await nursery.start(bench.serve, second)
    await settle()
    bench.publish(ONE, TWO)
    await settle()
    assert (first.values, second.values) == (["0", "1"], ["1"])


async def test_who_leaves_within_a_round_is_offered_nothing_more(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand clients that are cut at once must not end the replica."""
    monkeypatch.setattr(fan_out, "SLICE", 1)
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    gone = RecordingTransport()
    gone.gate.set()
    async with trio.open_nursery() as leaving:
        first = ObservedTransport(leaving.cancel_scope.cancel)
        await nursery.start(bench.serve, first)
        # Between the two, so many that the last one has left when its turn comes.
        for _ in range(20):
            await nursery.start(bench.serve, ObservedTransport(lambda: None))
        await leaving.start(bench.serve, gone)
        await settle()
        bench.publish(ONE)
        await settle()
    bench.publish(TWO)
    await settle()
    assert (first.values, gone.values) == (["0", "1"], [])
    assert bench.hub.subscribers == 21


async def test_within_a_round_no_heartbeat_names_what_is_still_to_be_offered(nursery: trio.Nursery) -> None:
    """A round serves one feed after the other: subscribers of the last one are behind until its turn."""
    bench, other = Bench(), feed_of(WEBSOCKET, FEED.topics)
    nursery.start_soon(bench.hub.run)
    heartbeats: list[bytes] = []
    observed = ObservedTransport(lambda: heartbeats.append(bench.hub.heartbeat_bytes(other, at_head=True)))
    last = RecordingTransport()
    last.gate.set()
    await nursery.start(bench.serve, observed)
    await nursery.start(bench.serve, last, None, None, other)
    await settle()
    bench.publish(ONE)
    await settle()
    assert heartbeats == [WEBSOCKET.heartbeat("")]
    assert bench.hub.heartbeat_bytes(other, at_head=True) == WEBSOCKET.heartbeat(f"{ONE}=0")


async def test_publishing_waits_for_rounds_that_are_behind(nursery: trio.Nursery) -> None:
    """They hold a bounded number of bytes, and say when they have handed out all of them."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    await bench.hub.wait_settled()
    value = b"x" * fan_out.CONGESTED_BYTES
    bench.hub.publish(Batch(ONE, (Record(0, None, None, value[:-1000], ()),)))
    busy = [bench.hub.is_congested]
    bench.hub.publish(Batch(ONE, (Record(1, None, None, value, ()),)))
    busy.append(bench.hub.is_congested)
    await bench.hub.wait_settled()
    assert [*busy, bench.hub.is_congested] == [False, True, False]
    assert [len(value) for value in transport.values] == [fan_out.CONGESTED_BYTES - 1000, fan_out.CONGESTED_BYTES]


async def test_behind_a_long_round_others_have_their_share(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published meanwhile leaves together, when they have had it or nobody wants the loop."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    monkeypatch.setattr(fan_out, "LONG_ROUND_SECONDS", 0)
    monkeypatch.setattr(fan_out, "YIELD_RATIO", float("inf"))
    monkeypatch.setattr(fan_out, "IDLE_CHECKPOINT_SECONDS", 0)
    before = len(transport.writes)
    for _ in range(3):
        bench.publish(ONE)
        await checkpoints()
    assert transport.values == ["0"]
    monkeypatch.setattr(fan_out, "IDLE_CHECKPOINT_SECONDS", float("inf"))
    await bench.hub.wait_settled()
    assert (transport.values, len(transport.writes) - before) == (["0", "1", "2"], 2)


async def checkpoints() -> None:
    """Others have the loop, and never all of them wait."""
    for _ in range(10):
        await trio.lowlevel.checkpoint()


class GreedyTransport(RecordingTransport):
    """Takes this many bytes at once, and the rest when its gate opens."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.left = most_bytes

    def try_send(self, data: bytes) -> int:
        """Take what fits."""
        taken = data[: self.left]
        self.left -= len(taken)
        if taken:
            self.writes.append(taken)
            self.kept = data[len(taken) :]
        return len(taken)


async def test_what_a_socket_takes_in_part_goes_out_first_and_whole(nursery: trio.Nursery) -> None:
    """Cut at every byte of a round; it counts as dispatched with its last byte, also when its partition has left."""
    whole = RecordingTransport()
    whole.gate.set()
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    await nursery.start(bench.serve, whole)
    await settle()
    before = len(whole.writes)
    bench.publish(ONE, TWO)
    await settle()
    size_bytes = len(b"".join(whole.writes[before:]))
    for most_bytes in range(1, size_bytes):
        bench = Bench()
        transport = GreedyTransport(0)
        async with trio.open_nursery() as inner:
            inner.start_soon(bench.hub.run)
            transport.gate.set()
            await inner.start(bench.serve, transport)
            await settle()
            transport.gate, transport.left = trio.Event(), most_bytes
            bench.publish(ONE, TWO)
            await settle()
            assert bench.dispatched == []
            assert bench.hub.has_first_writes_for([ONE])
            bench.hub.unassigned([ONE])
            bench.publish(TWO)
            transport.gate.set()
            await settle()
            assert [batch.partition for batch in bench.dispatched] == [ONE, TWO, TWO]
            assert not bench.hub.has_first_writes_for([ONE])
            assert transport.values == ["0", "1", "2"]
            inner.cancel_scope.cancel()


async def test_the_first_record_after_a_pause_leaves_at_once_and_those_after_it_share_a_write(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """With `linger_ms`, which is the time between two rounds."""
    del autojump_clock
    bench = Bench(linger_ms=100, heartbeat_seconds=1000)
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await trio.sleep(1)
    for _ in range(2):
        for _ in range(4):
            bench.publish(ONE)
            await trio.sleep(0.03)
        await trio.sleep(0.5)
    assert [values_of(write) for write in transport.writes[-4:]] == [["0"], ["1", "2", "3"], ["4"], ["5", "6", "7"]]


def values_of(write: bytes) -> list[str]:
    """The values of the records in one write."""
    alone = RecordingTransport()
    alone.writes = [write]
    return alone.values


async def test_a_round_lingers_for_nobody_who_waits_for_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The poller waits for it, or many bytes do: it begins at once; so does a new state."""
    del autojump_clock
    bench = Bench(linger_ms=1000, heartbeat_seconds=1000)
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    began = trio.current_time()
    bench.publish(ONE)
    await settle()
    bench.publish(ONE)
    await settle()
    assert transport.values == ["0"]
    bench.hub.set_state(ReplicaState.REBALANCING)
    await settle()
    assert [kind for _, kind, _ in transport.events][-1] == "state"
    assert transport.values == ["0"]
    await bench.hub.wait_settled()
    assert transport.values == ["0", "1"]
    bench.publish(ONE)
    bench.hub.publish(Batch(ONE, (Record(3, None, None, b"x" * fan_out.CONGESTED_BYTES, ()),)))
    await settle()
    assert len(transport.values) == 4
    assert trio.current_time() == began
