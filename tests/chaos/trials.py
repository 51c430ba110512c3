"""What happens aside, on topics of its own: records expire, topics are made again and grow, partitions have no leader.

Each topic is dispatched by the same replicas and the same group as everything else, and has books of its own.
"""

import random
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import orjson
import trio

from testbed.broker import topics
from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse
from testbed.patience import seconds
from tests.audit.fleet import Fleet, Slot
from tests.audit.listeners import ENDINGS, Process
from tests.chaos.books import Books, is_new_to_its_owner
from tests.chaos.schedule import ASIDE, Event, Kind
from tests.chaos.watch import Watch, value_of

FIRST_RECORDS = 3
REPLAYED_RECORDS = 200
LARGE_BYTES = 10_000
UNREAD_RECORDS = 800
"""In each partition while nobody reads: more than a replica takes before it pauses (`run.SETTINGS`)."""

KEPT_RECORDS = 20
"""What is not deleted."""

PAUSED_SECONDS = 5.0
REPLAY_SECONDS = 20.0
SETTLE_SECONDS = 15.0
"""Deadlines in `testbed.patience.seconds`."""

PARTITIONS = {Kind.RETENTION: 2, Kind.RECREATE: 2, Kind.GROW: 1, Kind.LEADERLESS: 3}
"""Of the topic of each kind, in the beginning."""


class Trials:
    """The topics, their readers and their books.

    Args:
        cluster: Where the topics are.
        fleet: The replicas, once they are there.
        prefix: Of the topics' names.
        kinds: What may happen.
        whole: Whether the replicas send the whole topic by default.
    """

    def __init__(self, cluster: KafkaCluster, prefix: str, kinds: frozenset[Kind], *, whole: bool = False) -> None:
        self.books = {kind: Books(f"{prefix}-{kind.option}", whole=whole) for kind in PARTITIONS if kind in kinds}
        self.not_replayed: list[str] = []
        """Healthy partitions whose replay had not ended when the deadline passed, in words."""
        self._cluster = cluster
        self._partitions = {kind: PARTITIONS[kind] for kind in self.books}
        self._watches: dict[Kind, Watch] = {}
        self._turns = {kind: trio.Lock() for kind in self.books}
        self._began_ms = time.time_ns() // 1_000_000
        self._deleted_at = self._remade_at = 0.0
        """When the topic that is made again was about to be deleted, for the last time, and when the new one was there,
        by the clock."""

    @property
    def topics(self) -> dict[str, int]:
        """How many partitions each has now."""
        return {books.topic: self._partitions[kind] for kind, books in self.books.items()}

    def create(self) -> None:
        """Create the topics. *Thread*: any."""
        for kind, books in self.books.items():
            if kind is Kind.LEADERLESS:
                topics.create_on_nodes(self._cluster.admin, books.topic, range(PARTITIONS[kind]))
            else:
                self._cluster.create_topic(books.topic, PARTITIONS[kind])

    async def begin(self) -> None:
        """Write the first records, once the replicas have the topics."""
        for kind in self.books:
            number = REPLAYED_RECORDS if kind is Kind.LEADERLESS else FIRST_RECORDS
            await self._fill(kind, range(PARTITIONS[kind]), number)

    async def run(self, fleet: Fleet, slots: int) -> None:
        """Keep readers until cancelled."""
        async with trio.open_nursery() as nursery:
            for kind, books in self.books.items():
                self._watches[kind] = Watch(books, fleet, resumes=kind is Kind.RETENTION)
                nursery.start_soon(self._watches[kind].run, slots)

    async def happen(self, event: Event) -> None:
        """Let something happen to a topic, and return when it is over."""
        does = {Kind.RETENTION: self._retention, Kind.RECREATE: self._recreate, Kind.GROW: self._grow}
        assert event.kind in ASIDE
        async with self._turns[event.kind]:
            await does[event.kind](random.Random(event.target))  # noqa: S311 - it has to be repeatable

    async def settle(self, fleet: Fleet, reset: str) -> None:
        """Return when nothing is owed, or the deadline has passed; what is owed then is lost.

        Args:
            fleet: The replicas.
            reset: Their ``auto.offset.reset``.
        """
        with trio.move_on_after(seconds(SETTLE_SECONDS)):
            while not all(books.are_settled for books in self.books.values()):  # noqa: ASYNC110 - sockets, not events
                await trio.sleep(0.1)
        if reset == "latest" and Kind.RECREATE in self.books:
            books = self.books[Kind.RECREATE]
            every = [_assigned(fleet, f"{books.topic}:{n}") for n in range(self._partitions[Kind.RECREATE])]
            known_to = {process for one in every for at, process in one if at < self._deleted_at}
            for partition in {partition for partition, _ in books.missing()}:
                if is_new_to_its_owner(every[partition], known_to, self._deleted_at, self._remade_at):
                    books.new_to_its_owner(partition)
        for books in self.books.values():
            books.close()

    async def _retention(self, chance: random.Random) -> None:
        books, watch = self.books[Kind.RETENTION], self._watches[Kind.RETENTION]
        if chance.random() < 0.5:
            watch.leave()
        else:
            watch.freeze()
        everywhere = range(self._partitions[Kind.RETENTION])
        try:
            await self._fill(Kind.RETENTION, everywhere, UNREAD_RECORDS, LARGE_BYTES)
            await self._until_paused(watch, books.topic)
            before = {partition: books.stored(partition) - KEPT_RECORDS for partition in everywhere}
            for partition, offset in before.items():
                books.expired(partition, offset)
            await _in_thread(partial(topics.expire, self._cluster.admin, books.topic, before))
        finally:
            watch.come_back()
        await self._fill(Kind.RETENTION, everywhere, FIRST_RECORDS)

    async def _until_paused(self, watch: Watch, topic: str) -> None:
        """Wait until fetching is paused, or for as long as that should take: frozen readers may prevent it."""
        with trio.move_on_after(seconds(PAUSED_SECONDS)):
            while True:
                for slot in watch.fleet.slots:
                    status = await _status(slot)
                    if any(one["topic"] == topic and one["paused"] for one in status.get("partitions", ())):
                        return
                await trio.sleep(0.1)

    async def _recreate(self, chance: random.Random) -> None:
        books = self.books[Kind.RECREATE]
        partitions = self._partitions[Kind.RECREATE]
        number = max(books.stored(partition) for partition in range(partitions)) + chance.randrange(1, 6)
        books.remade()
        self._deleted_at, self._remade_at = time.time(), float("inf")
        nodes = len(self._cluster.bootstrap_servers.split(","))
        await _in_thread(partial(topics.recreate, self._cluster.admin, books.topic, partitions, nodes))
        self._remade_at = time.time()
        await self._fill(Kind.RECREATE, range(partitions), number)

    async def _grow(self, chance: random.Random) -> None:
        books, new = self.books[Kind.GROW], self._partitions[Kind.GROW]
        self._partitions[Kind.GROW] += 1
        await _in_thread(partial(topics.grow, self._cluster.admin, books.topic, new + 1))
        await self._fill(Kind.GROW, [new], chance.randrange(5, 50))

    async def replay_beside(self, fleet: Fleet, without_leader: int) -> None:
        """Have every replica replay its healthy partitions, while one has no leader.

        What a replica does not own, or lets go meanwhile, is not asked of it. (A stream of the whole topic would wait
        for the missing leader, which alone knows where its partition begins.) What is not there when the deadline has
        passed counts as not replayed; the deadline ends no trial that goes on.
        """
        async with trio.open_nursery() as nursery:
            for number, slot in enumerate(fleet.slots):
                since = "earliest" if number % 2 else str(self._began_ms)
                if slot.replica is not None:
                    nursery.start_soon(self._replay, slot, slot.replica, since, without_leader)

    async def _replay(self, slot: Slot, replica: Process, since: str, without_leader: int) -> None:
        topic = self.books[Kind.LEADERLESS].topic
        owed: dict[int, int] = {}
        came: dict[int, int] = {}
        asked = False
        with trio.move_on_after(seconds(REPLAY_SECONDS)) as patience:
            try:
                async with open_sse(replica, f"?topic={topic}&scope=replica&since={since}") as stream:
                    while not asked or any(came.get(partition, -1) < last for partition, last in owed.items()):
                        event = await stream.next_event()
                        if event is None:
                            return
                        if event.type == "message":
                            partition, offset = event.own
                            came[partition] = offset
                        elif event.type == "state":
                            mine = set(orjson.loads(event.data)["assigned"].get(topic, ())) - {without_leader}
                            ends = {partition: self.books[Kind.LEADERLESS].stored(partition) - 1 for partition in mine}
                            owed = ends if not asked else {p: last for p, last in owed.items() if p in mine}
                            asked = True
            except* ENDINGS:
                asked, owed = True, {}  # it has ended, which is another thing's business
        if patience.cancelled_caught and slot.replica is replica:
            late = {partition: last for partition, last in owed.items() if came.get(partition, -1) < last}
            words = (
                f"{replica.identity}, since={since}: {late or 'not even a state'} while {without_leader} has no leader"
            )
            self.not_replayed.append(words)

    def _write(self, kind: Kind, partitions: Sequence[int], number: int, size_bytes: int = 0) -> list[tuple[int, int]]:
        books = self.books[kind]
        value = value_of(books.generation, size_bytes)
        return topics.fill(self._cluster.bootstrap_servers, books.topic, partitions, number, value)

    async def _fill(self, kind: Kind, partitions: Sequence[int], number: int, size_bytes: int = 0) -> None:
        """The books belong to this thread: they learn when all is stored, and may have seen some by then."""
        write = partial(self._write, kind, partitions, number, size_bytes)
        for partition, offset in await trio.to_thread.run_sync(write):
            self.books[kind].produced(partition, offset)


def _assigned(fleet: Fleet, partition: str) -> Sequence[tuple[float, str]]:
    """When a partition was assigned, and to which process."""
    return [
        (datetime.fromisoformat(line["timestamp"]).timestamp(), process)
        for process, line in fleet.logged("assigned")
        if partition in line["partitions"]
    ]


async def _status(slot: Slot) -> dict[str, Any]:
    """Return a replica's status; empty without a replica that answers."""
    replica = slot.replica
    if replica is None:
        return {}
    try:
        return await trio.to_thread.run_sync(replica.status, abandon_on_cancel=True)
    except Exception:  # noqa: BLE001 - it is suspended, or has just been killed
        return {}


async def _in_thread(does: partial[None]) -> None:
    await trio.to_thread.run_sync(does)
