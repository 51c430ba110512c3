"""The storm after a restart: 1,000 subscribers return at once with ids that are some seconds old."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from benchmarks.harness import Feeder, Load
from benchmarks.tables import median
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
SUBSCRIBERS = 1000
AWAY_SECONDS = 3.0
RATES = (10.0, 100.0)
COLUMNS = (
    "protocol",
    "records/s",
    "subscribers",
    "away",
    "time to first record, p50 / p99 / worst",
    "from memory",
    "from Kafka",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Cut all connections, wait, and reopen them at once, while records keep arriving."""
    rows = []
    with KafkaCluster(1) as cluster, Load() as load:
        for protocol, rate in product(("sse", "websocket"), RATES[:1] if quick else RATES):
            topic = cluster.create_topic(f"reconnect-{protocol}-{rate:g}", 4)
            service = Dispatcher.start(cluster.bootstrap_servers, topic)
            try:
                load.open("one", 1, service.address, service.requests["sse"])
                load.open("all", SUBSCRIBERS, service.address, service.requests[protocol])
                with Feeder(cluster.bootstrap_servers, topic, per_second=rate, partitions=4):
                    turns = []
                    for turn in range(1 if quick else 5):
                        tell(f"{protocol}, {rate:g} records/s, turn {turn + 1}")
                        turns.append(_storm(service, load))
                rows.append(
                    {
                        "protocol": protocol,
                        "rate": rate,
                        "subscribers": SUBSCRIBERS,
                        "first_record_ms": {
                            place: median(turn["first_record_ms"][place] for turn in turns)
                            for place in ("p50", "p99", "max")
                        },
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
    load.reopen("all", pause_seconds=AWAY_SECONDS)
    time.sleep(3)
    after = service.replica.status()
    return {
        "first_record_ms": load.report()["groups"]["all"]["first_record_ms"],
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
        f"{AWAY_SECONDS:g} s",
        f"{first['p50']:.0f} / {first['p99']:.0f} / {first['max']:.0f} ms",
        f"{row['hits']:,}",
        f"{row['misses']:,} ({row['kafka_chunks']} reads)",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture: medians of the turns."""
    return {
        f"ms from the moment to the first record, {row['protocol']}, {row['rate']:g} records/s": row["first_record_ms"]
        for row in rows
    }
