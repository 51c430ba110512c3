"""The page of ``/metrics``: the table of metrics, read from a snapshot, and the process's own metrics."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from dispatcher import __version__
from dispatcher.telemetry.metrics import ROWS
from dispatcher.telemetry.rows import histogram
from dispatcher.telemetry.snapshot import Snapshot


def replica_info(replica: str) -> Metric:
    """Return ``dispatcher_info``: addresses change with each task; this lets queries join a stable name.

    Args:
        replica: The replica's name.
    """
    info = GaugeMetricFamily(
        "dispatcher_info", "1, with the replica's name and version.", labels=["replica", "version"]
    )
    info.add_metric([replica, __version__], 1)
    return info


class Metrics(Collector):
    """Makes the page.

    *Thread*: any, one at a time: two pages must not be made at once.

    Args:
        replica: The replica's name.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._snapshot: Snapshot | None = None
        self._registry = CollectorRegistry()
        for make in (ProcessCollector, PlatformCollector, GCCollector):
            make(registry=self._registry)
        self._registry.register(self)

    def render(self, snapshot: Snapshot) -> bytes:
        """The page in Prometheus's text format, with the process's own metrics."""
        return self._render(snapshot, generate_latest)

    def render_openmetrics(self, snapshot: Snapshot) -> bytes:
        """The page in the OpenMetrics format, which has room for examples."""
        return self._render(snapshot, openmetrics.generate_latest)

    def _render(self, snapshot: Snapshot, generate: Callable[[CollectorRegistry], bytes]) -> bytes:
        self._snapshot = snapshot
        try:
            return generate(self._registry)
        finally:
            self._snapshot = None

    def collect(self) -> Iterator[Metric]:
        """The metrics, for prometheus-client."""
        if self._snapshot is None:
            return
        yield replica_info(self._replica)
        for row in ROWS:
            family = row.family(f"dispatcher_{row.name}", row.help, labels=row.labels)
            for labels, value in row.samples(self._snapshot):
                family.add_metric(labels, value)
            yield family
        times = self._snapshot.hub.times
        yield histogram(
            "dispatch_seconds",
            "Time from a record's crossing, when the Kafka client hands it over, to its first dispatch.",
            times.dispatch_seconds,
        )
        yield histogram(
            "write_seconds",
            "Time from the beginning of a write until it was offered to every live subscriber of its feed.",
            times.write_seconds,
        )
