"""Alarms before loss, on a real Kafka: how old the oldest waiting record is, and how long Kafka still keeps it."""

import re
import time
from collections.abc import Callable

import trio
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource

from testbed.clients import open_sse
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka

NO_ROOM = {"pause_above_bytes": 2_000, "resume_below_bytes": 1_000, "poll_records": 5}
HOUR_MS = 3_600_000


def produce_aged(kafka: Kafka, topic: str, number: int, age_ms: int, partition: int = 0) -> None:
    """Write records that say that they are as old as this."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for n in range(number):
        producer.produce(topic, str(n).zfill(500), f"key-{n}", partition, timestamp=int(time.time() * 1000) - age_ms)
    assert producer.flush(seconds(30)) == 0


def keep_for(kafka: Kafka, topic: str, milliseconds: int) -> None:
    """Change how long the topic keeps records."""
    entry = ConfigEntry("retention.ms", str(milliseconds), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource("topic", topic, incremental_configs=[entry])
    kafka.admin.incremental_alter_configs([resource])[resource].result(seconds(30))


def wait_until_deleted(kafka: Kafka, topic: str, offset: int) -> None:
    """Return when the log begins at this offset or a later one."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "watermarks"})
    deadline = time.monotonic() + seconds(30)
    first = -1
    while time.monotonic() < deadline:
        first, _end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=seconds(10))
        if first >= offset:
            consumer.close()
            return
        time.sleep(0.1)
    raise AssertionError(f"the log begins at {first}")


def metric(replica: Replica, name: str) -> dict[str, float]:
    """The series of a metric, by partition."""
    found = re.findall(rf'^dispatcher_{name}{{partition="(\d+)".*}} (\S+)$', replica.get("/metrics").text, re.MULTILINE)
    return {partition: float(value) for partition, value in found}


async def test_the_alarm_is_before_the_loss_and_the_gap_after_it(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Metric, status and log warn before retention; later a subscriber gets the gap."""
    topic = kafka.create_topic(1, {"retention.ms": str(HOUR_MS), "segment.ms": "100"})
    produce_aged(kafka, topic, 40, HOUR_MS * 5 // 6)
    replica = replicas(kafka.bootstrap_servers, topic, settings=NO_ROOM)
    status = await trio.to_thread.run_sync(
        replica.wait_for,
        "headroom",
        lambda s: s["partitions"] and s["partitions"][0]["retention_headroom_seconds"] is not None,
    )
    (partition,) = status["partitions"]
    assert status["retention"] == {topic: {"seconds": 3600, "bytes": None}}
    assert 0 <= partition["retention_headroom_seconds"] <= 600
    assert partition["oldest_waiting_seconds"] >= 3000
    (alarm,) = await trio.to_thread.run_sync(replica.wait_until_logged, "waiting records are about to expire")
    assert alarm["topic"] == topic
    assert 0 <= metric(replica, "retention_headroom_seconds")["0"] <= 600
    assert metric(replica, "oldest_waiting_seconds")["0"] >= 3000
    assert not replica.logged("records expired")

    keep_for(kafka, topic, 1000)
    await trio.to_thread.run_sync(wait_until_deleted, kafka, topic, 40)
    await trio.to_thread.run_sync(
        replica.wait_for, "no headroom", lambda s: s["partitions"][0]["retention_headroom_seconds"] == 0
    )
    async with open_sse(replica) as stream:
        with trio.fail_after(seconds(30)):
            gap = await stream.next_control("gap")
    assert (gap["to"], gap["reason"]) == (39, "expired")


def test_what_a_paused_partition_has_in_kafka_alone_is_known(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """If another partition fills the memory, the age of unfetched records is looked up."""
    topic = kafka.create_topic(2, {"retention.ms": "-1", "retention.bytes": "-1"})
    replica = replicas(kafka.bootstrap_servers, topic, settings=NO_ROOM)
    replica.wait_until_ready()
    produce_aged(kafka, topic, 40, 0, partition=0)
    replica.wait_for("paused", lambda s: all(p["paused"] for p in s["partitions"]))
    produce_aged(kafka, topic, 3, HOUR_MS, partition=1)
    status = replica.wait_for("the age", lambda s: (s["partitions"][1]["oldest_waiting_seconds"] or 0) >= 3600)
    assert [partition["waiting_records"] for partition in status["partitions"]][1] == 0
    assert [partition["retention_headroom_seconds"] for partition in status["partitions"]] == [None, None]
    assert metric(replica, "retention_headroom_seconds")["1"] == float("inf")
