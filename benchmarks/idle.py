"""The cost of an idle subscriber: memory, CPU between heartbeats, and connecting."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Load, Meter, watch
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
COLUMNS = ("protocol", "connections", "memory each", "CPU, heartbeats every 15 s", "connections/s", "CPU to connect")


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Open connections, and leave them idle."""
    rows = []
    with KafkaCluster(1) as cluster, Load() as load:
        for protocol in ("sse", "websocket"):
            for connections in (1000,) if quick else (1000, 10_000):
                tell(f"{protocol}, {connections:,} connections")
                topic = cluster.create_topic(f"idle-{protocol}-{connections}", 1)
                service = Dispatcher.start(cluster.bootstrap_servers, topic)
                try:
                    meter = Meter(*service.pids)
                    # One-time costs of the first connections must not count.
                    load.open("first", 50, service.address, service.requests[protocol])
                    load.close("first")
                    time.sleep(1)
                    resident, cpu, began = meter.resident_bytes(), meter.cpu_seconds(), time.monotonic()
                    load.open("idle", connections, service.address, service.requests[protocol])
                    took, cpu = time.monotonic() - began, meter.cpu_seconds() - cpu
                    time.sleep(2)
                    grown = meter.resident_bytes() - resident
                    idle = watch(load, meter, 3.0 if quick else 30.0)
                    rows.append(
                        {
                            "protocol": protocol,
                            "connections": connections,
                            "bytes_each": grown / connections,
                            "cpu": idle.cpu_seconds / idle.seconds,
                            "per_second": connections / took,
                            "connect_cpu_us": cpu / connections * 1e6,
                            "open": idle.groups["idle"]["open"],
                        }
                    )
                    load.close("idle")
                finally:
                    service.end()
    return rows


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        row["protocol"],
        f"{row['connections']:,}",
        f"{row['bytes_each'] / 1024:.1f} KiB",
        f"{row['cpu']:.1%}",
        f"{row['per_second']:,.0f}",
        f"{row['connect_cpu_us'] / 1000:.2f} ms",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    names = [f"{row['protocol']}, {row['connections']:,}" for row in rows]
    return {
        "KiB for each idle subscriber": {n: row["bytes_each"] / 1024 for n, row in zip(names, rows, strict=True)},
        "% of a core for all of them": {n: row["cpu"] * 100 for n, row in zip(names, rows, strict=True)},
    }
