"""Where a chaos run takes place: what each event of a schedule does to replicas, brokers, subscribers and topics."""

import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from testbed.broker.cluster import KafkaCluster
from testbed.replicas import Replica
from tests.audit.fleet import Fleet, Slot
from tests.audit.workers import kill, running
from tests.chaos.abuse import Abuse
from tests.chaos.schedule import ASIDE, OF_BROKERS, OF_SUBSCRIBERS, PLANNED, Event, Kind
from tests.chaos.trials import Trials

WATCH_SECONDS = 0.5
"""How often it is checked whether every replica is alive."""


@dataclass(slots=True)
class Happened:
    """An event as it came to pass."""

    event: Event
    what: str
    """In words, for people."""
    began: float
    """On Trio's clock, like all times of a run."""
    process: str | None = None
    """The replica that it happened to."""
    ended: float | None = None


@dataclass(slots=True)
class Life:
    """A process of a replica, from start to end."""

    slot: str
    process: str
    began: float
    ended: float | None = None
    killed: bool = False


@dataclass(slots=True)
class Stage:
    """Lets the events of a schedule happen, and writes down when they did."""

    cluster: KafkaCluster
    fleet: Fleet
    trials: Trials
    abuse: Abuse
    tell: Callable[[str], None]
    happened: list[Happened] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    exit_codes: Counter[int] = field(default_factory=Counter)
    """Of planned stops while every broker was there."""
    exit_codes_without_a_broker: Counter[int] = field(default_factory=Counter)
    """Of those that began or ended while a broker was away: 1 if the last commit found no coordinator in time."""
    died: dict[str, int] = field(default_factory=dict)
    """Exit codes of processes that ended although nobody had asked them to, by process."""
    turns: dict[int, trio.Lock] = field(default_factory=dict)
    """By number of the replica."""
    brokers: trio.Lock = field(default_factory=trio.Lock)

    async def happen(self, event: Event) -> None:
        """Let an event begin, last, and end."""
        if event.kind in OF_BROKERS:
            # One at a time: topics keep their records while two of three brokers are there.
            async with self.brokers:
                await self._broker(event)
        elif event.kind in ASIDE:
            await self._aside(event)
        elif event.kind is Kind.JOIN:
            await self._in_turn(event, self._join)
        elif event.kind in OF_SUBSCRIBERS:
            await self._subscriber(event, self.fleet.slots[event.target])
        else:
            await self._in_turn(event, self._replica)

    async def revive(self) -> None:
        """Start replicas again that have ended by themselves, as an orchestrator would. *Cancellation*: safe."""
        while True:
            for number, slot in enumerate(self.fleet.slots):
                turn = self.turns.setdefault(number, trio.Lock())
                # Whoever has the turn notices it.
                if not turn.locked():
                    async with turn:
                        await self._revive(slot)
            await trio.sleep(WATCH_SECONDS)

    async def _revive(self, slot: Slot) -> None:
        """Start a replica again that has ended by itself."""
        if slot.replica is None or (code := slot.replica.process.poll()) is None:
            return
        identity = slot.replica.identity
        self.died[identity] = code
        # To the group this is what a kill is.
        death = Event(0.0, Kind.KILL, self.fleet.slots.index(slot), 0.0)
        happened = self._began(death, f"{slot.name} ended by itself, exit code {code}", identity)
        await self._end(slot, planned=False)
        await self.start(slot)
        self._ended(happened)

    async def start(self, slot: Slot) -> None:
        """A replica in a slot that has none."""
        await self.fleet.start(slot)
        self.born(slot)

    def born(self, slot: Slot) -> None:
        """A replica has been started."""
        assert slot.replica is not None
        self.lives.append(Life(slot.name, slot.replica.identity, trio.current_time()))

    async def _in_turn(self, event: Event, happen: Callable[[Event], Awaitable[None]]) -> None:
        """Run events of one replica one after the other: a busy machine may be late."""
        async with self.turns.setdefault(event.target, trio.Lock()):
            await happen(event)

    async def _replica(self, event: Event) -> None:
        slot = self.fleet.slots[event.target]
        await self._revive(slot)
        assert slot.replica is not None
        if event.kind is Kind.WORKER_KILL or (event.kind is Kind.SUSPEND and self.fleet.workers > 1):
            await self._worker(event, slot.replica)
            return
        happened = self._began(event, f"{event.kind} {slot.name}", slot.replica.identity)
        if event.kind is Kind.SUSPEND:
            self.fleet.suspend(slot)
            await trio.sleep(event.lasts)
            self.fleet.resume(slot)
        else:
            await self._end(slot, planned=event.kind in PLANNED)
            await trio.sleep(event.lasts)
            await self.start(slot)
        self._ended(happened)

    async def _worker(self, event: Event, replica: Replica) -> None:
        """Do something to one of several workers; a parent kills one that hangs for too long."""
        workers = await trio.to_thread.run_sync(running, replica)
        if not workers:
            return
        pid, name = sorted(workers.items())[int(event.at * 1000) % len(workers)]
        happened = self._began(event, f"{event.kind} of {name}", name)
        kill(pid, signal.SIGKILL if event.kind is Kind.WORKER_KILL else signal.SIGSTOP)
        await trio.sleep(event.lasts)
        if event.kind is Kind.SUSPEND:
            kill(pid, signal.SIGCONT)
        self._ended(happened)

    async def _join(self, event: Event) -> None:
        happened = self._began(event, "join of one more", None)
        if event.target < len(self.fleet.slots):
            slot = self.fleet.slots[event.target]
            await self.start(slot)
        else:
            slot = await self.fleet.add()
            self.born(slot)
        await trio.sleep(event.lasts)
        self._ended(happened)
        assert slot.replica is not None
        leaves = self._began(Event(event.at + event.lasts, Kind.STOP, event.target, 0.0), f"{slot.name} leaves", None)
        leaves.process = slot.replica.identity
        await self._end(slot, planned=True)
        self._ended(leaves)

    async def _end(self, slot: Slot, *, planned: bool) -> None:
        if planned:
            is_broker_away = self.brokers.locked()
            code = await self.fleet.stop(slot)
            is_broker_away |= self.brokers.locked()
            (self.exit_codes_without_a_broker if is_broker_away else self.exit_codes)[code] += 1
        else:
            await self.fleet.kill(slot)
        life = next(life for life in reversed(self.lives) if life.slot == slot.name)
        life.ended, life.killed = trio.current_time(), not planned

    async def _broker(self, event: Event) -> None:
        happened = self._began(event, f"kill -9 of broker {event.target} ({event.kind})", None)
        await trio.to_thread.run_sync(self.cluster.kill_node, event.target)
        async with trio.open_nursery() as nursery:
            if event.kind is Kind.LEADERLESS:
                nursery.start_soon(self.trials.replay_beside, self.fleet, event.target)
            await trio.sleep(event.lasts)
        await trio.to_thread.run_sync(self.cluster.start_node, event.target)
        # It is over when the node answers: a busy machine takes longer to start it.
        await trio.to_thread.run_sync(self.cluster.wait_until_ready)
        self._ended(happened)

    async def _aside(self, event: Event) -> None:
        happened = self._began(event, str(event.kind), None)
        if event.kind in {Kind.REQUESTS, Kind.SOCKETS}:
            chance = random.Random(event.target)  # noqa: S311 - it has to be repeatable
            running = [slot.replica for slot in self.fleet.slots if slot.replica is not None]
            if running:
                abuse = self.abuse.requests if event.kind is Kind.REQUESTS else self.abuse.sockets
                await abuse(chance.choice(running), chance)
        else:
            await self.trials.happen(event)
        self._ended(happened)

    async def _subscriber(self, event: Event, slot: Slot) -> None:
        happened = self._began(event, f"{event.kind} at {slot.name}", None)
        if event.kind is Kind.VANISH:
            await slot.fickle.vanish()
        else:
            slot.fickle.freeze()
            await trio.sleep(event.lasts)
            await slot.fickle.thaw()
        self._ended(happened)

    def _began(self, event: Event, what: str, process: str | None) -> Happened:
        happened = Happened(event, what, trio.current_time(), process)
        self.happened.append(happened)
        self.tell(what)
        return happened

    def _ended(self, happened: Happened) -> None:
        happened.ended = trio.current_time()
        if happened.ended - happened.began > 1:
            self.tell(f"{happened.what}: over")
