"""Bytes on the wire and CPU per write, over records per write and levels of compression, without Kafka.

A hub and a server in this process publish envelopes of realistic JSON to the load generator's sockets: bytes are what
it reads, including chunks and frames. CPU is the time of a write to a thousand subscribers without the system calls,
which are the same with and without compression: the transports accept everything.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import trio
import trio.testing

from benchmarks.growth import NeverAnswering, Taking
from benchmarks.harness import Load
from benchmarks.targets import compressed_requests
from benchmarks.values import vehicles
from dispatcher.hub.feed import feed_of
from dispatcher.hub.hub import Hub
from dispatcher.hub.statistics import SubscriberState
from dispatcher.sansio.encoding.wire import SSE_ENVELOPE, WEBSOCKET
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings
from dispatcher.web.app import create_app
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server

PAGE = "performance"
TOPIC = "ofa_assets"
SUBSCRIBERS = 1000
READERS = 100
BURSTS: Mapping[int, float] = {1: 50, 10: 50, 100: 10}
"""Records per write, and the number of writes per second."""
LEVELS = (None, 1, 6, 9)
"""None means off."""

COLUMNS = (
    "records per write",
    "protocol",
    "level",
    "bytes per record",
    "of uncompressed",
    "CPU per write",
    "more than uncompressed",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the whole benchmark."""
    seconds, turns, writes = (0.5, 1, 10) if quick else (2.0, 5, 40)
    rows: list[dict[str, Any]] = []
    for level in LEVELS:
        tell("off" if level is None else f"level {level}")
        rows += trio.run(_measure, level, READERS, seconds)
    for turn in range(turns):
        # In turns, because the machine's speed changes for minutes.
        tell(f"CPU, turn {turn + 1} of {turns}")
        for row in rows:
            cpu_us = trio.run(_cpu_us, row["level"], row["protocol"], row["burst"], writes)
            row["cpu_us"] = min(cpu_us, row.get("cpu_us", cpu_us))
    for row in rows:
        (plain,) = (
            other
            for other in rows
            if other["level"] is None and (other["burst"], other["protocol"]) == (row["burst"], row["protocol"])
        )
        row["share_of_bytes"] = row["bytes_a_record"] / plain["bytes_a_record"]
        row["more_cpu_us"] = row["cpu_us"] - plain["cpu_us"]
    return sorted(rows, key=lambda row: (row["burst"], row["protocol"], row["level"] or 0))


async def _measure(level: int | None, subscribers: int, seconds: float) -> list[dict[str, Any]]:
    settings = _settings(level)
    hub = Hub(settings, lambda _batch, _start, _end: None, NeverAnswering())
    app = create_app(hub, settings, cast("Operations", None))
    server = Server(app, settings, direct=app.direct)
    offset = 0
    rows: list[dict[str, Any]] = []
    with Load() as load:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            await nursery.start(server.serve)
            host, port = server.addresses[0]
            hub.assigned([TopicPartition(TOPIC, 0)])
            hub.set_state(ReplicaState.STREAMING)
            for protocol in ("sse", "websocket"):
                request = compressed_requests("?format=envelope" if protocol == "sse" else "")[protocol]
                await trio.to_thread.run_sync(load.open, "all", subscribers, (host, port), request)
                for _ in range(10):  # until nothing is sent in small pieces any more (`web.liveness`)
                    noise = random.randbytes(32 * 1024).hex().encode()  # noqa: S311
                    hub.publish(Batch(TopicPartition(TOPIC, 0), (Record(offset, None, None, noise, ()),)))
                    offset += 1
                    await trio.sleep(0.2)
                for burst, per_second in BURSTS.items():
                    while hub.statistics().subscribers.get(SubscriberState.LIVE, 0) < subscribers:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                    await _received(load)
                    deliveries = hub.statistics().deliveries
                    for _ in range(max(1, int(seconds * per_second))):
                        hub.publish(_batch(offset, burst))
                        offset += burst
                        await trio.sleep(1 / per_second)
                    await hub.wait_settled()
                    received_bytes = await _received(load)
                    delivered = hub.statistics().deliveries - deliveries
                    row = {"burst": burst, "protocol": protocol, "level": level}
                    rows.append(row | {"bytes_a_record": received_bytes / delivered})
                await trio.to_thread.run_sync(load.close, "all")
                await hub.wait_no_subscribers()
            nursery.cancel_scope.cancel()
    return rows


async def _received(load: Load) -> int:
    """Return the bytes that the load generator has read since the last question, once no more arrive."""
    total = 0
    while True:
        await trio.sleep(0.1)
        report = await trio.to_thread.run_sync(load.report)
        if not (more := report["groups"]["all"]["bytes"]):
            return total
        total += more


async def _cpu_us(level: int | None, protocol: str, burst: int, writes: int) -> float:
    """Return the CPU time of one write to all subscribers in µs: the minimum, because other work can only add to it."""
    hub = Hub(_settings(level), lambda _batch, _start, _end: None, NeverAnswering())
    wire = SSE_ENVELOPE if protocol == "sse" else WEBSOCKET
    if (compression := hub.encoder.compression) is not None:
        wire = compression.sse(wire) if protocol == "sse" else compression.websocket
    feed = feed_of(wire, frozenset({TOPIC}))
    samples = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        hub.assigned([TopicPartition(TOPIC, 0)])
        hub.set_state(ReplicaState.STREAMING)
        for _ in range(SUBSCRIBERS):
            nursery.start_soon(hub.subscribe(feed, Taking()).run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for number in range(writes):
            before = time.thread_time()
            hub.publish(_batch(number * burst, burst))
            await hub.wait_settled()
            samples.append((time.thread_time() - before) * 1e6)
        nursery.cancel_scope.cancel()
    return min(samples)


def _settings(level: int | None) -> Settings:
    compression: dict[str, Any] = {} if level is None else {"compression": "on", "compression_level": level}
    return Settings(bind="127.0.0.1:0", topics=[TOPIC], stall_timeout_seconds=300, **compression)  # type: ignore[arg-type]


def _batch(offset: int, burst: int) -> Batch:
    values = _values(5000)
    records = [Record(offset + n, *values[(offset + n) % len(values)], ()) for n in range(burst)]
    return Batch(TopicPartition(TOPIC, 0), records)


@cache
def _values(number: int) -> Sequence[tuple[int, bytes, bytes]]:
    """Return time, key and value of records: envelopes of about 410 bytes."""
    return [(1_780_000_000_000 + 13 * n, key, value) for n, (key, value) in enumerate(vehicles(number))]


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        str(row["burst"]),
        row["protocol"],
        "off" if row["level"] is None else str(row["level"]),
        f"{row['bytes_a_record']:.0f}",
        f"{row['share_of_bytes']:.0%}",
        f"{row['cpu_us']:.0f} µs",
        f"{row['more_cpu_us']:.0f} µs",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture: bytes per record, by level."""
    return {
        f"bytes per record, {burst} records per write (SSE)": {
            "off" if row["level"] is None else f"level {row['level']}": row["bytes_a_record"]
            for row in rows
            if (row["burst"], row["protocol"]) == (burst, "sse")
        }
        for burst in BURSTS
    }
