"""What happens to topics in use: records deleted, made again, partitions added, partitions that one node alone has."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from testbed.patience import TooLateError, seconds

ADMIN_SECONDS = 30.0
REQUEST_SECONDS = 5.0
"""How long one request may take: librdkafka waits a minute for a broker that was killed under it."""

AGAIN_SECONDS = 0.05

_Answer = TypeVar("_Answer")

_STALE = frozenset({KafkaError.UNKNOWN_TOPIC_ID, KafkaError.UNKNOWN_TOPIC_OR_PART})
"""Errors of a broker that knew the topic that was deleted, or of one that does not know the new one yet; librdkafka's
producer does not try these again."""


def wait_until_known(admin: AdminClient, name: str) -> None:
    """Return when a broker describes a topic that was created: it learns of it after the controller has answered.

    Raises:
        TooLateError: it does not within the deadline.
    """
    deadline = time.monotonic() + seconds(ADMIN_SECONDS)
    while time.monotonic() < deadline:
        with suppress(KafkaException):
            found = admin.list_topics(name, timeout=seconds(ADMIN_SECONDS)).topics.get(name)
            if found is not None and found.error is None:
                return
        time.sleep(AGAIN_SECONDS)
    raise TooLateError(f"no broker knows the topic {name}")


def create_on_nodes(admin: AdminClient, name: str, nodes: Sequence[int]) -> None:
    """Create a topic with one partition for each node, which alone has it: killed, it leaves it without a leader."""
    config = {"min.insync.replicas": "1"}
    topic = NewTopic(name, len(nodes), replica_assignment=[[node] for node in nodes], config=config)
    admin.create_topics([topic])[name].result(seconds(ADMIN_SECONDS))


def expire(admin: AdminClient, topic: str, before: Mapping[int, int]) -> None:
    """Let records go now, as retention would: of each partition all before the offset."""
    for partition, offset in before.items():
        place = TopicPartition(topic, partition, offset)
        _for_sure(admin, lambda: next(iter(admin.delete_records([place], request_timeout=REQUEST_SECONDS).values())))  # noqa: B023 - called in this turn


def recreate(admin: AdminClient, topic: str, partitions: int, replication_factor: int = -1) -> None:
    """Delete a topic and make it again at once."""

    def ask_for_id() -> Future[Any]:
        return admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_SECONDS)[topic]

    old = _for_sure(admin, ask_for_id)
    assert old is not None
    _for_sure(
        admin,
        lambda: admin.delete_topics([topic], request_timeout=REQUEST_SECONDS)[topic],
        lambda error: error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART,
    )

    def is_made(error: KafkaError) -> bool:
        """Whether the one that exists is the new one: the old one is there for a moment after it was deleted."""
        if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        with suppress(KafkaException):
            return str(ask_for_id().result(seconds(ADMIN_SECONDS)).topic_id) != str(old.topic_id)
        return False

    new = NewTopic(topic, partitions, replication_factor)
    _for_sure(admin, lambda: admin.create_topics([new], request_timeout=REQUEST_SECONDS)[topic], is_made)


def grow(admin: AdminClient, topic: str, partitions: int) -> None:
    """Give a topic more partitions, so that it has this number."""
    more = [NewPartitions(topic, partitions)]
    _for_sure(
        admin,
        lambda: admin.create_partitions(more, request_timeout=REQUEST_SECONDS)[topic],
        lambda error: error.code() == KafkaError.INVALID_PARTITIONS,
    )


def _for_sure(
    admin: AdminClient, ask: Callable[[], Future[_Answer]], is_done: Callable[[KafkaError], bool] = lambda _error: False
) -> _Answer | None:
    """Ask until a broker has done it: one that is killed under the question may leave it undone, or unanswered.

    Args:
        admin: With what it is asked.
        ask: Asks once.
        is_done: Whether an error says that it was done already.

    Returns:
        The answer; None where an error said that it was done already.

    Raises:
        KafkaException: it was not done within the deadline.
    """
    deadline = time.monotonic() + seconds(ADMIN_SECONDS)
    while True:
        try:
            return ask().result(seconds(ADMIN_SECONDS))
        except KafkaException as error:
            if is_done(error.args[0]):
                return None
            if time.monotonic() > deadline:
                raise
        time.sleep(AGAIN_SECONDS)
        # Else it asks a node that leads no longer, again and again (seen for 90 s).
        with suppress(KafkaException):
            admin.list_topics(timeout=seconds(ADMIN_SECONDS))


def fill(
    bootstrap_servers: str,
    topic: str,
    partitions: Sequence[int],
    number: int,
    value: str,
) -> list[tuple[int, int]]:
    """Write this many records of one value into each of these partitions, also into new ones; returns their places.

    Args:
        bootstrap_servers: The brokers.
        topic: Where to.
        partitions: Each gets all of them.
        number: Of records in each.
        value: Theirs.

    Returns:
        (partition, offset) of each.

    Raises:
        KafkaException: a record was not stored within the deadline.
    """
    stored: list[tuple[int, int]] = []
    left = dict.fromkeys(partitions, number)
    deadline = time.monotonic() + seconds(ADMIN_SECONDS)
    while left:
        error = _fill(bootstrap_servers, topic, left, value, stored=stored, deadline=deadline)
        if error is not None and (error.code() not in _STALE or time.monotonic() > deadline):
            raise KafkaException(error)
        written = Counter(partition for partition, _offset in stored)
        left = {partition: number - written[partition] for partition in partitions if written[partition] < number}
    return stored


def _fill(
    bootstrap_servers: str,
    topic: str,
    numbers: Mapping[int, int],
    value: str,
    *,
    stored: list[tuple[int, int]],
    deadline: float,
) -> KafkaError | None:
    """Write records with a producer that knows the topic as it is now; returns the first error."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 5, "log_level": 2})
    refused: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            stored.append((message.partition() or 0, message.offset() or 0))
        else:
            refused.append(error)

    for partition, number in numbers.items():
        # A partition that was just added is not known to every broker yet.
        while not _knows(producer, topic, partition) and time.monotonic() < deadline:
            time.sleep(AGAIN_SECONDS)
        for _ in range(number):
            while True:
                try:
                    producer.produce(topic, value, partition=partition, on_delivery=delivered)
                except BufferError:
                    producer.poll(AGAIN_SECONDS)
                else:
                    break
            producer.poll(0)
    producer.flush(seconds(ADMIN_SECONDS))
    return refused[0] if refused else None


def _knows(producer: Producer, topic: str, partition: int) -> bool:
    try:
        found = producer.list_topics(topic, timeout=seconds(ADMIN_SECONDS)).topics.get(topic)
    except KafkaException:
        return False
    return found is not None and partition in found.partitions and found.partitions[partition].leader >= 0
