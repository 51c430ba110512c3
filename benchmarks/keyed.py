"""Filters on a real Kafka: thousands of subscribers with one key each, beside one without a filter.

Every record has a key that exactly one of the keyed subscribers asks for, so a record is one delivery, with filters or
without. Each number of filters is compared with a single subscriber without a filter that gets the same records, in
turns on one service. The last row is about others: a thousand subscribers without filters, alone and beside the keyed
ones, in turns.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.harness import Feeder, Load, Meter, Window, watch
from benchmarks.tables import median
from benchmarks.targets import Dispatcher, dispatcher_requests
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
PARTITIONS = 6
RATE = 2_000.0
COUNTS = (100, 1_000, 10_000)
PLAIN, PLAIN_RATE = 1_000, 40.0
"""Subscribers without filters, and records per second: about half of what one core can do."""

KEYED = dispatcher_requests("?key=key-@@")["sse"]

COLUMNS = (
    "subscribers",
    "records/s",
    "measured",
    "alone",
    "with filters",
    "ratio",
    "difference",
    "idle, with filters",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure in turns, on one service for each number of filters."""
    counts, turns, seconds = ((100, 1_000), 1, 2.0) if quick else (COUNTS, 3, 8.0)
    rows = []
    with KafkaCluster(1) as cluster, Load() as load:
        for count in counts:
            row: dict[str, Any] = {"count": count, "rate": RATE, "alone": [], "beside": [], "idle": []}
            with serving(cluster, f"keyed-{count}") as (service, topic):
                meter = Meter(*service.pids)
                for turn in range(turns):
                    tell(f"{count} filters, turn {turn + 1} of {turns}")
                    load.open("plain", 1, service.address, service.requests["sse"])
                    row["alone"].append(fed(cluster, topic, count, RATE, load=load, meter=meter, seconds=seconds))
                    load.close("plain")
                    time.sleep(1)
                    load.open("keyed", count, service.address, KEYED)
                    time.sleep(2)
                    row["idle"].append(figures(watch(load, meter, seconds)))
                    row["beside"].append(fed(cluster, topic, count, RATE, load=load, meter=meter, seconds=seconds))
                    load.close("keyed")
                    time.sleep(1)
            rows.append(row)
        count, plain = (1_000, 100) if quick else (COUNTS[-1], PLAIN)
        rows.append(beside(cluster, load, plain, count, turns=turns, seconds=seconds, tell=tell))
    return rows


@contextmanager
def serving(cluster: KafkaCluster, name: str) -> Iterator[tuple[Dispatcher, str]]:
    """Run a service with a separate topic."""
    topic = cluster.create_topic(name, PARTITIONS)
    service = Dispatcher.start(cluster.bootstrap_servers, topic)
    try:
        yield service, topic
    finally:
        service.end()


def beside(
    cluster: KafkaCluster,
    load: Load,
    plain: int,
    count: int,
    *,
    turns: int,
    seconds: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Measure subscribers without filters, alone and beside those with a key each, in turns."""
    row: dict[str, Any] = {"plain": plain, "count": count, "rate": PLAIN_RATE, "alone": [], "beside": [], "idle": []}
    with serving(cluster, "keyed-beside") as (service, topic):
        meter = Meter(*service.pids)
        load.open("plain", plain, service.address, service.requests["sse"])
        for turn in range(turns):
            tell(f"{plain} without filters, turn {turn + 1} of {turns}")
            row["alone"].append(fed(cluster, topic, count, PLAIN_RATE, load=load, meter=meter, seconds=seconds))
            load.open("keyed", count, service.address, KEYED)
            time.sleep(2)
            row["beside"].append(fed(cluster, topic, count, PLAIN_RATE, load=load, meter=meter, seconds=seconds))
            load.close("keyed")
            time.sleep(2)
    return row


def fed(
    cluster: KafkaCluster, topic: str, keys: int, rate: float, *, load: Load, meter: Meter, seconds: float
) -> dict[str, Any]:
    """Produce records of these keys for one window; returns its costs and figures."""
    choose = random.Random(1)  # noqa: S311 - the same keys each time
    with Feeder(
        cluster.bootstrap_servers,
        topic,
        per_second=rate,
        partitions=PARTITIONS,
        make_key=lambda: b"key-%d" % choose.randrange(keys),
    ) as feeder:
        time.sleep(1.5)
        before = feeder.records
        window = watch(load, meter, seconds)
        return figures(window) | {"records": feeder.records - before, "late_seconds": feeder.late_seconds}


def figures(window: Window) -> dict[str, Any]:
    """Return the figures of a window."""
    return {
        "seconds": window.seconds,
        "cpu_seconds": window.cpu_seconds,
        "deliveries": {name: group["records"] for name, group in window.groups.items()},
        "latency_us": {name: dict(group["latency_us"]) for name, group in window.groups.items()},
    }


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one line of the table."""
    head = f"{row['count']:,} of one key each"
    if "plain" in row:
        alone, with_filters = (median(p99(turn) for turn in row[side]) / 1000 for side in ("alone", "beside"))
        return (
            f"{row['plain']:,} without filters, {head}",
            f"{row['rate']:g}",
            "p99 of those without",
            f"{alone:.1f} ms",
            f"{with_filters:.1f} ms",
            f"{with_filters / alone:.2f}",
            f"{with_filters - alone:.1f} ms",
            "",
        )
    alone, with_filters = (median(map(cpu_us, row[side])) for side in ("alone", "beside"))
    return (
        head,
        f"{row['rate']:g}",
        "CPU per record",
        f"{alone:.0f} µs",
        f"{with_filters:.0f} µs",
        f"{with_filters / alone:.2f}",
        f"{with_filters - alone:.1f} µs",
        f"{median(turn['cpu_seconds'] / turn['seconds'] for turn in row['idle']):.1%} of a core",
    )


def cpu_us(turn: Mapping[str, Any]) -> float:
    """Return the CPU time of a record in microseconds."""
    return float(turn["cpu_seconds"] / turn["records"] * 1e6)


def p99(turn: Mapping[str, Any]) -> float:
    """Return the p99 latency of the subscribers without filters in microseconds."""
    return float(turn["latency_us"]["plain"]["p99"])


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        "CPU µs per record": {
            f"{row['count']:,} filters": median(map(cpu_us, row["beside"])) for row in rows if "plain" not in row
        }
        | {"no filter": median(cpu_us(turn) for row in rows if "plain" not in row for turn in row["alone"])}
    }
