"""Replicas for an audit: each in a slot of its own, as an orchestrator has them, with listeners that stay."""

import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import trio

from testbed.patience import seconds
from testbed.replicas import Replica
from tests.audit.auditor import Auditor
from tests.audit.listeners import Listener, Transport
from tests.audit.workers import running, serving, starts, writer_of

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
"""Deadlines in `testbed.patience.seconds`."""

HEALTHY: Sequence[Transport] = ("sse", "websocket")
FICKLE_BUFFER_BYTES = 4096
MOST_LISTENERS = 16
"""Healthy ones of one replica with workers."""

COVER_SECONDS = 0.5


class Slot:
    """A place for one replica after another: what stays is the name, and who listens there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.replica: Replica | None = None
        self.listeners: list[Listener] = []
        """Healthy ones, of which one reads SSE and one a WebSocket."""
        self.fickle: Listener
        """One with a small receive buffer, which may freeze and vanish."""


class Fleet:
    """Starts and ends replicas for the body of the ``with`` block.

    Args:
        auditor: Whose listeners are kept on every replica.
        nursery: Where the listeners run.
        bootstrap_servers: What the replicas connect to.
        topic: What they dispatch; several with commas.
        group: The group that they share.
        settings: More settings of each, as `Replica` takes them.
        kafka: librdkafka properties of each.
        static: Whether each slot is a static member of the group.
        logs: A folder for what the replicas have logged.
        code: Python that each runs first, to put a fault in.
        command: What each command line begins with.
        workers: How many processes each replica has.
    """

    def __init__(
        self,
        auditor: Auditor,
        nursery: trio.Nursery,
        bootstrap_servers: str,
        topic: str,
        group: str,
        *,
        settings: Mapping[str, object] | None = None,
        kafka: Mapping[str, object] | None = None,
        static: bool = False,
        logs: Path | None = None,
        code: str = "",
        command: Sequence[str] = (),
        workers: int = 1,
    ) -> None:
        self.workers = workers
        self.slots: list[Slot] = []
        self._auditor = auditor
        self._nursery = nursery
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._group = group
        self._settings = dict(settings or {})
        self._kafka = dict(kafka or {})
        self._static = static
        self._logs = logs
        self._code = code
        self._command = command
        self._ended: list[Replica] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.all:
            log = replica.end()
            if self._logs is not None:
                self._logs.mkdir(parents=True, exist_ok=True)
                (self._logs / f"{replica.identity.replace('/', '-')}.log").write_text(log)

    async def add(self, **keywords: object) -> Slot:
        """A new slot with a replica that listens; it joins the group by and by."""
        slot = Slot(f"replica-{len(self.slots) + 1}")
        self.slots.append(slot)
        where = lambda: slot.replica  # noqa: E731 - each of them asks the same
        for transport in HEALTHY:
            self._listen(slot, transport)
        identify = serving if self.workers > 1 else None
        slot.fickle = self._auditor.listen(self._nursery, where, "sse", FICKLE_BUFFER_BYTES, identify)
        await self.start(slot, **keywords)
        return slot

    def _listen(self, slot: Slot, transport: Transport) -> None:
        identify = serving if self.workers > 1 else None
        slot.listeners.append(self._auditor.listen(self._nursery, lambda: slot.replica, transport, identify=identify))

    async def cover(self) -> None:
        """See to it until cancelled that every worker has a healthy listener: the kernel spreads connections by chance.

        One more listens as long as some worker has none. Those that are too many stay, but while a worker is suspended
        all of them may connect to the others: then one of them connects again.
        """
        while self.workers > 1:
            for slot in self.slots:
                if (replica := slot.replica) is None:
                    continue
                names = set((await trio.to_thread.run_sync(running, replica)).values())
                listeners = Counter(listener.served_by for listener in slot.listeners if listener.connected)
                if not names - listeners.keys():
                    continue
                if len(slot.listeners) < MOST_LISTENERS:
                    self._listen(slot, HEALTHY[len(slot.listeners) % 2])
                elif listeners.total() == len(slot.listeners):
                    most = max(listeners, key=lambda name: listeners[name])
                    await next(listener for listener in slot.listeners if listener.served_by == most).vanish()
            await trio.sleep(COVER_SECONDS)

    async def start(self, slot: Slot, **keywords: object) -> None:
        """Start a replica in a slot that has none."""
        of_replica: dict[str, Any] = {"code": self._code, "command": self._command, **keywords}
        settings = self._settings | ({"group_instance_id": slot.name} if self._static else {})

        def start() -> Replica:
            return Replica(
                self._bootstrap_servers,
                self._topic,
                group=self._group,
                client_id=slot.name,
                settings=settings,
                kafka=self._kafka,
                **of_replica,
            )

        slot.replica = await trio.to_thread.run_sync(start)

    async def kill(self, slot: Slot) -> None:
        """Kill -9."""
        replica = self._take(slot)
        replica.signal(signal.SIGKILL)
        await trio.to_thread.run_sync(replica.wait)

    async def stop(self, slot: Slot) -> int:
        """SIGTERM, and its exit code."""
        replica = self._take(slot)
        replica.signal(signal.SIGTERM)
        return await trio.to_thread.run_sync(replica.wait, STOP_SECONDS)

    def suspend(self, slot: Slot) -> None:
        """SIGSTOP."""
        assert slot.replica is not None
        slot.replica.signal(signal.SIGSTOP)

    def resume(self, slot: Slot) -> None:
        """SIGCONT."""
        assert slot.replica is not None
        slot.replica.signal(signal.SIGCONT)

    def logged(self, *events: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The process and the line, of every line about one of these events, of all replicas that there have been."""
        for replica in self.all:
            known = starts(replica) if self.workers > 1 else []
            for event in events:
                for line in replica.logged(event):
                    yield writer_of(replica, line, known), line

    @property
    def all(self) -> list[Replica]:
        """All replicas that there have been, those that run last."""
        return [*self._ended, *(slot.replica for slot in self.slots if slot.replica is not None)]

    async def wait_until_shared(self, partitions: int, others: Mapping[str, int] | None = None) -> None:
        """Return when the replicas that run have all partitions among them, and are ready.

        Args:
            partitions: How many each topic has.
            others: How many those topics have that have another number.
        """
        numbers = dict.fromkeys(self._topic.split(","), partitions) | dict(others or {})
        all_of_them = [(topic, number) for topic in sorted(numbers) for number in range(numbers[topic])]
        with trio.fail_after(seconds(READY_SECONDS)):
            while True:
                running = [slot.replica for slot in self.slots if slot.replica is not None]
                statuses = [await trio.to_thread.run_sync(replica.status) for replica in running]
                owned = [(p["topic"], p["partition"]) for status in statuses for p in status["partitions"]]
                everybody_has_some = all(status["ready"] and status["partitions"] for status in statuses)
                if everybody_has_some and sorted(owned) == all_of_them:
                    return
                await trio.sleep(0.05)

    def _take(self, slot: Slot) -> Replica:
        """A replica that ends keeps its log until the fleet is gone."""
        assert slot.replica is not None
        replica, slot.replica = slot.replica, None
        self._ended.append(replica)
        return replica
