"""What the broker says that a group has committed, from two witnesses that have nothing to do with the replicas."""

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import cast

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from testbed.patience import seconds

ANSWER_SECONDS = 5.0
LOG_SECONDS = 30.0
"""A deadline in `testbed.patience.seconds`."""

OFFSETS_TOPIC = "__consumer_offsets"


class CommittedOffsets:
    """Asks for the committed offsets of one group and topic, again and again, without being a member.

    A consumer that never subscribes, and no `AdminClient`: while a coordinator is killed under its question, that one
    aborts the process (librdkafka 2.16, ``rd_kafka_enq_once_del_source_return: Assertion 'eonce->refcnt > 0'``).

    *Thread*: any, one at a time.
    """

    def __init__(self, bootstrap_servers: str, group: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 500,
                "log_level": 2,
            }
        )
        self._partitions = [TopicPartition(topic, partition) for partition in range(partitions)]

    def read(self) -> Mapping[int, int] | None:
        """Committed offset by partition; None when no broker answers."""
        with suppress(KafkaException):
            answer = self._consumer.committed(self._partitions, timeout=ANSWER_SECONDS)
            return {one.partition: one.offset for one in answer if one.offset >= 0 and one.error is None}
        return None

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()


def commit_log(bootstrap_servers: str, group: str, topic: str) -> Iterator[tuple[int, int, int]]:
    """Partition, offset and time (ms) of every commit that the brokers have stored, oldest first within a partition.

    It is read from Kafka's own log of commits, so none is missed between two questions of `CommittedOffsets`.

    Raises:
        KafkaException: the log could not be read to its end.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "reads-the-log-of-commits",  # librdkafka wants a name; it never joins
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_uncommitted",
            "log_level": 2,
        }
    )
    try:
        partitions = consumer.list_topics(OFFSETS_TOPIC, timeout=seconds(LOG_SECONDS)).topics[OFFSETS_TOPIC].partitions
        # Their ends now: while commits come the end-of-partition event does not.
        ends = {
            n: consumer.get_watermark_offsets(TopicPartition(OFFSETS_TOPIC, n), timeout=seconds(LOG_SECONDS))[1]
            for n in partitions
        }
        left = {n for n, end in ends.items() if end}
        consumer.assign([TopicPartition(OFFSETS_TOPIC, n, 0) for n in left])
        while left:
            message = consumer.poll(seconds(LOG_SECONDS))
            if message is None:
                raise KafkaException(f"{OFFSETS_TOPIC} could not be read to its end")
            partition, offset = cast("int", message.partition()), cast("int", message.offset())
            if message.error() is not None or offset + 1 >= ends[partition]:
                left.discard(partition)  # any other error than the end ends in the silence above
            if message.error() is None and (commit := _parse(message, group, topic)) is not None:
                yield *commit, message.timestamp()[1]
    finally:
        consumer.close()


def _parse(message: Message, group: str, topic: str) -> tuple[int, int] | None:
    """Partition and offset of a commit; None for what is none of ours.

    *Source*: Kafka's OffsetCommitKey.json (versions 0 and 1) and OffsetCommitValue.json: the offset comes first in
    every version.
    """
    key, value = message.key(), message.value()
    if key is None or value is None or struct.unpack_from(">h", key)[0] > 1:
        return None
    of_group, at = _string(key, 2)
    of_topic, at = _string(key, at)
    if (of_group, of_topic) != (group, topic):
        return None
    return struct.unpack_from(">i", key, at)[0], struct.unpack_from(">q", value, 2)[0]


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + struct.unpack_from(">h", data, at)[0]
    return data[at + 2 : end].decode(), end
