"""Guarantee G11: any replica serves the whole topic, whoever owns what, and only the owner commits."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import trio

from testbed.balancer import open_balancer
from testbed.broker.topics import grow
from testbed.clients import Addressed, Event, SseStream, open_sse
from testbed.patience import TooLateError
from testbed.patience import seconds as patient_seconds
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
        self._last_id = ""
        self._stream: SseStream | None = None
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
                    self._stream = stream
                    while (event := await stream.next_event()) is not None:
                        self._take(event)
            except (OSError, trio.BrokenResourceError, AssertionError):
                pass
            await trio.sleep(0.05)

    @property
    def last_id(self) -> str:
        """What it resumes with. Where its stream begins may come in a heartbeat, which fires no event."""
        if self._stream is not None:
            self._last_id = self._stream.last_id or self._last_id
        return self._last_id

    def _take(self, event: Event) -> None:
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

    async def until_begun(self) -> None:
        """Return when it knows where its stream begins: cut off before that, it has nothing to resume from."""
        with trio.fail_after(patient_seconds(60)):
            while not self.last_id:  # noqa: ASYNC110 - the reader tells nobody
                await trio.sleep(0.05)

    async def until(self, ends: dict[int, int], seconds: float = 60) -> None:
        """Return when it has all records before these offsets."""
        with trio.move_on_after(patient_seconds(seconds)):
            while any(  # noqa: ASYNC110 - the reader counts, and tells nobody
                self.next.get(partition, 0) < end for partition, end in ends.items()
            ):
                await trio.sleep(0.05)
            return
        raise TooLateError(f"{self.next} and not {ends}; {self.states[-1:]}")

    @property
    def repeats(self) -> int:
        """How many records came more than once."""
        return sum(self.seen.values()) - len(self.seen)


async def produce(kafka: Kafka, topic: str, number: int, first: int) -> None:
    """Write this many records, evenly over the partitions."""
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, number, PARTITIONS, 100, first)


def shares(replica: Replica, partitions: int) -> None:
    """Wait until a replica owns this many."""
    replica.wait_for(f"{partitions} partitions", lambda status: len(status["partitions"]) == partitions)


def start_a_taker_on_each(replicas: list[Replica], nursery: trio.Nursery) -> None:
    """A balancer may leave a replica with observers alone: what it owns then waits for somebody who counts."""
    for replica in replicas:
        nursery.start_soon(PlainReader(replica, "?scope=replica").run)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_lone_reader_has_the_whole_topic_through_every_change_of_owner(
    kafka: Kafka, replicas: Callable[..., Replica], protocol: str
) -> None:
    """It gets all records once; an owner without subscribers commits nothing."""
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


async def test_readers_of_the_whole_topic_lose_nothing_whatever_happens_to_replicas(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Behind a balancer they get everything in order through all changes.

    An observer has all of it, too, from where it begins, and none twice.
    """
    topic = kafka.create_topic(PARTITIONS)
    number = 0

    def start() -> Replica:
        nonlocal number
        number += 1
        return replicas(
            kafka.bootstrap_servers, topic, client_id=f"replica-{number}", kafka={"session.timeout.ms": 6000}
        )

    running = [await trio.to_thread.run_sync(start) for _ in range(3)]
    for replica in running:
        await trio.to_thread.run_sync(shares, replica, PARTITIONS // 3)
    async with open_balancer(running) as balancer, trio.open_nursery() as nursery:
        readers = [PlainReader(balancer) for _ in range(3)]
        observers = [PlainReader(balancer, "?scope=topic&observe=1&since=earliest") for _ in range(2)]
        for reader in [*readers, *observers]:
            nursery.start_soon(reader.run)
        for reader in [*readers, *observers]:
            await reader.until_begun()
        partitions, ends = PARTITIONS, dict.fromkeys(range(PARTITIONS), 0)
        for round_number in range(8):
            if round_number in {1, 5}:
                killed = running.pop(0)
                balancer.backends.remove(killed)
                killed.signal(signal.SIGKILL)
                await trio.to_thread.run_sync(killed.wait)
            elif round_number in {2, 6}:
                running.append(await trio.to_thread.run_sync(start))
                balancer.backends.append(running[-1])
            elif round_number == 3:
                stopped = running.pop(0)
                balancer.backends.remove(stopped)
                stopped.signal(signal.SIGTERM)
            elif round_number == 4:
                grow(kafka.admin, topic, PARTITIONS + 1)
                partitions, ends[PARTITIONS] = PARTITIONS + 1, 0
            elif round_number == 7:
                balancer.cut()
            await trio.to_thread.run_sync(
                produce_numbered, kafka.bootstrap_servers, topic, 300 * partitions, partitions, 50, 0
            )
            ends = {partition: end + 300 for partition, end in ends.items()}
            await trio.sleep(0.5)
        for reader in [*readers, *observers]:
            await reader.until(ends, 120)
        start_a_taker_on_each(running, nursery)
        await trio.to_thread.run_sync(_wait_until_committed, kafka, running[0].group, ends)
        nursery.cancel_scope.cancel()
    for reader in readers:
        assert not reader.holes
        assert not reader.gaps
        assert set(reader.seen) == {(partition, offset) for partition, end in ends.items() for offset in range(end)}
    for observer in observers:
        assert not observer.holes
        assert observer.repeats == 0


async def test_observers_alone_move_no_offset(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Records wait for a subscriber that counts, and are committed then."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic)
    await trio.to_thread.run_sync(shares, replica, PARTITIONS)
    own, whole = (
        PlainReader(replica, "?observe=1&since=earliest"),
        PlainReader(replica, "?scope=topic&observe=1&last=5"),
    )
    ends = dict.fromkeys(range(PARTITIONS), 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own.run)
        await produce(kafka, topic, 600, 0)
        await own.until(ends)
        nursery.start_soon(whole.run)
        await whole.until(ends)
        status = replica.status()
        assert status["records"]["dispatched"] == 0
        assert status["records"]["waiting"] == 600
        assert {row["committed"] for row in status["partitions"]} == {0}
        taker = PlainReader(replica, "?scope=replica")
        nursery.start_soon(taker.run)
        await taker.until(ends)
        await trio.to_thread.run_sync(_wait_until_committed, kafka, replica.group, ends)
        nursery.cancel_scope.cancel()
    assert own.repeats == whole.repeats == taker.repeats == 0
    assert len(own.seen) == len(taker.seen) == 600
    assert len(whole.seen) == 5 * PARTITIONS


def _wait_until_committed(kafka: Kafka, group: str, ends: dict[int, int]) -> None:
    deadline = time.monotonic() + patient_seconds(60)
    while time.monotonic() < deadline:
        rows = kafka.group_offsets(group)
        if {partition: row.current_offset for (_topic, partition), row in rows.items()} == ends:
            return
        time.sleep(0.2)
    raise TooLateError(f"{rows} and not {ends}")
