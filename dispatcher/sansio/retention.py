"""When Kafka will delete the oldest waiting record, by its topic's retention time and retention size.

Rules of this module:

* Unknown values are None, never 0. Infinity means never.
* Kafka deletes whole segments. By time: once the newest record of the segment is older than ``retention.ms``. By size:
  the oldest segment, while all others still hold ``retention.bytes``. So no record is deleted before its own time is
  up, and what is computed here is the earliest moment: an alarm may be early, but not late.
* Sizes are estimates: they assume uncompressed records, and one record per offset.
* Compaction is no loss: it keeps the newest value of each key.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dispatcher.sansio.entries import Entry
from dispatcher.sansio.ranges import Bounds
from dispatcher.sansio.records import RECORD_OVERHEAD_BYTES, Record, Records, TopicPartition

LOG_OVERHEAD_BYTES = 70
"""What a record that is alone in its batch takes in Kafka's log besides key, value and headers (the batch takes 61)."""

GROWTH_SAMPLES = 12
"""How many log ends are kept per partition to measure how fast it grows."""

NEAR_SECONDS = 3600.0
"""Less headroom than this is near, and so is less than half of the retention time, if that is shorter."""


class Retention(NamedTuple):
    """How long a topic keeps records; None: no limit of this kind."""

    seconds: float | None
    size_bytes: int | None
    """The limit of each partition."""

    @classmethod
    def of(cls, configs: Mapping[str, str | None]) -> "Retention | None":
        """Read a topic's configuration; None if it says nothing about retention.

        Args:
            configs: Values by name, as Kafka describes them. *Source*: Kafka's topic configuration.
        """
        policy, milliseconds, size = (
            configs.get(name) for name in ("cleanup.policy", "retention.ms", "retention.bytes")
        )
        if policy is None or milliseconds is None or size is None:
            return None
        if "delete" not in policy:
            return cls(None, None)
        seconds, size_bytes = int(milliseconds) / 1000, int(size)
        return cls(seconds if seconds >= 0 else None, size_bytes if size_bytes >= 0 else None)

    def is_near(self, headroom_seconds: float | None) -> bool:
        """Whether records with this headroom will be deleted soon."""
        share = math.inf if self.seconds is None else self.seconds / 2
        return headroom_seconds is not None and headroom_seconds < min(NEAR_SECONDS, share)


class Waiting(NamedTuple):
    """The oldest waiting record of a partition."""

    offset: int
    timestamp_ms: int | None
    record_bytes: float
    """About what such a record takes in Kafka's log."""

    @classmethod
    def of(cls, record: Record, record_bytes: float) -> "Waiting":
        """Make one from a record and the memory that such a record takes."""
        return cls(record.offset, record.timestamp_ms, record_bytes - RECORD_OVERHEAD_BYTES + LOG_OVERHEAD_BYTES)


class Outlook(NamedTuple):
    """What is known about a partition's oldest waiting record; unknown values are None."""

    waiting_seconds: float | None
    """How old it is; 0 if nothing waits."""
    headroom_seconds: float | None
    """How long Kafka keeps it at least; None also if nothing waits."""


NOTHING_WAITS = Outlook(0.0, None)
UNKNOWN = Outlook(None, None)


def oldest(entries: Iterable[Entry]) -> Waiting | None:
    """Find the oldest waiting record of a partition in its undispatched entries, in order; None if nothing waits."""
    for entry in entries:
        records: Records = entry.batch.records
        index = 0 if entry.pending is None else min((one for one in entry.pending if one >= 0), default=len(records))
        if index < len(records):
            return Waiting.of(records[index], records.size_bytes / len(records))
    return None


class RetentionWatch:
    """Measures how fast logs grow, and estimates how long their waiting records are safe."""

    def __init__(self) -> None:
        self._samples: dict[TopicPartition, deque[tuple[float, Bounds]]] = {}

    def measured(self, found: Mapping[TopicPartition, Bounds], now: float) -> None:
        """Take the bounds of logs; forgets what was known about other logs.

        Args:
            found: The bounds by partition.
            now: Seconds on any clock that only moves forward.
        """
        self._samples = {tp: self._samples.get(tp, deque(maxlen=GROWTH_SAMPLES)) for tp in found}
        for tp, bounds in found.items():
            samples = self._samples[tp]
            if samples and bounds.end < samples[-1][1].end:
                samples.clear()  # the topic was recreated
            samples.append((now, bounds))

    def bounds(self, partition: TopicPartition) -> Bounds | None:
        """Return the newest bounds of a log; None if unknown."""
        samples = self._samples.get(partition)
        return samples[-1][1] if samples else None

    def outlook(
        self, partition: TopicPartition, waiting: Waiting, retention: Retention | None, now_ms: float
    ) -> Outlook:
        """Return what is known about a partition's oldest waiting record.

        Args:
            partition: The partition.
            waiting: That record.
            retention: The retention of its topic; None if unknown.
            now_ms: Milliseconds since the epoch.
        """
        age = None if waiting.timestamp_ms is None else max(0.0, (now_ms - waiting.timestamp_ms) / 1000)
        bounds = self.bounds(partition)
        if bounds is not None and bounds.first > waiting.offset:
            return Outlook(age, 0.0)
        if retention is None:
            return Outlook(age, None)
        until = [self._until_old(waiting, retention, now_ms), self._until_full(partition, waiting, retention)]
        known = [seconds for seconds in until if seconds is not None]
        least = min(known, default=math.inf)
        return Outlook(age, None if least == math.inf and len(known) < len(until) else least)

    @staticmethod
    def _until_old(waiting: Waiting, retention: Retention, now_ms: float) -> float | None:
        if retention.seconds is None:
            return math.inf
        if waiting.timestamp_ms is None:
            return None
        return max(0.0, retention.seconds - (now_ms - waiting.timestamp_ms) / 1000)

    def _until_full(self, partition: TopicPartition, waiting: Waiting, retention: Retention) -> float | None:
        if retention.size_bytes is None:
            return math.inf
        samples = self._samples.get(partition)
        if not samples:
            return None
        (began, first), (now, last) = samples[0], samples[-1]
        room_records = retention.size_bytes / waiting.record_bytes - (last.end - waiting.offset)
        if room_records <= 0:
            return 0.0
        grown = last.end - first.end
        return room_records * (now - began) / grown if grown else math.inf
