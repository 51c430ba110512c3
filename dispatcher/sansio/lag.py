"""How far the group's commits are from the end of each log, where that is known.

Rules of this module:

* Unknown values are None, never 0.
* Lag counts up to the high watermark: records of an open transaction also wait, although nobody can read them yet. The
  last stable offset is reported beside it.
* librdkafka learns watermarks only from fetch responses. A watermark that fetches no longer confirm (because the
  partition is paused or has no leader) soon becomes meaningless, even though the statistics keep repeating it.
* Reports from before an assignment say nothing about it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from dispatcher.sansio.records import TopicPartition

FRESH_SECONDS = 10.0
"""How long a watermark counts after a fetch last confirmed it. Partitions that flow control pauses for a moment keep
theirs; partitions whose records wait for a subscriber do not."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """What is known about a partition's log and the group's place in it; unknown values are None."""

    committed: int | None
    """The group's committed offset."""
    log_end: int | None
    """The high watermark: the offset that the next produced record will get."""
    last_stable_offset: int | None
    """The first offset of the oldest open transaction, or else the high watermark: nothing from here on can be read."""
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
    """Return the lag of a partition whose end is known.

    A commit past the end belongs to another log, such as that of a topic that was recreated.
    """
    is_known = committed is not None and committed <= log_end
    return PartitionLag(committed, log_end, last_stable_offset, log_end - (committed or 0) if is_known else None)


class LagTracker:
    """Keeps what has been reported about each partition since it was assigned."""

    def __init__(self) -> None:
        self._reported: dict[TopicPartition, _Reported] = {}

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget what was reported about partitions that were assigned or have left: it is outdated."""
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
        """Take what the statistics report about a partition.

        Args:
            partition: The partition.
            committed: The group's committed offset; None if there is none or it is unknown.
            log_end: The high watermark; None if it is unknown or no leader can be asked.
            last_stable_offset: The last stable offset; None likewise.
            fetched: Whether the partition is being fetched, which makes its watermarks current.
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
        """Return what is known now.

        Args:
            partition: The partition.
            committed: The offset that the broker confirmed in this assignment; None to use the reported one.
            next_offset: The next offset to receive; None before the first record. The log reaches at least up to it.
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
