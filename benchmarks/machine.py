"""How a whole machine is used: 1, 2, 4, ... workers on one port, and Centrifugo if it can be built.

With four cores or more, the service gets one half of them, and broker and load generators the other. With fewer, all
share them, and the figures only show whether more workers cost anything.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Feeder, Load, Meter
from benchmarks.peers.known import Centrifugo
from benchmarks.peers.service import CannotRunError
from benchmarks.tables import amount, median
from benchmarks.targets import Dispatcher, Target
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
COLUMNS = (
    "service",
    "subscribers x records/s",
    "deliveries/s",
    "arrived in time",
    "latency p50 / p99",
    "CPU",
    "deliveries/CPU s",
    "connect",
    "memory",
)
SUBSCRIBERS_PER_CORE = 1000
RATES = (25, 100)
PARTITIONS = 8
MOST_LOADS = 6
WARM_SECONDS = 2.0

Cores = frozenset[int]


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure one service after the other on one broker."""
    windows, seconds = (1, 1.0) if quick else (3, 3.0)
    ours, others = share(frozenset(os.sched_getaffinity(0)))
    subscribers = 200 if quick else SUBSCRIBERS_PER_CORE * len(ours)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        stack.enter_context(on(others))
        cluster = stack.enter_context(KafkaCluster(1))
        loads = [stack.enter_context(Load()) for _ in range(min(MOST_LOADS, max(1, len(others) // 2)))]
        for name, start in services(len(ours), quick=quick):
            tell(name)
            topic = cluster.create_topic(f"machine-{len(rows)}", PARTITIONS)
            row: dict[str, Any] = {"service": name, "subscribers": subscribers, "cores": len(ours), "rates": []}
            rows.append(row)
            try:
                with on(ours):
                    service = start(cluster.bootstrap_servers, topic, ours)
            except CannotRunError as error:
                row["failed"] = str(error)
                continue
            try:
                row |= connect(loads, service, subscribers)
                for rate in RATES[:1] if quick else RATES:
                    tell(f"{name}, {rate} records/s")
                    row["rates"].append(
                        measure(loads, service, cluster.bootstrap_servers, topic, rate, subscribers, windows, seconds)
                    )
                for load in loads:
                    load.close("all")
            finally:
                service.end()
    return rows


def share(cores: Cores) -> tuple[Cores, Cores]:
    """Return the service's cores, and those of broker and load generators; with fewer than four, both get all."""
    ordered = sorted(cores)
    half = len(ordered) // 2
    return (frozenset(ordered[:half]), frozenset(ordered[half:])) if half > 1 else (cores, cores)


Start = Callable[[str, str, Cores], Target]


def services(cores: int, *, quick: bool) -> Iterator[tuple[str, Start]]:
    """Yield what is measured, by name: at most as many workers as there are cores."""
    workers = 1
    while workers <= cores:
        yield f"dispatcher, {workers} worker{'s' if workers > 1 else ''}", starting(workers)
        workers *= 2
    if not quick:
        yield Centrifugo.name, lambda servers, topic, _: settled(Centrifugo(), servers, topic)


def starting(workers: int) -> Start:
    """Return a function that starts the dispatcher, and waits until all partitions have an owner."""

    def start(bootstrap_servers: str, topic: str, cores: Cores) -> Target:
        pinned = ("taskset", "--cpu-list", ",".join(map(str, sorted(cores))))
        return Dispatcher.start_workers(bootstrap_servers, topic, workers, PARTITIONS, pinned)

    return start


def settled(peer: Centrifugo, bootstrap_servers: str, topic: str) -> Target:
    """Start a peer, and wait until it consumes."""
    service = peer.start(bootstrap_servers, topic)
    time.sleep(peer.settle_seconds)
    return service


def connect(loads: Sequence[Load], service: Target, subscribers: int) -> dict[str, Any]:
    """Open all connections at once; returns how long that took, and what it cost the service."""
    meter = Meter(*service.pids)
    cpu, began = meter.cpu_seconds(), time.monotonic()
    each = subscribers // len(loads)
    with ThreadPoolExecutor(len(loads)) as pool:
        list(pool.map(lambda load: load.open("all", each, service.address, service.requests["sse"]), loads))
    return {
        "connect_seconds": time.monotonic() - began,
        "connect_cpu_ms": (meter.cpu_seconds() - cpu) * 1000 / (each * len(loads)),
    }


def measure(  # noqa: PLR0917 - one caller
    loads: Sequence[Load],
    service: Target,
    bootstrap_servers: str,
    topic: str,
    rate: int,
    subscribers: int,
    windows: int,
    seconds: float,
) -> dict[str, Any]:
    """Measure one rate: single records, each to all subscribers."""
    wanted = rate * (subscribers // len(loads)) * len(loads)
    meter = Meter(*service.pids)
    found: dict[str, Any] = {"rate": rate, "per_second": [], "cpu": [], "p50_us": [], "p99_us": []}
    with (
        Feeder(
            bootstrap_servers,
            topic,
            per_second=rate,
            partitions=PARTITIONS,
            make_value=service.make_value,
            headers=service.headers,
        ) as feeder,
        ThreadPoolExecutor(len(loads)) as pool,
    ):
        time.sleep(WARM_SECONDS)
        list(pool.map(Load.report, loads))
        for _ in range(windows):
            cpu, began = meter.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            groups = [report["groups"]["all"] for report in pool.map(Load.report, loads)]
            took = time.monotonic() - began
            found["per_second"].append(sum(group["records"] for group in groups) / took)
            found["cpu"].append((meter.cpu_seconds() - cpu) / took)
            for place in ("p50", "p99"):
                # The worst load generator counts.
                found[f"{place}_us"].append(max(group["latency_us"].get(place, 0) for group in groups))
        found["producer_late_seconds"] = feeder.late_seconds
    found["share"] = median(found["per_second"]) / wanted
    found["resident_bytes"] = meter.resident_bytes()
    return found


@contextmanager
def on(cores: Cores) -> Iterator[None]:
    """Within the block, run this process and everything that it starts on these cores."""
    before = os.sched_getaffinity(0)
    _pin(cores)
    try:
        yield
    finally:
        _pin(frozenset(before))


def _pin(cores: Cores) -> None:
    # Each thread has its own setting, and passes it on to the processes that it starts.
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people, with its last rate; the others are in the figures."""
    if not row["rates"]:
        return (row["service"], row.get("failed", ""), *[""] * (len(COLUMNS) - 2))
    last = row["rates"][-1]
    per_second, cpu = median(last["per_second"]), median(last["cpu"])
    return (
        row["service"],
        f"{row['subscribers']:,} x {last['rate']}",
        amount(per_second),
        f"{last['share']:.0%}",
        f"{median(last['p50_us']) / 1000:.1f} / {median(last['p99_us']) / 1000:.1f} ms",
        f"{cpu:.2f} of {row['cores']} cores",
        amount(per_second / max(cpu, 1e-9)),
        f"{row['connect_seconds']:.1f} s, {row['connect_cpu_ms']:.2f} ms of CPU each",
        f"{last['resident_bytes'] / 2**20:.0f} MiB",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    measured = [row for row in rows if row["rates"]]
    return {
        "p99 latency, ms": {row["service"]: median(row["rates"][-1]["p99_us"]) / 1000 for row in measured},
        "deliveries per second": {row["service"]: median(row["rates"][-1]["per_second"]) for row in measured},
    }
