"""The cost of a record with filters: as many subscribers with one key each, beside one subscriber without a filter.

Runs without Kafka and sockets, like ``benchmarks.growth``, and measures this process's CPU time from the crossing to
transports that accept everything. Exactly one subscriber wants each record, so the figures differ by the cost of
finding that subscriber, and of a separate write.
"""

# It plays the poller, so it looks into the pipeline.
# ruff: noqa: SLF001

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import trio
import trio.testing

from benchmarks.growth import FEED, TOPIC, NeverAnswering, Replica, Taking
from benchmarks.tables import amount, median
from dispatcher.errors import SubscriberGoneError
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.records import Batch, Record

PAGE = "performance"
COLUMNS = ("subscribers", "filters", "CPU µs per record", "relative to no filter", "deliveries per record")
PARTITIONS = 6
POLL_RECORDS = 24
"""Records per crossing: those of 12 ms at 2,000 per second."""

VALUE = b'{"n":1,"text":"' + b"x" * 180 + b'"}'


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure one subscriber without a filter, then more and more with one key each."""
    rows: list[dict[str, Any]] = []
    records, turns = (2_400, 1) if quick else (24_000, 3)
    for filters in (0, 100, 1_000) if quick else (0, 100, 1_000, 10_000):
        tell(f"{filters} filters" if filters else "no filter")
        found = [trio.run(_measure, filters, records) for _ in range(turns)]
        rows.append({"filters": filters, "cpu_us": [cpu for cpu, _ in found], "deliveries": found[-1][1]})
    for row in rows:
        row["ratio"] = median(row["cpu_us"]) / median(rows[0]["cpu_us"])
    return rows


async def _measure(filters: int, records: int) -> tuple[float, float]:
    """Return CPU microseconds and deliveries per record."""
    replica = Replica(PARTITIONS)
    replica.hub.lookups._replays = NeverAnswering()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replica.hub.run)
        replica.assign()
        for number in range(max(1, filters)):
            nursery.start_soon(_serve, replica, _feed(number) if filters else FEED)
        await trio.testing.wait_all_tasks_blocked()
        choose = random.Random(1)  # noqa: S311 - the same keys each time
        offsets = [101] * PARTITIONS
        each, most = range(POLL_RECORDS // PARTITIONS), max(1, filters)
        polls = [
            [[b"key-%d" % choose.randrange(most) for _ in each] for _ in range(PARTITIONS)]
            for _ in range(records // POLL_RECORDS)
        ]
        before = replica.hub.statistics().deliveries
        began = time.process_time()
        for poll in polls:
            for number, keys in enumerate(poll):
                _publish(replica, number, offsets, keys)
            await replica.hub.wait_settled()
        taken = time.process_time() - began
        deliveries = replica.hub.statistics().deliveries - before
        nursery.cancel_scope.cancel()
    return taken / records * 1e6, deliveries / records


def _feed(number: int) -> Feed:
    return feed_of(SSE_VALUE, frozenset({TOPIC}), read_filter({"exact": {"key": f"key-{number}"}}))


async def _serve(replica: Replica, feed: Feed) -> None:
    subscriber = replica.hub.subscribe(feed, Taking())
    try:
        with suppress(SubscriberGoneError):
            await subscriber.run()
    finally:
        replica.hub.unsubscribe(subscriber)


def _publish(replica: Replica, number: int, offsets: list[int], keys: Sequence[bytes]) -> None:
    """Publish a batch of one partition."""
    partition, first = replica.partitions[number], offsets[number]
    offsets[number] += len(keys)
    covers_from = replica.pipeline._offsets.received(partition, first, offsets[number])
    epoch = replica.pipeline._offsets.epoch(partition) or 0
    some = [Record(first + n, None, key, VALUE, ()) for n, key in enumerate(keys)]
    replica.hub.publish(Batch(partition, some, epoch=epoch, covers_from=covers_from))


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one line of the table."""
    filters = row["filters"]
    return (
        f"{max(1, filters):,}",
        f"{filters:,}" if filters else "none",
        f"{median(row['cpu_us']):.1f}",
        f"{row['ratio']:.2f}",
        amount(row["deliveries"]),
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        "CPU µs per record": {
            f"{row['filters']:,} filters" if row["filters"] else "no filter": median(row["cpu_us"]) for row in rows
        }
    }
