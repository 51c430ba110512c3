"""How frozen subscribers affect healthy ones: latency of 100, with and without 900 that read nothing."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Feeder, Load, Meter, watch
from benchmarks.tables import median
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
HEALTHY, FROZEN = 100, 900
RATE = 200.0
COLUMNS = ("protocol", "p50, alone", "p50, with frozen", "p99, alone", "p99, with frozen", "ratio of p99", "memory")


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure in turns on one server: alone, beside frozen ones, alone, and so on."""
    rows = []
    turns, seconds = (1, 2.0) if quick else (5, 6.0)
    with KafkaCluster(1) as cluster, Load() as load:
        for protocol in ("sse", "websocket"):
            topic = cluster.create_topic(f"isolation-{protocol}", 4)
            # Frozen connections must not be closed during the measurement.
            service = Dispatcher.start(
                cluster.bootstrap_servers, topic, stall_timeout_seconds=600, subscriber_buffer_bytes=65536
            )
            row: dict[str, Any] = {"protocol": protocol, "alone": [], "beside": [], "resident_bytes": []}
            try:
                load.open("healthy", HEALTHY, service.address, service.requests[protocol])
                with Feeder(cluster.bootstrap_servers, topic, per_second=RATE, partitions=4):
                    meter = Meter(*service.pids)
                    time.sleep(2)
                    for turn in range(turns):
                        tell(f"{protocol}, turn {turn + 1} of {turns}")
                        row["alone"].append(dict(watch(load, meter, seconds).groups["healthy"]["latency_us"]))
                        load.open(
                            "frozen",
                            FROZEN,
                            service.address,
                            service.requests[protocol],
                            frozen=True,
                            receive_buffer_bytes=4096,
                        )
                        time.sleep(seconds)  # until their buffers are full
                        row["beside"].append(dict(watch(load, meter, seconds).groups["healthy"]["latency_us"]))
                        row["resident_bytes"].append(meter.resident_bytes())
                        row["status"] = service.replica.status()["subscribers"]
                        load.close("frozen")
                        time.sleep(1)
                load.close("healthy")
            finally:
                service.end()
            rows.append(row)
    return rows


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people, with medians of the turns."""

    def of(side: str, place: str) -> float:
        return median(turn[place] for turn in row[side])

    return (
        row["protocol"],
        f"{of('alone', 'p50') / 1000:.2f} ms",
        f"{of('beside', 'p50') / 1000:.2f} ms",
        f"{of('alone', 'p99') / 1000:.2f} ms",
        f"{of('beside', 'p99') / 1000:.2f} ms",
        f"{of('beside', 'p99') / of('alone', 'p99'):.2f}",
        f"{max(row['resident_bytes']) / 2**20:.0f} MiB",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        f"p99 latency of {HEALTHY} healthy subscribers, ms, {row['protocol']}": {
            "alone": median(turn["p99"] / 1000 for turn in row["alone"]),
            f"beside {FROZEN} frozen ones": median(turn["p99"] / 1000 for turn in row["beside"]),
        }
        for row in rows
    }
