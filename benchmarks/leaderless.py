"""How subscribers that wait for a partition without a leader affect a replay of others: the time of each chunk."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import trio
from confluent_kafka import Producer

from benchmarks.harness import value
from benchmarks.tables import median
from dispatcher.hub.lookups import ASK_AGAIN_SECONDS
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
WAITING = 60
RECORDS = 400_000
CHUNK_BYTES = 64 * 1024
COLUMNS = ("a replay, chunk by chunk", "chunks", "p50", "p99", "p99, relative to alone", "longest")
ALONE, BESIDE = "alone", f"with {WAITING} that wait"


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure in turns beside the same broken cluster: alone, beside waiting ones, alone, and so on."""
    turns, records = (1, RECORDS // 20) if quick else (7, RECORDS)
    with KafkaCluster(3) as cluster:
        topic = cluster.create_topic("leaderless", 3, replication_factor=1)
        leaders = _leaders(cluster, topic)
        stuck, healthy = 0, next(number for number, leader in leaders.items() if leader != leaders[0])
        tell(f"producing {records:,} records")
        servers = {"bootstrap.servers": cluster.bootstrap_servers}
        producer = Producer({**servers, "queue.buffering.max.messages": 2 * records})
        producer.produce(topic, value(), partition=stuck)
        for _ in range(records):
            producer.produce(topic, value(), partition=healthy)
            producer.poll(0)
        producer.flush(30)
        cluster.kill_node(leaders[stuck])
        while _leaders(cluster, topic)[stuck] != -1:
            time.sleep(0.1)
        replays = Replays({**servers, "group.id": topic}, concurrency=4, batch_bytes=CHUNK_BYTES)
        read = partial(_replay, replays, TopicPartition(topic, healthy), records)
        wait = partial(_wait, replays, TopicPartition(topic, stuck))
        found = trio.run(_measure, replays, read, wait, turns, tell)
    return [
        {
            "replay": name,
            "chunks": sum(map(len, measured)),
            "p50_ms": median(chain.from_iterable(measured)) * 1e3,
            "p99_ms": median(map(_p99, measured)) * 1e3,
            "of_alone": median(_p99(one) / _p99(other) for one, other in zip(measured, found[ALONE], strict=True)),
            "longest_ms": max(chain.from_iterable(measured)) * 1e3,
        }
        for name, measured in found.items()
    ]


def _leaders(cluster: KafkaCluster, topic: str) -> Mapping[int, int]:
    partitions = cluster.admin.list_topics(topic, timeout=30).topics[topic].partitions
    return {number: partition.leader for number, partition in partitions.items()}


async def _measure(
    replays: Replays,
    read: Callable[[], Any],
    wait: Callable[[int], Any],
    turns: int,
    tell: Callable[[str], None],
) -> Mapping[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {ALONE: [], BESIDE: []}
    replays.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replays.run)
        await read()
        for turn in range(turns):
            for name, measured in found.items():
                tell(f"{name}, turn {turn + 1} of {turns}")
                async with trio.open_nursery() as waiting:
                    for client in range(WAITING if name == BESIDE else 0):
                        waiting.start_soon(wait, client)
                    measured.append(await read())
                    waiting.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await replays.close()
    return found


async def _replay(replays: Replays, partition: TopicPartition, records: int) -> list[float]:
    """Read all of a partition as a subscriber does; returns the seconds until each chunk arrived."""
    first, seconds, began = 0, [], time.monotonic()
    while first < records:
        chunk = await replays.read({partition: Range(first, records)}, CHUNK_BYTES, "replay")
        if partition in chunk.next_offsets:
            first = chunk.next_offsets[partition]
            seconds.append(time.monotonic() - began)
            began = time.monotonic()
        else:
            await trio.sleep(ASK_AGAIN_SECONDS)
    return seconds


async def _wait(replays: Replays, partition: TopicPartition, client: int) -> None:
    """Keep asking for a chunk, as often as a subscriber does."""
    while True:
        await replays.read({partition: Range(0, 1)}, CHUNK_BYTES, client)
        await trio.sleep(ASK_AGAIN_SECONDS)


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        row["replay"],
        str(row["chunks"]),
        f"{row['p50_ms']:.2f} ms",
        f"{row['p99_ms']:.2f} ms",
        f"{row['of_alone']:.2f}",
        f"{row['longest_ms']:.0f} ms",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {"ms for a chunk, p99": {row["replay"]: row["p99_ms"] for row in rows}}
