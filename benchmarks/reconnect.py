"""The storm after a restart: many subscribers return at once with ids that are some seconds old."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from benchmarks.harness import Feeder, Load, Probe
from benchmarks.tables import median
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
AWAY_SECONDS = 3.0
BALANCER = "127.0.0.2"
"""Health checks come from there, and not from where the subscribers are."""


class Case(NamedTuple):
    """What is varied."""

    rate: float
    """Records a second."""
    subscribers: int = 1000
    partitions: int = 4


CASES = (Case(10.0), Case(100.0), Case(10.0, 500, 1000))
COLUMNS = (
    "protocol",
    "records/s",
    "subscribers",
    "partitions",
    "away",
    "time to first record, p50 / p99 / worst",
    "/livez p99",
    "from memory",
    "from Kafka",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Cut all connections, wait, and reopen them at once, while records keep arriving."""
    rows = []
    with KafkaCluster(1) as cluster, Load() as load:
        for protocol, case in product(("sse", "websocket"), CASES[:1] if quick else CASES):
            topic = cluster.create_topic(f"reconnect-{protocol}-{case.rate:g}-{case.partitions}", case.partitions)
            service = Dispatcher.start(cluster.bootstrap_servers, topic)
            try:
                load.open("one", 1, service.address, service.requests["sse"])
                load.open("all", case.subscribers, service.address, service.requests[protocol])
                with Feeder(cluster.bootstrap_servers, topic, per_second=case.rate, partitions=case.partitions):
                    turns = []
                    for turn in range(1 if quick else 5):
                        tell(f"{protocol}, {case.rate:g} records/s, {case.partitions} partitions, turn {turn + 1}")
                        turns.append(_storm(service, load))
                rows.append(
                    {
                        "protocol": protocol,
                        **case._asdict(),
                        "first_record_ms": {
                            place: median(turn["first_record_ms"][place] for turn in turns)
                            for place in ("p50", "p99", "max")
                        },
                        "livez_p99_ms": median(turn["livez_p99_ms"] for turn in turns),
                        **{name: sum(turn[name] for turn in turns) for name in ("hits", "misses", "kafka_chunks")},
                        "turns": turns,
                    }
                )
                load.close("all")
                load.close("one")
            finally:
                service.end()
    return rows


def _storm(service: Dispatcher, load: Load) -> dict[str, Any]:
    time.sleep(2)
    before = service.replica.status()
    load.report()
    with Probe(service.address, source=BALANCER, after_seconds=AWAY_SECONDS) as probe:
        load.reopen("all", pause_seconds=AWAY_SECONDS)
    time.sleep(3)
    after = service.replica.status()
    return {
        "first_record_ms": load.report()["groups"]["all"]["first_record_ms"],
        "livez_p99_ms": probe.p99,
        "hits": after["history"]["hits"] - before["history"]["hits"],
        "misses": after["history"]["misses"] - before["history"]["misses"],
        "kafka_chunks": after["replays"]["chunks"] - before["replays"]["chunks"],
    }


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    first = row["first_record_ms"]
    return (
        row["protocol"],
        f"{row['rate']:g}",
        f"{row['subscribers']:,}",
        f"{row['partitions']:,}",
        f"{AWAY_SECONDS:g} s",
        f"{first['p50']:.0f} / {first['p99']:.0f} / {first['max']:.0f} ms",
        f"{row['livez_p99_ms']:.0f} ms",
        f"{row['hits']:,}",
        f"{row['misses']:,} ({row['kafka_chunks']} reads)",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture: medians of the turns."""
    return {
        "ms to first record, {protocol}, {rate:g}/s, {partitions:,} partitions".format(**row): row["first_record_ms"]
        for row in rows
    }
