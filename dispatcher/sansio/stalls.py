"""Partitions that are not fetched although their leader has records: detected by asking, restarted, and else reported.

librdkafka may stop fetching a partition without an error: a partition whose topic was recreated while a broker was away
(librdkafka 2.16.0: only a new client fetches it, see tests/test_stalled_partitions.py), or one that was paused,
reassigned and resumed (confluentinc/librdkafka#5591).

Rules of this module:

* A partition is a suspect when its next offset did not move between two checks and its leader says that records follow.
* A suspect is stalled when it has not moved for `STALLED_SECONDS` more, and the client's queue was empty in that time:
  a partition that is paused, or whose queue is full, just waits its turn.
* A stalled partition is restarted once. If that does not help, the consumer has to be rebuilt. Rebuilds are rare
  (`REBUILD_SECONDS`), because one stuck partition must not keep the others from flowing.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.sansio.records import TopicPartition

LOOK_SECONDS = 5.0
"""How often leaders are asked about partitions that do not move. One request per leader covers all of its
partitions."""

STALLED_SECONDS = 3.0
"""How long a partition may stand still after its leader said that records follow, and again after a restart."""

REPEAT_SECONDS = 15.0
"""How often a partition that a restart has not helped is reported."""

REBUILD_SECONDS = (10.0, 300.0)
"""The least time between two rebuilds because of stalled partitions: at first, and at most. It doubles with each
rebuild, and starts over after ten times the longest."""


class Stall(NamedTuple):
    """A partition that was not fetched."""

    partition: TopicPartition
    next_offset: int
    log_end: int
    """The end of the log, according to its leader."""
    was_restarted: bool
    """Whether the partition had been restarted before, in vain."""


@dataclass(slots=True)
class _Suspect:
    next_offset: int
    log_end: int
    due_at: float
    was_idle: bool = False
    """Whether the client's queue has been empty since then."""
    was_restarted: bool = False


class StallWatch:
    """Watches the partitions of one consumer. Times are seconds on any clock that only goes forward."""

    def __init__(self) -> None:
        self._seen: dict[TopicPartition, int] = {}
        """Next offsets at the last check."""
        self._look_at = 0.0
        self._suspects: dict[TopicPartition, _Suspect] = {}

    def is_due(self, now: float) -> bool:
        """Whether `look` or `stalled` has anything to do: the next check is due, or some partition is suspected."""
        return bool(self._suspects) or now >= self._look_at

    def look(
        self, next_offsets: Mapping[TopicPartition, int], paused: Collection[TopicPartition], now: float
    ) -> Collection[TopicPartition]:
        """Return the partitions whose leaders have to be asked where the log ends; none until the next check is due."""
        if now < self._look_at:
            return ()
        self._look_at = now + LOOK_SECONDS
        still = [tp for tp, offset in next_offsets.items() if self._seen.get(tp) == offset and tp not in paused]
        self._seen = dict(next_offsets)
        return still

    def answered(self, log_ends: Mapping[TopicPartition, int], now: float) -> dict[TopicPartition, int]:
        """Take the leaders' answers to the last check; leaders that did not answer are left out.

        Returns:
            The offsets at which these partitions stand.
        """
        standing = {tp: self._seen[tp] for tp in log_ends if tp in self._seen}
        for partition, next_offset in standing.items():
            if (log_end := log_ends[partition]) > next_offset:
                suspect = self._suspects.get(partition)
                if suspect is None or suspect.next_offset != next_offset:
                    self._suspects[partition] = _Suspect(next_offset, log_end, now + STALLED_SECONDS)
        return standing

    def stalled(
        self,
        next_offsets: Mapping[TopicPartition, int],
        paused: Collection[TopicPartition],
        now: float,
        *,
        idle: bool,
    ) -> list[Stall]:
        """Return the partitions that are stalled now, each once; those that were not restarted yet have to be.

        Args:
            next_offsets: The next offset of every partition that is fetched.
            paused: Which of them are paused.
            now: The time.
            idle: Whether the client's queue was empty just now.
        """
        found = []
        for partition, suspect in tuple(self._suspects.items()):
            if next_offsets.get(partition) != suspect.next_offset or partition in paused:
                del self._suspects[partition]
                continue
            suspect.was_idle |= idle
            if suspect.was_idle and now >= suspect.due_at:
                found.append(Stall(partition, suspect.next_offset, suspect.log_end, suspect.was_restarted))
                suspect.due_at = now + (REPEAT_SECONDS if suspect.was_restarted else STALLED_SECONDS)
                suspect.was_restarted, suspect.was_idle = True, False
        return found


@dataclass(frozen=True, slots=True)
class StallStatistics:
    """A snapshot of what was done about stalled partitions."""

    restarts: int
    """Partitions that were restarted."""
    rebuilds: int
    """Consumers that were rebuilt because restarting a partition had not helped."""


class StallLimit:
    """Decides when stalled partitions justify a new consumer; lives longer than a consumer."""

    def __init__(self) -> None:
        self._restarts = 0
        self._rebuilds = 0
        self._rebuild_at = 0.0
        self._pause_seconds = REBUILD_SECONDS[0]

    def take(self, stalls: Iterable[Stall], now: float) -> str | None:
        """Take stalled partitions; returns why the consumer has to be rebuilt, None if it need not be."""
        stuck = []
        for stall in stalls:
            if stall.was_restarted:
                stuck.append(stall)
            else:
                self._restarts += 1
        if not stuck or now < self._rebuild_at:
            return None
        if now >= self._rebuild_at + 10 * REBUILD_SECONDS[1]:
            self._pause_seconds = REBUILD_SECONDS[0]
        self._rebuild_at = now + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, REBUILD_SECONDS[1])
        self._rebuilds += 1
        first = stuck[0]
        more = f" and {len(stuck) - 1} more" if len(stuck) > 1 else ""
        return (
            f"{first.partition}{more} is not fetched from offset {first.next_offset}, "
            f"although its leader has records up to {first.log_end}"
        )

    def statistics(self) -> StallStatistics:
        """A snapshot."""
        return StallStatistics(self._restarts, self._rebuilds)
