"""How long records take to pass through this replica, as histograms, and which records are traced.

Work is done once per batch and once per traced record, never once per subscriber.

*Thread*: Trio's.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dispatcher.sansio.histogram import Example, Histogram, HistogramStatistics
from dispatcher.sansio.records import Batch, Headers, TopicPartition
from dispatcher.sansio.sampling import Chosen, Producer

MAX_TRACED = 100
"""Maximum number of traced records that wait for their first dispatch: newer ones push the oldest out. Records that
nobody wants, and parked records, are never dispatched. The first subscriber after a while may take all waiting records
in one step of the loop."""


class Traced(NamedTuple):
    """A traced record."""

    partition: TopicPartition
    offset: int
    producer: Producer | None
    began_ns: int
    """When it crossed, in nanoseconds since the epoch."""


class Tracer(Protocol):
    """Chooses the records to trace, and receives their spans."""

    left_out: int
    """Records that were sampled but not chosen."""

    def choose(self, headers: Sequence[Headers]) -> Sequence[Chosen]:
        """Choose which of these records are traced."""

    def dispatched(self, traced: Traced, ended_ns: int) -> tuple[int, int]:
        """Take a record's span, which ends at its first dispatch; returns the ids of trace and span."""


@dataclass(frozen=True, slots=True)
class DispatchStatistics:
    """A snapshot of the times."""

    dispatch_seconds: HistogramStatistics
    write_seconds: HistogramStatistics
    spans: int
    """Spans since the start."""
    traced: int
    """Traced records that wait for their first dispatch."""
    left_out: int
    """Records that were sampled and got no span: there were too many at once, newer ones pushed them out, or their
    partition left."""


class DispatchTimes:
    """The histograms, and the records that are traced, from their crossing to their first dispatch."""

    def __init__(self) -> None:
        self.tracer: Tracer | None = None
        """None: nothing is traced."""
        self._dispatch_seconds = Histogram()
        self._write_seconds = Histogram()
        self._traced: dict[TopicPartition, list[Traced]] = {}
        """In order of offsets."""
        self._number = self._spans = self._abandoned = 0
        self._last: tuple[int, int] | None = None
        """The newest span, until the write in which its record was dispatched has ended."""

    def taken(self, batch: Batch) -> None:
        """Note that a batch of an owned partition has crossed, and is about to be published."""
        batch.taken_at = time.perf_counter()
        if self.tracer is not None:
            for index, producer in self.tracer.choose(batch.records.headers):
                if self._number >= MAX_TRACED:
                    self._abandon_oldest()
                traced = Traced(batch.partition, batch.records.offsets[index], producer, time.time_ns())
                self._traced.setdefault(batch.partition, []).append(traced)
                self._number += 1

    def dispatched(self, batch: Batch, number: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Note that records of a batch were dispatched for the first time.

        Args:
            batch: The batch. Those of followed partitions are not counted.
            number: How many records.
            ranges: Their offsets (the end excluded), and perhaps some that were dispatched before.
        """
        if batch.taken_at is None:
            return
        seconds = time.perf_counter() - batch.taken_at
        if number:
            self._dispatch_seconds.observe(seconds, number)
        if self._traced and (waiting := self._traced.get(batch.partition)) is not None:
            for start, end in ranges:
                for traced in self._pop(waiting, start, end):
                    self._end(traced, seconds)
            if not waiting:
                del self._traced[batch.partition]

    def wrote(self, seconds: float) -> None:
        """Note that a write was offered to every live subscriber of its feed."""
        self._write_seconds.observe(seconds)
        if self._last is not None:
            self._write_seconds.give_example(Example(*self._last, seconds, time.time()))
            self._last = None

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions that leave or start over: their undispatched records get no span here."""
        if self._traced:
            for partition in partitions:
                gone = len(self._traced.pop(partition, ()))
                self._number -= gone
                self._abandoned += gone

    def statistics(self) -> DispatchStatistics:
        """A snapshot."""
        return DispatchStatistics(
            self._dispatch_seconds.statistics(),
            self._write_seconds.statistics(),
            self._spans,
            self._number,
            self._abandoned + (0 if self.tracer is None else self.tracer.left_out),
        )

    def _abandon_oldest(self) -> None:
        """Drop the oldest record of the partition that has waited longest, which may not be the oldest of all."""
        partition, waiting = next(iter(self._traced.items()))
        del waiting[0]
        if not waiting:
            del self._traced[partition]
        self._number -= 1
        self._abandoned += 1

    def _pop(self, waiting: list[Traced], start: int, end: int) -> Sequence[Traced]:
        first = bisect_left(waiting, start, key=_offset)
        last = bisect_left(waiting, end, lo=first, key=_offset)
        found = waiting[first:last]
        del waiting[first:last]
        self._number -= len(found)
        return found

    def _end(self, traced: Traced, seconds: float) -> None:
        assert self.tracer is not None  # noqa: S101 - it chose the record
        now_ns = time.time_ns()
        self._last = self.tracer.dispatched(traced, now_ns)
        self._dispatch_seconds.give_example(Example(*self._last, seconds, now_ns / 1e9))
        self._spans += 1


def _offset(traced: Traced) -> int:
    return traced.offset
