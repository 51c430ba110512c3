"""A trial of the stack: it is scaled, updated, rolled back, broken and drained while the auditor keeps its books."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.audit.auditor import Auditor
from tests.audit.ledger import Report
from tests.swarm.panels import Panel, read_panels
from tests.swarm.stack import TRIAL, Stack
from tests.swarm.visitors import Edge, Returns, Visitor, returns

T = TypeVar("T")

TOPIC, GROUP, PARTITIONS = "ofa_assets", (TRIAL.parent / "group.txt").read_text().strip(), 6
LIVE_SECONDS = 5.0
"""Within this time after its replica's stop a subscriber is live again."""

PROXY_SECONDS = 2.0
"""A record may be in the edge for this long: on two cores, the edge waits for them as everybody does."""

PLANNED = ("scale 2 to 4", "scale 4 to 3", "rolling update", "broken update, rolled back")
CRASH = "kill -9 of a task"

BROKEN_CONFIG = 'topics = ["ofa_assets"]\nhistroy_bytes = "64 MiB"\n'
MISSING_SECRET = "DISPATCHER_KAFKA__SASL_PASSWORD_FILE=/run/secrets/sasl_password"  # noqa: S105 - a path
TOLD = (
    "2 invalid settings; nothing was started.",
    "no such setting; did you mean history_bytes?",
    "name a readable file (No such file or directory)",
)
"""What `docker service logs` has to show of these two."""


@dataclass(slots=True)
class Phase:
    """A part of the trial."""

    name: str
    seconds: float
    repeats: int
    """Records that a second process sent as well."""
    returns: Returns


@dataclass(slots=True)
class Outcome:
    """What a trial came to."""

    phases: list[Phase] = field(default_factory=list)
    report: Report | None = None
    told: bool = False
    """Whether a wrong config and a missing secret were reported in the logs."""
    writable: list[str] = field(default_factory=list)
    """What a replica's container could write to."""
    exit_codes: list[int] = field(default_factory=list)
    """Of the replicas that were drained."""
    panels: list[Panel] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        assert self.report is not None
        yield from self.report.rows()
        for phase in self.phases:
            planned = phase.name in PLANNED
            yield f"repeated: {phase.name}", f"{phase.repeats:,}", not (planned and phase.repeats)
            yield (
                f"streams cut without a word: {phase.name}",
                f"{phase.returns.cut:,}",
                not (planned and phase.returns.cut),
            )
        update = next(phase.returns for phase in self.phases if phase.name == "rolling update")
        back = f"{update.median_seconds:.2f} / {update.worst_seconds:.2f} s ({len(update.seconds)} times)"
        good = bool(update.seconds) and update.worst_seconds <= LIVE_SECONDS and not update.never
        yield "rolling update: live again after a stop, median / worst", back, good
        wave = f"{update.largest_wave} (a replica had {update.most_at_once} at most)"
        yield "rolling update: largest wave within 5 s", wave, 0 < update.largest_wave <= update.most_at_once
        yield "wrong config and missing secret told in the logs", "yes" if self.told else "no", self.told
        yield "capabilities and writable paths of a replica", ", ".join(self.writable) or "none", not self.writable
        codes = ", ".join(map(str, self.exit_codes))
        yield "exit codes of drained replicas", codes or "none", bool(self.exit_codes) and not any(self.exit_codes)
        empty = [panel.title for panel in self.panels if not panel.has_data]
        shown = f"{len(self.panels) - len(empty)} of {len(self.panels)}" + (
            f", not {', '.join(empty)}" if empty else ""
        )
        yield "panels of the dashboard with data", shown, bool(self.panels) and not empty

    @property
    def good(self) -> bool:
        """Whether all was as it should be."""
        return all(good for _, _, good in self.rows())


@dataclass(slots=True)
class Trial:
    """Goes through all parts.

    Args:
        stack: To be deployed.
        variables: That it is deployed with.
        build: Builds the image of a version and returns its name.
        make_config: Makes a Swarm config of a text and returns its name.
        kill: Ends a container with kill -9.
        drain: Drains the node; None where somebody else has tasks on it, who would lose them.
        tell: Called with what happens, in words.
        rate: Records a second.
        subscribers: How many there are, half of them SSE and half WebSocket.
        keep: Whether to wait for ever before the drain.
    """

    stack: Stack
    variables: Mapping[str, str]
    build: Callable[[str], str]
    make_config: Callable[[str], str]
    kill: Callable[[str], object]
    drain: Callable[[], object] | None
    tell: Callable[[str], None]
    rate: float
    subscribers: int
    keep: bool = False
    visitors: list[Visitor] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)

    async def run(self) -> Outcome:
        """Deploy and go through it all."""
        self.tell("docker stack deploy")
        await _in_thread(self.stack.deploy)
        bootstrap_servers = ",".join(f"127.0.0.1:{self.variables[f'KAFKA_{number}_PORT']}" for number in (1, 2, 3))
        await self._wait_for("the topic", lambda: _has_topic(bootstrap_servers))
        # Or all subscribers would go to the first.
        await self._wait_for("2 replicas", lambda: [one["ready"] for one in self.stack.statuses()] == [True] * 2)
        await trio.sleep(5)  # until the edge has heard of both
        edge = Edge(int(self.variables["DISPATCHER_PORT"]))
        began = time.time()
        auditor = Auditor(bootstrap_servers, TOPIC, GROUP, PARTITIONS, rate=self.rate, proxy_seconds=PROXY_SECONDS)
        async with trio.open_nursery() as nursery:
            for number in range(self.subscribers):
                visitor = Visitor(auditor.ledger, edge, ("sse", "websocket")[number % 2], TOPIC)
                self.visitors.append(visitor)
                nursery.start_soon(visitor.run)
            await self._shared(2)
            nursery.start_soon(auditor.run)
            containers = await _in_thread(lambda: self.stack.containers("dispatcher"))
            self.outcome.writable = await _in_thread(lambda: self.stack.writable(containers[0]))
            await trio.sleep(5)
            await self._go_through(auditor)
            self.tell("the last records")
            self.outcome.report = await auditor.settle()
            ended = time.time()
            self.outcome.panels = await _in_thread(
                lambda: read_panels(f"{self.stack.addresses('prometheus')[0]}:9090", began, ended)
            )
            if self.keep:
                self.tell(f"kept until Ctrl-C; edge at {edge.address}, variables {self.variables}")
                await trio.sleep_forever()
            self.tell("drain")
            await self._drain()
            nursery.cancel_scope.cancel()
        return self.outcome

    async def _go_through(self, auditor: Auditor) -> None:
        async with self._phase("scale 2 to 4", auditor):
            await _in_thread(lambda: self.stack.scale("dispatcher", 4))
            await self._shared(4)
        async with self._phase("scale 4 to 3", auditor):
            await _in_thread(lambda: self.stack.scale("dispatcher", 3))
            await self._shared(3)
        image = await _in_thread(lambda: self.build("0.1.0-next"))
        async with self._phase("rolling update", auditor):
            await _in_thread(lambda: self.stack.update("dispatcher", "--image", image))
            await self._updated("completed")
            await self._shared(3)
        async with self._phase("broken update, rolled back", auditor):
            config = await _in_thread(lambda: self.make_config(BROKEN_CONFIG))
            change = ["--config-rm", f"dispatcher-toml-{self.variables['CONFIG_VERSION']}"]
            change += ["--config-add", f"source={config},target=/etc/dispatcher.toml", "--env-add", MISSING_SECRET]
            await _in_thread(lambda: self.stack.update("dispatcher", *change))
            await self._updated("rollback_completed")
            await self._shared(3)
            logs = await _in_thread(lambda: self.stack.logs("dispatcher"))
            self.outcome.told = all(words in logs for words in TOLD)
        async with self._phase(CRASH, auditor):
            containers = await _in_thread(lambda: self.stack.containers("dispatcher"))
            await _in_thread(lambda: self.kill(containers[0]))
            await self._shared(3)

    async def _drain(self) -> None:
        """Before it, nothing was lost; what it must not do is to end replicas by force."""
        before = await _in_thread(lambda: set(self.stack.containers("dispatcher")))
        if self.drain is not None:
            await _in_thread(self.drain)
        else:
            await _in_thread(lambda: self.stack.scale("dispatcher", 0))
        await self._wait_for("all replicas gone", lambda: not self.stack.containers("dispatcher"))
        self.outcome.exit_codes = await _in_thread(lambda: self.stack.exit_codes(before))

    @asynccontextmanager
    async def _phase(self, name: str, auditor: Auditor) -> AsyncIterator[None]:
        self.tell(name)
        began, repeats = trio.current_time(), auditor.ledger.repeated
        yield
        await trio.sleep(5)  # what comes late, is part of it
        ended = trio.current_time()
        back = returns([visitor.visits for visitor in self.visitors], began, ended)
        self.outcome.phases.append(Phase(name, ended - began, auditor.ledger.repeated - repeats, back))
        repeated = self.outcome.phases[-1].repeats
        self.tell(
            f"{name}: {ended - began:.0f} s, {repeated} repeated; stops {list(back.stops.values())}, "
            f"wave {back.largest_wave} of {back.most_at_once}, back after {back.median_seconds:.2f} / "
            f"{back.worst_seconds:.2f} s, {back.never} never, {back.spread} spread, {back.cut} cut"
        )

    async def _shared(self, replicas: int) -> None:
        await _in_thread(lambda: self.stack.wait_until_shared(replicas, PARTITIONS), only_looks=True)

    async def _updated(self, state: str) -> None:
        await self._wait_for(f"update {state}", lambda: self.stack.update_state("dispatcher") == state)

    async def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        await _in_thread(lambda: self.stack.wait_for(what, condition), only_looks=True)


async def _in_thread(call: Callable[[], T], *, only_looks: bool = False) -> T:
    """Call it in a thread; who only looks is left behind when the trial is cancelled."""
    return await trio.to_thread.run_sync(call, abandon_on_cancel=only_looks)


def _has_topic(bootstrap_servers: str) -> bool:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})
    try:
        return TOPIC in admin.list_topics(timeout=2).topics
    except KafkaException:
        return False
