"""Which log the records of each partition in memory belong to, by Kafka's id of the topic.

Offsets mean nothing in another log. The group's consumer notices a recreated topic by the id in its commits
(`sansio.beginnings`); this is for partitions that are followed, and that change between followed and owned.

Rules of this module:

* An id that has been replaced never comes back: a broker that still reports it lags.
* Nothing is concluded from an unknown id. It becomes known when a broker first reports one.
"""

from collections.abc import Iterable, Mapping

from dispatcher.sansio.records import TopicPartition


class LogIds:
    """The present id of each topic, and the id under which reading of each partition has begun."""

    def __init__(self) -> None:
        self._topics: dict[str, str] = {}
        self._replaced: set[str] = set()
        self._logs: dict[TopicPartition, str | None] = {}

    def found(self, topics: Mapping[str, str]) -> None:
        """Note what brokers report.

        Args:
            topics: The id of each topic; topics without one are left out.
        """
        for topic, topic_id in topics.items():
            before = self._topics.get(topic)
            if topic_id in self._replaced or topic_id == before:
                continue
            if before is not None:
                self._replaced.add(before)
            self._topics[topic] = topic_id
        for partition, log_id in self._logs.items():
            if log_id is None:
                self._logs[partition] = self._topics.get(partition.topic)

    def begin(self, partition: TopicPartition, topic_id: str | None = None) -> None:
        """Note that reading a partition begins, perhaps with another log.

        Call this before looking up where: if the topic is recreated in between, that is noticed then.

        Args:
            partition: The partition.
            topic_id: The topic's id; None: as it was last found.
        """
        if topic_id is not None:
            self.found({partition.topic: topic_id})
        self._logs[partition] = topic_id or self._topics.get(partition.topic)

    def is_replaced(self, partition: TopicPartition) -> bool:
        """Whether a topic is known to have another id than the log that is read of this partition."""
        return self.is_other(partition, self._topics.get(partition.topic))

    def is_other(self, partition: TopicPartition, topic_id: str | None) -> bool:
        """Whether the log that is read of a partition is known to be another one than that of an id."""
        log_id = self._logs.get(partition)
        return log_id is not None and topic_id is not None and log_id != topic_id

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions that are not in memory any more."""
        for partition in partitions:
            self._logs.pop(partition, None)
