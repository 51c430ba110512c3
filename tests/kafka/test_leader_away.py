"""Reading again while the leader of a partition is really away: nobody else waits for it."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic, sleep

import pytest
import trio

from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.ranges import EARLIEST, Bounds, Range
from dispatcher.sansio.records import TopicPartition
from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds as patient_seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica

PARTITIONS = 6
EACH = 2000
STUCK = 60


def leaders_of(cluster: KafkaCluster, topic: str) -> Mapping[int, int]:
    """The node that leads each partition, -1 without one."""
    # A node that was asked just after the topic was created may not know it yet.
    while not (partitions := cluster.admin.list_topics(topic, timeout=30).topics[topic].partitions):
        sleep(0.05)
    return {number: partition.leader for number, partition in partitions.items()}


async def wait_until_leaderless(cluster: KafkaCluster, topic: str, partition: int) -> None:
    """The cluster has noticed that the node is away."""
    while (await trio.to_thread.run_sync(leaders_of, cluster, topic))[partition] != -1:  # noqa: ASYNC110 - a cluster has no event
        await trio.sleep(0.05)


@asynccontextmanager
async def replays_of(cluster: KafkaCluster) -> AsyncIterator[Replays]:
    """Reads from this cluster, with four readers."""
    properties = {"bootstrap.servers": cluster.bootstrap_servers, "group.id": "replays"}
    replays = Replays(properties, concurrency=4, batch_bytes=256 * 1024)
    replays.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replays.run)
        yield replays
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await replays.close()


@pytest.fixture
def cluster(shared_nodes: KafkaCluster) -> KafkaCluster:
    """Three nodes that are all there when a test begins."""
    for node in range(3):
        if not shared_nodes.is_started(node):  # a test that failed has left it away
            shared_nodes.start_node(node)
    shared_nodes.wait_until_ready()
    return shared_nodes


@pytest.fixture
def topic(cluster: KafkaCluster) -> str:
    """A topic that has each partition on one of them alone."""
    name = cluster.create_topic(f"assets-{uuid.uuid4().hex[:8]}", PARTITIONS, replication_factor=1)
    produce_numbered(cluster.bootstrap_servers, name, EACH * PARTITIONS, PARTITIONS)
    return name


async def read_all(replays: Replays, partition: TopicPartition) -> list[float]:
    """Read a partition, small chunk by small chunk; returns how long each chunk took."""
    first, seconds = 0, []
    while first < EACH:
        begin = monotonic()
        chunk = await replays.read({partition: Range(first, EACH)}, 50_000, "reader")
        if partition in chunk.next_offsets:
            first = chunk.next_offsets[partition]
            seconds.append(monotonic() - begin)
        else:
            await trio.sleep(0.05)
    return seconds


async def test_a_partition_without_a_leader_keeps_nobody_waiting(cluster: KafkaCluster, topic: str) -> None:
    """Sixty wait for it; the others' bounds, times and records are read, and its own once it is back."""
    node = leaders_of(cluster, topic)[0]
    bad = TopicPartition(topic, 0)
    healthy = [TopicPartition(topic, n) for n, leader in leaders_of(cluster, topic).items() if leader != node]
    good = {tp: Bounds(0, EACH) for tp in healthy}
    served = 0

    async def stuck(number: int) -> None:
        nonlocal served
        while bad not in (await replays.read({bad: Range(0, 10)}, 1000, number)).next_offsets:  # noqa: ASYNC110
            await trio.sleep(0.1)
        served += 1

    with trio.fail_after(patient_seconds(120)):
        async with replays_of(cluster) as replays:
            for tp in healthy:
                await read_all(replays, tp)
            assert await replays.bounds([bad, *healthy]) == {**good, bad: Bounds(0, EACH)}
            await trio.to_thread.run_sync(cluster.kill_node, node)
            await wait_until_leaderless(cluster, topic, 0)
            async with trio.open_nursery() as nursery:
                for number in range(STUCK):
                    nursery.start_soon(stuck, number)
                assert await read_all(replays, healthy[0])
                assert await replays.bounds([bad, *healthy]) == good
                assert await replays.offsets_since([bad, *healthy], EARLIEST) == dict.fromkeys(healthy, 0)
                assert await replays.offsets_since([bad, *healthy], 2**44) == dict.fromkeys(healthy)
                assert not served
                await trio.to_thread.run_sync(cluster.start_node, node)
            assert served == STUCK


async def test_a_subscriber_without_that_partition_catches_up_beside_those_with_it(
    cluster: KafkaCluster, topic: str, replicas: Callable[..., Replica]
) -> None:
    """In a whole replica, those that lack it wait connected, and finally get everything."""
    cluster.create_topic("healthy", 1, replication_factor=1)
    node = next(node for node in range(3) if node != leaders_of(cluster, "healthy")[0])
    bad = next(number for number, leader in leaders_of(cluster, topic).items() if leader == node)
    await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, "healthy", EACH, 1)
    small = {"history_bytes": 60_000, "pause_above_bytes": 40_000, "resume_below_bytes": 20_000, "batch_bytes": 4096}
    replica = replicas(cluster.bootstrap_servers, f"{topic},healthy", settings=small)
    with trio.fail_after(patient_seconds(120)):
        async with open_sse(replica) as others:
            await sse_records(others, EACH * (PARTITIONS + 1))
            await trio.to_thread.run_sync(cluster.kill_node, node)
            await wait_until_leaderless(cluster, topic, bad)
            async with trio.open_nursery() as nursery:
                records: list[int] = []

                async def stuck() -> None:
                    async with open_sse(replica, f"?topic={topic}&last_event_id={topic}:{bad}=9") as stream:
                        records.append(len(await sse_records(stream, EACH - 10)))

                for _ in range(20):
                    nursery.start_soon(stuck)
                await trio.to_thread.run_sync(
                    lambda: replica.wait_for("stuck", lambda s: s["replays"]["subscribers"] == 20)
                )
                async with open_sse(replica, "?topic=healthy&since=earliest") as stream:
                    assert len(await sse_records(stream, EACH)) == EACH
                assert not records
                await trio.to_thread.run_sync(cluster.start_node, node)
    assert records == [EACH - 10] * 20


async def test_a_leader_change_while_a_replay_nears_the_end_is_no_truncation(cluster: KafkaCluster) -> None:
    """New leaders learn their high watermark late; no gap is sent, and every record is."""
    cluster.create_topic("changing", 1, replication_factor=3)
    tp = TopicPartition("changing", 0)
    end = 0
    with trio.fail_after(patient_seconds(180)):
        async with replays_of(cluster) as replays:
            for _ in range(3):
                await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, "changing", 300, 1, 0, end)
                end += 300
                first = end - 300
                node = leaders_of(cluster, "changing")[0]
                await trio.to_thread.run_sync(cluster.kill_node, node)
                offsets: list[int] = []
                while first < end:
                    chunk = await replays.read({tp: Range(first, end)}, 300, "reader")
                    assert not chunk.gaps
                    offsets += [record.offset for batch in chunk.batches for record in batch.records]
                    first = chunk.next_offsets.get(tp, first)
                    if tp not in chunk.next_offsets:
                        await trio.sleep(0.02)
                assert offsets == list(range(end - 300, end))
                await trio.to_thread.run_sync(cluster.start_node, node)
                await trio.to_thread.run_sync(cluster.wait_until_ready)


async def test_a_thousand_partitions_are_one_question(cluster: KafkaCluster) -> None:
    """Each has its own answer, and one that does not exist is left out."""
    cluster.create_topic("large", 1000, replication_factor=1)
    leaders = Leaders({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "replays"})
    partitions = [TopicPartition("large", number) for number in range(1001)]
    with trio.fail_after(patient_seconds(60)):
        while len(bounds := await trio.to_thread.run_sync(leaders.bounds, partitions)) < 1000:  # noqa: ASYNC110
            await trio.sleep(0.1)
    assert bounds == dict.fromkeys(partitions[:1000], Bounds(0, 0))
    leaders.close()
    assert leaders.bounds([]) == {}
