"""What is left on replicas when every client has gone: nobody may be subscribed, and nothing dispatched to anybody."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx2
import trio
from prometheus_client.parser import text_string_to_metric_families

from testbed.patience import seconds
from testbed.replicas import Replica
from tests.audit.fleet import Fleet

FORGET_SECONDS = 15.0
"""How long a replica may take to see that a client has gone. Deadlines in `testbed.patience.seconds`."""

WAIT_SECONDS = 5.0
INVARIANTS = "dispatcher_invariant_violations"
CRASHES = ("crashed, stopping", "failed", "connection failed")
"""Log events with a traceback of the dispatcher's own code."""


@dataclass(slots=True)
class Leftovers:
    """What was found, by process."""

    subscribers: dict[str, int] = field(default_factory=dict)
    """Counted in ``/status`` although no client has a connection."""
    dispatched: dict[str, int] = field(default_factory=dict)
    """Records that counted as dispatched when there was nobody."""
    violations: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of invariants, by name: of those that run, by the metric, and of those that have ended, by their logs."""
    crashes: dict[str, list[str]] = field(default_factory=dict)
    """Of a process or of a connection, as the logs name them."""

    @property
    def good(self) -> bool:
        """Whether there was nothing."""
        return all(good for _, _, good in self.rows())

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        yield "subscribers without a connection", _some(self.subscribers), not self.subscribers
        yield "dispatched when everybody had gone", _some(self.dispatched), not self.dispatched
        yield "invariants violated", _some(self.violations), not self.violations
        yield "crashes", _some(self.crashes), not self.crashes


async def look(fleet: Fleet, produce: Callable[[], object]) -> Leftovers:
    """Look at every replica; no client may be connected to any of them.

    Args:
        fleet: The replicas.
        produce: Writes some records to what they dispatch, in a thread.
    """
    found = Leftovers()
    replicas = [slot.replica for slot in fleet.slots if slot.replica is not None]
    for replica in replicas:
        if left := await _subscribers(replica):
            found.subscribers[replica.identity] = left
    before = {replica.identity: await _ask(replica, "dispatched") for replica in replicas}
    taken = {replica.identity: await _ask(replica, "published") for replica in replicas}
    await trio.to_thread.run_sync(produce)
    with trio.move_on_after(seconds(WAIT_SECONDS)):
        # Somebody has taken the records; who pauses already takes none, and dispatches none either.
        while {replica.identity: await _ask(replica, "published") for replica in replicas} == taken:  # noqa: ASYNC110
            await trio.sleep(0.1)
    for replica in replicas:
        if more := await _ask(replica, "dispatched") - before[replica.identity]:
            found.dispatched[replica.identity] = more
    for process, line in fleet.logged("invariant violated"):
        found.violations.setdefault(process, {})[line["invariant"]] = line["count"]
    for process, line in fleet.logged(*CRASHES):
        found.crashes.setdefault(process, []).append(line["event"])
    for replica in replicas:
        answer = await trio.to_thread.run_sync(replica.metrics)
        if violations := violated(answer):
            found.violations[replica.identity] = violations
    return found


def violated(answer: str) -> dict[str, int]:
    """How often each invariant was violated, as ``/metrics`` says; those that held are left out."""
    return {
        sample.labels["invariant"]: int(sample.value)
        for family in text_string_to_metric_families(answer)
        if family.name == INVARIANTS
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


async def _subscribers(replica: Replica) -> int:
    """How many are left when the replica has had time to forget them."""
    left = -1
    with trio.move_on_after(seconds(FORGET_SECONDS)):
        while left := int((await _status(replica))["subscribers"]["total"]):  # noqa: ASYNC110 - another process's
            await trio.sleep(0.1)
    return left


async def _ask(replica: Replica, what: str) -> int:
    return int((await _status(replica))["records"][what])


async def _status(replica: Replica) -> dict[str, dict[str, int]]:
    """``/status``, as soon as it answers."""
    deadline = trio.current_time() + seconds(WAIT_SECONDS)
    while True:
        try:
            return await trio.to_thread.run_sync(replica.status)
        except httpx2.HTTPError:
            if trio.current_time() > deadline:
                raise
            await trio.sleep(0.1)


def _some(found: Mapping[str, object]) -> str:
    return "; ".join(f"{process}: {what}" for process, what in found.items()) or "0"
