"""Which log the records of each partition in memory belong to, by Kafka's id of the topic.

Offsets mean nothing in another log. The group's consumer notices a recreated topic by the id in its commits
(`sansio.beginnings`); this is for partitions that are followed, and that change between followed and owned.

Rules of this module:

* A log is replaced once brokers have reported another id twice in a row: a single broker may lag, in either direction.
* Nothing is concluded from an unknown id. It becomes known when a broker next reports one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dispatcher.sansio.records import TopicPartition

REPORTS = 2
"""How many reports in a row say that a log was replaced."""


@dataclass(slots=True)
class _Log:
    topic_id: str | None
    other_reports: int = 0
    """How many reports in a row have had another id."""


class LogIds:
    """The id of each topic as it was last reported, and the id under which reading of each partition has begun."""

    def __init__(self) -> None:
        self._reported: dict[str, str] = {}
        self._logs: dict[TopicPartition, _Log] = {}
        self._left: dict[TopicPartition, str | None] = {}
        """The id of the log of each partition when it was last owned."""

    def found(self, topics: Mapping[str, str]) -> bool:
        """Take a report.

        Args:
            topics: The id of each topic; topics without one are left out.

        Returns:
            Whether another report should follow soon.
        """
        is_doubtful = False
        self._reported.update(topics)
        for partition, log in self._logs.items():
            topic_id = topics.get(partition.topic)
            if topic_id is None:
                continue
            if log.topic_id is None:
                log.topic_id = topic_id
            log.other_reports = 0 if topic_id == log.topic_id else log.other_reports + 1
            is_doubtful |= 0 < log.other_reports < REPORTS
        return is_doubtful

    def reported(self, topic: str) -> str | None:
        """The id of a topic as it was last reported; None if it is unknown."""
        return self._reported.get(topic)

    def begin(self, partition: TopicPartition, topic_id: str | None) -> None:
        """Note that reading a partition begins, perhaps with another log.

        Args:
            partition: The partition.
            topic_id: The topic's id before it was looked up where the log begins: if it is recreated in between, that
                is noticed then. None if it is unknown.
        """
        self._logs[partition] = _Log(topic_id)

    def is_replaced(self, partition: TopicPartition) -> bool:
        """Whether another log has taken the place of the one that is read of this partition."""
        return partition in self._logs and self._logs[partition].other_reports >= REPORTS

    def is_same(self, partition: TopicPartition, topic_id: str | None) -> bool | None:
        """Whether the log that is read of a partition is that of an id; None if either is unknown."""
        log_id = self._logs[partition].topic_id if partition in self._logs else None
        return None if log_id is None or topic_id is None else log_id == topic_id

    def is_known(self, partition: TopicPartition) -> bool:
        """Whether the id of the log that is read of a partition is known."""
        return partition in self._logs and self._logs[partition].topic_id is not None

    def left(self, partition: TopicPartition) -> None:
        """Note that an owned partition leaves: its readers were sent records of the log that is read now."""
        self._left[partition] = self._logs[partition].topic_id if partition in self._logs else None

    def has_changed(self, partition: TopicPartition, topic_id: str | None) -> bool:
        """Whether a partition that returns had a log of another id when it left, as far as both are known."""
        left = self._left.get(partition)
        return left is not None and topic_id is not None and left != topic_id

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions that are not in memory any more."""
        for partition in partitions:
            self._logs.pop(partition, None)
