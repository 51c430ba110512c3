"""A chaos run: replicas, brokers and subscribers go through a schedule while the auditor keeps its books."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from dispatcher.settings import Settings
from testbed.broker.cluster import KafkaCluster
from tests.audit.auditor import Auditor
from tests.audit.fleet import Fleet, Slot
from tests.audit.ledger import Repeat, Report
from tests.chaos.crowd import Crowd, watch_memory
from tests.chaos.judge import Verdict
from tests.chaos.memory import Memory
from tests.chaos.schedule import OF_SUBSCRIBERS, PLANNED, Event, Kind, schedule

REPLICAS = 3
PARTITIONS = 6
RATE = 300.0
VALUE_BYTES = 1000
SESSION_SECONDS = 6
"""Of replicas, for both protocols; the brokers' part is in testbed/broker/cluster.py."""

EFFECT_SECONDS = 15.0
"""How long after its end an event may be what a repeat comes from."""

SETTINGS = {"stall_timeout_seconds": 4, "heartbeat_seconds": 2}
PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "classic": {"session.timeout.ms": SESSION_SECONDS * 1000, "max.poll.interval.ms": SESSION_SECONDS * 1000},
    "consumer": {"group.protocol": "consumer", "max.poll.interval.ms": SESSION_SECONDS * 1000},
}


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    seed: int
    protocol: str
    began: float
    ended: float
    report: Report
    happened: tuple[Happened, ...]
    lives: tuple[Life, ...]
    receipts: tuple[tuple[float, str, int, int], ...]
    """`Ledger.receipts`."""
    repeats: Counter[str]
    """By the kind of event that they come from."""
    exit_codes: Counter[int]
    """Of planned stops."""
    readers: Verdict | None
    """None when there were none."""
    memory: Memory

    @property
    def good(self) -> bool:
        """Whether every guarantee was kept, those of planned changes included."""
        planned = sum(self.repeats[kind] for kind in (*PLANNED, "nothing"))
        kept = self.report.clean and self.memory.good and (self.readers is None or self.readers.clean)
        return kept and not planned and set(self.exit_codes) <= {0}

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be: of the auditor, the readers, and memory."""
        yield from self.report.rows()
        if self.readers is not None:
            yield from self.readers.rows()
        yield from self.memory.rows()


@dataclass(slots=True)
class _Run:
    cluster: KafkaCluster
    fleet: Fleet
    tell: Callable[[str], None]
    happened: list[Happened] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    exit_codes: Counter[int] = field(default_factory=Counter)
    turns: dict[int, trio.Lock] = field(default_factory=dict)
    """By number of the replica."""

    async def happen(self, event: Event) -> None:
        """Let an event begin, last, and end."""
        if event.kind is Kind.BROKER_KILL:
            await self._broker(event)
        elif event.kind is Kind.JOIN:
            await self._in_turn(event, self._join)
        elif event.kind in OF_SUBSCRIBERS:
            await self._subscriber(event, self.fleet.slots[event.target])
        else:
            await self._in_turn(event, self._replica)

    async def start(self, slot: Slot) -> None:
        """A replica in a slot that has none."""
        await self.fleet.start(slot)
        self.born(slot)

    def born(self, slot: Slot) -> None:
        """A replica has been started."""
        assert slot.replica is not None
        self.lives.append(Life(slot.name, slot.replica.identity, trio.current_time()))

    async def _in_turn(self, event: Event, happen: Callable[[Event], Awaitable[None]]) -> None:
        """What happens to a replica waits until what happened to it before is over: a busy machine may be late."""
        async with self.turns.setdefault(event.target, trio.Lock()):
            await happen(event)

    async def _replica(self, event: Event) -> None:
        slot = self.fleet.slots[event.target]
        assert slot.replica is not None
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
            self.exit_codes[await self.fleet.stop(slot)] += 1
        else:
            await self.fleet.kill(slot)
        next(life for life in reversed(self.lives) if life.slot == slot.name).ended = trio.current_time()

    async def _broker(self, event: Event) -> None:
        happened = self._began(event, f"kill -9 of broker {event.target}", None)
        await trio.to_thread.run_sync(self.cluster.kill_node, event.target)
        await trio.sleep(event.lasts)
        await trio.to_thread.run_sync(self.cluster.start_node, event.target)
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


async def run_chaos(  # noqa: PLR0917 - trio.run passes no keywords
    cluster: KafkaCluster,
    seed: int,
    seconds: float,
    protocol: str,
    tell: Callable[[str], None],
    advance: Callable[[float], None],
    logs: Path | None = None,
    readers: int = 0,
    rate: float = RATE,
) -> Outcome:
    """Go through the schedule of a seed.

    Args:
        cluster: Three nodes that run.
        seed: Of the schedule.
        seconds: Its length; what comes after is for the last records.
        protocol: ``classic`` or ``consumer``.
        tell: Called with what happens, in words.
        advance: Called with the seconds that have passed since it was called before.
        logs: A folder for what the replicas have logged.
        readers: How many readers there are beside the auditor's subscribers.
        rate: Records a second; with readers in their topic, and then at most `RATE` in the auditor's, whose
            subscribers look at each record with more care.
    """
    topic = cluster.create_topic(f"chaos-{seed}-{protocol}", PARTITIONS)
    group = f"group-{topic}"
    topics, audited = [topic], rate
    if readers:
        audited = min(rate, RATE)
        topics.append(cluster.create_topic(f"{topic}-readers", PARTITIONS))
    auditor = Auditor(cluster.bootstrap_servers, topic, group, PARTITIONS, rate=audited, value_bytes=VALUE_BYTES)
    memory = Memory(Settings.model_validate({**SETTINGS, "kafka": dict(PROPERTIES[protocol])}))
    async with trio.open_nursery() as nursery:
        fleet = Fleet(
            auditor,
            nursery,
            cluster.bootstrap_servers,
            ",".join(topics),
            group,
            settings=SETTINGS,
            kafka=PROPERTIES[protocol],
            logs=logs,
        )
        with fleet:
            run = _Run(cluster, fleet, tell)
            for _ in range(REPLICAS):
                run.born(await fleet.add())
            await fleet.wait_until_shared(PARTITIONS)
            nursery.start_soon(auditor.run)
            crowd = Crowd(fleet, topics[-1], seed)
            nursery.start_soon(watch_memory, memory, fleet, crowd.judge)
            if readers:
                nursery.start_soon(crowd.run, readers, REPLICAS + 1)
                nursery.start_soon(crowd.produce, cluster.bootstrap_servers, PARTITIONS, rate, VALUE_BYTES)
            began = trio.current_time()
            async with trio.open_nursery() as events:
                for event in schedule(seed, seconds, REPLICAS):
                    events.start_soon(_at, began + event.at, run.happen, event)
                while (left := began + seconds - trio.current_time()) > 0:
                    step = min(0.5, left)
                    await trio.sleep(step)
                    advance(step)
            tell("all is over: the last records")
            crowd.quiet()
            report = await auditor.settle()
            nursery.cancel_scope.cancel()
    return Outcome(
        seed=seed,
        protocol=protocol,
        began=began,
        ended=began + seconds,
        report=report,
        happened=tuple(run.happened),
        lives=tuple(run.lives),
        receipts=tuple(auditor.ledger.receipts),
        repeats=Counter(cause(repeat, run.happened) for repeat in report.repeats),
        exit_codes=run.exit_codes,
        readers=crowd.judge.verdict() if readers else None,
        memory=memory,
    )


def cause(repeat: Repeat, happened: list[Happened]) -> str:
    """The kind of event that a repeat comes from: the last fault that can be, else the last planned change.

    A fault of another replica can be as well, for as long as its session lasts: the group waits for it in each
    rebalance, and meanwhile nobody can commit.
    """
    faults: list[Happened] = []
    planned: list[Happened] = []
    for one in happened:
        if one.event.kind in OF_SUBSCRIBERS or one.began > repeat.at:
            continue
        concerned = one.process in {None, repeat.first_process, repeat.process}
        ended = (one.ended or repeat.at) + EFFECT_SECONDS if concerned else one.began + 2 * SESSION_SECONDS
        if repeat.at <= ended:
            (planned if one.event.kind in PLANNED else faults).append(one)
    for one in reversed(faults or planned):
        return str(one.event.kind)
    return "nothing"


async def _at(when: float, happen: Callable[[Event], object], event: Event) -> None:
    await trio.sleep_until(when)
    await happen(event)  # type: ignore[misc] # it is a method of this module
