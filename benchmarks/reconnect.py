"""The storm after a restart: 1,000 subscribers come back at once with ids some seconds old."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Feeder, Load
from benchmarks.tables import median
from benchmarks.targets import Dispatcher
from tests.broker.cluster import KafkaCluster

PAGE = "performance"
SUBSCRIBERS = 1000
AWAY_SECONDS = 3.0
RATE = 100.0
COLUMNS = ("protocol", "subscribers", "away", "time to first record, p50 / p99 / worst", "from memory", "from Kafka")


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Cut all, wait, and let all come back in the same moment, while records go on coming."""
    rows = []
    with KafkaCluster(1) as cluster, Load() as load:
        for protocol in ("sse", "websocket"):
            topic = cluster.create_topic(f"reconnect-{protocol}", 4)
            service = Dispatcher.start(cluster.bootstrap_servers, topic)
            try:
                load.open("one", 1, service.address, service.requests["sse"])
                load.open("all", SUBSCRIBERS, service.address, service.requests[protocol])
                with Feeder(cluster.bootstrap_servers, topic, per_second=RATE, partitions=4):
                    for turn in range(1 if quick else 5):
                        tell(f"{protocol}, turn {turn + 1}")
                        time.sleep(2)
                        before = service.replica.status()
                        load.report()
                        load.reopen("all", pause_seconds=AWAY_SECONDS)
                        time.sleep(3)
                        after = service.replica.status()
                        group = load.report()["groups"]["all"]
                        rows.append(
                            {
                                "protocol": protocol,
                                "subscribers": SUBSCRIBERS,
                                "first_record_ms": group["first_record_ms"],
                                "hits": after["history"]["hits"] - before["history"]["hits"],
                                "misses": after["history"]["misses"] - before["history"]["misses"],
                                "kafka_chunks": after["replays"]["chunks"] - before["replays"]["chunks"],
                            }
                        )
                load.close("all")
                load.close("one")
            finally:
                service.end()
    return rows


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """One row for people."""
    first = row["first_record_ms"]
    return (
        row["protocol"],
        f"{row['subscribers']:,}",
        f"{AWAY_SECONDS:g} s",
        f"{first['p50']:.0f} / {first['p99']:.0f} / {first['max']:.0f} ms",
        f"{row['hits']:,}",
        f"{row['misses']:,} ({row['kafka_chunks']} reads)",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """For the picture: medians of the turns."""
    return {
        f"ms from the moment to the first record, {protocol}": {
            place: median(row["first_record_ms"][place] for row in rows if row["protocol"] == protocol)
            for place in ("p50", "p99", "max")
        }
        for protocol in ("sse", "websocket")
    }
