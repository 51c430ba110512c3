"""One row of the table of metrics: a name, a help text, and how its numbers are read from a snapshot."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily

from dispatcher.sansio.histogram import HistogramStatistics
from dispatcher.sansio.lag import PartitionLag
from dispatcher.sansio.retention import Outlook
from dispatcher.sansio.topic_health import Condition, Reason
from dispatcher.telemetry.snapshot import Snapshot

Sample = tuple[Sequence[str], float]
"""The values of the labels, and the number."""


class Row(NamedTuple):
    """A metric."""

    family: type[GaugeMetricFamily | CounterMetricFamily]
    name: str
    """Without ``dispatcher_``, and without the ``_total`` that counters get."""
    help: str
    labels: Sequence[str]
    samples: Callable[[Snapshot], Iterable[Sample]]
    """Unknown values have no sample."""


def gauge(name: str, text: str, value: Callable[[Snapshot], float | None]) -> Row:
    """A number that may fall; unknown while the value is None."""
    return Row(GaugeMetricFamily, name, text, (), lambda snapshot: _one(value(snapshot)))


def counter(name: str, text: str, value: Callable[[Snapshot], float | None]) -> Row:
    """A number that only grows; unknown while the value is None."""
    return Row(CounterMetricFamily, name, text, (), lambda snapshot: _one(value(snapshot)))


def _one(value: float | None) -> Iterator[Sample]:
    if value is not None:
        yield (), value


def by_partition(name: str, text: str, value: Callable[[PartitionLag], float | None]) -> Row:
    """A number for each assigned partition."""

    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        for partition, lag in snapshot.pipeline.lags.items():
            if (number := value(lag)) is not None:
                yield (partition.topic, str(partition.partition)), number

    return Row(GaugeMetricFamily, name, text, ("topic", "partition"), samples)


def outlooks(name: str, text: str, value: Callable[[Outlook], float | None]) -> Row:
    """A number for each partition whose retention was examined."""

    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        for partition, outlook in snapshot.pipeline.undelivered.expiry.outlooks.items():
            if (number := value(outlook)) is not None:
                yield (partition.topic, str(partition.partition)), number

    return Row(GaugeMetricFamily, name, text, ("topic", "partition"), samples)


def histogram(name: str, text: str, found: HistogramStatistics) -> HistogramMetricFamily:
    """A histogram, with the newest example of each bucket."""
    buckets: list[Any] = []
    for bound, count, example in zip((*found.bounds, math.inf), found.counts, found.examples, strict=True):
        given = None if example is None else Exemplar({**example.labels}, example.value, example.at)
        buckets.append([repr(bound) if bound < math.inf else "+Inf", count, given])
    return HistogramMetricFamily(f"dispatcher_{name}", text, buckets=buckets, sum_value=found.sum)


def undecided(lag: PartitionLag) -> int | None:
    """Offsets that open transactions hold back, None while unknown."""
    if lag.log_end is None or lag.last_stable_offset is None:
        return None
    return lag.log_end - lag.last_stable_offset


def degraded(conditions: Mapping[str, Condition]) -> Iterator[Sample]:
    """1 or 0 for each name and reason; no samples for a name whose health is unknown."""
    for name, condition in conditions.items():
        if condition.healthy is not None:
            for reason in Reason:
                yield (name, reason), int(condition.reason is reason)
