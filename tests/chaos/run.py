"""A chaos run: replicas, brokers, subscribers and topics go through a schedule while the auditor keeps its books."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import orjson
import trio

from dispatcher.settings import Settings
from testbed.broker import topics
from testbed.broker.cluster import KafkaCluster
from testbed.patience import seconds as patient_seconds
from tests.audit.auditor import Auditor
from tests.audit.commits import CommittedOffsets
from tests.audit.fleet import Fleet
from tests.audit.ledger import Repeat, Report
from tests.audit.workers import ends, identity, starts
from tests.chaos.abuse import Abuse
from tests.chaos.ackers import ACK_TIMEOUT_SECONDS
from tests.chaos.attribution import COMMITTED, HANDED_OVER, NOTHING, SLOW, Attribution, Ending, Incident, Line, Stored
from tests.chaos.beside import Beside, Name, make
from tests.chaos.books import Books
from tests.chaos.crowd import Crowd, watch_memory
from tests.chaos.judge import Judge, Verdict
from tests.chaos.lateness import longest_lateness
from tests.chaos.leftovers import Leftovers, look
from tests.chaos.memory import Memory
from tests.chaos.readers import draw_habits, draw_mixed
from tests.chaos.schedule import ASIDE, OF_SUBSCRIBERS, OF_WORKERS, PLANNED, Event, Kind, schedule
from tests.chaos.stage import Happened, Life, Stage
from tests.chaos.trials import Trials

REPLICAS = 3
PARTITIONS = 6
ABUSED_PARTITIONS = 2
RATE = 300.0
ABUSED_RATE = 400.0
VALUE_BYTES = 1000
SESSION_SECONDS = 6
"""Of replicas, for both protocols; the brokers' part is in testbed/broker/cluster.py."""

MIB = 1024 * 1024
SETTINGS: Mapping[str, object] = {
    "ack_timeout_seconds": ACK_TIMEOUT_SECONDS,
    # A reader that is short of the processor is no reader that stands still.
    "stall_timeout_seconds": patient_seconds(4),
    "heartbeat_seconds": 2,
    # Every commit that was given up has a line: what steps back is put down to them.
    "log_level": "debug",
    # So that fetching pauses soon where nobody reads, and what expires has not been taken yet.
    "pause_above_bytes": 4 * MIB,
    "resume_below_bytes": 2 * MIB,
}
_SOON = {"max.poll.interval.ms": SESSION_SECONDS * 1000, "topic.metadata.refresh.interval.ms": 1000}
PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "classic": {"session.timeout.ms": SESSION_SECONDS * 1000, **_SOON},
    "consumer": {"group.protocol": "consumer", **_SOON},
}
OF_SEVERAL: Mapping[str, object] = {
    "default_scope": "topic",
    "operations_bind": "127.0.0.1:0",
    # Partitions follow subscribers, whom the kernel spreads by chance.
    "idle_leave_seconds": 5,
}
"""What replicas with workers have besides."""

YIELDING = ("nice", "-n", "10")
"""What replicas are started with, and brokers that run for a chaos run alone. The auditor has to keep up with them on
the same cores: what its listeners have not read when a replica is killed, or cuts them off at its end, looks lost."""

SWITCH_SECONDS = 0.0002
"""Maximum time for which one thread keeps the GIL while another waits for it (`sys.setswitchinterval`). Readers and
producers run in threads beside the auditor's, which waits for the GIL after each of its many small reads. With Python's
default of 5 ms its listeners fell 13 s behind, and lost what they had not read (seed 34, ``--workers 2``)."""

BEGIN_SECONDS = 40.0
"""A deadline in `testbed.patience.seconds`."""

RESETS = ("earliest", "latest")
UNEXCUSED = (*PLANNED, NOTHING, COMMITTED)
"""What no repeat may come from."""

OF_LIBRDKAFKA = -signal.SIGSEGV
"""The exit code of a process in which librdkafka has read memory that is not its own. It may do so (librdkafka 2.16,
confluentinc/librdkafka#5280) when the answer to a fetch names new leaders, and none for one of the partitions. Nothing
here can prevent that, so such an end is like a kill: others have to take over, and nothing may be lost."""


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
    """Of planned stops while every broker was there."""
    exit_codes_without_a_broker: Counter[int]
    """See `Stage`."""
    died: Mapping[str, int]
    """See `Stage`."""
    readers: Verdict | None
    """None when there were none."""
    memory: Memory
    books: tuple[Books, ...]
    """Of the topics that change."""
    not_replayed: tuple[str, ...]
    """Healthy partitions whose replay did not end while another had no leader, in words."""
    abuse: Abuse
    beside: tuple[Beside, ...]
    leftovers: Leftovers
    late_seconds: float
    """See `longest_lateness`."""
    unexcused: tuple[str, ...]
    """Repeats and steps back that no fault excuses, in words."""

    @property
    def good(self) -> bool:
        """Whether every guarantee was kept, those of planned changes included."""
        kept = self.report.clean and all(good for _, _, good in self.rows())
        stopped = set(self.exit_codes) <= {0} and set(self.exit_codes_without_a_broker) <= {0, 1}
        return kept and stopped and not any(self.repeats[kind] for kind in UNEXCUSED)

    @property
    def evidence(self) -> Iterator[str]:
        """All that was not as it should be, in words."""
        yield from self.unexcused
        yield from self.readers.evidence if self.readers is not None else ()
        for books in self.books:
            yield from books.evidence
        yield from self.not_replayed
        yield from self.abuse.faults
        for one in self.beside:
            yield from one.evidence

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be: of everything that was looked at."""
        yield from self.report.rows()
        yield "read by the auditor after the commit, at most", f"{self.late_seconds:.2f} s", True
        if self.readers is not None:
            yield from self.readers.rows()
        yield from self.memory.rows()
        for books in self.books:
            yield from books.rows()
        if any(one.event.kind is Kind.LEADERLESS for one in self.happened):
            yield (
                "replays held up by a partition without a leader",
                f"{len(self.not_replayed):,}",
                not self.not_replayed,
            )
        yield from self.abuse.rows()
        for one in self.beside:
            yield from one.rows()
        yield from self.leftovers.rows()
        ended = "; ".join(f"{process}: exit code {code}" for process, code in self.died.items())
        yield "ended by themselves", ended or "0", set(self.died.values()) <= {OF_LIBRDKAFKA}


async def run_chaos(  # noqa: PLR0915, PLR0917 - in the order of events; trio.run passes no keywords
    cluster: KafkaCluster,
    seed: int,
    seconds: float,
    protocol: str,
    tell: Callable[[str], None],
    advance: Callable[[float], None],
    logs: Path | None = None,
    readers: int = 0,
    rate: float = RATE,
    kinds: AbstractSet[Kind] = frozenset(Kind),
    reset: str = "earliest",
    code: str = "",
    beside: AbstractSet[Name] = frozenset(),
    workers: int = 1,
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
        kinds: What may happen.
        reset: The replicas' ``auto.offset.reset``: no promise depends on it.
        code: Python that each replica runs first, to put a fault in.
        beside: What runs beside, on topics of its own; with `Name.SCOPES` some readers have the whole topic, too, and
            some observe.
        workers: Processes of each replica.
    """
    topic = cluster.create_topic(f"chaos-{seed}-{protocol}", PARTITIONS)
    group = f"group-{topic}"
    others: dict[str, int] = {}
    audited = min(rate, RATE) if readers else rate
    if readers:
        others[cluster.create_topic(f"{topic}-readers", PARTITIONS)] = PARTITIONS
    kinds = kinds if workers > 1 else kinds - OF_WORKERS
    beside_it = tuple(make(name, cluster.bootstrap_servers, group, topic, workers) for name in Name if name in beside)
    for one in beside_it:
        others |= {cluster.create_topic(name, number): number for name, number in one.topics.items()}
    abuse = Abuse(f"{topic}-abused")
    if kinds & {Kind.REQUESTS, Kind.SOCKETS}:
        others[cluster.create_topic(f"{topic}-abused", ABUSED_PARTITIONS)] = ABUSED_PARTITIONS
    trials = Trials(cluster, topic, frozenset(kinds), whole=workers > 1)
    await trio.to_thread.run_sync(trials.create)
    others |= trials.topics
    servers = cluster.bootstrap_servers
    kafka = {**PROPERTIES[protocol], "auto.offset.reset": reset}
    auditor = Auditor(servers, topic, group, PARTITIONS, rate=audited, value_bytes=VALUE_BYTES)
    memory = Memory(Settings.model_validate({**SETTINGS, "kafka": kafka}))
    settings = _settings(workers, {name: table for one in beside_it for name, table in one.tables.items()})
    async with trio.open_nursery() as nursery:
        clients: trio.Nursery = await nursery.start(_clients)
        names = ",".join([topic, *others])
        fleet = Fleet(
            auditor,
            clients,
            servers,
            names,
            group,
            settings=settings,
            kafka=kafka,
            logs=logs,
            code=code,
            command=YIELDING,
            workers=workers,
        )
        with _short_turns(), fleet:
            stage = Stage(cluster, fleet, trials, abuse, tell)
            for _ in range(REPLICAS):
                stage.born(await fleet.add())
            await fleet.wait_until_shared(PARTITIONS, others)
            if reset != "earliest":
                await _wait_for_beginnings(servers, group, {topic: PARTITIONS, **others})
            clients.start_soon(fleet.cover)
            clients.start_soon(stage.revive)
            nursery.start_soon(auditor.run)
            await trials.begin()
            clients.start_soon(trials.run, fleet, REPLICAS + 1)
            crowd = Crowd(fleet, f"{topic}-readers", seed, draw_mixed if Name.SCOPES in beside else draw_habits)
            judges = partial(_judges, crowd, beside_it)
            nursery.start_soon(watch_memory, memory, fleet, judges)
            if readers:
                clients.start_soon(crowd.run, readers, REPLICAS + 1)
                clients.start_soon(crowd.produce, servers, PARTITIONS, rate, VALUE_BYTES)
            for one in beside_it:
                clients.start_soon(one.run, fleet, seed, REPLICAS + 1)
            fed = Crowd(fleet, f"{topic}-abused", seed)
            if f"{topic}-abused" in others:
                clients.start_soon(fed.produce, servers, ABUSED_PARTITIONS, ABUSED_RATE, VALUE_BYTES)
            began = trio.current_time()
            async with trio.open_nursery() as events:
                for event in schedule(seed, seconds, REPLICAS, kinds=kinds):
                    events.start_soon(_at, began + event.at, stage.happen, event)
                while (left := began + seconds - trio.current_time()) > 0:
                    step = min(0.5, left)
                    await trio.sleep(step)
                    advance(step)
            tell("all is over: the last records")
            crowd.quiet()
            fed.quiet()
            for one in beside_it:
                one.quiet()
            report = await auditor.settle()
            await trials.settle(fleet, reset)
            for one in beside_it:
                await one.settle(fleet, partial(_attribution, fleet, stage))
            tell("all clients leave")
            clients.cancel_scope.cancel()
            write = partial(topics.fill, servers, topic, range(PARTITIONS), 10, "nobody")
            leftovers = await look(fleet, write)
            log = [Stored(partition, offset, stored_ms / 1000) for partition, offset, stored_ms in auditor.commits]
            clock = _clock()
            receipts = [(at + clock, process, *place) for at, process, *place in auditor.ledger.receipts]
            attribution = _attribution(fleet, stage, topic, log, receipts)  # type: ignore[arg-type] # place has two
            nursery.cancel_scope.cancel()
    late = tuple(step for step in report.backwards if attribution.is_late(step))
    report = replace(report, late=late, backwards=tuple(step for step in report.backwards if step not in late))
    return Outcome(
        seed=seed,
        protocol=protocol,
        began=began,
        ended=began + seconds,
        report=report,
        happened=tuple(stage.happened),
        lives=tuple(stage.lives),
        receipts=tuple(auditor.ledger.receipts),
        repeats=Counter(attribution.cause(_on_clock(repeat)) for repeat in report.repeats),
        exit_codes=stage.exit_codes,
        exit_codes_without_a_broker=stage.exit_codes_without_a_broker,
        died=stage.died,
        readers=crowd.judge.verdict() if readers else None,
        memory=memory,
        books=tuple(trials.books.values()),
        not_replayed=tuple(trials.not_replayed),
        abuse=abuse,
        beside=beside_it,
        leftovers=leftovers,
        late_seconds=longest_lateness(receipts, log),  # type: ignore[arg-type] # place has two
        unexcused=(
            *auditor.ledger.ahead_words,
            *attribution.evidence,
            *map(attribution.explain, report.backwards),
            *auditor.ledger.losses(auditor.commits, _clock()),
        ),
    )


def _settings(workers: int, tables: Mapping[str, Mapping[str, object]]) -> Mapping[str, object]:
    """Return the settings of each replica."""
    of_several = {**OF_SEVERAL, "workers": workers} if workers > 1 else {}
    of_topics = {"topic_tables": orjson.dumps(tables).decode()} if tables else {}
    return {**SETTINGS, **of_several, **of_topics}


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads take short turns meanwhile."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


async def _clients(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """A nursery for all clients, so that they can go before the replicas do."""
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


async def _wait_for_beginnings(servers: str, group: str, partitions: Mapping[str, int]) -> None:
    """Return when the group has committed where its assignments begin, which it does whether or not anybody listens.

    With ``auto.offset.reset=latest`` what is produced before a consumer has asked for the end is not owed.
    """
    with trio.fail_after(patient_seconds(BEGIN_SECONDS)):
        for topic, number in partitions.items():
            committed = CommittedOffsets(servers, group, topic, number)
            try:
                while len(await trio.to_thread.run_sync(lambda: committed.read() or {})) < number:  # noqa: ASYNC110, B023 - Kafka's; awaited in this turn
                    await trio.sleep(0.1)
            finally:
                committed.close()


def _judges(crowd: Crowd, beside: Sequence[Beside]) -> list[Judge]:
    return [crowd.judge, *(judge for one in beside for judge in one.judges)]


def _on_clock(repeat: Repeat) -> Repeat:
    """Return a repeat with its times in seconds since the epoch."""
    return repeat._replace(at=repeat.at + _clock(), since=repeat.since + _clock())


def _clock() -> float:
    """Return what Trio's clock lacks of the time since the epoch, which the logs use."""
    return time.time() - trio.current_time()


def _attribution(
    fleet: Fleet,
    stage: Stage,
    topic: str,
    commits: Sequence[Stored],
    receipts: Sequence[tuple[float, str, int, int]],
) -> Attribution:
    """All that is known of a topic, in seconds since the epoch."""
    clock = _clock()
    incidents = [
        Incident(
            str(one.event.kind),
            one.began + clock,
            (one.ended or trio.current_time()) + clock,
            one.process,
            is_fault=one.event.kind not in PLANNED,
        )
        for one in stage.happened
        if one.event.kind not in OF_SUBSCRIBERS | ASIDE
    ]
    return Attribution(
        list(_lines(fleet, topic)),
        commits,
        receipts,
        incidents,
        [*_killed(fleet, stage, clock)],
    )


def _killed(fleet: Fleet, stage: Stage, clock: float) -> Iterator[tuple[str, float]]:
    """Processes that were killed, and when."""
    lives = {life.process: life.ended + clock for life in stage.lives if life.killed and life.ended is not None}
    yield from lives.items()
    if fleet.workers > 1:
        for replica in fleet.all:
            for name, at in ends(replica):
                yield name, datetime.fromisoformat(at).timestamp()
            if (at_once := lives.get(replica.identity)) is not None:
                # They see that their parent is gone, and say that they let go, unless they are too late.
                yield from ((identity(replica, start), at_once) for start in starts(replica))


def _lines(fleet: Fleet, topic: str) -> Iterator[Line]:
    """Return what the replicas have logged about the partitions of a topic."""
    for process, line in fleet.logged("assigned", *Ending, "commit not stored", SLOW, HANDED_OVER):
        at = datetime.fromisoformat(line["timestamp"]).timestamp()
        partitions: Sequence[str] = line.get("partitions") or [line.get("partition", "")]
        for name, _, number in (partition.rpartition(":") for partition in partitions):
            if name == topic:
                offset = line.get("counted_to", line.get("offset", -1))
                yield Line(at, process, line["event"], int(number), offset, line.get("error", ""))


async def _at(when: float, happen: Callable[[Event], object], event: Event) -> None:
    await trio.sleep_until(when)
    await happen(event)  # type: ignore[misc] # it is a method of `Stage`
