"""Asks partition leaders where logs begin and end, and which offset belongs to a time (Kafka's ListOffsets).

One request per leader carries all of its partitions, and each partition is answered separately: one without a leader
fails at once, and the others are answered (librdkafka 2.16: both bounds of 1,000 partitions on 3 brokers in 40 to 60
ms). Only a leader that is unreachable but still listed makes the others wait, for `ANSWER_SECONDS`.

A leader that has just been elected answers only once its high watermark is certain (KIP-207), whereas the high
watermark of a fetch may lag. So these answers show whether a log was truncated.
"""

import threading
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import TypeAlias

import confluent_kafka
import structlog
from confluent_kafka import ConsumerGroupState, IsolationLevel, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import ListOffsetsResultInfo, OffsetSpec

from dispatcher.kafka.group_offsets import GroupOffsets
from dispatcher.sansio.beginnings import Policy
from dispatcher.sansio.ranges import EARLIEST, Bounds
from dispatcher.sansio.records import TopicPartition

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 2.0
"""Maximum wait for the leaders; those that have not answered by then count as unreachable."""

Answer: TypeAlias = "Future[ListOffsetsResultInfo]"

Properties = Mapping[str, str | int | float | bool]

_CLIENT_PROPERTIES: Mapping[str, str | int] = {
    # Nobody reads its log, so it must not collect one: the consumers log the same problems.
    "log_level": 2,
}

_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Leaders:
    """A client that asks for offsets, and reads no records.

    *Thread*: any, several at a time.

    Args:
        properties: librdkafka's connection settings.
    """

    def __init__(self, properties: Properties) -> None:
        self._properties = {**{key: value for key, value in properties.items() if key != "debug"}, **_CLIENT_PROPERTIES}
        committed = str(properties.get("isolation.level", "read_committed")) != "read_uncommitted"
        self._isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        self._group_id = str(properties.get("group.id", ""))
        self._group = GroupOffsets(properties)
        self._policy = Policy.of(properties.get("auto.offset.reset"))
        self._admin: AdminClient | None = None
        self._opening = threading.Lock()

    def open(self) -> AdminClient:
        """Create the client, unless it exists.

        Raises:
            KafkaException: the client cannot be created.
        """
        with self._opening:
            if self._admin is None:
                self._admin = AdminClient(dict(self._properties))
            return self._admin

    def close(self) -> None:
        """Close the client and its connections."""
        self._admin = None
        self._group.close()

    def bounds(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """Where the logs of partitions begin and end now; those without an answer are left out.

        The end is the high watermark, which includes records of open transactions.
        """
        firsts, ends = self._ask(partitions, [_EARLIEST, _LATEST], IsolationLevel.READ_UNCOMMITTED)
        return {tp: Bounds(firsts[tp], ends[tp]) for tp in firsts.keys() & ends.keys()}

    def bounds_of_new_leaders(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """The same for partitions that had no leader a moment ago.

        First asks the brokers for the new leaders: librdkafka would answer from its cache, within a millisecond, that
        there are none.
        """
        try:
            for topic in {tp.topic for tp in partitions}:
                self.open().list_topics(topic, ANSWER_SECONDS)
        except KafkaException:
            return {}  # no broker answers
        return self.bounds(partitions)

    def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's committed offsets; where it has none, the offset that ``auto.offset.reset`` selects.

        Partitions without an answer are left out.
        """
        offsets = self._group.read(partitions, ANSWER_SECONDS)
        bounds = self.bounds([tp for tp, offset in offsets.items() if offset < 0])
        begins = {tp: end if self._policy is Policy.LATEST else first for tp, (first, end) in bounds.items()}
        return {tp: offset for tp, offset in offsets.items() if offset >= 0} | begins

    def partition_counts(self, topics: Collection[str]) -> dict[str, int]:
        """How many partitions each topic has; topics without an answer are left out."""
        found = {}
        for topic in topics:
            try:
                metadata = self.open().list_topics(topic, ANSWER_SECONDS).topics.get(topic)
            except KafkaException:
                continue
            if metadata is not None and metadata.error is None and metadata.partitions:
                found[topic] = len(metadata.partitions)
        return found

    def group_is_empty(self) -> bool:
        """Whether the group is known to have no members now; False without an answer, or without the right to ask.

        Groups are listed, not described, because describing one aborts the process while a coordinator is
        unreachable (`topic_probe`).
        """
        try:
            asked = self.open().list_consumer_groups(states={ConsumerGroupState.EMPTY}, request_timeout=ANSWER_SECONDS)
            found = asked.result(2 * ANSWER_SECONDS)
        except (KafkaException, TimeoutError):
            return False
        return any(group.group_id == self._group_id for group in found.valid)

    def offsets_since(self, partitions: Collection[TopicPartition], since_ms: int) -> dict[TopicPartition, int | None]:
        """The offset of the first record at or after this time; None where there is no such record.

        Partitions without an answer are left out.

        Args:
            partitions: The partitions to look up.
            since_ms: Milliseconds since the epoch, or `EARLIEST`.
        """
        spec = _EARLIEST if since_ms == EARLIEST else OffsetSpec.for_timestamp(since_ms)
        (found,) = self._ask(partitions, [spec], self._isolation)
        return {tp: offset if offset >= 0 else None for tp, offset in found.items()}

    def log_ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Answer]:
        """Ask where logs end at the consumers' isolation level, without waiting for the answers.

        Raises:
            KafkaException: the client cannot be created.
        """
        (asked,) = self._send(partitions, [_LATEST], self._isolation)
        return asked

    def _ask(
        self, partitions: Collection[TopicPartition], specs: Collection[OffsetSpec], isolation: IsolationLevel
    ) -> list[dict[TopicPartition, int]]:
        """For each spec, the offsets of the partitions that have an answer."""
        if not partitions:
            return [{} for _ in specs]
        try:
            asked = self._send(partitions, specs, isolation)
        except KafkaException as error:
            log.warning("offset lookup failed", error=str(error))
            return [{} for _ in specs]
        return [
            {tp: offset for tp, answer in answers.items() if (offset := _offset(answer)) is not None}
            for answers in asked
        ]

    def _send(
        self, partitions: Collection[TopicPartition], specs: Iterable[OffsetSpec], isolation: IsolationLevel
    ) -> list[dict[TopicPartition, Answer]]:
        """For each spec, the answers to come."""
        admin, asked = self.open(), []
        for spec in specs:
            answers = admin.list_offsets(
                {confluent_kafka.TopicPartition(*tp): spec for tp in partitions},
                isolation_level=isolation,
                request_timeout=ANSWER_SECONDS,
            )
            asked.append({TopicPartition(tp.topic, tp.partition): answer for tp, answer in answers.items()})
        return asked


def _offset(answer: Answer) -> int | None:
    """The offset; -1 if no record is that new; None without an answer."""
    try:
        # librdkafka has its own timeout; this one is for a client that is dead.
        offset = answer.result(2 * ANSWER_SECONDS).offset
    except (KafkaException, TimeoutError):
        return None
    # A leader that has not answered in time yields librdkafka's -1001, "invalid", and no error.
    return offset if offset >= -1 else None
