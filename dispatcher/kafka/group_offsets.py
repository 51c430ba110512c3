"""Asks what a group has committed, without being a member of it.

By a consumer that never subscribes, and by no `AdminClient`: that one aborts the process while the group's coordinator
is killed with such a question under way (librdkafka 2.16, ``rd_kafka_enq_once_del_source_return: Assertion
'eonce->refcnt > 0'``).
"""

import threading
from collections.abc import Collection, Mapping
from contextlib import suppress

import confluent_kafka
from confluent_kafka import Consumer, KafkaException

from dispatcher.sansio.records import TopicPartition

_OF_MEMBERS = frozenset(
    {
        "group.protocol",
        "group.remote.assignor",
        "group.instance.id",
        "partition.assignment.strategy",
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "debug",
    }
)
"""Properties that only members of a group need."""


class GroupOffsets:
    """A client that asks for committed offsets, and reads nothing.

    *Thread*: any, several at a time.

    Args:
        properties: librdkafka's connection settings, with the group's name.
    """

    def __init__(self, properties: Mapping[str, str | int | float | bool]) -> None:
        kept = {key: value for key, value in properties.items() if key not in _OF_MEMBERS}
        self._properties = {**kept, "enable.auto.commit": False, "log_level": 2}
        self._consumer: Consumer | None = None
        self._opening = threading.Lock()

    def read(self, partitions: Collection[TopicPartition], timeout_seconds: float) -> dict[TopicPartition, int]:
        """The group's offsets, below 0 where it has none; nothing without an answer of its coordinator."""
        if not partitions:
            return {}
        asked = [confluent_kafka.TopicPartition(*tp) for tp in partitions]
        with suppress(KafkaException):
            found = self._open().committed(asked, timeout=timeout_seconds)
            return {TopicPartition(one.topic, one.partition): one.offset for one in found if one.error is None}
        return {}

    def _open(self) -> Consumer:
        with self._opening:
            if self._consumer is None:
                self._consumer = Consumer(self._properties)
            return self._consumer

    def close(self) -> None:
        """Let go of the client and its connections."""
        self._consumer = None  # a question under way still holds it
