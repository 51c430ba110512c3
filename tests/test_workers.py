"""Guarantee G11 with several processes: whatever ends a worker, its clients resume at another and lose nothing."""

import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.test_whole_topic import PARTITIONS, PlainReader, produce
from tests.workers.test_processes import SETTINGS, pids

READERS = 8


def have_their_shares(status: dict[str, Any]) -> bool:
    """Whether every worker owns as many partitions as the other."""
    owned = [len(worker["status"]["partitions"]) if worker["up"] else 0 for worker in status["workers"]]
    return owned == [PARTITIONS // 2] * 2 and status["broker_reachable"]


def have_subscribers(replica: Replica) -> bool:
    """Whether every worker has one."""
    return all(worker["up"] and worker["status"]["subscribers"]["total"] for worker in replica.status()["workers"])


def busiest(replica: Replica) -> str:
    """The worker with most subscribers: the kernel spreads them by chance, or late workers send them on."""
    workers = replica.status()["workers"]
    return str(max(workers, key=lambda worker: worker["status"]["subscribers"]["total"])["worker"])


def is_committed(status: dict[str, Any]) -> bool:
    """Whether nothing is left to commit."""
    return [partition["lag"] for partition in status["partitions"]] == [0] * PARTITIONS


async def test_a_worker_that_is_killed_costs_its_clients_nothing(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """All records arrive without a hole and are committed, and one signal stops everything."""
    topic = kafka.create_topic(PARTITIONS)
    properties = {"session.timeout.ms": 6000}
    replica = await trio.to_thread.run_sync(
        lambda: replicas(kafka.bootstrap_servers, topic, settings=SETTINGS, kafka=properties)
    )
    before = await trio.to_thread.run_sync(pids, replica)
    # A stream that begins before its worker knows the topic has no id, and so no start, before the first record.
    await trio.to_thread.run_sync(replica.wait_for, "every worker has its share", have_their_shares)
    readers = [PlainReader(replica) for _ in range(READERS)]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.run)
        for reader in readers:
            await reader.until_begun()
        await produce(kafka, topic, 300, 0)
        for reader in readers:
            await reader.until(dict.fromkeys(range(PARTITIONS), 50))
        killed = await trio.to_thread.run_sync(busiest, replica)
        os.kill(before[killed], signal.SIGKILL)
        await produce(kafka, topic, 300, 300)
        for reader in readers:
            await reader.until(dict.fromkeys(range(PARTITIONS), 100))
        after = await trio.to_thread.run_sync(pids, replica)
        # Its readers are at the other worker now: what it owns again waits for somebody to take it there.
        with trio.fail_after(seconds(30)):
            while not await trio.to_thread.run_sync(have_subscribers, replica):
                nursery.start_soon(PlainReader(replica).run)
        committed = partial(replica.wait_for, "all committed", is_committed, 30.0)
        await trio.to_thread.run_sync(committed)
        nursery.cancel_scope.cancel()
    assert {name for name, pid in after.items() if pid != before[name]} == {killed}
    assert [reader.holes + reader.gaps for reader in readers] == [[]] * READERS
    assert sum(reader.connections - 1 for reader in readers) > 0
    replica.signal(signal.SIGTERM)
    with trio.fail_after(seconds(30)):
        assert await trio.to_thread.run_sync(replica.wait) == 0
    offsets = await trio.to_thread.run_sync(kafka.group_offsets, replica.group)
    assert {row.current_offset for row in offsets.values()} == {100}


CROWD = 5
"""Readers of the worker that is late; the other one has one."""
SLOW_CODE = """
import time
from dispatcher.hub import spreading, subscriber
if sys.argv[1] == "worker-1":
    offer = subscriber.Subscriber.offer
    def slow_offer(self, round_):
        time.sleep(0.05)
        return offer(self, round_)
    subscriber.Subscriber.offer = slow_offer
# Nobody is sent away because a worker has joined.
spreading.Spread.observe = lambda *_arguments, **_keywords: 0
"""
"""In worker 1 each live subscriber costs 50 ms per round."""
SLOW_WORKER = f"""
from dispatcher.workers import member
member.START_CODE = member.START_CODE.replace("\\nmain()", {SLOW_CODE!r} + "main()")
"""


@asynccontextmanager
async def a_crowd(replica: Replica) -> AsyncIterator[list[PlainReader]]:
    """Readers of which worker 1 has `CROWD`, and the other one has one; the kernel spreads them by chance."""
    kept: dict[str, list[PlainReader]] = {"replica-1": [], "replica-2": []}
    async with trio.open_nursery() as nursery:

        async def run(reader: PlainReader, scope: trio.CancelScope) -> None:
            with scope:
                await reader.run()

        with trio.fail_after(seconds(60)):
            while len(kept["replica-1"]) < CROWD or not kept["replica-2"]:
                reader, scope = PlainReader(replica), trio.CancelScope()
                nursery.start_soon(run, reader, scope)
                await reader.until_begun()
                there = kept[reader.states[0]["replica"]]
                if len(there) < (CROWD if there is kept["replica-1"] else 1):
                    there.append(reader)
                else:
                    scope.cancel()
        yield [*kept["replica-1"], *kept["replica-2"]]
        nursery.cancel_scope.cancel()


async def test_a_worker_that_is_late_sends_subscribers_on(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """One that has more than its share, while the other one is not late. Those that it sends on lose nothing."""
    topic = kafka.create_topic(PARTITIONS)
    settings = {**SETTINGS, "spread_seconds": 0.1}
    replica = await trio.to_thread.run_sync(
        lambda: replicas(kafka.bootstrap_servers, topic, settings=settings, code=SLOW_WORKER)
    )
    await trio.to_thread.run_sync(replica.wait_for, "every worker has its share", have_their_shares)
    event = "late, sending subscribers to other workers"
    async with a_crowd(replica) as readers:
        with trio.fail_after(seconds(90)):
            for written in itertools.count(0, PARTITIONS):  # pragma: no branch
                await produce(kafka, topic, PARTITIONS, written)
                if sum(reader.connections for reader in readers) > len(readers):
                    break
        (line, *_) = await trio.to_thread.run_sync(replica.wait_until_logged, event)
        assert (line["worker"], line["number"], line["of"]) == ("1", 1, CROWD)
        sent_on = [worker["sent_on"] for worker in replica.status()["workers"]]
        assert (sent_on[0] > 0, sent_on[1]) == (True, 0)
        assert 'dispatcher_worker_sent_on_total{worker="1"}' in replica.metrics()
        await produce(kafka, topic, PARTITIONS, written + PARTITIONS)
        for reader in readers:
            await reader.until(dict.fromkeys(range(PARTITIONS), written // PARTITIONS + 2))
    assert [reader.holes + reader.gaps for reader in readers] == [[]] * len(readers)
    # All are sent from where they were to the other worker, or back.
    assert sum(reader.connections - 1 for reader in readers) <= sum(line["number"] for line in replica.logged(event))
