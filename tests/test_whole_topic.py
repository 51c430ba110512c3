"""Guarantee G11: any replica serves the whole topic, whoever owns what, and only the owner commits."""

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import trio

from testbed.clients import Addressed, Event, open_sse
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 6


class PlainReader:
    """A plain EventSource: it comes back with the last id, and does nothing else to lose nothing.

    Args:
        address: Where it connects, such as a balancer.
        query: What it asks for.
    """

    def __init__(self, address: Addressed, query: str = "?scope=topic") -> None:
        self.address = address
        self.query = query
        self.last_id = ""
        self.seen: Counter[tuple[int, int]] = Counter()
        self.next: dict[int, int] = {}
        """The next offset of each partition, repeats dropped by the first pair of the id."""
        self.holes: list[tuple[int, int, int]] = []
        self.gaps: list[dict[str, Any]] = []
        self.states: list[dict[str, Any]] = []
        self.connections = 0

    async def run(self) -> None:
        """Read for ever."""
        while True:
            headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
            try:
                async with open_sse(self.address, self.query, headers) as stream:
                    self.connections += 1
                    while (event := await stream.next_event()) is not None:
                        self._take(event)
            except (OSError, trio.BrokenResourceError, AssertionError):
                pass
            await trio.sleep(0.05)

    def _take(self, event: Event) -> None:
        if event.id:
            self.last_id = event.id
        if event.type == "gap":
            self.gaps.append(orjson.loads(event.data))
        elif event.type == "state":
            self.states.append(orjson.loads(event.data))
        elif event.type == "message":
            partition, offset = event.own
            self.seen[event.own] += 1
            expected = self.next.setdefault(partition, offset)
            if offset > expected:
                self.holes.append((partition, expected, offset))
            self.next[partition] = max(expected, offset + 1)

    async def until(self, ends: dict[int, int], seconds: float = 60) -> None:
        """Return when it has all records before these offsets."""
        with trio.move_on_after(seconds):
            while any(  # noqa: ASYNC110 - the reader counts, and tells nobody
                self.next.get(partition, 0) < end for partition, end in ends.items()
            ):
                await trio.sleep(0.05)
            return
        raise AssertionError(f"{self.next} and not {ends}; {self.states[-1:]}")

    @property
    def repeats(self) -> int:
        """How many records came more than once."""
        return sum(self.seen.values()) - len(self.seen)


async def produce(kafka: Kafka, topic: str, number: int, first: int) -> None:
    """So many records, evenly over the partitions."""
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, number, PARTITIONS, 100, first)


def shares(replica: Replica, partitions: int) -> None:
    """Wait until a replica owns so many."""
    replica.wait_for(f"{partitions} partitions", lambda status: len(status["partitions"]) == partitions)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_lone_reader_has_the_whole_topic_through_every_change_of_owner(
    kafka: Kafka, replicas: Callable[..., Replica], protocol: str
) -> None:
    """Two replicas, one reader: all records, none twice; nothing is committed for the owner that has no subscriber."""
    topic = kafka.create_topic(PARTITIONS)
    properties = {"group.protocol": protocol}
    first = replicas(kafka.bootstrap_servers, topic, kafka=properties, client_id="first")
    await trio.to_thread.run_sync(shares, first, PARTITIONS)
    second = await trio.to_thread.run_sync(
        lambda: replicas(kafka.bootstrap_servers, topic, kafka=properties, client_id="second")
    )
    await trio.to_thread.run_sync(shares, second, PARTITIONS // 2)
    await trio.to_thread.run_sync(shares, first, PARTITIONS // 2)
    reader = PlainReader(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await produce(kafka, topic, 600, 0)
        await reader.until(dict.fromkeys(range(PARTITIONS), 100))
        await trio.to_thread.run_sync(
            first.wait_for, "its own committed", lambda status: all(p["lag"] == 0 for p in status["partitions"])
        )
        own = {row["partition"] for row in first.status()["partitions"]}
        offsets = await trio.to_thread.run_sync(kafka.group_offsets, first.group)
        committed = {partition: row.current_offset for (_topic, partition), row in offsets.items()}
        assert {committed[partition] for partition in own} == {100}
        assert {committed[partition] for partition in range(PARTITIONS) if partition not in own} == {0}
        second.signal(signal.SIGTERM)
        await produce(kafka, topic, 600, 600)
        await reader.until(dict.fromkeys(range(PARTITIONS), 200))
        await trio.to_thread.run_sync(
            first.wait_for,
            "all committed",
            lambda status: len(status["partitions"]) == PARTITIONS and all(p["lag"] == 0 for p in status["partitions"]),
        )
        nursery.cancel_scope.cancel()
    assert not reader.holes
    assert not reader.gaps
    assert reader.repeats == 0
    assert len(reader.seen) == 1200
    assert reader.connections == 1
