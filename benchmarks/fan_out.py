"""Deliveries per CPU second of the server, over subscribers and records per write, beside a bare loop of sends."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import VALUE_BYTES, Feeder, Load, Meter, Probe, Window, watch
from benchmarks.tables import amount, median
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
SUBSCRIBERS = (1, 100, 1000, 5000)
BURSTS = (1, 10, 100)
BURSTS_PER_SECOND = {1: (100, 100, 100), 100: (100, 100, 50), 1000: (50, 50, 10), 5000: (6, 6, 2)}
"""By number of subscribers, for each of `BURSTS`: about half of what one core can do."""
RECORD_BYTES = VALUE_BYTES + 30
"""The size of an event: the value, its id, and the bytes around them."""

COLUMNS = (
    "subscribers",
    "records per write",
    "protocol",
    "deliveries/CPU s",
    "bare loop",
    "share of it",
    "CPU",
    "latency p50 / p99",
    "/livez p99",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the whole benchmark."""
    rows: list[dict[str, Any]] = []
    windows, seconds = (1, 1.0) if quick else (5, 3.0)
    with KafkaCluster(1) as cluster, Load() as load:
        for subscribers in (1000,) if quick else SUBSCRIBERS:
            for burst, bursts_per_second in zip(BURSTS, BURSTS_PER_SECOND[subscribers], strict=True):
                tell(f"{subscribers} subscribers, {burst} records per write")
                limit = bare_loop(load, subscribers, burst, bursts_per_second, windows)
                for protocol in ("sse", "websocket"):
                    topic = cluster.create_topic(f"fan-out-{subscribers}-{burst}-{protocol}", 1)
                    service = Dispatcher.start(cluster.bootstrap_servers, topic)
                    try:
                        load.open("all", subscribers, service.address, service.requests[protocol])
                        with Feeder(
                            cluster.bootstrap_servers, topic, per_second=burst * bursts_per_second, burst=burst
                        ) as feeder:
                            time.sleep(1.5)
                            meter = Meter(*service.pids)
                            seen = [watch(load, meter, seconds) for _ in range(windows)]
                            late_seconds = feeder.late_seconds
                            # In a separate window: 50 requests per second cost as much CPU as a small fan-out.
                            with Probe(service.address) as probe:
                                time.sleep(2 * seconds)
                        load.close("all")
                    finally:
                        service.end()
                    rows.append(
                        {
                            "subscribers": subscribers,
                            "burst": burst,
                            "protocol": protocol,
                            "bare": limit,
                            "livez_p99_ms": probe.p99,
                            "producer_late_seconds": late_seconds,
                        }
                        | summary(seen)
                    )
    return rows


def summary(windows: Sequence[Window]) -> dict[str, Any]:
    """Return the medians of some windows, and the deliveries per CPU second of each."""
    groups = [window.groups["all"] for window in windows]
    return {
        "per_cpu_second": [window.per_cpu_second for window in windows],
        "cpu": statistics.median(window.cpu_seconds / window.seconds for window in windows),
        "records_a_read": sum(group["records"] for group in groups) / max(1, sum(group["reads"] for group in groups)),
        "p50_us": statistics.median(group["latency_us"].get("p50", 0) for group in groups),
        "p99_us": statistics.median(group["latency_us"].get("p99", 0) for group in groups),
        "records": sum(group["records"] for group in groups),
    }


def bare_loop(load: Load, subscribers: int, burst: int, bursts_per_second: float, windows: int) -> list[float]:
    """Return the deliveries per CPU second of a loop that only sends (`benchmarks.bare`), at the same rate."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as bare:
        assert bare.stdin is not None
        assert bare.stdout is not None
        port = json.loads(bare.stdout.readline())["port"]
        load.open("bare", subscribers, ("127.0.0.1", port), "GET / HTTP/1.1\r\n\r\n")
        found = []
        times = max(2, int(2 * bursts_per_second))
        for _ in range(windows):
            bare.stdin.write(f"{RECORD_BYTES} {burst} {times} {1 / bursts_per_second}\n")
            bare.stdin.flush()
            found.append(subscribers * burst * times / json.loads(bare.stdout.readline())["cpu_seconds"])
        load.close("bare")
        bare.kill()
    return found


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    ours, bare = statistics.median(row["per_cpu_second"]), statistics.median(row["bare"])
    return (
        f"{row['subscribers']:,}",
        str(row["burst"]),
        row["protocol"],
        amount(ours),
        amount(bare),
        f"{ours / bare:.0%}",
        f"{row['cpu']:.0%}",
        f"{row['p50_us'] / 1000:.1f} / {row['p99_us'] / 1000:.1f} ms",
        f"{row['livez_p99_ms']:.1f} ms",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture: deliveries per CPU second to the most subscribers that all points have."""
    most = 1000
    return {
        f"deliveries per CPU second, {most:,} subscribers, {burst} records per write": {
            **{row["protocol"]: median(row["per_cpu_second"]) for row in rows if is_at(row, most, burst)},
            "bare loop": median(next((row["bare"] for row in rows if is_at(row, most, burst)), [])),
        }
        for burst in BURSTS
    }


def is_at(row: Mapping[str, Any], subscribers: int, burst: int) -> bool:
    """Whether a row is about this point."""
    return (row["subscribers"], row["burst"]) == (subscribers, burst)
