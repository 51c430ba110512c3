"""Transactions: aborted records and control records leave no hole in the commit (guarantee G1)."""

from collections.abc import Callable

import pytest
import trio
from confluent_kafka import Producer

from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 2
EACH = 10


def produce_transactions(bootstrap_servers: str, topic: str, ends: str) -> None:
    """One transaction for each letter of ``ends``: c commits, a aborts; its letters and number are the values."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": f"producer-of-{topic}"})
    producer.init_transactions(30)
    for n, end in enumerate(ends):
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            for _ in range(EACH):
                producer.produce(topic, f"{end}{n}", partition=partition)
        producer.flush(30)
        (producer.commit_transaction if end == "c" else producer.abort_transaction)(30)


@pytest.mark.parametrize("ends", ["cac", "cca", "acaa"])
async def test_the_commit_comes_to_the_log_end(kafka: Kafka, replicas: Callable[..., Replica], ends: str) -> None:
    """Only committed records arrive; whatever is last in the log, the group reaches its end."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic)
    replica.wait_until_ready()
    async with open_sse(replica) as stream:
        await trio.to_thread.run_sync(produce_transactions, kafka.bootstrap_servers, topic, ends)
        with trio.fail_after(seconds(30)):
            records = await sse_records(stream, ends.count("c") * EACH * PARTITIONS)
        assert {record.data[0] for record in records} == {"c"}
        for _ in range(100):
            offsets = kafka.group_offsets(replica.group)
            if len(offsets) == PARTITIONS and all(row.lag == 0 for row in offsets.values()):
                break
        # Each transaction ends with a control record.
        assert {row.current_offset for row in offsets.values()} == {len(ends) * (EACH + 1)}


async def test_an_aborted_transaction_is_committed_without_any_record(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Without subscribers, nothing waits for an offset that has no record."""
    topic = kafka.create_topic(PARTITIONS)
    await trio.to_thread.run_sync(produce_transactions, kafka.bootstrap_servers, topic, "aa")
    replica = replicas(kafka.bootstrap_servers, topic)
    end = 2 * (EACH + 1)
    replica.wait_for("committed", lambda s: s["partitions"] and all(p["committed"] == end for p in s["partitions"]))
    assert {row.current_offset for row in kafka.group_offsets(replica.group).values()} == {end}
