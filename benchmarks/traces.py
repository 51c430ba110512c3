"""The cost of traces for a replica: with their code removed, off, and on with 1 % sampled, side by side.

Three replicas in separate groups read the same records of a real Kafka at the same time, so other load on the machine
affects all of them alike. Spans are sent to a collector on loopback.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

from benchmarks.harness import Feeder, Load, Meter
from benchmarks.targets import dispatcher_requests
from testbed.broker.cluster import KafkaCluster
from testbed.collector import Collector, open_collector
from testbed.replicas import Replica

PAGE = "performance"
RECORDS_PER_SECOND, BURST = 1000, 10
SAMPLED = 100
"""One record in this many."""
REMOVED, OFF, ON = "removed", "off", "1 %"
REMOVE = """
import time
from dispatcher.hub.dispatch_times import DispatchTimes as Times
def taken(self, batch):
    batch.taken_at = time.perf_counter()
def dispatched(self, batch, number, ranges):
    if batch.taken_at is not None and number:
        self._dispatch_seconds.observe(time.perf_counter() - batch.taken_at, number)
def wrote(self, seconds):
    self._write_seconds.observe(seconds)
Times.taken, Times.dispatched, Times.wrote = taken, dispatched, wrote
"""
"""Removes all code for traces, but keeps the histograms."""

COLUMNS = ("subscribers", "`traceparent`", "traces", "CPU per record", "of off", "spans")


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure one and many subscribers, with records that name a span and records that do not.

    A window begins and ends right after a request to the collector, so each contains two requests, and the records
    before them. The replica that starts first uses more CPU in all of its windows, so each is the first one once, and
    the mean is over all starts.
    """
    starts, requests = (1, 1) if quick else (3, 2)
    rows = []
    with KafkaCluster(1) as cluster, Load() as load, open_collector() as collector:
        for subscribers in (1, 20):
            found: dict[tuple[bool, str], list[Window]] = {
                (named, name): [] for named in (False, True) for name in (REMOVED, OFF, ON)
            }
            for start in range(starts):
                tell(f"{subscribers} subscribers, start {start + 1}")
                topic = cluster.create_topic(f"traces-{subscribers}-{start}", 1)
                order = [REMOVED, OFF, ON]
                order = order[start % 3 :] + order[: start % 3]
                with services(cluster.bootstrap_servers, topic, collector, order) as replicas:
                    for name, replica in replicas.items():
                        load.open(name, subscribers, replica.address, dispatcher_requests()["sse"])
                    parents = Parents()
                    with feeder(cluster.bootstrap_servers, topic, parents):
                        wait_for_requests(collector, 1)
                        for named in (False, True):
                            parents.named = named
                            for name, window in watch(load, replicas, collector, requests).items():
                                found[named, name].append(window)
                    for name in replicas:
                        load.close(name)
            rows += [
                {
                    "subscribers": subscribers,
                    "named": named,
                    "traces": name,
                    "cpu_us": [1e6 * cpu / records for cpu, records, _ in measured],
                    "mean_us": mean_us(measured),
                    "of_off": mean_us(measured) / mean_us(found[named, OFF]),
                    "records": sum(records for _, records, _ in measured),
                    "spans": sum(spans for _, _, spans in measured),
                }
                for (named, name), measured in found.items()
            ]
    return rows


Window = tuple[float, float, int]
"""CPU seconds, records and spans of a replica in a period of time."""


def mean_us(windows: Sequence[Window]) -> float:
    """CPU time per record over all of these."""
    return 1e6 * sum(cpu for cpu, _, _ in windows) / sum(records for _, records, _ in windows)


@contextmanager
def services(
    bootstrap_servers: str, topic: str, collector: Collector, order: Sequence[str]
) -> Iterator[dict[str, Replica]]:
    """Run the three replicas until the block ends."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(1 / SAMPLED),
    }
    with ExitStack() as stack:
        replicas = {}
        for name in order:
            os.environ |= variables if name == ON else {}
            try:
                replica = Replica(bootstrap_servers, topic, group=name, code=REMOVE if name == REMOVED else "")
            finally:
                for variable in variables:
                    os.environ.pop(variable, None)
            stack.callback(replica.end)
            replicas[name] = replica
        for replica in replicas.values():
            replica.wait_until_ready()
        yield replicas


class Parents:
    """Names the producer's span of each record, or of none; of those that name a span, one in `SAMPLED` is sampled."""

    def __init__(self) -> None:
        self.named = False
        self._numbers = count()

    def __call__(self, _key: bytes) -> tuple[tuple[str, bytes], ...]:
        """The headers of the next record."""
        if not self.named:
            return ()
        number = next(self._numbers)
        return (("traceparent", b"00-%032x-%016x-%02x" % (number + 1, number + 1, number % SAMPLED == 0)),)


def feeder(bootstrap_servers: str, topic: str, parents: Parents) -> Feeder:
    """Produce records at a steady rate."""
    return Feeder(
        bootstrap_servers,
        topic,
        per_second=RECORDS_PER_SECOND,
        burst=BURST,
        make_key=lambda: b"key",
        make_headers=parents,
    )


def wait_for_requests(collector: Collector, number: int) -> None:
    """Return right after this many more requests with spans."""
    for _ in range(number):
        collector.wait_for(len(collector.spans) + 1)


def watch(load: Load, replicas: Mapping[str, Replica], collector: Collector, requests: int) -> dict[str, Window]:
    """Let all replicas run until spans were sent this often."""
    meters = {name: Meter(replica.process.pid) for name, replica in replicas.items()}
    load.report()
    before = {name: meter.cpu_seconds() for name, meter in meters.items()}
    spans = len(collector.spans)
    wait_for_requests(collector, requests)
    used = {name: meter.cpu_seconds() - before[name] for name, meter in meters.items()}
    groups = load.report()["groups"]
    sent = {name: groups[name]["records"] / groups[name]["open"] for name in replicas}
    return {name: (used[name], sent[name], len(collector.spans) - spans if name == ON else 0) for name in replicas}


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        str(row["subscribers"]),
        "in each record" if row["named"] else "in none",
        row["traces"],
        f"{row['mean_us']:.0f} µs",
        f"{row['of_off']:.1%}",
        f"{row['spans']:,}" if row["traces"] == ON else "",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        "CPU of that without traces, %": {
            f"{row['traces']}, {row['subscribers']} subscribers, traceparent {cells(row)[1]}": 100 * row["of_off"]
            for row in rows
        }
    }
