"""Deadlines and dead letters under kill -9 at any point: each record is delivered or a dead letter, never neither.

A replica kills itself at a point of the way of a letter or of a commit, at the first pass or at a later one, or is
killed at a random moment; the next one goes on. After every crash Kafka is asked what is committed, and what is in the
dead-letter topic: whatever is committed and is neither there nor delivered is lost.

Three kinds of clients, each with a topic of its own: none; plain ones that come and go; and one that acknowledges,
refuses some records, and is late for others, where only what was acknowledged is committed.
"""

import math
import random
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import orjson
import trio

from dispatcher.client import SubscriptionError, subscribe
from testbed.broker.cluster import KafkaCluster
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.audit.commits import CommittedOffsets
from tests.audit.producing import produce_steadily
from tests.test_dead_letters import create, numbers, read_all
from tests.trial.ledger import SHOWN, Row

RATE = 40.0
VALUE_BYTES = 20
DEADLINE_SECONDS = {"nobody": 0.5, "plain": 0.5, "acks": 2.0}
"""By the kind of clients: one that acknowledges has to have time for most records."""
LATE = 0.01
"""How often such a client is late for a record, and all that follow it."""
LATE_SECONDS = (1.0, 4.0)
AWAY_SECONDS = 2.0
"""Longest time without a plain client."""
REACH_SECONDS = 20.0
"""How long a replica may take to come to its point (`testbed.patience.seconds`); else it is killed where it is."""
RANDOM_SECONDS = (0.2, 8.0)
"""After the start of a replica, and so within its start, its wait for the group, or its work."""
SETTLE_SECONDS = 60.0
PASSES = (1, 2, 25)
PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "classic": {"session.timeout.ms": 3000, "heartbeat.interval.ms": 500},
    "consumer": {"group.protocol": "consumer"},
}
BROKER: Mapping[str, str | int] = {
    "group.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 3000,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.heartbeat.interval.ms": 500,
    "group.consumer.min.heartbeat.interval.ms": 500,
}

_PREPARE = """
import importlib, os, signal

def kill_at(module, owner, method, passes, after):
    owner = getattr(importlib.import_module(module), owner)
    original = getattr(owner, method)
    left = passes

    def patched(*arguments, **keywords):
        nonlocal left
        left -= 1
        if left == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = original(*arguments, **keywords)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, method, patched)
"""


@dataclass(frozen=True, slots=True)
class Point:
    """A call within a replica, before or after which it is killed."""

    module: str
    owner: str
    method: str
    has_letters: bool = True
    """Whether every kind of clients leads there; else only refusals and acknowledgements do."""

    def code(self, passes: int, *, after: bool) -> str:
        """Python for the replica."""
        call = f"kill_at({self.module!r}, {self.owner!r}, {self.method!r}, {passes}, {after})"
        return f"{_PREPARE}\n{call}"

    def __str__(self) -> str:
        return f"{self.owner}.{self.method}"


POINTS = (
    Point("dispatcher.intake", "Intake", "_take_records"),
    Point("dispatcher.deadlines", "Deadlines", "_take"),
    Point("dispatcher.sansio.dead_letters", "LetterBook", "add"),
    Point("dispatcher.kafka.letter_writer", "LetterWriter", "step"),
    Point("dispatcher.kafka.letter_writer", "LetterWriter", "_write"),
    Point("dispatcher.kafka.letter_writer", "LetterWriter", "_on_delivery"),
    Point("dispatcher.sansio.dead_letters", "LetterBook", "acknowledged"),
    Point("dispatcher.hub.settlement", "Settlement", "put_aside"),
    Point("dispatcher.sansio.offsets", "OffsetTracker", "dispatched"),
    Point("dispatcher.kafka.commit_sender", "CommitSender", "send"),
    Point("dispatcher.kafka.commit_sender", "CommitSender", "on_commit"),
    Point("dispatcher.hub.acking", "Acking", "refuse", has_letters=False),
    Point("dispatcher.hub.acking", "Acking", "_stored", has_letters=False),
    Point("dispatcher.hub.acking", "Acking", "done", has_letters=False),
)


class Lane:
    """One topic, its replica, and its clients.

    Args:
        cluster: A node that runs.
        kind: Of its clients: ``nobody``, ``plain`` or ``acks``.
        protocol: Of the group.
        chance: Of all that happens.
        tell: Called with what happens, in words.
    """

    def __init__(
        self, cluster: KafkaCluster, kind: str, protocol: str, chance: random.Random, tell: Callable[[str], None]
    ) -> None:
        self.kind = kind
        self._chance = chance
        self._tell = tell
        self._servers = cluster.bootstrap_servers
        self._topic = cluster.create_topic(f"letters-{kind}-{protocol}", 1)
        self._letters_topic = f"{self._topic}.dlq"
        create(cluster.admin, self._letters_topic)
        table: dict[str, object] = {
            "undelivered_deadline_seconds": DEADLINE_SECONDS[kind],
            "on_deadline": "dead-letter",
        }
        if kind == "acks":
            table["commit_on"] = "acked"
        self._settings = {"topic_tables": orjson.dumps({self._topic: table}).decode(), "commit_interval_seconds": 0.2}
        self._properties = PROPERTIES[protocol]
        self._committed = CommittedOffsets(self._servers, f"group-{self._topic}", self._topic, 1)
        self._replica: Replica | None = None
        self._is_over = False
        self._produced: dict[int, tuple[int, int]] = {}
        """Offset, and how many crashes there had been, by number."""
        self.delivered: Counter[int] = Counter()
        self.letters: Counter[int] = Counter()
        self.crashes: Counter[str] = Counter()
        self.neither: list[str] = []
        self._end = 0
        self.committed = 0

    async def run(self, plan: Sequence[tuple[str, str]]) -> None:
        """Crash again and again, and let a last replica finish.

        Args:
            plan: For each crash its name, and the code that brings it about; none for a random moment.
        """
        produce = partial(
            produce_steadily,
            self._servers,
            self._topic,
            1,
            rate=RATE,
            value_bytes=VALUE_BYTES,
            stopped=lambda: self._is_over,
            on_stored=self._stored,
            on_refused=self._tell,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(trio.to_thread.run_sync, produce, limiter=trio.CapacityLimiter(1)))
                try:
                    for number, (name, code) in enumerate(plan, 1):
                        self.crashes[await self._crash(name, code)] += 1
                        await self._audit()
                        self._tell(f"{self.kind}: {number} of {len(plan)}, {name}; {len(self.neither)} lost")
                    await self._finish()
                finally:
                    self._is_over = True  # or the thread would produce for ever, and the nursery wait for it
        finally:
            self._committed.close()
            if self._replica is not None:
                self._replica.end(by_force=True)

    async def _crash(self, name: str, code: str) -> str:
        """One replica, until it is killed; returns how."""
        async with trio.open_nursery() as nursery:
            replica = self._replica = await self._start(code)
            if self.kind != "nobody":
                nursery.start_soon(self._serve, replica)
            by_itself = True
            limit = seconds(REACH_SECONDS) if code else self._chance.uniform(*RANDOM_SECONDS)
            try:
                await trio.to_thread.run_sync(replica.process.wait, limit)
            except subprocess.TimeoutExpired:
                by_itself = False
                replica.signal(signal.SIGKILL)
                await trio.to_thread.run_sync(replica.wait)
            # What a socket accepted before that still reaches its client, which reads to the end of it.
            if self.kind == "acks":
                nursery.cancel_scope.cancel()
        replica.end(by_force=True)
        self._replica = None
        if by_itself and not code:
            self.neither.append(f"{self.kind}: a replica ended by itself")
        return name if by_itself or not code else f"{name}: not reached"

    async def _start(self, code: str) -> Replica:
        make = partial(Replica, self._servers, self._topic, settings=self._settings, kafka=self._properties, code=code)
        return await trio.to_thread.run_sync(make)

    async def _serve(self, replica: Replica) -> None:
        """Clients of one replica, for as long as it lives."""
        while replica.process.poll() is None:
            if self.kind == "acks":
                with suppress(SubscriptionError, OSError):
                    await self._acknowledge(replica)
            else:
                await trio.sleep(self._chance.uniform(0, AWAY_SECONDS))
                with suppress(OSError):
                    await self._read(replica)

    async def _read(self, replica: Replica) -> None:
        """A plain client: it takes what comes for a moment, and all that was sent to it by then."""
        with trio.socket.socket() as sock:
            await sock.connect(replica.address)
            await sock.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = bytearray()
            try:
                with trio.move_on_after(self._chance.uniform(0.1, 1.5)) as turn:
                    await _read_into(received, sock)
                if turn.cancelled_caught:
                    sock.shutdown(trio.socket.SHUT_WR)
                    await _read_into(received, sock)
            finally:
                self.delivered.update(int(number) for number in re.findall(rb"data: ?(\d{20})\n", received))

    async def _acknowledge(self, replica: Replica) -> None:
        """A client that acknowledges most records, refuses some, and is late for others."""
        async with subscribe(replica.url, ack="manual", window=50, max_failures=1) as stream:
            async for record in stream:
                if self._chance.random() < LATE:
                    await trio.sleep(self._chance.uniform(*LATE_SECONDS))
                if self._chance.random() < 0.2:
                    await stream.nack(record, "the trial says so")
                else:
                    self.delivered[int(record.text or "")] += 1
                    await stream.ack(record)

    async def _finish(self) -> None:
        """Produce no more, let the last replica commit everything, and judge."""
        self._is_over = True
        async with trio.open_nursery() as nursery:
            replica = self._replica = await self._start("")
            if self.kind != "nobody":
                nursery.start_soon(self._serve, replica)
            with trio.move_on_after(seconds(SETTLE_SECONDS)):
                while self.committed < self._end:
                    await self._audit()
                    await trio.sleep(0.2)
            replica.signal(signal.SIGKILL)
            await trio.to_thread.run_sync(replica.wait)
            nursery.cancel_scope.cancel()
        replica.end(by_force=True)
        self._replica = None
        await self._audit()

    async def _audit(self) -> None:
        """What is committed has to be delivered or in the dead-letter topic, now."""
        found = await trio.to_thread.run_sync(self._committed.read)
        committed = 0 if found is None else found.get(0, 0)
        self.letters = numbers(await trio.to_thread.run_sync(read_all, self._servers, self._letters_topic))
        lost = [
            f"{self.kind}: {number} at offset {offset} is committed ({committed}), and neither delivered nor a letter"
            for number, (offset, _) in list(self._produced.items())
            if self.committed <= offset < committed and not (self.delivered[number] or self.letters[number])
        ]
        for words in lost:
            self._tell(words)
        self.neither += lost
        self.committed = max(self.committed, committed)

    def _stored(self, _partition: int, offset: int, number: int) -> None:
        self._produced[number] = offset, self.crashes.total()
        self._end = max(self._end, offset + 1)

    def too_often(self) -> list[str]:
        """Letters that there are more of than one, and one for each crash since their record was written."""
        crashes = self.crashes.total()
        return [
            f"{self.kind}: {number} has {times} letters after {crashes - before} crashes"
            for number, times in self.letters.items()
            if times > 1 + crashes - (before := self._produced[number][1])
        ]

    def rows(self) -> Iterator[Row]:
        """Name, value, and whether it is as it should be."""
        kind, produced = self.kind, self._produced
        missed = sum(name.endswith("not reached") for name in self.crashes)
        yield f"{kind}: records", f"{len(produced):,}", bool(produced)
        yield f"{kind}: crashes", f"{self.crashes.total():,}, {missed} elsewhere than planned", True
        yield f"{kind}: delivered", f"{len(self.delivered):,}", bool(self.delivered) == (kind != "nobody")
        yield f"{kind}: with a letter", f"{len(self.letters):,}", bool(self.letters)
        both = len(self.delivered.keys() & self.letters.keys())
        yield f"{kind}: both", f"{both:,}", True
        yield f"{kind}: with more than one letter", f"{sum(n > 1 for n in self.letters.values()):,}", True
        yield f"{kind}: with more than one and one a crash", f"{len(self.too_often()):,}", not self.too_often()
        yield f"{kind}: committed, and neither", f"{len(self.neither):,}", not self.neither
        left = self._end - self.committed
        yield f"{kind}: never committed", f"{left:,}", not left

    def evidence(self) -> Iterator[str]:
        """What was not as it should be, in words."""
        yield from self.neither[:SHOWN]
        yield from self.too_often()[:SHOWN]
        for name in sorted(self.crashes):
            if name.endswith("not reached"):
                yield f"{self.kind}: {name}, {self.crashes[name]} times"


async def _read_into(received: bytearray, sock: trio.socket.SocketType) -> None:
    while data := await sock.recv(65536):
        received += data


def plan(kind: str, chance: random.Random, randoms: int) -> list[tuple[str, str]]:
    """Every point with every number of passes, before and after the call, and random moments, in a random order."""
    planned = [
        (f"{'after' if after else 'before'} {point}, pass {passes}", point.code(passes, after=after))
        for point in POINTS
        if point.has_letters or kind == "acks"
        for passes in PASSES
        for after in (False, True)
    ]
    planned += [("a random moment", "")] * randoms
    chance.shuffle(planned)
    return planned


async def run(
    cluster: KafkaCluster,
    protocol: str,
    tell: Callable[[str], None],
    *,
    seed: int,
    skip: float,
    share: float,
    randoms: int,
) -> tuple[list[Row], list[str]]:
    """All three kinds side by side.

    Args:
        cluster: A node that runs.
        protocol: Of the groups.
        tell: Called with what happens, in words.
        seed: Of all that happens.
        skip: How much of the beginning of each kind's plan is left out, because it was tried before.
        share: How much of each kind's plan is tried, that included.
        randoms: Random moments in each plan.

    Returns:
        The verdict, and what was not as it should be, in words.
    """
    lanes = []
    async with trio.open_nursery() as nursery:
        for kind in ("nobody", "plain", "acks"):
            chance = random.Random(f"{seed} {kind}")  # noqa: S311 - it has to be repeatable
            lane = Lane(cluster, kind, protocol, chance, tell)
            lanes.append(lane)
            planned = plan(kind, chance, randoms)
            first, end = (math.ceil(part * len(planned)) for part in (skip, share))
            nursery.start_soon(lane.run, planned[first:end])
    return [row for lane in lanes for row in lane.rows()], [words for lane in lanes for words in lane.evidence()]
