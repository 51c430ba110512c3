"""Partitions follow subscribers: replicas without any leave the group and join it again (`idle_leave_seconds`)."""

import signal
from collections.abc import Callable, Iterable
from typing import Any

import trio

from testbed.broker.witness import group_members
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.test_whole_topic import PlainReader

PARTITIONS = 6
IDLE = {"idle_leave_seconds": 1}


async def until(replica: Replica, what: str, condition: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the status of a replica is as it should be."""
    await trio.to_thread.run_sync(replica.wait_for, what, condition)


def owns(number: int) -> Callable[[dict[str, Any]], bool]:
    """Whether a replica owns this many partitions, and has committed all of them."""
    return lambda status: len(status["partitions"]) == number and all(one["lag"] == 0 for one in status["partitions"])


async def started(kafka: Kafka, replicas: Callable[..., Replica], topic: str, names: Iterable[str]) -> list[Replica]:
    """Replicas of one group."""
    return [
        await trio.to_thread.run_sync(
            lambda name=name: replicas(kafka.bootstrap_servers, topic, client_id=name, settings=IDLE)  # type: ignore[misc]
        )
        for name in names
    ]


async def test_partitions_follow_subscribers(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """With one client on three replicas, its replica owns all; with a second one they share again."""
    topic = kafka.create_topic(PARTITIONS)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 60, PARTITIONS)
    first, second, third = await started(kafka, replicas, topic, ["first", "second", "third"])
    reader, other = PlainReader(second), PlainReader(third)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await until(second, "all partitions, and no lag", owns(PARTITIONS))
        await until(first, "standby", lambda status: status["state"] == "standby" and status["ready"] is True)
        looked_up = await trio.to_thread.run_sync(
            first.wait_for, "the lag of the group", lambda status: len(status["group_lag"]) == PARTITIONS
        )
        assert [one["committed"] + one["lag"] for one in looked_up["group_lag"]] == [10] * PARTITIONS
        assert first.get("/metrics").text.count("dispatcher_group_lag_records{") == PARTITIONS
        assert first.get("/readyz").status_code == 200
        await reader.until(dict.fromkeys(range(PARTITIONS), 10))
        nursery.start_soon(other.run)
        await until(third, "half of the partitions", owns(PARTITIONS // 2))
        await until(second, "the other half", owns(PARTITIONS // 2))
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 60, PARTITIONS, 100, 60)
        for one in (reader, other):
            await one.until(dict.fromkeys(range(PARTITIONS), 20))
        nursery.cancel_scope.cancel()
    for one in (reader, other):
        assert (one.repeats, one.holes, one.gaps, one.connections) == (0, [], [], 1)
    assert len(reader.seen) == 120
    first.signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(first.wait) == 0


async def test_a_group_that_all_subscribers_leave_at_once_is_never_empty(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Twice, one replica stays as the owner of everything, and serves the next subscriber."""
    topic = kafka.create_topic(PARTITIONS)
    both = await started(kafka, replicas, topic, ["first", "second"])
    # A third leave within ten minutes would make a replica stay, and the start may have been the first.
    for _ in range(2):
        async with trio.open_nursery() as streams:
            for replica in both:
                streams.start_soon(_read, replica)
            for replica in both:
                await until(replica, "half of the partitions", owns(PARTITIONS // 2))
            streams.cancel_scope.cancel()
        with trio.fail_after(seconds(30)):
            while sorted(one.status()["state"] for one in both) != ["standby", "streaming"]:  # noqa: ASYNC110
                await trio.sleep(0.05)
        (owner,) = (one for one in both if one.status()["state"] == "streaming")
        await until(owner, "everything", lambda status: len(status["partitions"]) == PARTITIONS)
    assert not any(replica.logged("the group is empty") for replica in both)
    assert len(group_members(kafka.bootstrap_servers, both[0].group)) == 1


async def _read(replica: Replica) -> None:
    async with open_sse(replica) as stream:
        while await stream.next_event() is not None:
            pass


async def test_a_topic_that_is_recreated_while_a_replica_is_in_standby_is_read_from_its_start(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """With ``latest`` as well: the replica has seen the old one, and Kafka has forgotten the group's offsets."""
    topic = kafka.create_topic(1)
    properties = {"auto.offset.reset": "latest", "session.timeout.ms": 1000}

    def start(name: str) -> Replica:
        return replicas(kafka.bootstrap_servers, topic, client_id=name, settings=IDLE, kafka=properties)

    owner = await trio.to_thread.run_sync(start, "owner")
    async with open_sse(owner):
        # First: whoever owns every partition stays in the group.
        await until(owner, "the partition", lambda status: [p["committed"] for p in status["partitions"]] == [0])
        other = await trio.to_thread.run_sync(start, "other")
        await until(other, "standby", lambda status: status["state"] == "standby")
        owner.signal(signal.SIGKILL)
        await trio.to_thread.run_sync(owner.wait)
    await trio.to_thread.run_sync(kafka.recreate_topic, topic, 1)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 8, 1)
    async with open_sse(other) as stream:
        with trio.fail_after(seconds(60)):
            records = await sse_records(stream, 8)
    assert [record.own for record in records] == [(0, offset) for offset in range(8)]
    assert other.logged("topic recreated")


async def test_after_a_crash_whoever_is_ahead_of_the_last_commit_makes_nothing_wait(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """After kill -9 of an owner, its reader moves on and gets repeats."""
    topic = kafka.create_topic(PARTITIONS)
    short = {"session.timeout.ms": 1000}

    def start(name: str, **settings: float) -> Replica:
        return replicas(kafka.bootstrap_servers, topic, client_id=name, settings={**IDLE, **settings}, kafka=short)

    owner = await trio.to_thread.run_sync(lambda: start("owner", commit_interval_seconds=60))
    other = await trio.to_thread.run_sync(start, "other")
    reader = PlainReader(owner)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await until(other, "standby", lambda status: status["state"] == "standby")
        await until(owner, "all partitions", lambda status: len(status["partitions"]) == PARTITIONS)
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 60, PARTITIONS)
        await reader.until(dict.fromkeys(range(PARTITIONS), 10))
        # The first commit is sent at once, and the next one a minute later.
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 60, PARTITIONS, 100, 60)
        await reader.until(dict.fromkeys(range(PARTITIONS), 20))
        assert all((one["committed"] or 0) <= 10 for one in owner.status()["partitions"])
        reader.address = other
        owner.signal(signal.SIGKILL)
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 60, PARTITIONS, 100, 120)
        await reader.until(dict.fromkeys(range(PARTITIONS), 30))
        await until(other, "everything, and no lag", owns(PARTITIONS))
        nursery.cancel_scope.cancel()
    assert (reader.holes, reader.gaps) == ([], [])
    assert len(reader.seen) == 180
    # What was not committed came twice, because it had to be dispatched by the new owner.
    assert {offset for (_, offset), number in reader.seen.items() if number > 1} >= set(range(10, 20))


async def test_a_replica_in_standby_joins_a_group_whose_last_member_has_died(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Otherwise Kafka would delete the offsets of the empty group."""
    topic = kafka.create_topic(PARTITIONS)
    code = "import dispatcher.membership as module\nmodule.LAG_SECONDS = 0.5"
    both = [
        await trio.to_thread.run_sync(
            lambda name=name: replicas(  # type: ignore[misc]
                kafka.bootstrap_servers,
                topic,
                client_id=name,
                settings=IDLE,
                kafka={"session.timeout.ms": 1000},
                code=code,
            )
        )
        for name in ("first", "second")
    ]
    with trio.fail_after(seconds(30)):
        while sorted(one.status()["state"] for one in both) != ["standby", "streaming"]:  # noqa: ASYNC110
            await trio.sleep(0.05)
    first, second = sorted(both, key=lambda one: str(one.status()["state"]))
    await until(first, "the lag of the group", lambda status: len(status["group_lag"]) == PARTITIONS)
    assert not first.logged("the group is empty")
    second.signal(signal.SIGKILL)
    await until(first, "everything", lambda status: len(status["partitions"]) == PARTITIONS)
    await trio.to_thread.run_sync(first.wait_until_logged, "the group is empty")
