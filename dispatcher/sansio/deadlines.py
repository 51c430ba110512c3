"""Decides which waiting records are overdue, and what happens to them.

Rules of this module:

* A waiting record is overdue when its own timestamp is older than the deadline of its topic allows. Each record is
  judged separately; those of a partition are returned in offset order.
* A partition that was just assigned has a grace period: after a restart, subscribers need a moment to connect.
* A gap before an overdue record goes with the record: nobody is there to be sent the gap, either.
* A record without a timestamp has no deadline.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from dispatcher.sansio.entries import GAP, Entry
from dispatcher.sansio.records import TopicPartition

GRACE_SECONDS = 30.0
"""The longest grace period; with a shorter deadline, it is as long as the deadline."""


class Action(StrEnum):
    """What happens to overdue records."""

    LOG = "log"
    """They are counted and logged, and keep waiting."""
    SKIP = "skip"
    """They count as dispatched."""
    DEAD_LETTER = "dead-letter"
    """They are written to the dead-letter topic, and then count as dispatched."""


class Deadline(NamedTuple):
    """How long records of a topic may wait."""

    seconds: float
    action: Action

    @property
    def grace_seconds(self) -> float:
        """How long after its assignment a partition has no overdue records."""
        return min(self.seconds, GRACE_SECONDS)

    def cutoff_ms(self, now_ms: float) -> float:
        """Return the latest timestamp that is overdue."""
        return now_ms - 1000 * self.seconds


class Overdue(NamedTuple):
    """The overdue records of one entry."""

    entry: Entry
    indexes: list[int]
    """The records' indexes in offset order, preceded by `GAP` if a gap goes with them."""

    @property
    def records(self) -> list[int]:
        """Return the indexes without `GAP`."""
        return [index for index in self.indexes if index != GAP]


def overdue(entries: Iterable[Entry], cutoff_ms: float, passed_over: Collection[int] = ()) -> list[Overdue]:
    """Return the overdue records of a partition.

    Args:
        entries: The undispatched entries of the partition, in order.
        cutoff_ms: See `Deadline.cutoff_ms`.
        passed_over: Sequences of entries to leave out, because they are being written to a subscriber.
    """
    found: list[Overdue] = []
    gaps: list[Overdue] = []
    for entry in entries:
        if entry.sequence in passed_over:
            gaps.clear()
            continue
        times = entry.batch.records.timestamps_ms
        pending = entry.pending
        has_gap = entry.batch.gap is not None if pending is None else GAP in pending
        indexes: Iterable[int] = range(len(times)) if pending is None else sorted(pending - {GAP})
        due = [index for index in indexes if (time_ms := times[index]) is not None and time_ms <= cutoff_ms]
        if due:
            found += gaps
            gaps.clear()
            found.append(Overdue(entry, [GAP, *due] if has_gap else due))
        elif len(times):
            gaps.clear()
        elif has_gap:
            gaps.append(Overdue(entry, [GAP]))
    return found


@dataclass(slots=True)
class _Held:
    epoch: int
    since: float
    logged_to: int
    """Overdue records before this offset have been reported already."""


class DeadlineWatch:
    """Remembers how long partitions have been held, and which overdue records were reported.

    Args:
        deadlines: The deadline of each topic that has one.
    """

    def __init__(self, deadlines: Mapping[str, Deadline]) -> None:
        self._deadlines = deadlines
        self._held: dict[TopicPartition, _Held] = {}

    def look(self, partitions: Mapping[TopicPartition, int], now: float) -> dict[TopicPartition, Deadline]:
        """Return the partitions in which records may be overdue, with their deadlines.

        Args:
            partitions: The epoch of every assigned partition; others are forgotten.
            now: Seconds on any clock that only moves forward.
        """
        self._held = {
            tp: held if (held := self._held.get(tp)) is not None and held.epoch == epoch else _Held(epoch, now, 0)
            for tp, epoch in partitions.items()
            if tp.topic in self._deadlines
        }
        return {
            tp: deadline
            for tp, held in self._held.items()
            if now - held.since >= (deadline := self._deadlines[tp.topic]).grace_seconds
        }

    def news(self, partition: TopicPartition, found: Iterable[Overdue]) -> int:
        """Return how many overdue records were not reported before, and note that they are now."""
        held = self._held[partition]
        offsets = [one.entry.batch.records.offsets[index] for one in found for index in one.records]
        new = [offset for offset in offsets if offset >= held.logged_to]
        held.logged_to = max([held.logged_to, *(offset + 1 for offset in new)])
        return len(new)
