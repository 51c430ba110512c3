"""KIP-848: the coordinator's answer with an assignment comes too late, and the partitions find their owner anyway."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trio
from confluent_kafka import Consumer

from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica

PARTITIONS = 6
RECORDS = 60
GROUP = "assets"
LATE_SECONDS = 1.4
"""Longer than librdkafka waits for the answer to a heartbeat (1 s at this cluster's interval of 500 ms), and shorter
than the coordinator waits for a member (6 s)."""


class Member:
    """Another member of the group, in a thread of its own.

    Args:
        servers: The cluster.
        topic: What it subscribes to.
    """

    def __init__(self, servers: str, topic: str) -> None:
        self.assigned: set[int] = set()
        self.may_release = threading.Event()
        self.may_release.set()
        self.is_releasing = threading.Event()
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": GROUP,
                "group.protocol": "consumer",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self._consumer.subscribe(
            [topic],
            on_assign=lambda _, got: self.assigned.update(tp.partition for tp in got),
            on_revoke=lambda _, left: self._release({tp.partition for tp in left}),
        )

    def run(self) -> None:
        """Until `end`."""
        while not self._stop.is_set():
            self._consumer.poll(0.02)
        self._consumer.close()

    def end(self) -> None:
        """Leave the group."""
        self.may_release.set()
        self._stop.set()

    def _release(self, partitions: set[int]) -> None:
        self.is_releasing.set()
        self.may_release.wait()
        self.assigned -= partitions
        self.is_releasing.clear()


@contextmanager
def member(servers: str, topic: str) -> Iterator[Member]:
    """Polls within the ``with`` block."""
    made = Member(servers, topic)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.end()
        thread.join()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    with trio.fail_after(seconds(60)):
        while not condition():  # noqa: ASYNC110 - the threads have no event of Trio's
            await trio.sleep(0.01)


def owns(partitions: int) -> Callable[[dict[str, Any]], bool]:
    """Whether a status shows this many partitions."""
    return lambda status: len(status["partitions"]) == partitions


async def write(servers: str, topic: str, written: list[int], enough: trio.Event) -> None:
    """Records to every partition, until it is enough."""
    while not enough.is_set():
        first = len(written)
        await trio.to_thread.run_sync(produce_numbered, servers, topic, PARTITIONS, PARTITIONS, 0, first)
        written.extend(range(first, first + PARTITIONS))


@pytest.mark.timeout(300)
async def test_an_assignment_whose_answer_came_too_late_is_asked_for_again(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """Two members give one partition each to a replica. The answer with the second one is lost, and no record is."""
    cluster = own_cluster()
    await trio.to_thread.run_sync(cluster.start)
    servers = cluster.bootstrap_servers
    topic = cluster.create_topic("assets", PARTITIONS)
    with ExitStack() as members:
        slow = members.enter_context(member(servers, topic))
        await until(lambda: len(slow.assigned) == PARTITIONS)
        quick = members.enter_context(member(servers, topic))
        await until(lambda: len(slow.assigned) == len(quick.assigned) == PARTITIONS // 2)
        slow.may_release.clear()
        kafka = {"group.protocol": "consumer"}
        replica = replicas(servers, topic, settings={"group_id": GROUP}, kafka=kafka)
        await until(slow.is_releasing.is_set)
        await trio.to_thread.run_sync(replica.wait_for, "one partition", owns(1))
        slow.may_release.set()
        await until(lambda: not slow.is_releasing.is_set())
        await trio.sleep(0.03)  # the coordinator takes what is released, and the replica's heartbeat is still to come
        cluster.pause_node(0)
        await trio.sleep(LATE_SECONDS)
        cluster.resume_node(0)
        async with open_sse(replica) as stream:
            written: list[int] = []
            async with trio.open_nursery() as nursery:
                enough = trio.Event()
                nursery.start_soon(write, servers, topic, written, enough)
                await trio.to_thread.run_sync(replica.wait_for, "both partitions", owns(2))
                enough.set()
            members.close()
            with trio.fail_after(seconds(60)):
                records = await sse_records(stream, len(written))
            assert sorted(int(record.data) for record in records) == written
