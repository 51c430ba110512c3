"""A topic of which only what was acknowledged is committed, and its clients, who die as they like."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import trio

from testbed.patience import seconds
from tests.audit.commits import CommittedOffsets, commit_log
from tests.audit.fleet import Fleet
from tests.audit.listeners import Process
from tests.chaos.ack_books import AckBooks
from tests.chaos.ackers import Acker, Conduct, draw_conduct
from tests.chaos.attribution import Attribute, Stored
from tests.chaos.crowd import Crowd
from tests.chaos.judge import Fault, Judge

PARTITIONS = 3
ACKERS = 5
RATE = 60.0
VALUE_BYTES = 100
SETTLE_SECONDS = 40.0
"""A deadline in `testbed.patience.seconds`."""


class Acked:
    """The topic, its clients, and what the group has committed of it.

    Args:
        bootstrap_servers: Where the topic is.
        group: That of the replicas.
        topic: Nobody else reads it.
        workers: Processes of each replica.
    """

    def __init__(self, bootstrap_servers: str, group: str, topic: str, workers: int = 1) -> None:
        self._workers = workers
        self.books = AckBooks()
        self._bootstrap_servers = bootstrap_servers
        self._group = group
        self._topic = topic
        self._judge = Judge()
        self._producer: Crowd | None = None
        self._ends = dict.fromkeys(range(PARTITIONS), 0)
        self._not_acked = 0
        self._not_committed: dict[int, int] = {}

    @property
    def topics(self) -> Mapping[str, int]:
        """Partitions by topic."""
        return {self._topic: PARTITIONS}

    @property
    def tables(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of single topics."""
        return {self._topic: {"commit_on": "acked"}}

    @property
    def judges(self) -> list[Judge]:
        """Return the judges of its clients."""
        return [self._judge]

    async def run(self, fleet: Fleet, seed: int, _: int) -> None:
        """Produce until `quiet`, and let clients come and go until cancelled. *Cancellation*: safe."""
        self._producer = Crowd(fleet, self._topic, seed)
        async with trio.open_nursery() as nursery:
            for number in range(ACKERS):
                chance = random.Random(f"{seed} acker {number}")  # noqa: S311 - it has to be repeatable
                where = lambda: _running(fleet)  # noqa: E731 - each of them asks the same
                nursery.start_soon(self._acker(f"acker {number}", where, draw_conduct(chance), chance).run)
            await self._producer.produce(
                self._bootstrap_servers,
                PARTITIONS,
                RATE,
                VALUE_BYTES,
                on_stored=lambda partition, offset, _: self._stored(partition, offset),
            )

    def quiet(self) -> None:
        """Produce no more."""
        if self._producer is not None:
            self._producer.quiet()

    async def settle(self, fleet: Fleet, attribute: Attribute) -> None:
        """Let clients that do nothing but their work acknowledge what is left, and judge. *Cancellation*: safe."""
        async with trio.open_nursery() as nursery:
            # The kernel spreads connections over workers by chance.
            copies = 1 if self._workers == 1 else 6 * self._workers
            for number in range(len(fleet.slots) * copies):
                chance = random.Random(number)  # noqa: S311 - it decides nothing
                where = _Slot(fleet, number % len(fleet.slots))
                nursery.start_soon(self._acker(f"worker {number}", where, Conduct(dies=False), chance).run)
            await self._until_committed()
            nursery.cancel_scope.cancel()
        self._not_acked = sum(
            (partition, offset) not in self.books.said for partition, end in self._ends.items() for offset in range(end)
        )
        log = await trio.to_thread.run_sync(lambda: list(commit_log(self._bootstrap_servers, self._group, self._topic)))
        commits = [Stored(partition, offset, stored_ms / 1000) for partition, offset, stored_ms in log]
        self.books.judge_commits(commits)
        receipts = [(at, process, partition, offset) for (process, partition, offset), at in self.books.sure.items()]
        self.books.judge_again(attribute(self._topic, commits, receipts))

    async def _until_committed(self) -> None:
        committed = CommittedOffsets(self._bootstrap_servers, self._group, self._topic, PARTITIONS)
        self._not_committed = dict(self._ends)
        try:
            with trio.move_on_after(seconds(SETTLE_SECONDS)):
                while any(self._not_committed.values()):
                    found = await trio.to_thread.run_sync(committed.read)
                    if found is not None:
                        self._not_committed = {p: end - found.get(p, 0) for p, end in self._ends.items()}
                    await trio.sleep(0.1)
        finally:
            committed.close()

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        verdict = self._judge.verdict()
        yield "ackers' connections", f"{verdict.connections:,}", verdict.connections > 0
        yield from self.books.rows()
        yield "lost: never acknowledged", f"{self._not_acked:,}", not self._not_acked
        short = sum(map(abs, self._not_committed.values()))
        yield "acknowledged, and not committed", f"{short:,}", not short
        for fault in Fault:
            if (number := verdict.faults.get(fault, 0)) or fault in {Fault.LEFT_OUT, Fault.OUT_OF_ORDER}:
                yield f"ackers: {fault}", f"{number:,}", not number

    @property
    def evidence(self) -> Iterator[str]:
        """Return what was wrong, in words."""
        yield from (f"ackers: {words}" for words in [*self.books.evidence, *self._judge.evidence])
        if any(self._not_committed.values()):
            yield f"ackers: not committed by partition: {self._not_committed}"

    def _acker(
        self, name: str, where: Callable[[], Sequence[Process]], conduct: Conduct, chance: random.Random
    ) -> Acker:
        return Acker(name, self._topic, where, books=self.books, judge=self._judge, conduct=conduct, chance=chance)

    def _stored(self, partition: int, offset: int) -> None:
        self._ends[partition] = max(self._ends[partition], offset + 1)


class _Slot:
    """The replica of one slot, when there is one."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._fleet = fleet
        self._number = number

    def __call__(self) -> Sequence[Process]:
        replica = self._fleet.slots[self._number].replica
        return [] if replica is None else [replica]


def _running(fleet: Fleet) -> Sequence[Process]:
    return [slot.replica for slot in fleet.slots if slot.replica is not None]
