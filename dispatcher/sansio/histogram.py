"""A histogram: how long something took, counted in buckets, with the newest example of each bucket.

prometheus-client's own counts one value at a time; a batch of records took the same time, and is counted at once.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
"""Upper bounds of the buckets, in seconds: from what a quiet machine needs to records that waited for a subscriber."""


@dataclass(frozen=True, slots=True)
class Example:
    """One value of a bucket, and where to look for what happened."""

    labels: Mapping[str, str]
    value: float
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class HistogramStatistics:
    """A snapshot of a histogram."""

    bounds: Sequence[float]
    """Upper bounds of all buckets but the last, which has none."""
    counts: Sequence[int]
    """How many values were at most each bound; the last one: all."""
    sum: float
    examples: Sequence[Example | None]
    """The newest of each bucket, None where there is none."""


class Histogram:
    """Counts values by bucket.

    Args:
        bounds: Upper bounds, ascending.
    """

    __slots__ = ("_bounds", "_counts", "_examples", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._examples: list[Example | None] = [None] * len(self._counts)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, as often as it was seen."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def give_example(self, example: Example) -> None:
        """Remember an example of the bucket that its value belongs to; it is counted elsewhere."""
        self._examples[bisect_left(self._bounds, example.value)] = example

    def statistics(self) -> HistogramStatistics:
        """A snapshot."""
        return HistogramStatistics(self._bounds, tuple(accumulate(self._counts)), self._sum, tuple(self._examples))
