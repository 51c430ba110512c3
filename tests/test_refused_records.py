"""Records that clients refuse, letters that the broker refuses, and a producer that fails for good, on a real Kafka."""

import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import trio
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType  # type: ignore[attr-defined] # it is public, and documented
from confluent_kafka.admin._config import ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from dispatcher.client import subscribe
from dispatcher.kafka.dead_letters import DeadLetters
from dispatcher.kafka.leaders import Leaders
from dispatcher.sansio.dead_letters import Letter
from dispatcher.sansio.records import Record, TopicPartition
from testbed.patience import seconds
from testbed.producing import fail_for_good, produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.test_dead_letters import create, deadline, is_committed, numbers, produce, read_all
from tests.test_redrive import run


async def test_what_clients_refuse_is_one_letter_and_is_redriven(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Two clients refuse a record: one letter has the first reason, and its redrive reaches both."""
    topic = kafka.create_topic(1)
    letters = f"{topic}.dlq"
    create(kafka.admin, letters)
    acked = {"topic_tables": orjson.dumps({topic: {"commit_on": "acked"}}).decode()}
    replica = replicas(kafka.bootstrap_servers, topic, settings=acked)
    await trio.to_thread.run_sync(replica.wait_until_ready)
    with trio.fail_after(seconds(60)):
        async with subscribe(replica.url, ack="manual") as one, subscribe(replica.url, ack="manual") as other:
            await trio.to_thread.run_sync(replica.wait_for, "both", lambda s: s["acks"]["subscribers"] == 2)
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 5, 1)
            for stream in (one, other):
                for record in [await anext(stream) for _ in range(5)]:
                    if record.offset == 2:
                        await stream.nack(record, "no such customer")
                        await trio.to_thread.run_sync(
                            replica.wait_for, "stored", lambda s: s["dead_letters"]["written"]
                        )
                    else:
                        await stream.ack(record)
            await trio.to_thread.run_sync(replica.wait_for, "committed", lambda s: is_committed(s, 5))
            await trio.to_thread.run_sync(
                replica.wait_for, "both are done", lambda s: s["acks"]["outstanding_records"] == 0
            )
            (letter,) = await trio.to_thread.run_sync(read_all, kafka.bootstrap_servers, letters)
            headers = dict(letter.headers() or [])
            assert (letter.value(), headers["dispatcher.dlq.reason"]) == (b"2", b"nack")
            assert headers["dispatcher.dlq.detail"] == b"no such customer"
            done: subprocess.CompletedProcess[str] = await trio.to_thread.run_sync(run, kafka, topic)
            assert done.returncode == 0, done.stderr
            for stream in (one, other):
                record = await anext(stream)
                assert (record.offset, record.text) == (5, "2")
                await stream.ack(record)
            # A transaction's end is a record of its own.
            await trio.to_thread.run_sync(replica.wait_for, "redriven", lambda s: s["partitions"][0]["committed"] >= 6)


def test_a_letter_that_is_too_large_waits_and_holds_up_no_other(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Nothing is dropped, even from the same batch, and all is written later."""
    topic = kafka.create_topic(1)
    letters = f"{topic}.dlq"
    create(kafka.admin, letters)
    limit(kafka, letters, 4000)
    replica = replicas(kafka.bootstrap_servers, topic, settings=deadline(topic, "dead-letter"))
    produce(kafka.bootstrap_servers, topic, 0, 5, 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(topic, "5".rjust(20_000), "large")
    assert producer.flush(seconds(30)) == 0
    produce(kafka.bootstrap_servers, topic, 6, 5, 1)
    status = replica.wait_for("the others are written", lambda s: s["dead_letters"]["written"] == 10)
    assert status["dead_letters"]["waiting"] == 1
    assert not is_committed(status, 11)
    replica.wait_for("alarm", lambda s: "large" in s["dead_letters"]["failing"].get(letters, ""))
    limit(kafka, letters, 1_000_000)
    status = replica.wait_for("all committed", lambda s: is_committed(s, 11))
    assert status["dead_letters"] == {"written": 11, "waiting": 0, "failing": {}}
    assert numbers(read_all(kafka.bootstrap_servers, letters)) == Counter(range(11))


async def test_a_producer_that_fails_for_good_loses_no_letter(kafka: Kafka, nursery: trio.Nursery) -> None:
    """The next producer writes unconfirmed letters, which may be there twice."""
    topic = kafka.create_topic(1)
    create(kafka.admin, f"{topic}.dlq")
    properties = {"bootstrap.servers": kafka.bootstrap_servers}
    letters = DeadLetters(properties, Leaders(properties), template="{topic}.dlq", group="group", replica="replica")
    nursery.start_soon(letters.run)
    stored: Counter[int] = Counter()
    for round_ in range(3):
        for n in range(100 * round_, 100 * round_ + 100):
            record = Record(n, None, None, str(n).encode(), ())
            letters.post(Letter(TopicPartition(topic, 0), record, "nack"), lambda n=n: stored.update([n]))  # type: ignore[misc]
        await until(lambda end=100 * round_: len(stored) >= end and letters._writer._producer is not None)  # type: ignore[misc]
        producer = letters._writer._producer
        assert producer is not None
        fail_for_good(producer)
        record = Record(10**6 + round_, None, None, b"0", ())
        letters.post(Letter(TopicPartition(topic, 0), record, "nack"), lambda: None)
        await until(lambda last=producer: letters._writer._producer is not last)  # type: ignore[misc]
        await until(lambda end=100 * round_ + 100: len(stored) == end)  # type: ignore[misc]
    assert stored == Counter(range(300))
    nursery.cancel_scope.cancel()
    found = numbers(await trio.to_thread.run_sync(read_all, kafka.bootstrap_servers, f"{topic}.dlq"))
    assert set(range(300)) <= found.keys()


async def until(condition: Callable[[], bool]) -> None:
    """Return when something is so."""
    with trio.fail_after(seconds(60)):
        while not condition():  # noqa: ASYNC110 - nothing sets an event for it
            await trio.sleep(0.005)


def has_letters(status: Mapping[str, Any]) -> bool:
    """Whether a dead letter is stored."""
    return bool(status["dead_letters"]["written"])


def limit(kafka: Kafka, topic: str, max_bytes: int) -> None:
    """How large a batch of the topic may be."""
    entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    kafka.admin.incremental_alter_configs([resource])[resource].result(seconds(30))
