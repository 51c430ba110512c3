"""The cost of traces for a replica: with their code removed, off, and on with 1 % sampled, side by side.

Three replicas in separate groups read the same records of a real Kafka at the same time, so other load on the machine
affects all of them alike. Spans are sent to a collector on loopback.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

from benchmarks.harness import Feeder, Load, Meter
from benchmarks.tables import median
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

    A window has several times of `MAKE_SECONDS`, when spans are made.
    """
    starts, windows, seconds = (1, 1, 1.0) if quick else (3, 2, 10.0)
    rows = []
    with KafkaCluster(1) as cluster, Load() as load, open_collector() as collector:
        for subscribers in (1, 20):
            for named in (False, True):
                found: dict[str, list[Window]] = {name: [] for name in (REMOVED, OFF, ON)}
                for start in range(starts):
                    tell(f"{subscribers} subscribers, {'with' if named else 'without'} traceparent, start {start + 1}")
                    topic = cluster.create_topic(f"traces-{subscribers}-{named}-{start}", 1)
                    # The order changes with each start.
                    order = [*found][start % 3 :] + [*found][: start % 3]
                    with services(cluster.bootstrap_servers, topic, collector, order) as replicas:
                        for name, replica in replicas.items():
                            load.open(name, subscribers, replica.address, dispatcher_requests()["sse"])
                        with feeder(cluster.bootstrap_servers, topic, named=named):
                            time.sleep(1.5)
                            for _ in range(windows):
                                for name, window in watch(load, replicas, collector, seconds).items():
                                    found[name].append(window)
                        for name in replicas:
                            load.close(name)
                rows += [
                    {
                        "subscribers": subscribers,
                        "named": named,
                        "traces": name,
                        "cpu_us": [1e6 * cpu / records for cpu, records, _ in measured],
                        "of_off": [
                            (cpu / records) / (off_cpu / off_records)
                            for (cpu, records, _), (off_cpu, off_records, _) in zip(measured, found[OFF], strict=True)
                        ],
                        "records": sum(records for _, records, _ in measured),
                        "spans": sum(spans for _, _, spans in measured),
                    }
                    for name, measured in found.items()
                ]
    return rows


Window = tuple[float, float, int]
"""CPU seconds, records and spans of a replica in a period of time."""


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


def feeder(bootstrap_servers: str, topic: str, *, named: bool) -> Feeder:
    """Produce records at a steady rate; of those that name a span, one in `SAMPLED` is sampled."""
    numbers = count()

    def parents(_key: bytes) -> tuple[tuple[str, bytes], ...]:
        number = next(numbers)
        return (("traceparent", b"00-%032x-%016x-%02x" % (number + 1, number + 1, number % SAMPLED == 0)),)

    return Feeder(
        bootstrap_servers,
        topic,
        per_second=RECORDS_PER_SECOND,
        burst=BURST,
        make_key=lambda: b"key",
        make_headers=parents if named else None,
    )


def watch(load: Load, replicas: Mapping[str, Replica], collector: Collector, seconds: float) -> dict[str, Window]:
    """Let all replicas run for a while."""
    meters = {name: Meter(replica.process.pid) for name, replica in replicas.items()}
    load.report()
    before = {name: meter.cpu_seconds() for name, meter in meters.items()}
    spans = len(collector.spans)
    time.sleep(seconds)
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
        f"{median(row['cpu_us']):.0f} µs",
        f"{median(row['of_off']):.1%}",
        f"{row['spans']:,}" if row["traces"] == ON else "",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        "CPU of that without traces, %": {
            f"{row['traces']}, {row['subscribers']} subscribers, traceparent {cells(row)[1]}": 100
            * median(row["of_off"])
            for row in rows
        }
    }
