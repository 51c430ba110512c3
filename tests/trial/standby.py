"""Partitions follow subscribers, and observers move nothing: three replicas of a 3-node Kafka, for minutes."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import trio
from confluent_kafka.admin import AdminClient

from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse
from testbed.patience import TooLateError
from testbed.patience import seconds as patient_seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.audit.commits import commit_log
from tests.audit.producing import produce_steadily
from tests.test_whole_topic import PlainReader
from tests.trial.ledger import Row

PARTITIONS = 6
OWNS_SECONDS = 15.0
"""Within this time a lone client's replica owns everything: what DESIGN promises with an idle time of 5 s."""
GROUP_SECONDS = 0.2
"""Between two questions how many members the group has."""
ROUND_SECONDS = 60.0
"""A deadline in `testbed.patience.seconds`."""
CLIENTS = 4
"""On each replica, of those that leave at once."""
MANY_LEAVES = "import dispatcher.sansio.standby as module\nmodule.MAX_LEAVES = 10_000"
"""A replica that has left three times within ten minutes stays: this trial is about what happens before that."""


async def run(cluster: KafkaCluster, rounds: int, idle_seconds: float, tell: Callable[[str], None]) -> list[Row]:
    """A lone client, a second one on another replica, and many that leave all at once, many times.

    Args:
        cluster: Three nodes that run.
        rounds: How often all leave.
        idle_seconds: ``idle_leave_seconds``.
        tell: Called with what happens, in words.
    """
    topic = cluster.create_topic("standby", PARTITIONS)
    replicas: list[Replica] = []
    rows: list[Row] = []
    try:
        for number in range(3):
            settings = {"idle_leave_seconds": idle_seconds}
            make = partial(
                Replica,
                cluster.bootstrap_servers,
                topic,
                client_id=f"replica-{number + 1}",
                settings=settings,
                code=MANY_LEAVES,
            )
            replicas.append(await trio.to_thread.run_sync(make))
        for replica in replicas:
            await _until(replica, lambda status: status["joined"])
        await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, topic, 600, PARTITIONS)
        async with trio.open_nursery() as nursery:
            group = _Group(cluster.bootstrap_servers, replicas[0].group)
            nursery.start_soon(group.watch)
            rows += await _alone_and_together(cluster, topic, replicas, tell)
            rows += await _leave_at_once(replicas, rounds, tell)
            nursery.cancel_scope.cancel()
        rows.append(("questions how many members the group has", f"{sum(group.sizes.values()):,}", True))
        rows.append(("times that it was empty", f"{group.sizes[0]:,}", not group.sizes[0]))
        found = sum(len(replica.logged("the group is empty")) for replica in replicas)
        rows.append(("times that a replica found it empty", f"{found:,}", not found))
    finally:
        for replica in replicas:
            replica.end(by_force=True)
    return rows


async def observe(cluster: KafkaCluster, seconds: float, rate: float, tell: Callable[[str], None]) -> list[Row]:
    """Observers alone, of both scopes, on each replica, while records are written.

    Args:
        cluster: Three nodes that run.
        seconds: For how long.
        rate: Records a second.
        tell: Called with what happens, in words.
    """
    topic = cluster.create_topic("observed", PARTITIONS)
    replicas: list[Replica] = []
    stored: Counter[int] = Counter()
    try:
        for number in range(3):
            make = partial(Replica, cluster.bootstrap_servers, topic, client_id=f"replica-{number + 1}")
            replicas.append(await trio.to_thread.run_sync(make))
        for replica in replicas:
            await _until(replica, lambda status: len(status["partitions"]) == PARTITIONS // 3)
        whole = [PlainReader(replica, "?scope=topic&observe=1&since=earliest") for replica in replicas]
        own = [PlainReader(replica, "?observe=1&since=earliest") for replica in replicas]
        async with trio.open_nursery() as nursery:
            for reader in [*whole, *own]:
                nursery.start_soon(reader.run)
            for reader in whole:
                await reader.until_begun()
            tell(f"{len(whole) + len(own)} observers, for {seconds:g} s")
            end = time.monotonic() + seconds
            produce = partial(
                produce_steadily,
                cluster.bootstrap_servers,
                topic,
                PARTITIONS,
                rate=rate,
                value_bytes=200,
                stopped=lambda: time.monotonic() > end,
                on_stored=lambda partition, _offset, _number: stored.update([partition]),
                on_refused=tell,
            )
            await trio.to_thread.run_sync(produce)
            for reader in whole:
                await reader.until(dict(stored), ROUND_SECONDS)
            nursery.cancel_scope.cancel()
        log = await trio.to_thread.run_sync(lambda: [*commit_log(cluster.bootstrap_servers, replicas[0].group, topic)])
    finally:
        for replica in replicas:
            replica.end(by_force=True)
    written = sum(stored.values())
    holes = sum(len(reader.holes) + len(reader.gaps) for reader in [*whole, *own])
    seen = sum(len(reader.seen) for reader in own)
    moved = [offset for _, offset, _ in log if offset > 0]
    return [
        ("records written", f"{written:,}", written > 0),
        ("read by each observer of the whole topic", str([len(one.seen) for one in whole]), True),
        ("none missing for any of them", "", all(len(one.seen) == written for one in whole)),
        ("read by observers of the replicas' own, together", f"{seen:,}", seen == written),
        ("holes and gaps", f"{holes:,}", not holes),
        ("commits of a beginning, offset 0", f"{len(log) - len(moved):,}", True),
        ("commits that move an offset, in Kafka's own log", f"{len(moved):,}", not moved),
    ]


class _Group:
    """Asks the coordinator how many members a group has."""

    def __init__(self, bootstrap_servers: str, name: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})
        self._name = name
        self.sizes: Counter[int] = Counter()

    async def watch(self) -> None:
        """Ask until cancelled."""
        while True:
            answer = self._admin.describe_consumer_groups([self._name])[self._name]
            described = await trio.to_thread.run_sync(answer.result)
            self.sizes[len(described.members)] += 1
            await trio.sleep(GROUP_SECONDS)


async def _until(replica: Replica, condition: Callable[[dict[str, Any]], bool]) -> None:
    await trio.to_thread.run_sync(replica.wait_for, "as it should be", condition, ROUND_SECONDS)


def _owns(number: int) -> Callable[[Mapping[str, Any]], bool]:
    return lambda status: len(status["partitions"]) == number and all(one["lag"] == 0 for one in status["partitions"])


async def _alone_and_together(
    cluster: KafkaCluster, topic: str, replicas: list[Replica], tell: Callable[[str], None]
) -> list[Row]:
    reader, other = PlainReader(replicas[1]), PlainReader(replicas[2])
    async with trio.open_nursery() as nursery:
        began = time.monotonic()
        nursery.start_soon(reader.run)
        await _until(replicas[1], _owns(PARTITIONS))
        took = time.monotonic() - began
        tell(f"the lone client's replica owned everything after {took:.1f} s")
        nursery.start_soon(other.run)
        for replica in replicas[1:]:
            await _until(replica, _owns(PARTITIONS // 2))
        await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, topic, 600, PARTITIONS, 100, 600)
        for one in (reader, other):
            await one.until(dict.fromkeys(range(PARTITIONS), 200))
        nursery.cancel_scope.cancel()
    both = (reader, other)
    return [
        ("a lone client: its replica owns all, lag 0, after", f"{took:.1f} s", took <= OWNS_SECONDS),
        ("records of the lone one", f"{len(reader.seen):,} of 1,200", len(reader.seen) == 1200),
        ("repeats when the second came", f"{sum(one.repeats for one in both)}", not any(one.repeats for one in both)),
        ("holes, gaps", f"{[(one.holes, one.gaps) for one in both]}", not any(one.holes or one.gaps for one in both)),
        ("connections", f"{[one.connections for one in both]}", all(one.connections == 1 for one in both)),
    ]


async def _leave_at_once(replicas: list[Replica], rounds: int, tell: Callable[[str], None]) -> list[Row]:
    reached = 0
    for number in range(rounds):
        async with trio.open_nursery() as nursery:
            for replica in replicas:
                for _ in range(CLIENTS):
                    nursery.start_soon(_read, replica)
            for replica in replicas:
                await _until(replica, lambda status: len(status["partitions"]) == PARTITIONS // 3)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(patient_seconds(ROUND_SECONDS)) as limit:
            while sorted(one.status()["state"] for one in replicas) != ["standby", "standby", "streaming"]:  # noqa: ASYNC110
                await trio.sleep(0.1)
        if limit.cancelled_caught:
            raise TooLateError(f"{[one.status()['state'] for one in replicas]}")
        (owner,) = (one for one in replicas if one.status()["state"] == "streaming")
        await _until(owner, lambda status: len(status["partitions"]) == PARTITIONS)
        tell(f"round {number + 1}: {owner.client_id} stays, with everything")
        reached += 1
    return [("times that all clients left at once", f"{reached:,} of {rounds:,}", reached == rounds)]


async def _read(replica: Replica) -> None:
    async with open_sse(replica, "?scope=replica") as stream:
        while await stream.next_event() is not None:
            pass
