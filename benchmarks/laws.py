"""How costs grow with partitions, topics, subscribers, sizes and resumers, each compared with its bound.

Runs in one process, without Kafka and sockets (`benchmarks.growth` replaces both), so the figures show only the
dispatcher's own work: microseconds of the thread's CPU time, and the longest step of any task.
"""

# It plays the poller, so it uses the pipeline's internals.
# ruff: noqa: SLF001

import gc
import logging
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
import trio
import trio.lowlevel
import trio.testing
from pydantic import ByteSize

from benchmarks.growth import NeverAnswering, Steps, Taking
from benchmarks.tables import median
from dispatcher.errors import SubscriberGoneError
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.statistics import ConsumerStatistics
from dispatcher.pipeline import Pipeline
from dispatcher.sansio.beginnings import Start
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings

PAGE = "performance"
COLUMNS = ("what grows", "to", "CPU per record", "idle crossing", "live subscriber", "longest step")
FIRST = 100
RECORDS = 300
CROSSINGS = 300
ROUNDS = 5
TOPICS = 50


class Bench:
    """A pipeline without its poller, and subscribers without connections.

    Args:
        partitions: The number of partitions per topic.
        topics: The number of topics.
        value_bytes: Size of a record's value.
    """

    def __init__(self, partitions: int = 6, topics: int = 1, value_bytes: int = 200) -> None:
        names = [f"assets-{number}" for number in range(topics)]
        settings = Settings(
            client_id="laws", topics=tuple(names), max_subscribers=100_000, history_bytes=ByteSize(64 * 1024 * 1024)
        )
        self.pipeline = Pipeline(settings)
        self.hub = self.pipeline.hub
        self.hub.lookups._replays = NeverAnswering()
        self.partitions = [TopicPartition(topic, number) for topic in names for number in range(partitions)]
        self.feeds = [feed_of(SSE_VALUE, frozenset({topic})) for topic in names]
        self._value = b"x" * value_bytes
        self._next = dict.fromkeys(self.partitions, FIRST)

    def assign(self) -> None:
        """Assign all partitions."""
        starts = [Start(partition, FIRST, committed=True) for partition in self.partitions]
        statistics = ConsumerStatistics(1, True, {})
        self.pipeline.exchange(PollResult(assigned=self.partitions, starts=starts, statistics=statistics))

    def publish(self, partition: TopicPartition) -> None:
        """Publish one record, as a poll would."""
        offset = self._next[partition]
        self._next[partition] = offset + 1
        record = Record(offset, None, None, self._value, ())
        first = self.pipeline._offsets.received(partition, offset, offset + 1)
        epoch = self.pipeline._offsets.epoch(partition) or 0
        self.hub.publish(Batch(partition, [record], epoch=epoch, covers_from=first))

    async def serve(self, feed: Feed, position: Mapping[TopicPartition, int] | None = None) -> None:
        """Serve one subscriber."""
        subscriber = self.hub.subscribe(feed, Taking(), position)
        try:
            with suppress(SubscriberGoneError):
                await subscriber.run()
        finally:
            self.hub.unsubscribe(subscriber)


async def _measure(bench: Bench, subscribers: int, resumers: int = 0) -> dict[str, float]:
    found: dict[str, float] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.hub.run)
        bench.assign()
        for partition in bench.partitions:
            bench.publish(partition)
        tracemalloc.start()
        await trio.testing.wait_all_tasks_blocked(0.01)
        held = []
        half = subscribers // 2
        for number in range(2 * half):
            if number == half:
                await trio.testing.wait_all_tasks_blocked(0.01)
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
            nursery.start_soon(bench.serve, bench.feeds[number % len(bench.feeds)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        # Only the second half counts: the first half includes what all of them share.
        found["bytes_each"] = (held[1] - held[0]) / half
        tracemalloc.stop()
        gc.disable()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        began = time.thread_time()
        for number in range(RECORDS):
            bench.publish(bench.partitions[number * 7 % len(bench.partitions)])
            await trio.testing.wait_all_tasks_blocked()
        found["record_us"] = (time.thread_time() - began) / RECORDS * 1e6
        trio.lowlevel.remove_instrument(steps)
        # The minimum of several tries, because the machine may be busy with something else.
        found["crossing_us"] = min(_crossings(bench) for _ in range(5))
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        # With an older id, they read what was published since from memory.
        position = dict.fromkeys(bench.partitions, FIRST)
        began = time.thread_time()
        for number in range(resumers):
            nursery.start_soon(bench.serve, bench.feeds[number % len(bench.feeds)], position)
        await trio.testing.wait_all_tasks_blocked(0.01)
        found["resume_us"] = (time.thread_time() - began) / max(1, resumers) * 1e6
        trio.lowlevel.remove_instrument(steps)
        found["longest_ms"] = steps.longest * 1000
        gc.enable()
        nursery.cancel_scope.cancel()
    return found


def _crossings(bench: Bench) -> float:
    began = time.thread_time()
    for _ in range(CROSSINGS):
        bench.pipeline.exchange(PollResult())
    return (time.thread_time() - began) / CROSSINGS * 1e6


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Let one quantity grow at a time; figures are medians over the rounds, the longest step the longest of all."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    axes: Mapping[str, Sequence[tuple[int, Callable[[], Bench], int, int]]] = {
        "partitions": [(n, partial(Bench, n), 100, 0) for n in (6, 60, 300, 1000)],
        "topics": [(n, partial(Bench, 6, n), 100, 0) for n in (1, 10, TOPICS)],
        "subscribers": [(n, Bench, n, 0) for n in ((100, 1000) if quick else (100, 1000, 10_000))],
        "bytes of a value": [
            (n, partial(Bench, value_bytes=n), 100, 0) for n in (20, 200, 2000, 20_000, 200_000, 1_000_000)
        ],
        "resumers": [(n, Bench, 100, n) for n in (1, 100, 500)],
        "resumers, 1,000 partitions": [(n, partial(Bench, 1000), 100, n) for n in (1, 100, 500)],
    }
    rows = []
    for axis, points in axes.items():
        # In turns, so that all points of an axis share what the machine's speed does.
        seen: dict[int, list[dict[str, float]]] = {size: [] for size, *_ in points}
        for number in range(1 if quick else ROUNDS):
            tell(f"{axis}: round {number + 1}")
            for size, make_bench, subscribers, resumers in points:
                seen[size].append(trio.run(_measure, make_bench(), subscribers, resumers))
        for size, found in seen.items():
            row = {name: median([one[name] for one in found]) for name in found[0]}
            rows.append({"axis": axis, "size": size} | row | {"longest_ms": max(one["longest_ms"] for one in found)})
    return rows


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        row["axis"],
        f"{row['size']:,}",
        f"{row['record_us']:,.0f} µs",
        f"{row['crossing_us']:.1f} µs",
        f"{row['bytes_each'] / 1024:.1f} KiB",
        f"{row['longest_ms']:.1f} ms" if "resumers" in row["axis"] else "",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        "µs of CPU per record": {
            f"{row['size']:,} {row['axis']}": row["record_us"] for row in rows if "resumers" not in row["axis"]
        },
        "longest step, ms": {
            f"{row['size']:,} {row['axis']}": row["longest_ms"] for row in rows if "resumers" in row["axis"]
        },
    }
