"""The cost of streams of the whole topic: a followed record beside an owned one, and what brokers send to replicas.

Two replicas share a topic of two partitions, and the first one has subscribers of the whole topic. Records are written
in turns to its owned and to its followed partition, so both are measured in one run, on the same connections. Before
that, the same subscribers read the owned partition without a follower.
"""

import os
import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.harness import Feeder, Load, Meter, Window, watch
from benchmarks.targets import dispatcher_requests
from testbed.broker.cluster import KafkaCluster
from testbed.replicas import Replica

PAGE = "performance"
COLUMNS = (
    "records",
    "CPU per record",
    "relative to owned",
    "bytes from brokers, of those written",
    "followed partitions",
)

SUBSCRIBERS = 10
PER_SECOND = 2000
BURST = 10
OWNED_ALONE, OWNED, FOLLOWED = "owned, no follower", "owned, with a follower", "followed"


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure one after the other, repeatedly."""
    rounds, seconds = (2, 1.5) if quick else (6, 5.0)
    with KafkaCluster(1) as cluster, Load() as load:
        topic = cluster.create_topic("following", 2)
        servers = cluster.bootstrap_servers
        replicas = [Replica(servers, topic, client_id=name) for name in ("first", "second")]
        try:
            for replica in replicas:
                replica.wait_for("one partition", lambda status: len(status["partitions"]) == 1)
            first, second = replicas
            numbers = {
                OWNED: first.status()["partitions"][0]["partition"],
                FOLLOWED: second.status()["partitions"][0]["partition"],
            }
            numbers[OWNED_ALONE] = numbers[OWNED]
            meter = Meter(first.process.pid)
            found: dict[str, list[tuple[float, float]]] = defaultdict(list)
            followed: dict[str, int] = {}
            for query, kinds in (("?scope=replica", (OWNED_ALONE,)), ("?scope=topic", (OWNED, FOLLOWED))):
                load.open("all", SUBSCRIBERS, first.address, dispatcher_requests(query)["sse"])
                first.wait_for(
                    "who follows",
                    lambda status, kinds=kinds: status["followed"]["partitions"] == (FOLLOWED in kinds),
                )
                time.sleep(1)
                idle = watch(load, meter, seconds)
                for number in range(rounds):
                    for kind in kinds:
                        tell(f"{kind}, round {number + 1} of {rounds}")
                        window, share = _round(servers, topic, numbers[kind], load, meter, first, seconds)
                        found[kind].append((_cpu_each(window, idle), share))
                        followed[kind] = first.status()["followed"]["partitions"]
                load.close("all")
        finally:
            for replica in replicas:
                replica.end(by_force=True)
    return [
        {
            "records": kind,
            "cpu_us": median(cpu for cpu, _ in measured) * 1e6,
            "of_owned": median(cpu / owned for (cpu, _), (owned, _) in zip(measured, found[OWNED], strict=True)),
            "broker_share": median(share for _, share in measured),
            "followed": followed[kind],
            "each": measured,
        }
        for kind, measured in found.items()
    ]


def _round(  # noqa: PLR0917 - all of it is one place
    servers: str, topic: str, partition: int, load: Load, meter: Meter, replica: Replica, seconds: float
) -> tuple[Window, float]:
    """Write to one partition for a while; returns the window, and the bytes received per written byte."""
    broker_ports = {server.rpartition(":")[2] for server in servers.split(",")}
    before = _bytes("received", replica.process.pid, broker_ports)
    began = replica.status()["records"]["published"]
    # The producer connects before it is asked for anything, so it has sent next to nothing.
    with Feeder(servers, topic, per_second=PER_SECOND, burst=BURST, first_partition=partition) as feeder:
        time.sleep(0.5)
        window = watch(load, meter, seconds)
    replica.wait_for("all of it", lambda status: status["records"]["published"] >= began + feeder.records)
    sent = sum((_bytes("sent", os.getpid(), broker_ports) - _old_producers).values())
    received = sum((_bytes("received", replica.process.pid, broker_ports) - before).values())
    _old_producers.update(_bytes("sent", os.getpid(), broker_ports) - _old_producers)
    return window, received / sent


_old_producers: Counter[str] = Counter()
"""What the connections of this process had sent at the end of the previous round."""


def _cpu_each(window: Window, idle: Window) -> float:
    """Return the CPU seconds per record, for all of its deliveries together."""
    busy = window.cpu_seconds - idle.cpu_seconds / idle.seconds * window.seconds
    return busy / (window.records / SUBSCRIBERS)


def _bytes(what: str, pid: int, broker_ports: Collection[str]) -> Counter[str]:
    """Return the bytes that a process ``sent`` to brokers or ``received``, by connection, as the kernel counts them."""
    lines = subprocess.run(["ss", "-tinpH"], capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S607
    found: Counter[str] = Counter()
    for connection, details in pairwise(lines):
        if f"pid={pid}," in connection:
            local, peer = connection.split()[3:5]
            if peer.rpartition(":")[2] in broker_ports and (number := re.search(rf"bytes_{what}:(\d+)", details)):
                found[f"{local} {peer}"] = int(number[1])
    return found


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        row["records"],
        f"{row['cpu_us']:.0f} µs",
        f"{row['of_owned']:.2f}",
        f"{row['broker_share']:.2f}",
        str(row["followed"]),
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {"µs of CPU for each record": {row["records"]: row["cpu_us"] for row in rows}}
