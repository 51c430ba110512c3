"""Keeps what the group's consumer reports: whether it has joined, what it has fetched, lags, and perhaps lacks.

*Thread*: Trio's.
"""

from collections.abc import Collection, Iterable, Mapping

from dispatcher.kafka.statistics import ConsumerStatistics
from dispatcher.sansio.lag import LagTracker, PartitionLag
from dispatcher.sansio.lost_answers import LostAnswers
from dispatcher.sansio.offsets import PartitionStatistics
from dispatcher.sansio.records import TopicPartition


class ConsumerWatch:
    """Keeps the consumer's last report, and the lags that follow from all of them.

    Args:
        protocol: The group's protocol; None for librdkafka's default.
    """

    def __init__(self, protocol: object = None) -> None:
        self._last: ConsumerStatistics | None = None
        self._lost_answers = LostAnswers(matter=protocol == "consumer")
        self._lags = LagTracker()

    def reported(
        self, statistics: ConsumerStatistics, not_fetched: Collection[TopicPartition], now: float
    ) -> str | None:
        """Take a report; returns why the consumer has to be rebuilt, or None.

        Args:
            statistics: The report.
            not_fetched: Partitions that are paused, or held: their fetched bytes mean nothing.
            now: Seconds on any clock that only goes forward.
        """
        self._last = statistics
        for partition, found in statistics.partitions.items():
            self._lags.reported(
                partition,
                committed=found.committed,
                log_end=found.log_end,
                last_stable_offset=found.last_stable_offset,
                fetched=partition not in not_fetched,
                now=now,
            )
        return self._lost_answers.reported(statistics.coordinator_timeouts, joined=statistics.joined, now=now)

    def fenced(self) -> None:
        """The group went on without the member, which joins from scratch."""
        self._lost_answers.fenced()

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions were assigned again: the figures about them are out of date."""
        self._lags.forget(partitions)

    def left(self, partitions: Iterable[TopicPartition]) -> None:
        """The consumer is being closed, and had these partitions."""
        self._last = None
        self._lost_answers.left()
        self.forget(partitions)

    @property
    def has_joined(self) -> bool:
        """Whether there is a consumer that has joined its group."""
        return self._last is not None and self._last.joined

    @property
    def prefetched_bytes(self) -> int:
        """Bytes that librdkafka has fetched and not handed over yet."""
        fetched = self._last.partitions.values() if self._last else ()
        return sum(partition.prefetched_bytes for partition in fetched)

    def lags(
        self, partitions: Mapping[TopicPartition, PartitionStatistics], now: float
    ) -> dict[TopicPartition, PartitionLag]:
        """The lag of each assigned partition."""
        return {
            tp: self._lags.lag(tp, committed=ours.committed, next_offset=ours.received_to, now=now)
            for tp, ours in partitions.items()
        }
