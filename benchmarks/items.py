"""Lightstreamer's second scenario: thousands of clients that want one of 40 items each, beside Centrifugo.

100 records per second in all, over 40 keys. Each client has one key, so each record is for a fortieth of the clients.
Clients ask the dispatcher by a filter (``key=``), and Centrifugo by a channel for each key. The two take turns, each
with all clients.
"""

import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Feeder, Meter, watch
from benchmarks.peers.comparison import Patient, running
from benchmarks.peers.known import CHANNEL, Centrifugo, Ours, Peer
from benchmarks.peers.service import CannotRunError
from benchmarks.tables import amount, median
from benchmarks.targets import Target, dispatcher_requests
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
CLIENTS, KEYS, RATE = 10_000, 40, 100.0
RESERVED_DESCRIPTORS = 1_000
PEERS: tuple[Peer, ...] = (Ours(), Centrifugo())
SETTLE_SECONDS = 5.0

COLUMNS = (
    "service",
    "protocol",
    "clients",
    "CPU per delivery",
    "CPU",
    "latency mean",
    "p50",
    "p99",
    "arrived in time",
    "memory",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure each service and protocol alone, in turns."""
    turns, windows, seconds = (1, 1, 2.0) if quick else (2, 3, 8.0)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = 400 if quick else min(CLIENTS, descriptors - RESERVED_DESCRIPTORS)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    with KafkaCluster(1) as cluster:
        for turn in range(turns):
            for peer in PEERS:
                for protocol in peer.protocols:
                    tell(f"{peer.name}, {protocol}, turn {turn + 1} of {turns}")
                    empty = {"peer": peer.name, "protocol": protocol, "clients": clients, "windows": []}
                    row = rows.setdefault((peer.name, protocol), empty)
                    topic = cluster.create_topic(f"items-{turn}-{PEERS.index(peer)}-{protocol}", 1)
                    try:
                        with running(peer, cluster.bootstrap_servers, topic) as target:
                            row["windows"] += measure(
                                peer, target, cluster.bootstrap_servers, topic, row, windows=windows, seconds=seconds
                            )
                    except CannotRunError as error:
                        row["reason"] = str(error)
                    cluster.delete_topic(topic)
    return [*rows.values()]


def measure(
    peer: Peer,
    target: Target,
    bootstrap_servers: str,
    topic: str,
    row: dict[str, Any],
    *,
    windows: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Measure some windows of one service."""
    is_ours = isinstance(peer, Ours)
    request = target.requests[row["protocol"]].replace(CHANNEL, "key-@@")
    if is_ours:
        request = dispatcher_requests("?key=key-@@")[row["protocol"]]
    choose = random.Random(1)  # noqa: S311 - the same keys each time
    found = []
    with Patient() as load:
        load.open("all", row["clients"], target.address, request, keys=KEYS)
        time.sleep(SETTLE_SECONDS)
        meter = Meter(*target.pids)
        with Feeder(
            bootstrap_servers,
            topic,
            per_second=RATE,
            make_value=target.make_value,
            make_key=lambda: b"key-%d" % choose.randrange(KEYS),
            make_headers=lambda key: () if is_ours else (("centrifugo-channels", key),),
        ) as feeder:
            time.sleep(2)
            for _ in range(windows):
                before = feeder.records
                window = watch(load, meter, seconds)
                group = window.groups["all"]
                found.append(
                    {
                        "seconds": window.seconds,
                        "cpu_seconds": window.cpu_seconds,
                        "deliveries": group["records"],
                        "expected": (feeder.records - before) * row["clients"] / KEYS,
                        "latency_us": dict(group["latency_us"]),
                        "producer_late_seconds": feeder.late_seconds,
                        "resident_bytes": meter.resident_bytes(),
                    }
                )
        row["closed"] = row.get("closed", 0) + load.closed
    return found


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people, with medians of the windows."""
    head = row["peer"], row["protocol"], f"{row['clients']:,}"
    if not row["windows"]:
        return *head, row["reason"], "", "", "", "", "", ""
    windows = row["windows"]
    mean, p50, p99 = (
        f"{median(window['latency_us'].get(name, 0) for window in windows) / 1000:.1f} ms"
        for name in ("mean", "p50", "p99")
    )
    return (
        *head,
        f"{cpu_us(row):.1f} µs",
        f"{median(window['cpu_seconds'] / window['seconds'] for window in windows):.0%}",
        mean,
        p50,
        p99,
        f"{sum(w['deliveries'] for w in windows) / max(1, sum(w['expected'] for w in windows)):.0%}",
        f"{amount(max(window['resident_bytes'] for window in windows) / 2**20)} MiB",
    )


def cpu_us(row: Mapping[str, Any]) -> float:
    """Return the CPU microseconds of a delivery."""
    return median(window["cpu_seconds"] / max(1, window["deliveries"]) * 1e6 for window in row["windows"])


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    measured = [row for row in rows if row["windows"]]
    return {
        "CPU µs per delivery": {f"{row['peer']}, {row['protocol']}": cpu_us(row) for row in measured},
        "p99 latency, ms": {
            f"{row['peer']}, {row['protocol']}": median(w["latency_us"].get("p99", 0) for w in row["windows"]) / 1000
            for row in measured
        },
    }
