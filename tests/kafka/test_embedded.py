"""The embedded broker: what is produced can be consumed by a group, at once."""

from collections import Counter
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from dispatcher.kafka.embedded import CONSUMER_PROPERTIES, EmbeddedBroker

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
        consumer.commit(offsets=[TopicPartition(topics[0], 0, 1)], asynchronous=False)
        return found
    finally:
        consumer.close()


def test_what_is_produced_is_consumed_in_order() -> None:
    """Every record comes once, to the partition of its key, in the order in which it was written."""
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
    """A consumer that must not create topics finds them, with 4 partitions each, before the first record."""
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
    """Null is a key and a value like others, and two brokers in one process do not meet."""
    with EmbeddedBroker(["a"]) as broker, EmbeddedBroker(["a"]) as other:
        assert broker.bootstrap_servers != other.bootstrap_servers
        broker.produce("a", b"key", None)
        broker.produce("a", None, b"value")
        found = consume(broker.bootstrap_servers, ["a"], 2)
    assert Counter([(b"key", None), (None, b"value")]) == Counter((key, value) for _, key, value, _, _ in found)
