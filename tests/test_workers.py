"""Guarantee G11 with several processes: whatever ends a worker, its clients resume at another and lose nothing."""

import os
import signal
from collections.abc import Callable
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
        os.kill(before["1"], signal.SIGKILL)
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
    assert after["1"] != before["1"]
    assert after["2"] == before["2"]
    assert [reader.holes + reader.gaps for reader in readers] == [[]] * READERS
    # The kernel has spread them: some had to reconnect, and others were not disturbed.
    assert sum(reader.connections - 1 for reader in readers) > 0
    replica.signal(signal.SIGTERM)
    with trio.fail_after(seconds(30)):
        assert await trio.to_thread.run_sync(replica.wait) == 0
    offsets = await trio.to_thread.run_sync(kafka.group_offsets, replica.group)
    assert {row.current_offset for row in offsets.values()} == {100}
