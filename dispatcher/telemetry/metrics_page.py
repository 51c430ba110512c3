"""The page of ``/metrics``: the table of metrics, read from a snapshot, and the process's own metrics."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dispatcher import __version__
from dispatcher.telemetry.metrics import ROWS
from dispatcher.telemetry.snapshot import Snapshot


class Metrics(Collector):
    """Makes the page.

    *Thread*: one at a time, any.

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
        """The page, with the process's own metrics."""
        self._snapshot = snapshot
        try:
            return generate_latest(self._registry)
        finally:
            self._snapshot = None

    def collect(self) -> Iterator[Metric]:
        """The metrics, for prometheus-client."""
        if self._snapshot is None:
            return
        # Addresses change with each task; this lets queries join the other metrics with a stable name.
        info = GaugeMetricFamily(
            "dispatcher_info", "1, with the replica's name and version.", labels=["replica", "version"]
        )
        info.add_metric([self._replica, __version__], 1)
        yield info
        for row in ROWS:
            family = row.family(f"dispatcher_{row.name}", row.help, labels=row.labels)
            for labels, value in row.samples(self._snapshot):
                family.add_metric(labels, value)
            yield family
