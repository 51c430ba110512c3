"""What a rebalance costs: work is counted, not timed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import trio

from dispatcher.hub.resumption import Resumption
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.history import History
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.starts import MORE_PARTITIONS
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport, settle, subscribed

NUMBER = 50


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, owner: type, *names: str) -> Iterator[list[str]]:
    """The calls of some methods."""
    calls: list[str] = []

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def count(*args: Any, **keywords: Any) -> Any:
            calls.append(method.__name__)
            return method(*args, **keywords)

        return count

    with monkeypatch.context() as patched:
        for name in names:
            patched.setattr(owner, name, counting(getattr(owner, name)))
        yield calls


async def test_a_rebalance_visits_no_live_subscriber(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Visiting ten thousand for each of a hundred partitions took 0.76 s in one step."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transports = [RecordingTransport() for _ in range(NUMBER)]
    for transport in transports:
        transport.gate.set()
        await nursery.start(bench.serve, transport)
    await settle()
    bench.publish(ONE, TWO)
    await settle()
    with (
        counted(monkeypatch, Subscriber, "partition_added", "_wake") as calls,
        counted(monkeypatch, Resumption, "partitions_removing", "partitions_removed") as more_calls,
    ):
        bench.hub.unassigned([ONE, TWO])
        bench.hub.assigned([ONE, TWO])
        bench.publish(ONE, TWO)
        await settle()
        assert calls + more_calls == []
    assert {tuple(transport.values) for transport in transports} == {("0", "1", "2", "3")}


async def test_a_live_subscriber_that_waits_for_a_partition_is_found_when_it_comes(nursery: trio.Nursery) -> None:
    """It named a partition of another replica, or a start by time, and goes back for it."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    bench.hub.unassigned([TWO])
    named, since = RecordingTransport(), RecordingTransport()
    for transport, position, since_ms in ((named, {TWO: 3}, None), (since, None, 5)):
        transport.gate.set()
        await nursery.start(bench.serve, transport, position, since_ms)
    await settle()
    assert len(bench.hub._registry._expecting) == 2
    bench.number = 4
    bench.hub.assigned([TWO])
    bench.publish(ONE)
    for _ in range(3):
        bench.publish(TWO)
    await settle()
    assert (named.values, since.values) == (["4", "5", "6", "7"], ["4", "5", "6", "7"])


async def test_a_subscriber_keeps_little_of_partitions_that_do_not_exist() -> None:
    """An id of 18 characters names 8,192 partitions, which took 1.3 MiB per subscriber."""
    bench = Bench()
    bench.hub.expect({ONE.topic: 2})
    position = parse_position("assets:~AQEA_z8EAA")
    assert (len(position), position[ONE]) == (8192, 3)
    added, beyond = TopicPartition(ONE.topic, 2), TopicPartition(ONE.topic, 8000)
    with subscribed(bench.hub, FEED, RecordingTransport(), position) as subscriber:
        assert (subscriber.next_offset(added), subscriber.next_offset(beyond)) == (4, None)
        assert len(subscriber.resumption.cursor.next_offsets) == 2 + MORE_PARTITIONS


async def test_nothing_is_kept_of_subscribers_that_have_left(nursery: trio.Nursery) -> None:
    """This holds for live, expecting and catching-up subscribers."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    bench.publish(ONE)
    bench.replays.gate = trio.Event()
    async with trio.open_nursery() as inner:
        for position, since_ms in ((None, None), ({TWO: 3}, None), (None, 0)):
            transport = RecordingTransport()
            transport.gate.set()
            await inner.start(bench.serve, transport, position, since_ms)
        await settle()
        assert (len(bench.hub._registry._expecting), len(bench.hub._registry.catching_up)) == (1, 1)
        inner.cancel_scope.cancel()
    registry = bench.hub._registry
    assert [len(kept) for kept in (registry.everybody, registry.catching_up, registry._expecting)] == [0, 0, 0]
    assert bench.hub.statistics().transports == {}


async def test_a_partition_that_leaves_costs_those_that_catch_up_no_look_at_the_others(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at every partition took 1.8 s for ten thousand readers."""
    sizes = {"history_bytes": 5_000, "pause_above_bytes": 4_000, "resume_below_bytes": 2_000}
    bench = Bench(**sizes)
    nursery.start_soon(bench.hub.run)
    first = RecordingTransport()
    first.gate.set()
    await nursery.start(bench.serve, first)
    for _ in range(40):
        bench.publish(ONE, TWO)
        await settle()
    bench.replays.gate = trio.Event()
    transports = [RecordingTransport() for _ in range(NUMBER)]
    for transport in transports:
        transport.gate.set()
        await nursery.start(bench.serve, transport, {ONE: 0, TWO: 1})
    await settle()
    with counted(monkeypatch, History, "behind") as calls:
        bench.hub.unassigned([TWO])
        assert calls == []
    bench.replays.gate.set()
    bench.publish(ONE)
    await settle()
    assert {tuple(transport.values) for transport in transports} == {tuple(str(n) for n in range(2, 81, 2))}
