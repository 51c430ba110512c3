"""How far the group's commits are from the end of each log, as far as that is known.

Rules of this module:

* What is not known is None, never 0.
* Lag counts up to the high watermark: records of an open transaction wait as well, though nobody can read them yet. The
  last stable offset is given beside it.
* librdkafka learns watermarks from fetch responses alone. One that no fetch confirms any more (paused, no leader) soon
  says nothing, however often the statistics repeat it.
* What was reported before an assignment says nothing about it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from dispatcher.sansio.records import TopicPartition

FRESH_SECONDS = 10.0
"""How long a watermark counts after a fetch confirmed it last: partitions that flow control pauses for a moment keep
theirs, and those whose records wait for a subscriber do not."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """What is known of one partition's log and of the group's place in it; None: unknown."""

    committed: int | None
    """The group's committed offset."""
    log_end: int | None
    """The high watermark: the next offset that a producer will get."""
    last_stable_offset: int | None
    """The first offset of the oldest open transaction, else the high watermark: nothing from here on can be read."""
    lag_records: int | None
    """Offsets from the committed one to the high watermark."""


@dataclass(frozen=True, slots=True)
class _Reported:
    committed: int | None
    log_end: int | None
    last_stable_offset: int | None
    confirmed_at: float


UNKNOWN = PartitionLag(None, None, None, None)
_NOTHING = _Reported(None, None, None, 0.0)


def lag_of(committed: int | None, log_end: int, last_stable_offset: int | None = None) -> PartitionLag:
    """The lag of a partition whose end is known.

    A commit past the end belongs to another log, such as that of a topic that was deleted and made again.
    """
    is_known = committed is not None and committed <= log_end
    return PartitionLag(committed, log_end, last_stable_offset, log_end - (committed or 0) if is_known else None)


class LagTracker:
    """Keeps what was reported of each partition since it was assigned."""

    def __init__(self) -> None:
        self._reported: dict[TopicPartition, _Reported] = {}

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions were assigned or have left: what was reported of them is out of date."""
        for partition in partitions:
            self._reported.pop(partition, None)

    def reported(
        self,
        partition: TopicPartition,
        *,
        committed: int | None,
        log_end: int | None,
        last_stable_offset: int | None,
        fetched: bool,
        now: float,
    ) -> None:
        """Take what the statistics report of a partition.

        Args:
            partition: The partition.
            committed: The group's committed offset, None when there is none or it is not known.
            log_end: The high watermark, None when it is not known or no leader can be asked.
            last_stable_offset: The last stable offset, None likewise.
            fetched: Whether the partition is being fetched, so that its watermarks are of this moment.
            now: Seconds of a monotonic clock.
        """
        before = self._reported.get(partition, _NOTHING)
        if log_end is not None and not fetched:
            self._reported[partition] = _Reported(
                committed, before.log_end, before.last_stable_offset, before.confirmed_at
            )
        else:
            self._reported[partition] = _Reported(committed, log_end, last_stable_offset, now)

    def lag(
        self, partition: TopicPartition, *, committed: int | None, next_offset: int | None, now: float
    ) -> PartitionLag:
        """What is known now.

        Args:
            partition: The partition.
            committed: The offset that the broker confirmed in this assignment; None: what was reported counts.
            next_offset: The next offset to be received, None before the first record: the log reaches at least to it.
            now: Seconds of the same clock.
        """
        found = self._reported.get(partition, _NOTHING)
        committed = found.committed if committed is None else committed
        if found.log_end is None or now - found.confirmed_at > FRESH_SECONDS:
            return PartitionLag(committed, None, None, None)
        log_end = max(found.log_end, next_offset or 0)
        stable = found.last_stable_offset
        stable = None if stable is None else max(stable, next_offset or 0)
        return lag_of(committed, log_end, stable)
