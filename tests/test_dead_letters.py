"""Deadlines and dead letters on a real Kafka: each record is delivered or in the dead-letter topic, never neither."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
import trio
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.test_topic_health import lift, restrict

RECORDS = 300
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "auto.create.topics.enable": "true",
}


def deadline(topic: str, action: str, deadline_seconds: float = 1) -> dict[str, object]:
    """Settings of a replica."""
    table = {"undelivered_deadline_seconds": deadline_seconds, "on_deadline": action}
    return {"topic_tables": orjson.dumps({topic: table}).decode()}


def produce(bootstrap_servers: str, topic: str, first: int, number: int, partitions: int = 2) -> None:
    """Numbered records with keys and headers."""
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for n in range(first, first + number):
        headers: list[tuple[str, str | bytes | None]] = [("n", str(n)), ("empty", None)]
        producer.produce(topic, str(n), f"key-{n}", n % partitions, headers=headers)
    assert producer.flush(seconds(30)) == 0


def read_all(bootstrap_servers: str, topic: str) -> list[Message]:
    """Everything in a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "reader", "enable.partition.eof": True})
    found = consumer.list_topics(topic, timeout=seconds(30)).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in found])
    messages: list[Message] = []
    ended = 0
    limit = time.monotonic() + seconds(30)
    while ended < len(found):
        assert time.monotonic() < limit
        message = consumer.poll(1)
        if message is not None:
            if message.error() is None:
                messages.append(message)
            else:
                ended += 1
    consumer.close()
    return messages


def numbers(messages: list[Message]) -> Counter[int]:
    """How often each number is there."""
    return Counter(int(message.value() or b"") for message in messages)


def create(admin: AdminClient, topic: str, partitions: int = 1) -> None:
    """Create a topic."""
    admin.create_topics([NewTopic(topic, partitions)])[topic].result(seconds(30))


def is_committed(status: Mapping[str, Any], end: int) -> bool:
    """Whether every record of the topic was committed."""
    return sum(partition["committed"] or 0 for partition in status["partitions"]) == end


async def test_each_record_is_delivered_or_a_dead_letter_under_kill_9(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """After two crashes and a subscriber in between, none is neither, and few are both."""
    topic = kafka.create_topic(2)
    letters = f"{topic}.dlq"
    create(kafka.admin, letters, 2)
    settings = {**deadline(topic, "dead-letter"), "commit_interval_seconds": 1}
    session = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 500}
    produced = 0
    for _crash in range(2):
        replica = replicas(kafka.bootstrap_servers, topic, settings=settings, kafka=session)
        produce(kafka.bootstrap_servers, topic, produced, RECORDS)
        produced += RECORDS
        await trio.to_thread.run_sync(replica.wait_for, "letters", lambda s: s["dead_letters"]["written"] > 0)
        replica.signal(signal.SIGKILL)
        await trio.to_thread.run_sync(replica.wait)
    replica = replicas(kafka.bootstrap_servers, topic, settings=settings, kafka=session)
    await trio.to_thread.run_sync(replica.wait_until_ready)
    delivered: Counter[int] = Counter()
    async with open_sse(replica) as stream:
        with trio.fail_after(seconds(60)):
            await trio.to_thread.run_sync(produce, kafka.bootstrap_servers, topic, produced, RECORDS)
            produced += RECORDS
            while not set(range(produced - RECORDS, produced)) <= delivered.keys():
                (record,) = await sse_records(stream, 1)
                delivered[int(record.data)] += 1
    await trio.to_thread.run_sync(replica.wait_for, "all committed", lambda s: is_committed(s, produced))
    messages = await trio.to_thread.run_sync(read_all, kafka.bootstrap_servers, letters)
    found = numbers(messages)
    assert set(range(produced)) - found.keys() - delivered.keys() == set()
    assert max(found.values()) <= 3
    for message in messages:
        headers = dict(message.headers() or [])
        n = int(message.value() or b"")
        assert (message.key(), headers["n"], headers["empty"]) == (f"key-{n}".encode(), str(n).encode(), None)
        assert headers["dispatcher.dlq.reason"] == b"deadline"
        assert headers["dispatcher.dlq.topic"] == topic.encode()
        assert int(headers["dispatcher.dlq.partition"] or b"") == n % 2


def test_overdue_records_are_skipped_or_logged(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Skipped ones are committed and logged ones wait, even with little memory."""
    skipped, logged = kafka.create_topic(1), kafka.create_topic(1)
    no_room = {"pause_above_bytes": 2_000, "resume_below_bytes": 1_000, "poll_records": 5}
    one = replicas(kafka.bootstrap_servers, skipped, settings={**deadline(skipped, "skip", 0.5), **no_room})
    other = replicas(kafka.bootstrap_servers, logged, settings=deadline(logged, "log", 0.5))
    for topic in (skipped, logged):
        produce(kafka.bootstrap_servers, topic, 0, 100, 1)
    one.wait_for("all skipped", lambda s: is_committed(s, 100))
    line, *_ = other.wait_until_logged("records past their deadline")
    assert (line["topic"], line["action"], line["deadline_seconds"]) == (logged, "log", 0.5)
    assert f'dispatcher_overdue_records_total{{action="skip",topic="{skipped}"}} 100.0' in one.get("/metrics").text
    status = other.wait_for("all wait", lambda s: s["records"]["waiting"] == 100)
    assert not is_committed(status, 100)


def test_a_topic_that_fills_the_memory_does_not_hide_overdue_records(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Records of another topic that are only in Kafka are read nevertheless."""
    full, skipped = kafka.create_topic(1), kafka.create_topic(1)
    settings = {**deadline(skipped, "skip", 0.5), "pause_above_bytes": 1, "resume_below_bytes": 1}
    replica = replicas(kafka.bootstrap_servers, f"{full},{skipped}", settings=settings)
    replica.wait_until_ready()
    produce(kafka.bootstrap_servers, full, 0, 200, 1)
    replica.wait_for("paused", lambda s: all(partition["paused"] for partition in s["partitions"]))
    produce(kafka.bootstrap_servers, skipped, 0, 20, 1)
    status = replica.wait_for(
        "all skipped", lambda s: {p["topic"]: p["committed"] for p in s["partitions"]}[skipped] == 20
    )
    (other,) = (partition for partition in status["partitions"] if partition["topic"] == full)
    assert (other["paused"], other["dispatched"]) == (True, 0)
    assert other["waiting_records"] > 0


@pytest.fixture
def cluster(own_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    """A broker that denies, and that creates every topic that a client asks for."""
    made = own_cluster(properties=AUTHORIZER)
    made.start()
    return made


def test_a_dead_letter_topic_that_takes_no_letters_loses_none(
    cluster: KafkaCluster, replicas: Callable[..., Replica]
) -> None:
    """If it is missing or refuses, records wait with alarms, and all are written later."""
    create(cluster.admin, "orders")
    replica = replicas(cluster.bootstrap_servers, "orders", settings=deadline("orders", "dead-letter"))
    produce(cluster.bootstrap_servers, "orders", 0, 50, 1)
    replica.wait_for("alarm", lambda s: "orders.dlq" in s["dead_letters"]["failing"])
    replica.wait_until_logged("dead letters cannot be written: their records wait")
    assert 'dispatcher_dead_letters_failing{topic="orders.dlq"} 1.0' in replica.get("/metrics").text
    assert "orders.dlq" not in cluster.admin.list_topics(timeout=seconds(30)).topics
    status = replica.status()
    assert (status["records"]["waiting"], status["dead_letters"]["written"]) == (50, 0)

    restrict(cluster.admin, ResourceType.TOPIC, "orders.dlq", AclOperation.WRITE)
    create(cluster.admin, "orders.dlq")
    replica.wait_for("refused", lambda s: "uthoriz" in s["dead_letters"]["failing"].get("orders.dlq", ""))
    assert replica.status()["records"]["waiting"] == 50
    lift(cluster.admin)
    status = replica.wait_for("all committed", lambda s: is_committed(s, 50))
    assert status["dead_letters"] == {"written": 50, "waiting": 0, "failing": {}}
    assert numbers(read_all(cluster.bootstrap_servers, "orders.dlq")) == Counter(range(50))
    replica.wait_until_logged("dead letters can be written again")
