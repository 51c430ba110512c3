"""How hostile clients affect others: latency, liveness, memory, the log, and the end of the process.

The attackers share the machine with their victims. So each attack runs twice: first on another replica, where it only
costs the victims processor time, and then on theirs.

``BENCH_ATTACKS`` selects attacks: ``BENCH_ATTACKS=frames,idle``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.harness import Feeder, Load, Meter, Probe, watch
from benchmarks.targets import dispatcher_requests
from testbed.broker.cluster import KafkaCluster
from testbed.producing import produce_numbered
from testbed.replicas import Replica

PAGE = "security"
SUBSCRIBERS = 50
RATE = 100.0
OLD_RECORDS = 20_000
CAUGHT_UP_SECONDS = 5
"""Clients that acknowledge first read what waits for them, which is finished after this time."""

COLUMNS = (
    "attack",
    "attackers' connections",
    "p99 of others before",
    "attack elsewhere",
    "attack here",
    "`/livez` p99",
    "`/livez` failed",
    "memory grew by",
    "log lines per minute",
    "exit code",
)
ATTACKS = {
    "frames": "8 WebSockets, 4 MB/s each of empty frames",
    "idle": "300 connections with half a head, 256 descriptors",
    "earliest": "300 `since=earliest` per second",
    "feeds": "1,000 distinct feeds: filters that no index finds",
    "malformed": "1,000 malformed requests per second, a log pipe that nobody reads",
    "acks": "10,000 acknowledgements per second on one connection, three in ten wrong",
    "acks-many": "10,000 acknowledgements per second on 100 connections, three in ten wrong",
}
FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
UNREAD_LOG = """
import os, threading, time
def stop_reading():
    while b"listening" not in open("/proc/self/fd/2", "rb").read():
        time.sleep(0.1)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    os.dup2(writer, 2)
threading.Thread(target=stop_reading, daemon=True).start()
"""


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run each attack on a separate replica, from a separate address."""
    seconds = 10.0 if quick else 30.0
    rows = []
    kinds = [kind for kind in os.environ.get("BENCH_ATTACKS", "").split(",") if kind] or list(ATTACKS)
    with KafkaCluster(1) as cluster, Load() as load:
        for kind in kinds:
            tell(ATTACKS[kind])
            topic = cluster.create_topic(f"attacks-{kind}", 4)
            if not kind.startswith("acks"):
                # Clients that acknowledge would read all of it first, which is another attack.
                produce_numbered(cluster.bootstrap_servers, topic, OLD_RECORDS, 4)
            with ExitStack() as running:
                replica, other = (_start(kind, name, cluster, topic, running) for name in ("others", "elsewhere"))
                rows.append({"attack": kind, **_attack(kind, replica, other, cluster, topic, load, seconds)})
    return rows


def _start(kind: str, name: str, cluster: KafkaCluster, topic: str, running: ExitStack) -> Replica:
    replica = Replica(
        cluster.bootstrap_servers,
        topic,
        group=f"attacks-{kind}-{name}",
        command=FEW_DESCRIPTORS if kind == "idle" else (),
        code=UNREAD_LOG if kind == "malformed" else "",
        settings={"topic_tables": json.dumps({topic: {"commit_on": "acked"}})} if kind.startswith("acks") else {},
    )
    running.callback(replica.end)
    return replica


def _attackers(kind: str, replica: Replica, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.attackers", kind, str(replica.port), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own program


def _attack(  # noqa: PLR0917 - what there is
    kind: str, replica: Replica, other: Replica, cluster: KafkaCluster, topic: str, load: Load, seconds: float
) -> Mapping[str, Any]:
    load.open(kind, SUBSCRIBERS, replica.address, dispatcher_requests()["sse"])
    meter = Meter(replica.process.pid)
    with Feeder(cluster.bootstrap_servers, topic, per_second=RATE, partitions=4):
        time.sleep(5)  # earlier records are dispatched by then
        before = watch(load, meter, seconds / 2)
        attackers = _attackers(kind, other, seconds / 2)
        time.sleep(1)
        elsewhere = watch(load, meter, seconds / 2 - 2)
        attackers.communicate()
        time.sleep(1)
        resident_bytes, lines = meter.resident_bytes(), len(replica.log.splitlines())
        attackers = _attackers(kind, replica, seconds)
        time.sleep(CAUGHT_UP_SECONDS if kind.startswith("acks") else 1)
        with Probe(replica.address, every_seconds=0.1) as probe:
            during = watch(load, meter, seconds - (CAUGHT_UP_SECONDS + 1 if kind.startswith("acks") else 2))
        grown_bytes = meter.resident_bytes() - resident_bytes
        output, _ = attackers.communicate()
        lines = len(replica.log.splitlines()) - lines
    acks = replica.status()["acks"] if kind.startswith("acks") else {}
    replica.signal(signal.SIGTERM)
    code = replica.wait()
    load.close(kind)
    counts = json.loads(output)
    return {
        "connections": counts["connections"],
        "acks_per_second": counts["acks"] / seconds,
        "acks": acks,
        "before_us": before.groups[kind]["latency_us"]["p99"],
        "elsewhere_us": elsewhere.groups[kind]["latency_us"]["p99"],
        "during_us": during.groups[kind]["latency_us"]["p99"],
        "cpu_seconds": (before.cpu_seconds, elsewhere.cpu_seconds, during.cpu_seconds),
        "records": (before.groups[kind].get("records"), during.groups[kind].get("records")),
        "livez_p99_ms": probe.p99,
        "livez_failed": probe.failed,
        "grown_bytes": grown_bytes,
        "log_lines_per_minute": lines * 60 / seconds,
        "exit_code": code,
    }


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        ATTACKS[row["attack"]],
        f"{row['connections']:,}" + (f", {row['acks_per_second']:,.0f} acks/s" if row["acks"] else ""),
        f"{row['before_us'] / 1000:.1f} ms",
        f"{row['elsewhere_us'] / 1000:.1f} ms",
        f"{row['during_us'] / 1000:.1f} ms",
        f"{row['livez_p99_ms']:.0f} ms",
        str(row["livez_failed"]),
        f"{row['grown_bytes'] / 2**20:.0f} MiB",
        f"{row['log_lines_per_minute']:.0f}",
        str(row["exit_code"]),
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the latency of others before and during the attack."""
    return {
        "p99 in ms": {
            f"{row['attack']}, {when}": row[f"{when}_us"] / 1000
            for row in rows
            for when in ("before", "elsewhere", "during")
        }
    }
