"""A histogram: counts durations in buckets, and keeps the newest example of each bucket.

prometheus-client's histogram counts one value at a time. All records of a batch have the same value, which is counted
for all of them at once.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
"""Upper bounds of the buckets, in seconds: from the latency on a quiet machine to records that waited for a
subscriber."""


class Example(NamedTuple):
    """One value of a bucket, with the span in which it was measured."""

    trace_id: int
    span_id: int
    value: float
    at: float
    """When it happened, in seconds since the epoch."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The span's ids as Prometheus wants them: they are only spelled out for those who ask."""
        return {"trace_id": f"{self.trace_id:032x}", "span_id": f"{self.span_id:016x}"}


@dataclass(frozen=True, slots=True)
class HistogramStatistics:
    """A snapshot of a histogram."""

    bounds: Sequence[float]
    """Upper bounds of all buckets except the last, which has none."""
    counts: Sequence[int]
    """How many values were at or below each bound; the last count is of all values."""
    sum: float
    examples: Sequence[Example | None]
    """The newest example of each bucket; None if there is none."""


class Histogram:
    """Counts values by bucket.

    Args:
        bounds: Upper bounds in ascending order.
    """

    __slots__ = ("_bounds", "_counts", "_examples", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._examples: list[Example | None] = [None] * len(self._counts)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value this many times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def give_example(self, example: Example) -> None:
        """Remember an example in the bucket of its value, without counting it."""
        self._examples[bisect_left(self._bounds, example.value)] = example

    def statistics(self) -> HistogramStatistics:
        """A snapshot."""
        return HistogramStatistics(self._bounds, tuple(accumulate(self._counts)), self._sum, tuple(self._examples))
