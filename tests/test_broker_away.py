"""Guarantee G10: a broker that is not there at the start, or goes, and comes later."""

from collections.abc import Callable
from typing import Any

import trio

from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.swarm.test_stack_files import is_healthy

TOPIC = "assets"


async def all_committed(replica: Replica, offsets: list[int]) -> None:
    """Until all is committed: the rest would be sent again after the outage, also to subscribers that have it."""

    def as_wanted(status: dict[str, Any]) -> bool:
        return [partition["committed"] for partition in status["partitions"]] == offsets

    await trio.to_thread.run_sync(replica.wait_for, "all committed", as_wanted)


async def test_broker_comes_after_the_start(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """The server says why it is not ready, also to subscribers, and records flow when the broker is up."""
    cluster = own_cluster()
    replica = replicas(cluster.bootstrap_servers, TOPIC)
    ready = replica.get("/readyz")
    assert ready.status_code == 503
    assert cluster.bootstrap_servers in ready.json()["reasons"][0]
    assert ready.json()["has_been_ready"] is False
    async with open_sse(replica) as stream:
        assert (await stream.next_control("state"))["state"] == "broker-down"
        await trio.to_thread.run_sync(cluster.start)
        cluster.create_topic(TOPIC, 2)
        with trio.fail_after(seconds(40)):
            while (state := await stream.next_control("state"))["state"] != "streaming":
                pass
            assert state["assigned"] == {TOPIC: [0, 1]}
            await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, TOPIC, 1000, 2)
            records = await sse_records(stream, 1000)
        assert sorted(record.own for record in records) == [(p, o) for p in range(2) for o in range(500)]
        replica.wait_until_ready()
        await all_committed(replica, [500, 500])

        await trio.to_thread.run_sync(cluster.kill_node, 0)
        with trio.fail_after(seconds(30)):
            while (await stream.next_control("state"))["state"] != "broker-down":
                pass
            ready = await trio.to_thread.run_sync(replica.get, "/readyz")
            assert (ready.status_code, ready.json()["has_been_ready"]) == (503, True)
            assert await trio.to_thread.run_sync(is_healthy, replica.address[1])
            cluster.start_node(0)
            await trio.to_thread.run_sync(cluster.wait_until_ready)
            while (await stream.next_control("state"))["state"] != "streaming":
                pass
            await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, TOPIC, 1000, 2, 0, 1000)
            records = await sse_records(stream, 1000)
        assert sorted(record.own for record in records) == [(p, o) for p in range(2) for o in range(500, 1000)]


async def test_clients_that_return_while_the_broker_is_away_get_everything_later(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """This holds even if the session timed out, so that partitions leave and return."""
    cluster = own_cluster()
    await trio.to_thread.run_sync(cluster.start)
    cluster.create_topic(TOPIC, 2)
    replica = replicas(
        cluster.bootstrap_servers,
        TOPIC,
        settings={"history_bytes": 100_000, "pause_above_bytes": 50_000, "resume_below_bytes": 20_000},
        kafka={"session.timeout.ms": 6000},
    )
    with trio.fail_after(seconds(100)):
        async with open_sse(replica) as others:
            await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, TOPIC, 2000, 2)
            await sse_records(others, 2000)
            await all_committed(replica, [1000, 1000])
            await trio.to_thread.run_sync(cluster.kill_node, 0)
            async with open_sse(replica, f"?last_event_id={TOPIC}:0=9,1=9") as stream:
                await trio.to_thread.run_sync(lambda: replica.wait_for("lost", lambda s: not s["partitions"]))
                await trio.to_thread.run_sync(cluster.start_node, 0)
                records = await sse_records(stream, 1980)
    assert sorted(record.own for record in records) == [(p, o) for p in range(2) for o in range(10, 1000)]
