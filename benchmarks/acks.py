"""How acknowledgements affect others: latency of 1,000 plain subscribers, with and without 100 that acknowledge."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Feeder, Load, Meter, watch
from benchmarks.tables import median
from benchmarks.targets import Dispatcher, dispatcher_requests
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
PLAIN, ACKING = 1000, 100
RATE = 20.0
COLUMNS = (
    "`commit_on`",
    "p50, without",
    "p50, beside",
    "p99, without",
    "p99, beside",
    "ratio of p99",
    "beside plain ones",
    "CPU, without",
    "CPU, beside",
)
ACKS = dispatcher_requests("?ack=client")["websocket"]
BESIDE = {
    "without": None,
    "beside": {"request": ACKS, "acks": True},
    "beside plain": {"request": dispatcher_requests()["websocket"]},
}
"""The other connections, in turns. An equal number of plain WebSockets shows the cost of more subscribers as such."""


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure in turns on one server: alone, beside clients that acknowledge, beside plain ones, and so on.

    If only acknowledgements are committed, one subscriber always acknowledges, because records would wait otherwise.
    """
    turns, seconds = (1, 2.0) if quick else (7, 6.0)
    plain, acking = (100, 10) if quick else (PLAIN, ACKING)
    rows = []
    # Clients that acknowledge are in a separate process, so their work does not affect the measured latency.
    with KafkaCluster(1) as cluster, Load() as load, Load() as others:
        for commit_on in ("written", "acked"):
            topic = cluster.create_topic(f"acks-{commit_on}", 4)
            table = f'{{"{topic}": {{"commit_on": "{commit_on}"}}}}'
            service = Dispatcher.start(cluster.bootstrap_servers, topic, topic_tables=table)
            row: dict[str, Any] = {"commit_on": commit_on, **{side: [] for side in BESIDE}, "cpu": {}}
            try:
                load.open("plain", plain, service.address, service.requests["sse"])
                if commit_on == "acked":
                    others.open("one", 1, service.address, ACKS, acks=True)
                with Feeder(cluster.bootstrap_servers, topic, per_second=RATE, partitions=4):
                    meter = Meter(*service.pids)
                    time.sleep(2)
                    for turn in range(turns):
                        tell(f"{commit_on}, turn {turn + 1} of {turns}")
                        for side, what in BESIDE.items():
                            if what is not None:
                                others.open(side, acking, service.address, **what)
                            time.sleep(1)
                            seen = watch(load, meter, seconds)
                            row[side].append(dict(seen.groups["plain"]["latency_us"]))
                            row["cpu"].setdefault(side, []).append(seen.cpu_seconds / seen.seconds)
                            if what is not None:
                                others.close(side)
                row["acks"] = service.replica.status()["acks"]
                load.close("plain")
            finally:
                service.end()
            rows.append(row)
    return rows


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people, with medians of the turns."""

    def of(side: str, place: str) -> float:
        return median(turn[place] for turn in row[side])

    return (
        row["commit_on"],
        f"{of('without', 'p50') / 1000:.2f} ms",
        f"{of('beside', 'p50') / 1000:.2f} ms",
        f"{of('without', 'p99') / 1000:.2f} ms",
        f"{of('beside', 'p99') / 1000:.2f} ms",
        f"{of('beside', 'p99') / of('without', 'p99'):.2f}",
        f"{of('beside plain', 'p99') / of('without', 'p99'):.2f}",
        f"{median(row['cpu']['without']):.0%}",
        f"{median(row['cpu']['beside']):.0%}",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        f"p99 latency of {PLAIN:,} plain subscribers, ms, {row['commit_on']}": {
            side: median(turn["p99"] / 1000 for turn in row[side]) for side in BESIDE
        }
        for row in rows
    }
