"""Asks for the committed offsets of a group without being a member. Nothing else in this process does.

It asks through a consumer that never subscribes, not through an `AdminClient`, which aborts the process if the group's
coordinator is killed during such a request (librdkafka 2.16, ``rd_kafka_enq_once_del_source_return:
Assertion 'eonce->refcnt > 0'``).
"""

import threading
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from contextlib import suppress

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException

from dispatcher.kafka.properties import admin_properties
from dispatcher.sansio.records import TopicPartition

Answers = list[confluent_kafka.TopicPartition]
"""For each partition, the committed offset (negative if the group has none) with its metadata and leader epoch, or an
error."""


class GroupOffsets:
    """A client that asks for committed offsets, and reads no records.

    *Thread*: any, several at a time.

    Args:
        properties: librdkafka's configuration of a consumer, with the group's name.
    """

    def __init__(self, properties: Mapping[str, str | int | float | bool]) -> None:
        kept = {name: value for name, value in admin_properties(properties).items() if name != "debug"}
        self._properties = {
            **kept,
            "group.id": properties.get("group.id", ""),
            "enable.auto.commit": False,
            # Do not wait for open transactions: until they are committed, the previous offset is right.
            "isolation.level": "read_uncommitted",
            # Nobody reads its log, so it must not collect one: the consumers log the same problems.
            "log_level": 2,
        }
        self._consumer: Consumer | None = None
        self._opening = threading.Lock()

    def open(self) -> Consumer:
        """Create the client, unless it exists.

        Raises:
            KafkaException: the client cannot be created.
        """
        with self._opening:
            if self._consumer is None:
                self._consumer = Consumer(self._properties)
            return self._consumer

    def close(self) -> None:
        """Close the client and its connections."""
        self._consumer = None  # an outstanding request keeps it alive

    def read(self, partitions: Collection[TopicPartition], timeout_seconds: float) -> dict[TopicPartition, int]:
        """The group's offsets, negative where it has none; empty if its coordinator does not answer."""
        with suppress(KafkaException):
            found = _ask(self.open(), partitions, timeout_seconds)
            return {TopicPartition(one.topic, one.partition): one.offset for one in found if one.error is None}
        return {}

    def ask(
        self, partitions: Collection[TopicPartition], timeout_seconds: float, *, siblings: bool = False
    ) -> "Future[Answers]":
        """Ask for the group's offsets in a separate thread, which ends with the answer. Never waits.

        Args:
            partitions: The partitions to ask about.
            timeout_seconds: Maximum wait for the coordinator, after which the answer is an error. Metadata, which is
                requested first, may take as long again.
            siblings: Whether to ask about all other known partitions of their topics as well.
        """
        answer: Future[Answers] = Future()

        def run() -> None:
            try:
                consumer = self.open()
                asked = {*partitions, *(_siblings(consumer, partitions, timeout_seconds) if siblings else ())}
                answer.set_result(_ask(consumer, asked, timeout_seconds))
            except Exception as error:  # noqa: BLE001 - raised for the reader of the answer
                answer.set_exception(error)

        try:
            threading.Thread(target=run, name="group-offsets", daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # "can't start new thread" is a RuntimeError
            answer.set_exception(KafkaException(KafkaError(KafkaError._FAIL, str(error))))  # noqa: SLF001 - its public spelling
        return answer


def _ask(consumer: Consumer, partitions: Collection[TopicPartition], timeout_seconds: float) -> Answers:
    if not partitions:
        return []  # librdkafka would wait until the timeout
    return consumer.committed([confluent_kafka.TopicPartition(*tp) for tp in partitions], timeout=timeout_seconds)


def _siblings(
    consumer: Consumer, partitions: Collection[TopicPartition], timeout_seconds: float
) -> list[TopicPartition]:
    topics = {tp.topic for tp in partitions}
    found = [consumer.list_topics(topic, timeout=timeout_seconds).topics.get(topic) for topic in topics]
    return [
        TopicPartition(str(topic.topic), number) for topic in found if topic is not None for number in topic.partitions
    ]
