"""The readers of a run, who feeds them, and how much memory their replicas take.

The readers have a thread and an event loop of their own: the auditor waits for moments in which every task of its loop
is blocked, and with hundreds of readers there are few.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import trio

from testbed.replicas import Replica
from tests.audit.fleet import Fleet
from tests.audit.listeners import Process
from tests.audit.producing import produce_steadily
from tests.audit.workers import running
from tests.chaos.judge import Judge
from tests.chaos.memory import Memory
from tests.chaos.readers import STEADY, Habits, Reader, draw_habits

SAMPLE_SECONDS = 0.5


class Crowd:
    """Readers of a topic of their own.

    Args:
        fleet: The replicas that they go to.
        topic: What they read.
        seed: Of all that they do.
        draw: Makes the habits of one that comes and goes.
        steady: The habits of those that stay, of which each slot has one each.
    """

    def __init__(
        self,
        fleet: Fleet,
        topic: str,
        seed: int,
        draw: Callable[[random.Random], Habits] = draw_habits,
        steady: Sequence[Habits] = (STEADY,),
    ) -> None:
        self._draw = draw
        self._steady = steady
        self.stayers: list[Reader] = []
        self.judge = Judge()
        self._fleet = fleet
        self._topic = topic
        self._seed = seed
        self._quiet = trio.Event()
        self._over = False
        self._cancel: Callable[[], None] = lambda: None
        """Ends the readers' loop; any thread may call it."""

    async def run(self, number: int, slots: int) -> None:
        """Run this many readers, who connect anywhere, and those that stay at each slot, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_for_the_end)
            await trio.to_thread.run_sync(trio.run, self._run, number, slots)

    async def _wait_for_the_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._over = True
            with suppress(trio.RunFinishedError):
                self._cancel()

    async def produce(
        self,
        bootstrap_servers: str,
        partitions: int,
        rate: float,
        value_bytes: int,
        *,
        record: Callable[[int], Mapping[str, Any]] | None = None,
        on_stored: Callable[[int, int, int], None] = lambda *_: None,
    ) -> None:
        """Produce for the readers until `quiet`; see `produce_steadily`."""
        refused: list[str] = []

        def produce() -> None:
            produce_steadily(
                bootstrap_servers,
                self._topic,
                partitions,
                rate=rate,
                value_bytes=value_bytes,
                stopped=self._quiet.is_set,
                on_stored=on_stored,
                on_refused=refused.append,
                record=record,
            )

        try:
            await trio.to_thread.run_sync(produce, abandon_on_cancel=True)
        finally:
            self._quiet.set()
        if refused:
            raise RuntimeError(f"the broker did not store what was produced for readers: {refused[0]}")

    def quiet(self) -> None:
        """Produce no more."""
        self._quiet.set()

    # In a thread of its own.

    async def _run(self, number: int, slots: int) -> None:
        token, began = trio.lowlevel.current_trio_token(), trio.current_time()
        async with trio.open_nursery() as nursery:
            self._cancel = lambda: token.run_sync_soon(nursery.cancel_scope.cancel)
            if self._over:
                nursery.cancel_scope.cancel()
            for n in range(number):
                chance = random.Random(f"{self._seed} {n}")  # noqa: S311 - it has to be repeatable
                nursery.start_soon(self._reader(f"reader {n}", self._replicas, self._draw(chance), chance, began).run)
            for n in range(slots):
                chance = random.Random(f"{self._seed} steady {n}")  # noqa: S311 - the same
                for m, habits in enumerate(self._steady):
                    name, where = f"steady reader {n}-{m}", _At(self._fleet, n)
                    self.stayers.append(self._reader(name, where, habits, chance, began))
                    nursery.start_soon(self.stayers[-1].run)

    def _reader(
        self, name: str, where: Callable[[], Sequence[Process]], habits: Habits, chance: random.Random, began: float
    ) -> Reader:
        return Reader(name, self.judge, self._topic, where, habits=habits, chance=chance, began=began)

    def _replicas(self) -> Sequence[Process]:
        return [slot.replica for slot in self._fleet.slots if slot.replica is not None]


class _At:
    """The replica of one slot, when there is one."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._fleet = fleet
        self._number = number

    def __call__(self) -> Sequence[Process]:
        slots = self._fleet.slots[self._number : self._number + 1]
        return [slot.replica for slot in slots if slot.replica is not None]


def _processes(fleet: Fleet, replica: Replica) -> Mapping[int, str]:
    """Name by process; each worker may have all subscribers of its replica."""
    return {replica.process.pid: replica.identity} if fleet.workers == 1 else running(replica)


async def watch_memory(memory: Memory, fleet: Fleet, judges: Callable[[], Sequence[Judge]]) -> None:
    """Take samples of every replica until cancelled; the judges know the connections."""
    while True:
        for slot in fleet.slots:
            if (replica := slot.replica) is not None:
                read = sum(judge.connected[replica.identity] for judge in judges())
                subscribers = read + len([*slot.listeners, slot.fickle])
                for pid, name in (await trio.to_thread.run_sync(_processes, fleet, replica)).items():
                    memory.sample(name, pid, subscribers)
        await trio.sleep(SAMPLE_SECONDS)
