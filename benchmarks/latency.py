"""How long a record takes from the producer's call to a subscriber's socket, at fixed rates."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Feeder, Load, Meter, watch
from benchmarks.tables import median
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
SUBSCRIBERS = 100
RATES = (10, 100, 1000)
PLACES = ("p50", "p99", "p999")
COLUMNS = ("records/s", "protocol", "deliveries/s", "p50", "p99", "p99.9", "CPU")


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure each rate separately, one record at a time, on four partitions."""
    rows = []
    windows, seconds = (1, 2.0) if quick else (5, 5.0)
    with KafkaCluster(1) as cluster, Load() as load:
        for protocol in ("sse", "websocket"):
            topic = cluster.create_topic(f"latency-{protocol}", 4)
            service = Dispatcher.start(cluster.bootstrap_servers, topic)
            try:
                load.open("all", SUBSCRIBERS, service.address, service.requests[protocol])
                meter = Meter(*service.pids)
                for rate in (100,) if quick else RATES:
                    tell(f"{protocol}, {rate:,} records/s")
                    with Feeder(cluster.bootstrap_servers, topic, per_second=float(rate), partitions=4) as feeder:
                        time.sleep(2)
                        seen = [watch(load, meter, seconds) for _ in range(windows)]
                        late_seconds = feeder.late_seconds
                    rows.append(
                        {
                            "protocol": protocol,
                            "rate": rate,
                            "latency_us": [dict(window.groups["all"]["latency_us"]) for window in seen],
                            "per_second": [window.records / window.seconds for window in seen],
                            "cpu": [window.cpu_seconds / window.seconds for window in seen],
                            "producer_late_seconds": late_seconds,
                        }
                    )
                load.close("all")
            finally:
                service.end()
    return rows


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people, with medians of the windows."""
    return (
        f"{row['rate']:,}",
        row["protocol"],
        f"{median(row['per_second']):,.0f}",
        *(f"{_median_ms(row, place):.2f} ms" for place in PLACES),
        f"{median(row['cpu']):.0%}",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        f"{place} in ms, {SUBSCRIBERS} subscribers": {
            f"{row['protocol']}, {row['rate']:,} records/s": _median_ms(row, place) for row in rows
        }
        for place in PLACES[:2]
    }


def _median_ms(row: Mapping[str, Any], place: str) -> float:
    return median(window[place] / 1000 for window in row["latency_us"])
