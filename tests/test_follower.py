"""What goes wrong while partitions of other replicas are followed: records expire, and their leader is away."""

import signal
import uuid
from collections.abc import Callable, Mapping
from functools import partial

import trio
from confluent_kafka import TopicPartition

from testbed.broker import topics
from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.test_whole_topic import PARTITIONS, PlainReader, produce, shares


async def owner_of_half(
    replicas: Callable[..., Replica], servers: str, topic: str, properties: Mapping[str, object] | None = None
) -> Replica:
    """A replica that owns half of the partitions; another one has the rest."""
    first = replicas(servers, topic, client_id="first", kafka=properties)
    second = await trio.to_thread.run_sync(lambda: replicas(servers, topic, client_id="second", kafka=properties))
    for replica in (first, second):
        await trio.to_thread.run_sync(shares, replica, PARTITIONS // 2)
    return first


async def test_records_that_expire_before_they_are_followed_are_reported_as_a_gap(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Owned and followed holes each have a gap, and the stream continues."""
    topic = kafka.create_topic(PARTITIONS)
    first = await owner_of_half(replicas, kafka.bootstrap_servers, topic)
    reader = PlainReader(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await produce(kafka, topic, 60, 0)
        await reader.until(dict.fromkeys(range(PARTITIONS), 10))
        # It reads nothing while its broker deletes what it would read next; its session lasts longer than that.
        first.signal(signal.SIGSTOP)
        # What is being fetched is answered with the first of these, and the next fetch comes after the deletion.
        await produce(kafka, topic, 60, 60)
        await produce(kafka, topic, 540, 120)
        deleted = [TopicPartition(topic, partition, 90) for partition in range(PARTITIONS)]
        for answer in kafka.admin.delete_records(deleted).values():
            await trio.to_thread.run_sync(answer.result)
        first.signal(signal.SIGCONT)
        await reader.until(dict.fromkeys(range(PARTITIONS), 110))
        nursery.cancel_scope.cancel()
    gaps = [(gap["partition"], gap["from"], gap["to"] + 1) for gap in reader.gaps]
    assert sorted(gaps) == sorted(reader.holes)
    assert {partition for partition, _, _ in gaps} == set(range(PARTITIONS))
    assert {end for _, _, end in gaps} == {90}
    assert {gap["reason"] for gap in reader.gaps} == {"expired"}
    assert (reader.repeats, reader.connections) == (0, 1)


async def test_a_followed_topic_that_was_recreated_and_refilled_is_read_from_its_start(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Owned or followed, every record of the new log comes, although the log has outgrown the old one."""
    topic = kafka.create_topic(PARTITIONS)
    first = await owner_of_half(replicas, kafka.bootstrap_servers, topic)
    write = partial(topics.fill, kafka.bootstrap_servers, topic, range(PARTITIONS))
    owed = {(partition, offset) for partition in range(PARTITIONS) for offset in range(30)}
    received: set[tuple[int, int]] = set()
    async with open_sse(first, "?scope=topic") as stream:
        await trio.to_thread.run_sync(write, 20, '"old"')
        with trio.fail_after(seconds(60)):
            await sse_records(stream, 20 * PARTITIONS)
        await trio.to_thread.run_sync(kafka.recreate_topic, topic, PARTITIONS)
        await trio.to_thread.run_sync(write, 30, '"new"')
        with trio.fail_after(seconds(60)):
            while received != owed:
                event = await stream.next_event()
                assert event is not None
                if event.type == "message" and event.data == '"new"':
                    received.add(event.own)


async def test_a_leader_that_is_away_delays_what_is_followed_and_loses_nothing(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """The only broker dies and returns: one connection, no hole, no repeat."""
    cluster = own_cluster()
    cluster.start()
    topic = "followed"
    cluster.create_topic(topic, PARTITIONS)
    patient = {"session.timeout.ms": 30_000}
    first = await owner_of_half(replicas, cluster.bootstrap_servers, topic, patient)
    reader = PlainReader(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await reader.until_begun()
        await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, topic, 60, PARTITIONS)
        await reader.until(dict.fromkeys(range(PARTITIONS), 10))
        cluster.kill_node(0)
        await trio.to_thread.run_sync(first.wait_for, "broker down", lambda status: status["state"] == "broker-down")
        await trio.to_thread.run_sync(cluster.start_node, 0)
        await trio.to_thread.run_sync(cluster.wait_until_ready)
        await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, topic, 60, PARTITIONS, 100, 60)
        await reader.until(dict.fromkeys(range(PARTITIONS), 20))
        nursery.cancel_scope.cancel()
    assert (reader.holes, reader.gaps, reader.repeats, reader.connections) == ([], [], 0, 1)


async def test_a_topic_that_is_not_there_keeps_nothing_of_the_others_from_anybody(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Streams begin without it, and get it from its first record once it exists."""
    topic, later = kafka.create_topic(1), f"later-{uuid.uuid4()}"
    replica = replicas(kafka.bootstrap_servers, f"{topic},{later}")
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 10, 1)
    async with open_sse(replica, "?scope=topic") as stream:
        with trio.fail_after(seconds(60)):
            found = await sse_records(stream, 10)
            await trio.to_thread.run_sync(lambda: kafka.create_topic(1, name=later))
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, later, 10, 1)
            found += await sse_records(stream, 10)
    assert [f"{name}:0={offset}" for name in (topic, later) for offset in range(10)] == [
        record.id.partition(",")[0].partition(";")[0] for record in found
    ]
