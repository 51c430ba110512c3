"""Subscribers spread over the replicas again after one has joined, if the setting asks for it."""

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.spreading import (
    MAX_WAIT_SAMPLES,
    REMEMBERED_SAMPLES,
    STABLE_SAMPLES,
    SendingOn,
    Spread,
    send_some_on,
    spread_subscribers,
)
from dispatcher.sansio.health import Event, Health, ReplicaState
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport, settle

PARTITIONS = 4
SUBSCRIBERS = 8


CRASHED = [(1, 4, 30)] * (REMEMBERED_SAMPLES - STABLE_SAMPLES) + [(2, 4, 30)]


@pytest.mark.parametrize(
    ("before", "then", "number"),
    [
        pytest.param((6, 30), [(2, 4, 30)], 10, id="one has joined"),
        pytest.param((4, 20), [(2, 6, 30), (3, 4, 30)], 10, id="one was replaced at once"),
        pytest.param((4, 20), CRASHED, 10, id="one has crashed, and come back before its session ended"),
        pytest.param((6, 30), [(2, 4, 30), (3, 3, 30)], 15, id="two have joined"),
        pytest.param((6, 30), [(2, 1, 30)], 15, id="many have joined, and half go at most"),
        pytest.param((6, 0), [(2, 4, 0)], 0, id="one has joined, and nobody is connected"),
        pytest.param((4, 30), [(2, 6, 45)], 0, id="one has left, with its subscribers"),
        pytest.param((4, 30), [(1, 4, 90)], 0, id="more subscribers have connected"),
        pytest.param((6, 30), [(2, 0, 30)], 0, id="nothing is left"),
        pytest.param((0, 30), [(2, 6, 30)], 0, id="nothing was there"),
        pytest.param((0, 0), [(2, 6, 30), (3, 4, 30)], 10, id="it was the first of all to start"),
    ],
)
def test_as_many_stay_for_each_partition_as_before(
    before: tuple[int, int], then: list[tuple[int, int, int]], number: int
) -> None:
    """The group must have settled, and nobody is sent away twice."""
    spread = Spread()
    gone = [spread.observe(1, *before) for _ in range(REMEMBERED_SAMPLES)]
    gone += [spread.observe(*sample) for sample in then]
    assert sum(gone) == 0
    assignments, partitions, subscribers = then[-1]
    assert [spread.observe(assignments, partitions, subscribers) for _ in range(STABLE_SAMPLES)][-1] == number
    later = [spread.observe(assignments, partitions, subscribers - number) for _ in range(STABLE_SAMPLES)]
    assert sum(later) == 0


def test_nobody_goes_during_a_rebalance() -> None:
    """Nobody is sent away, however long the rebalance takes."""
    spread = Spread()
    for _ in range(REMEMBERED_SAMPLES):
        spread.observe(1, 6, 30)
    gone = [spread.observe(2, 4, 30, stable=False) for _ in range(REMEMBERED_SAMPLES)]
    assert sum(gone) == 0


def test_whoever_gets_nothing_is_sent_on_once_that_is_certain() -> None:
    """Intervals grow while a balancer returns clients, and shrink after a while without any."""
    sending_on = SendingOn()
    went = [n for n in range(200) if sending_on.observe(anybody=True)]
    assert [b - a for a, b in zip([-1, *went], went, strict=False)] == [5, 10, 20, 40, 60, 60]
    for _ in range(MAX_WAIT_SAMPLES):
        assert not sending_on.observe(anybody=False)
    assert [sending_on.observe(anybody=True) for _ in range(STABLE_SAMPLES)] == [False] * 4 + [True]
    interrupted = SendingOn()
    assert not any(interrupted.observe(anybody=n % STABLE_SAMPLES != 0) for n in range(100))


def test_a_topic_that_is_created_later_may_be_assigned_here_soon() -> None:
    """Until then its subscribers stay."""
    sending_on = SendingOn()
    assert sending_on.assigned_somewhere(["old"]) == {"old"}
    counts = [len(sending_on.assigned_somewhere(["old", "new"])) for _ in range(MAX_WAIT_SAMPLES + 1)]
    assert counts == [1] * (MAX_WAIT_SAMPLES - 1) + [2, 2]
    assert sending_on.assigned_somewhere(["new"]) == {"new"}


def test_a_topic_that_is_created_again_is_new() -> None:
    """The group has to assign it first, and no replica has its partitions until then."""
    sending_on = SendingOn()
    assert sending_on.assigned_somewhere(["old", "deleted"]) == {"old", "deleted"}
    assert sending_on.assigned_somewhere(["old"]) == {"old"}
    counts = [len(sending_on.assigned_somewhere(["old", "deleted"])) for _ in range(MAX_WAIT_SAMPLES)]
    assert counts == [1] * (MAX_WAIT_SAMPLES - 1) + [2]


PAIR = [TopicPartition("assets", number) for number in (2, 3)]
"""What another replica takes over; the bench has two partitions more."""


async def listeners(
    nursery: trio.Nursery, bench: Bench, *feeds: Feed, is_joined: Callable[[], bool] = lambda: True
) -> list[RecordingTransport]:
    """One stream of each feed, whose hub runs and spreads its subscribers over a second."""
    nursery.start_soon(bench.hub.run)
    transports = [RecordingTransport() for _ in feeds]
    for transport, feed in zip(transports, feeds, strict=True):
        transport.gate.set()
        await nursery.start(bench.serve, transport, None, None, feed)
    nursery.start_soon(spread_subscribers, bench.hub, 1.0, is_joined)
    return transports


def sent_away(transports: Sequence[RecordingTransport], reason: str) -> list[bool]:
    """Which streams have ended for a reason."""
    return [any(kind == "goodbye" and reason in data for _, kind, data in one.events) for one in transports]


async def test_after_another_one_has_joined_the_surplus_goes(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The number per partition stays; while this replica owns everything, there is nowhere to go."""
    del autojump_clock
    bench = Bench(heartbeat_seconds=1000)
    bench.hub.expect({"assets": 4})
    bench.hub.assigned(PAIR)
    transports = await listeners(nursery, bench, *[FEED] * 8)
    await trio.sleep(2 * REMEMBERED_SAMPLES)
    assert sum(sent_away(transports, "rebalanced")) == 0
    bench.hub.unassigned(PAIR)
    bench.hub.assigned([])
    await trio.sleep(REMEMBERED_SAMPLES)
    assert sum(sent_away(transports, "rebalanced")) == 4
    assert bench.hub.subscribers == 4


async def test_whoever_gets_nothing_here_is_sent_on_and_nobody_else(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Not during a rebalance, and not whole-topic readers or observers."""
    del autojump_clock
    bench = Bench(heartbeat_seconds=1000)
    bench.hub.expect({"assets": 2, "gone": 0})
    bench.hub.unassigned([ONE, TWO])
    bench.hub.set_state(ReplicaState.REBALANCING)
    feeds = [FEED, feed_of(FEED.wire, FEED.topics, whole=True), feed_of(FEED.wire, FEED.topics, counts=False)]
    transports = await listeners(nursery, bench, *feeds)
    await trio.sleep(2 * STABLE_SAMPLES)
    assert sum(sent_away(transports, "")) == 0
    bench.hub.set_state(ReplicaState.WAITING)
    await trio.sleep(2 * STABLE_SAMPLES)
    assert sent_away(transports, "no partition of these topics") == [True, False, False]


async def test_whoever_has_not_gone_stays_when_partitions_are_assigned(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Sending subscribers away takes a while, and a rebalance may happen meanwhile."""
    del autojump_clock
    bench = Bench(heartbeat_seconds=1000)
    bench.hub.expect({"assets": 2})
    bench.hub.unassigned([ONE, TWO])
    bench.hub.set_state(ReplicaState.WAITING)
    transports = await listeners(nursery, bench, *[FEED] * 5)
    while not sum(sent_away(transports, "no partition of these topics")):  # noqa: ASYNC110 - it has no event
        await trio.sleep(0.01)
    bench.hub.assigned([ONE])
    bench.hub.set_state(ReplicaState.STREAMING)
    await trio.sleep(2 * MAX_WAIT_SAMPLES)
    assert sum(sent_away(transports, "")) == 1


async def test_nobody_is_sent_on_before_the_replica_has_joined(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A rebuilt consumer joins only after its predecessor's session, whose partitions nobody has."""
    del autojump_clock
    bench = Bench(heartbeat_seconds=1000)
    bench.hub.expect({"assets": 2})
    bench.hub.unassigned([ONE, TWO])
    health = Health()
    health.happened(Event.LEFT)
    health.reported(brokers_up=1, joined=False, now=0)
    bench.hub.set_state(health.state(has_partitions=False))
    joined: list[bool] = []
    transports = await listeners(nursery, bench, FEED, is_joined=lambda: bool(joined))
    await trio.sleep(2 * MAX_WAIT_SAMPLES)
    assert sum(sent_away(transports, "")) == 0
    joined.append(True)
    await trio.sleep(2 * STABLE_SAMPLES)
    assert sum(sent_away(transports, "no partition of these topics")) == 1


async def test_without_a_time_nobody_is_ever_sent_away() -> None:
    """`spread_seconds = 0` turns this off."""
    with trio.fail_after(seconds(5)):
        await spread_subscribers(Bench().hub, 0, lambda: True)


@pytest.mark.parametrize(("number", "gone"), [(3, 3), (9, 8)])
async def test_as_many_as_are_ordered_are_sent_on(nursery: trio.Nursery, number: int, gone: int) -> None:
    """They get goodbye 1013 after what they were sent, the others stay, and those that have left need none."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transports = [RecordingTransport() for _ in range(SUBSCRIBERS)]
    for transport in transports:
        transport.gate.set()
        await nursery.start(bench.serve, transport)
    await settle()
    bench.publish(ONE, TWO)
    await settle()
    await send_some_on(bench.hub, number, 0)
    await settle()
    assert bench.hub.subscribers == SUBSCRIBERS - gone
    assert [transport.values for transport in transports] == [["0", "1"]] * SUBSCRIBERS
    goodbyes = [data for transport in transports for _, kind, data in transport.events if kind == "goodbye"]
    assert len(goodbyes) == gone


async def test_a_replica_without_partitions_sends_its_subscribers_on(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Whole-topic readers and observers stay, and so does everybody where there are partitions."""
    topic = kafka.create_topic(1)
    code = "import dispatcher.hub.spreading as s; s.SAMPLE_SECONDS = 0.1"
    keywords = {"settings": {"spread_seconds": Settings().spread_seconds}, "code": code}
    both = [
        await trio.to_thread.run_sync(
            lambda name=name: replicas(kafka.bootstrap_servers, topic, client_id=name, **keywords)  # type: ignore[misc]
        )
        for name in ("first", "second")
    ]
    # Whoever has the one partition keeps it when the other one joins.
    for replica in both:
        await trio.to_thread.run_sync(replica.wait_for, "joined", lambda status: status["joined"])
    with trio.fail_after(seconds(30)):
        while sum(len(replica.status()["partitions"]) for replica in both) != 1:  # noqa: ASYNC110 - other processes
            await trio.sleep(0.05)
    owner, other = sorted(both, key=lambda one: len(one.status()["partitions"]), reverse=True)
    async with (
        open_sse(other, "?scope=topic") as whole,
        open_sse(other, "?observe=1"),
        open_sse(owner) as taker,
        open_sse(other) as stream,
    ):
        with trio.fail_after(seconds(30)):
            goodbye = await stream.next_control("goodbye")
        assert (goodbye["code"], "no partition of these topics" in str(goodbye["reason"])) == (1013, True)
        await trio.to_thread.run_sync(lambda: other.wait_for("two stay", lambda s: s["subscribers"]["total"] == 2))
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 1, 1)
        for one in (whole, taker):
            await sse_records(one, 1)
        assert owner.logged("sending subscribers to other replicas: they would get nothing here") == []


async def test_half_of_the_subscribers_go_when_a_second_replica_joins(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """They get goodbye 1013; the others stay, and the new replica sends nobody away."""
    topic = kafka.create_topic(PARTITIONS)
    keywords = {
        "settings": {"spread_seconds": 0.1},
        "code": "import dispatcher.hub.spreading as s; s.SAMPLE_SECONDS = 0.1",
    }
    first = replicas(kafka.bootstrap_servers, topic, client_id="first", **keywords)
    first.wait_until_ready()
    told, codes = trio.open_memory_channel[object](SUBSCRIBERS)

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with open_sse(first) as stream:
            task_status.started()
            told.send_nowait((await stream.next_control("goodbye"))["code"])

    async with trio.open_nursery() as nursery:
        for _ in range(SUBSCRIBERS):
            await nursery.start(listen)
        second = await trio.to_thread.run_sync(
            lambda: replicas(kafka.bootstrap_servers, topic, client_id="second", **keywords)
        )
        with trio.fail_after(seconds(30)):
            for _ in range(SUBSCRIBERS // 2):
                assert await codes.receive() == 1013
        await trio.to_thread.run_sync(lambda: first.wait_for("half stay", lambda s: s["subscribers"]["total"] == 4))
        await trio.to_thread.run_sync(lambda: second.wait_for("half", lambda s: len(s["partitions"]) == 2))
        (line,) = await trio.to_thread.run_sync(first.wait_until_logged, "spreading subscribers")
        assert (line["number"], line["of"]) == (4, 8)
        assert codes.statistics().current_buffer_used == 0
        assert second.logged("spreading subscribers") == []
        nursery.cancel_scope.cancel()
