"""Each peer beside the dispatcher: what a delivery costs, how late it is, and whether all of them arrive."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from benchmarks.fan_out import summary
from benchmarks.harness import Feeder, Load, Meter, watch
from benchmarks.peers.known import PEERS, Peer
from benchmarks.peers.service import CannotRunError
from benchmarks.tables import median, share_of_cpu_second
from benchmarks.targets import Target
from benchmarks.values import stamped_vehicle
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
COLUMNS = (
    "service",
    "protocol",
    "subscribers x records/s",
    "at once",
    "bytes per delivery",
    "CPU per delivery",
    "CPU",
    "latency p50 / p99",
    "arrived in time",
    "in the end",
    "memory",
)
OPEN_SECONDS = 90.0
DRAIN_SECONDS, QUIET_SECONDS = 20.0, 3.0
WARM_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Case:
    """A load."""

    subscribers: int
    records_per_second: int
    burst: int
    """Records at once."""

    def deliveries(self, records: float, *, competes: bool) -> float:
        """How many these records are: one each where subscribers compete for them."""
        return records if competes else records * self.subscribers


LIGHT, CLOSE = Case(100, 10, 1), Case(100, 1000, 1)
CASES = (LIGHT, Case(1000, 100, 1), CLOSE, Case(1000, 1000, 100))
"""All services bear the light one, which is too light for variants (`Peer.is_variant`) to differ. In the close one, p99
differs less between services than between runs, so they take turns."""

TURNS = 3


class Patient(Load):
    """A load generator that does not wait for ever for a service that does not answer, and keeps sums."""

    def __init__(self) -> None:
        self.records = 0
        self.closed = 0

    def report(self) -> Mapping[str, Any]:
        """What each group was sent since the last report."""
        found = super().report()
        self.records += sum(group["records"] for group in found["groups"].values())
        self.closed += sum(group["closed"] for group in found["groups"].values())
        return found

    def open(self, group: str, count: int, address: tuple[str, int], request: str, **more: object) -> Mapping[str, Any]:
        """Open a group's connections; returns when all are answered.

        Raises:
            CannotRunError: they were not, in time.
        """
        timer = threading.Timer(OPEN_SECONDS, self._process.kill)
        timer.start()
        try:
            return super().open(group, count, address, request, **more)
        except (RuntimeError, BrokenPipeError):
            raise CannotRunError(f"{count:,} connections were not answered within {OPEN_SECONDS:g} s") from None
        finally:
            timer.cancel()


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Case by case, one service after the other."""
    rows: list[dict[str, Any]] = []
    windows, seconds = (1, 2.0) if quick else (3, 3.0)
    with KafkaCluster(1) as cluster:
        for case in CASES:
            turns = 1 if quick or case is not CLOSE else TURNS
            for protocol in ("sse", "websocket"):
                found: dict[str, list[dict[str, Any]]] = defaultdict(list)
                peers = [p for p in PEERS if protocol in p.protocols and not (p.is_variant and case is LIGHT)]
                for turn in range(turns):
                    for peer in peers if turn % 2 == 0 else reversed(peers):
                        tell(f"{peer.name}, {protocol}: {case.subscribers:,} x {case.records_per_second:,} records/s")
                        topic = cluster.create_topic(f"peers-{len(rows)}-{turn}-{PEERS.index(peer)}", peer.partitions)
                        try:
                            measured = measure(
                                peer,
                                cluster.bootstrap_servers,
                                topic,
                                protocol=protocol,
                                case=case,
                                windows=windows,
                                seconds=seconds,
                            )
                        except CannotRunError as error:
                            measured = {"reason": str(error)}
                        found[peer.name].append(measured)
                        cluster.delete_topic(topic)
                rows += [_row(peer, protocol, case, found[peer.name]) for peer in peers]
    return rows


def _row(peer: Peer, protocol: str, case: Case, turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was measured in some turns, as medians."""
    row = asdict(case) | {
        "peer": peer.name,
        "protocol": protocol,
        "competes": peer.competes,
        "made_of": dict(peer.made_of),
        "configuration": dict(peer.configuration),
    }
    for turn in turns:
        if "reason" in turn:
            return row | {"reason": turn["reason"]}
    row["per_cpu_second"] = [each for turn in turns for each in turn["per_cpu_second"]]
    return row | {name: median([turn[name] for turn in turns]) for name in turns[0] if name not in row}


def measure(
    peer: Peer, bootstrap_servers: str, topic: str, *, protocol: str, case: Case, windows: int, seconds: float
) -> dict[str, Any]:
    """One service under one load.

    Raises:
        CannotRunError: it could not be built or started, or did not answer.
    """
    with running(peer, bootstrap_servers, topic) as target, Patient() as load:
        load.open("all", case.subscribers, target.address, target.requests[protocol])
        time.sleep(peer.settle_seconds)
        meter = Meter(*target.pids)
        with Feeder(
            bootstrap_servers,
            topic,
            per_second=case.records_per_second,
            burst=case.burst,
            partitions=peer.partitions,
            make_value=stamped_vehicle,
            headers=target.headers,
        ) as feeder:
            time.sleep(WARM_SECONDS)
            seen = [watch(load, meter, seconds) for _ in range(windows)]
            late_seconds = feeder.late_seconds
        drain(load)
        resident_bytes = meter.resident_bytes()
    due = case.records_per_second * sum(window.seconds for window in seen)
    expected = case.deliveries(feeder.records, competes=peer.competes)
    return summary(seen) | {
        "in_time": sum(window.records for window in seen) / case.deliveries(due, competes=peer.competes),
        "arrived": load.records / expected,
        "expected": expected,
        "closed": load.closed,
        "resident_bytes": resident_bytes,
        "producer_late_seconds": late_seconds,
    }


@contextmanager
def running(peer: Peer, bootstrap_servers: str, topic: str) -> Iterator[Target]:
    """A peer that serves, for the body of the ``with`` block."""
    target = peer.start(bootstrap_servers, topic)
    try:
        yield target
    except psutil.NoSuchProcess:
        raise CannotRunError("it ended while it was measured") from None
    finally:
        target.end()


def drain(load: Patient) -> None:
    """Wait for what still comes after the last record was produced, until nothing more comes."""
    deadline = time.monotonic() + DRAIN_SECONDS
    came = -1
    while load.records > came and time.monotonic() < deadline:
        came = load.records
        time.sleep(QUIET_SECONDS)
        load.report()


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """One row for people."""
    load = (
        row["peer"],
        row["protocol"],
        f"{row['subscribers']:,} {'share' if row['competes'] else 'x'} {row['records_per_second']:,}",
        str(row["burst"]),
    )
    if "reason" in row:
        return *load, row["reason"], *[""] * (len(COLUMNS) - len(load) - 1)
    return (
        *load,
        f"{row['bytes_per_delivery']:.0f}",
        share_of_cpu_second(median(row["per_cpu_second"])),
        f"{row['cpu']:.0%}",
        f"{row['p50_us'] / 1000:.1f} / {row['p99_us'] / 1000:.1f} ms" if row["p50_us"] else "",
        f"{row['in_time']:.0%}",
        f"{row['arrived']:.1%}",
        f"{row['resident_bytes'] / 2**20:.0f} MiB",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """For the picture: the loads that tell most, those of 1,000 subscribers, of services that send all to each."""
    return {
        f"deliveries/CPU s, {protocol}, {case.subscribers:,} x {case.records_per_second:,}/s": {
            row["peer"]: median(row["per_cpu_second"])
            for row in rows
            if "reason" not in row
            and row["protocol"] == protocol
            and not row["competes"]
            and all(row[key] == value for key, value in asdict(case).items())
        }
        for protocol in ("sse", "websocket")
        for case in CASES
        if case.subscribers == 1000
    }
