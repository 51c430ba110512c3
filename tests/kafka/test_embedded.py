"""The embedded broker: what is produced can be consumed by a group, at once."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import Consumer

from dispatcher.kafka import embedded
from dispatcher.kafka.embedded import CONSUMER_PROPERTIES, EmbeddedBroker, EmbeddedReplays, TimeIndex
from dispatcher.sansio.ranges import EARLIEST
from dispatcher.sansio.records import TopicPartition

RECORDS = 200
WAIT_SECONDS = 20.0


def consume(bootstrap_servers: str, topics: list[str], number: int) -> list[tuple[Any, ...]]:
    """Topic, key, value, partition and offset of that many records, read by a group that commits."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "test",
            "auto.offset.reset": "earliest",
            **CONSUMER_PROPERTIES,
        }
    )
    try:
        consumer.subscribe(topics)
        found: list[tuple[Any, ...]] = []
        while len(found) < number:
            messages = consumer.consume(number - len(found), WAIT_SECONDS)
            assert messages, f"only {len(found)} of {number} records came"
            for message in messages:
                assert message.error() is None
                found.append((message.topic(), message.key(), message.value(), message.partition(), message.offset()))
        consumer.commit(offsets=[confluent_kafka.TopicPartition(topics[0], 0, 1)], asynchronous=False)
        return found
    finally:
        consumer.close()


def test_what_is_produced_is_consumed_in_order() -> None:
    """Every record arrives once, in the partition of its key, in the order of writing."""
    with EmbeddedBroker(["assets"]) as broker:
        for number in range(RECORDS):
            broker.produce("assets", b"%d" % (number % 10), b"%d" % number, [("source", b"test")])
        found = consume(broker.bootstrap_servers, ["assets"], RECORDS)
    assert {b"%d" % number for number in range(RECORDS)} == {value for _, _, value, _, _ in found}
    assert all(len({p for _, key, _, p, _ in found if key == one}) == 1 for one in {key for _, key, _, _, _ in found})
    for partition in {row[3] for row in found}:
        rows = [row for row in found if row[3] == partition]
        assert list(range(len(rows))) == [offset for *_, offset in rows]
        assert sorted(int(row[2]) for row in rows) == [int(row[2]) for row in rows]


def test_topics_are_there_from_the_start() -> None:
    """A consumer that must not create topics finds them, with 4 partitions each."""
    with EmbeddedBroker(["a", "b"]) as broker:
        consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "test"})
        try:
            topics = consumer.list_topics(timeout=WAIT_SECONDS).topics
        finally:
            consumer.close()
    assert {name: len(topic.partitions) for name, topic in topics.items()} == {"a": 4, "b": 4}


def test_the_address_is_on_loopback() -> None:
    """Nobody else on the network can reach it."""
    with EmbeddedBroker(["a"]) as broker:
        assert broker.bootstrap_servers.startswith("127.0.0.1:")


def test_tombstones_and_records_without_a_key_can_be_written() -> None:
    """Null is an ordinary key or value, and two brokers in one process are separate."""
    with EmbeddedBroker(["a"]) as broker, EmbeddedBroker(["a"]) as other:
        assert broker.bootstrap_servers != other.bootstrap_servers
        broker.produce("a", b"key", None)
        broker.produce("a", None, b"value")
        found = consume(broker.bootstrap_servers, ["a"], 2)
    assert Counter([(b"key", None), (None, b"value")]) == Counter((key, value) for _, key, value, _, _ in found)


def test_the_first_record_since_a_time() -> None:
    """As in Kafka, it is the lowest offset with this time or later, even if a clock was set back."""
    index = TimeIndex()
    times = [10, 10, 20, 15, 20, 30, 5, 31]
    for offset, time_ms in enumerate(times):
        index.add(time_ms, offset)
    for since_ms in range(35):
        expected = next((offset for offset, time_ms in enumerate(times) if time_ms >= since_ms), None)
        assert index.since(since_ms) == expected


def test_times_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest ones are kept."""
    monkeypatch.setattr(embedded, "MAX_TIMES", 10)
    index = TimeIndex()
    for offset in range(1000):
        index.add(offset, offset)
        assert len(index._offsets) < 20
    assert [index.since(time_ms) for time_ms in (990, 999, 1000)] == [990, 999, None]


async def test_a_time_is_looked_up_where_it_is_known() -> None:
    """The broker itself would answer -1 to each such question."""
    partition = TopicPartition("assets", 0)
    with EmbeddedBroker(["assets"]) as broker:
        properties = {"bootstrap.servers": broker.bootstrap_servers, "group.id": "replay"}
        replays = EmbeddedReplays(broker.look_up, properties, concurrency=1, batch_bytes=1000)

        async def since(time_ms: int) -> Mapping[TopicPartition, int | None]:
            while not (found := await replays.offsets_since([partition], time_ms)):
                pass  # a broker on a busy machine answers too late, and is asked again
            return found

        assert await since(0) == {partition: None}
        while (found := await since(0)) == {partition: None}:
            broker.produce("assets", None, b"value")
        assert found == {partition: 0}
        assert await since(EARLIEST) == {partition: 0}
        assert await since(2**52) == {partition: None}
        await replays.close()
