"""CPU time and bytes of a delivery, over subscribers and records per write, beside a bare loop of sends.

For one number of subscribers, with compression and with several workers as well.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.harness import Feeder, Load, Meter, Probe, Window, watch
from benchmarks.tables import median, share_of_cpu_second
from benchmarks.targets import WORKERS, Dispatcher
from benchmarks.values import VEHICLE_BYTES, stamped_vehicle
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
SUBSCRIBERS = (1, 100, 1000, 5000)
BURSTS = (1, 10, 100)
BURSTS_PER_SECOND = {1: (100, 100, 100), 100: (100, 100, 50), 1000: (50, 50, 10), 5000: (6, 6, 2)}
"""By number of subscribers, for each of `BURSTS`: about half of what one core can do."""
RECORD_BYTES = VEHICLE_BYTES + 30
"""The size of an event: the value, its id, and the bytes around them."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the dispatcher."""

    name: str
    start: Callable[[str, str], Dispatcher]
    partitions: int = 1


PLAIN = Variant("plain", Dispatcher.start)
VARIANTS = (
    PLAIN,
    Variant("compressed", Dispatcher.start_compressed),
    Variant(f"{WORKERS} workers", partial(Dispatcher.start_workers, workers=WORKERS, partitions=WORKERS), WORKERS),
)
VARIED_SUBSCRIBERS = 1000
VARIED_BURSTS = (1, 100)
"""Where all variants run; elsewhere only the plain one does."""

COLUMNS = (
    "subscribers",
    "records per write",
    "protocol",
    "variant",
    "bytes per delivery",
    "CPU per delivery",
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
        for subscribers, burst, variants in points(quick=quick):
            tell(f"{subscribers} subscribers, {burst} records per write")
            bursts_per_second = BURSTS_PER_SECOND[subscribers][BURSTS.index(burst)]
            limit = bare_loop(load, subscribers, burst, bursts_per_second, windows)
            for variant in variants:
                for protocol in ("sse", "websocket"):
                    row: dict[str, Any] = {"subscribers": subscribers, "burst": burst, "protocol": protocol}
                    row |= {"variant": variant.name, "bare": limit}
                    rows.append(row | measure(cluster, load, variant, row, bursts_per_second, windows, seconds))
    for row in rows:
        row["relative"] = relative(row, rows)
    return rows


def points(*, quick: bool) -> Iterator[tuple[int, int, Sequence[Variant]]]:
    """Yield numbers of subscribers and of records per write, and the variants to measure there."""
    if quick:
        yield VARIED_SUBSCRIBERS, 1, (PLAIN,)
        yield VARIED_SUBSCRIBERS, 100, VARIANTS
        return
    for subscribers in SUBSCRIBERS:
        for burst in BURSTS:
            is_varied = subscribers == VARIED_SUBSCRIBERS and burst in VARIED_BURSTS
            yield subscribers, burst, VARIANTS if is_varied else (PLAIN,)


def measure(  # noqa: PLR0917 - one caller
    cluster: KafkaCluster,
    load: Load,
    variant: Variant,
    row: Mapping[str, Any],
    bursts_per_second: float,
    windows: int,
    seconds: float,
) -> dict[str, Any]:
    """Measure one variant at one point."""
    subscribers, burst, protocol = row["subscribers"], row["burst"], row["protocol"]
    topic = cluster.create_topic(
        f"fan-out-{subscribers}-{burst}-{protocol}-{VARIANTS.index(variant)}", variant.partitions
    )
    service = variant.start(cluster.bootstrap_servers, topic)
    try:
        load.open("all", subscribers, service.address, service.requests[protocol])
        meter = Meter(*service.pids)
        with Feeder(
            cluster.bootstrap_servers,
            topic,
            per_second=burst * bursts_per_second,
            burst=burst,
            partitions=variant.partitions,
            make_value=stamped_vehicle,
        ) as feeder:
            time.sleep(1.5)
            seen = [watch(load, meter, seconds) for _ in range(windows)]
            late_seconds = feeder.late_seconds
            # In a separate window: 50 requests per second cost as much CPU as a small fan-out.
            with Probe(service.address) as probe:
                time.sleep(2 * seconds)
        load.close("all")
    finally:
        service.end()
    return {"livez_p99_ms": probe.p99, "producer_late_seconds": late_seconds} | summary(seen)


def relative(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    """Return the bytes and the CPU time of a delivery, relative to those of the plain variant at the same point."""
    same = ("subscribers", "burst", "protocol")
    plain = next(
        other for other in rows if other["variant"] == PLAIN.name and all(other[key] == row[key] for key in same)
    )
    return {
        "bytes": row["bytes_per_delivery"] / max(1, plain["bytes_per_delivery"]),
        "cpu": median(plain["per_cpu_second"]) / max(1, median(row["per_cpu_second"])),
    }


def summary(windows: Sequence[Window]) -> dict[str, Any]:
    """Return the medians of some windows, and the deliveries per CPU second of each."""
    groups = [window.groups["all"] for window in windows]
    records = sum(group["records"] for group in groups)
    return {
        "per_cpu_second": [window.per_cpu_second for window in windows],
        "cpu": statistics.median(window.cpu_seconds / window.seconds for window in windows),
        "bytes_per_delivery": sum(group["bytes"] for group in groups) / records if records else 0.0,
        "records_a_read": records / max(1, sum(group["reads"] for group in groups)),
        "p50_us": statistics.median(group["latency_us"].get("p50", 0) for group in groups),
        "p99_us": statistics.median(group["latency_us"].get("p99", 0) for group in groups),
        "records": records,
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
    """Return one row for people; in brackets, relative to the plain variant."""
    ours, bare = statistics.median(row["per_cpu_second"]), statistics.median(row["bare"])
    is_plain, relative = row["variant"] == PLAIN.name, row["relative"]
    return (
        f"{row['subscribers']:,}",
        str(row["burst"]),
        row["protocol"],
        row["variant"],
        f"{row['bytes_per_delivery']:.0f}" + ("" if is_plain else f" ({relative['bytes']:.0%})"),
        share_of_cpu_second(ours) + ("" if is_plain else f" ({relative['cpu']:.0%})"),
        share_of_cpu_second(bare),
        f"{ours / bare:.0%}",
        f"{row['cpu']:.0%}",
        f"{row['p50_us'] / 1000:.1f} / {row['p99_us'] / 1000:.1f} ms",
        f"{row['livez_p99_ms']:.1f} ms",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture: deliveries per CPU second to the most subscribers that all points have."""
    most = VARIED_SUBSCRIBERS
    return {
        f"deliveries per CPU second, {most:,} subscribers, {burst} records per write": {
            **{
                row["protocol"] + ("" if row["variant"] == PLAIN.name else f", {row['variant']}"): median(
                    row["per_cpu_second"]
                )
                for row in rows
                if is_at(row, most, burst)
            },
            "bare loop": median(next(row["bare"] for row in rows if is_at(row, most, burst))),
        }
        for burst in BURSTS
        if any(is_at(row, most, burst) for row in rows)
    }


def is_at(row: Mapping[str, Any], subscribers: int, burst: int) -> bool:
    """Whether a row is about this point."""
    return (row["subscribers"], row["burst"]) == (subscribers, burst)
