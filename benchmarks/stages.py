"""Where the time of a record goes between the producer's call and a subscriber's socket, stage by stage.

The means of the stages add up to the mean latency. Timers for them are put into the replica (`stage_timers.py`).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Feeder, Load
from benchmarks.stage_timers import INSTALL, VARIABLE, WARM_SECONDS
from benchmarks.targets import dispatcher_requests
from testbed.broker.cluster import KafkaCluster
from testbed.replicas import Replica

PAGE = "performance"
PARTITIONS = 4
CASES = ((100, 1000), (1000, 100))
"""Subscribers, and single records per second."""
COLUMNS = (
    "subscribers x records/s",
    "protocol",
    "a consumer alone",
    "polled",
    "in the loop",
    "its round begins",
    "half of its round",
    "read",
    "mean latency",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the consumer alone and the replica one after the other, with each protocol."""
    rows: list[dict[str, Any]] = []
    windows, seconds = (1, 2.0) if quick else (5, 3.0)
    with KafkaCluster(1) as cluster, Load() as load, tempfile.TemporaryDirectory() as folder:
        servers, path = cluster.bootstrap_servers, Path(folder) / "stages.json"
        for subscribers, rate in CASES:
            for protocol in ("sse", "websocket"):
                tell(f"{subscribers:,} x {rate:,}, {protocol}")
                topic = cluster.create_topic(f"stages-{len(rows)}", PARTITIONS)
                row: dict[str, Any] = {"subscribers": subscribers, "rate": rate, "protocol": protocol}
                with Feeder(servers, topic, per_second=float(rate), partitions=PARTITIONS):
                    row["alone_us"] = consume_alone(servers, topic, WARM_SECONDS + windows * seconds)
                rows.append(row)
                replica = start(servers, topic, path)
                try:
                    load.open("all", subscribers, replica.address, dispatcher_requests()[protocol])
                    with Feeder(servers, topic, per_second=float(rate), partitions=PARTITIONS):
                        time.sleep(WARM_SECONDS)
                        load.report()
                        time.sleep(windows * seconds)
                        row["mean_us"] = load.report()["groups"]["all"]["latency_us"]["mean"]
                    load.close("all")
                finally:
                    replica.end()
                row["stages_us"] = json.loads(path.read_text())
    return rows


def consume_alone(bootstrap_servers: str, topic: str, seconds: float) -> float:
    """The mean time in microseconds until a consumer that does nothing else has a record."""
    command = [sys.executable, "-m", "benchmarks.stage_timers", bootstrap_servers, topic, str(PARTITIONS), str(seconds)]
    found = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own program
    return float(found.stdout)


def start(bootstrap_servers: str, topic: str, path: Path) -> Replica:
    """Start a replica with timers, which writes what they have measured to a file when it ends."""
    os.environ[VARIABLE] = str(path)
    try:
        replica = Replica(bootstrap_servers, topic, code=INSTALL)
    finally:
        del os.environ[VARIABLE]
    replica.wait_until_ready()
    return replica


def parts_us(row: Mapping[str, Any]) -> Mapping[str, float]:
    """The stages that add up to the mean latency, in microseconds: half of the subscribers wait for half of a round."""
    stages = row["stages_us"]
    parts = {**stages, "half of its round": stages["round ended"] / 2}
    del parts["round ended"]
    return {**parts, "read": row["mean_us"] - sum(parts.values())}


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        f"{row['subscribers']:,} x {row['rate']:,}",
        row["protocol"],
        *(f"{us / 1000:.2f} ms" for us in (row["alone_us"], *parts_us(row).values(), row["mean_us"])),
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        f"ms, {row['subscribers']:,} x {row['rate']:,}/s, {row['protocol']}": {
            name: us / 1000 for name, us in parts_us(row).items()
        }
        for row in rows
    }
