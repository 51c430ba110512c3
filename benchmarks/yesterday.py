"""A subscriber that was away for long: a million records behind, at its own pace, beside live ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Producer

from benchmarks.harness import Feeder, Load, Meter, value, watch
from benchmarks.tables import median
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
RECORDS = 1_000_000
LIVE = 100
RATE = 100.0
PACES = {"2 MiB/s": 2 * 2**20, "8 MiB/s": 8 * 2**20, "as fast as it can": 0}
COLUMNS = (
    "the client's pace",
    "records/s",
    "bytes/s",
    "p99 of the others: before, meanwhile",
    "ratio",
    "memory, growth",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure ``since=earliest`` at several paces."""
    rows = []
    records, seconds = (100_000, 3.0) if quick else (RECORDS, 8.0)
    # The late client has a separate process: its own work must not show in the latency of the others.
    with KafkaCluster(1) as cluster, Load() as load, Load() as behind:
        topic = cluster.create_topic("yesterday", 4)
        tell(f"producing {records:,} records")
        fill(cluster.bootstrap_servers, topic, records)
        service = Dispatcher.start(cluster.bootstrap_servers, topic)
        try:
            load.open("first", 1, service.address, service.requests["sse"])
            service.replica.wait_for("the backlog", lambda status: status["records"]["dispatched"] >= records, 120)
            # They connect when the backlog has been read, so that old records do not count in their latency.
            load.open("live", LIVE, service.address, service.requests["sse"])
            load.close("first")
            with Feeder(cluster.bootstrap_servers, topic, per_second=RATE, partitions=4):
                meter = Meter(*service.pids)
                time.sleep(3)
                for name, pace_bytes in PACES.items():
                    tell(name)
                    alone = watch(load, meter, seconds)
                    resident = meter.resident_bytes()
                    request = service.requests["sse"].replace("/events", "/events?since=earliest")
                    behind.open("behind", 1, service.address, request, pace_bytes=pace_bytes)
                    behind.report()
                    beside = watch(load, meter, seconds)
                    taken = behind.report()["groups"]["behind"]
                    grown = meter.resident_bytes() - resident
                    behind.close("behind")
                    time.sleep(1)
                    rows.append(
                        {
                            "pace": name,
                            "records_per_second": taken["records"] / beside.seconds,
                            "bytes_per_second": taken["bytes"] / beside.seconds,
                            "alone": alone.groups["live"]["latency_us"],
                            "beside": beside.groups["live"]["latency_us"],
                            "resident_bytes": resident + grown,
                            "grown_bytes": grown,
                            "cpu": beside.cpu_seconds / beside.seconds,
                        }
                    )
        finally:
            service.end()
    return rows


def fill(bootstrap_servers: str, topic: str, records: int, partitions: int = 4) -> None:
    """Write this many records, as fast as possible."""
    producer = Producer(
        {"bootstrap.servers": bootstrap_servers, "linger.ms": 20, "queue.buffering.max.messages": 10**6}
    )
    for number in range(records):
        while True:
            try:
                producer.produce(topic, value(), partition=number % partitions)
            except BufferError:
                producer.poll(0.1)
            else:
                break
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush(120)


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    alone, beside = row["alone"]["p99"] / 1000, row["beside"]["p99"] / 1000
    return (
        row["pace"],
        f"{row['records_per_second']:,.0f}",
        f"{row['bytes_per_second'] / 2**20:.1f} MiB",
        f"{alone:.1f}, {beside:.1f} ms",
        f"{beside / alone:.2f}",
        f"{row['resident_bytes'] / 2**20:.0f} MiB, {row['grown_bytes'] / 2**20:+.0f}",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        "records/s to who is behind": {row["pace"]: row["records_per_second"] for row in rows},
        "p99 latency of the others, ms": {
            "alone": median(row["alone"]["p99"] / 1000 for row in rows),
            **{f"beside {row['pace']}": row["beside"]["p99"] / 1000 for row in rows},
        },
    }
