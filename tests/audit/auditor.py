"""The auditor: produces numbered records, listens on every replica, watches the commits, and reports.

It knows nothing of the replicas but their addresses: what it says rests on its own sockets and on the brokers' word.
"""

import queue
from collections.abc import Callable, Iterable
from typing import Protocol

import trio
import trio.testing
from rich.table import Table

from testbed.patience import seconds
from tests.audit.commits import CommittedOffsets, commit_log
from tests.audit.ledger import Ledger, Report
from tests.audit.listeners import Identify, Listener, Process, Transport
from tests.audit.producing import produce_steadily

SAMPLE_SECONDS = 0.1
SETTLE_SECONDS = 40.0
"""A deadline in `testbed.patience.seconds`, like those of `fleet`."""


class Auditor:
    """Audits one topic and one group.

    Args:
        bootstrap_servers: The brokers.
        topic: Where it produces, and nobody else.
        group: The replicas' group.
        partitions: Of the topic.
        rate: Records a second, over all partitions.
        value_bytes: Size of a value; the number is padded with zeros.
        proxy_seconds: How long a record may be in a proxy between replica and subscriber.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        group: str,
        partitions: int,
        *,
        rate: float,
        value_bytes: int = 1,
        proxy_seconds: float = 0.0,
    ) -> None:
        self.ledger = Ledger(proxy_seconds)
        self.commits: list[tuple[int, int, int]] = []
        """Partition, offset and time (ms) of every commit in Kafka's log, once it has settled."""
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._group = group
        self._partitions = partitions
        self._rate = rate
        self._value_bytes = value_bytes
        self._committed = CommittedOffsets(bootstrap_servers, group, topic, partitions)
        self._stored: queue.SimpleQueue[tuple[int, int, int]] = queue.SimpleQueue()
        self._refused: list[str] = []
        self._stop_producing = trio.Event()
        self._produced = trio.Event()
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def run(self) -> None:
        """Produce until `settle`, and sample commits until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sample)
                await trio.to_thread.run_sync(self._produce, abandon_on_cancel=True)
                self._take_stored()
                self._produced.set()
        finally:
            self._stop_producing.set()
            self._committed.close()

    def listen(
        self,
        nursery: trio.Nursery,
        where: Callable[[], Process | None],
        transport: Transport,
        receive_buffer_bytes: int = 0,
        identify: Identify | None = None,
    ) -> Listener:
        """Start a subscriber of a replica."""
        listener = Listener(self.ledger, where, transport, self._topic, receive_buffer_bytes, identify=identify)
        nursery.start_soon(listener.run)
        return listener

    async def settle(self) -> Report:
        """Produce no more, wait until all is dispatched and committed, and report what there is after that.

        What is not there after `SETTLE_SECONDS` is lost.
        """
        self._stop_producing.set()
        self.ledger.quiet()
        await self._produced.wait()
        with trio.move_on_after(seconds(SETTLE_SECONDS)):
            while True:
                if await self._all_committed():
                    break
                await trio.sleep(SAMPLE_SECONDS)
        # A commit that goes too far comes after the last good one.
        for _ in range(3):
            await trio.sleep(SAMPLE_SECONDS)
            await self._sample_once()
        self.commits = await trio.to_thread.run_sync(self._commits)
        for partition, offset, stored_ms in self.commits:
            self.ledger.committed(partition, offset, stored_ms)
        return self.ledger.report()

    def _commits(self) -> list[tuple[int, int, int]]:
        return list(commit_log(self._bootstrap_servers, self._group, self._topic))

    async def _all_committed(self) -> bool:
        committed = await self._sample_once()
        return not self.ledger.missing() and all(
            committed.get(partition, 0) >= end for partition, end in self.ledger.log_ends().items()
        )

    async def _sample(self) -> None:
        while True:
            await self._sample_once()
            self._take_stored()
            await trio.sleep(SAMPLE_SECONDS)

    async def _sample_once(self) -> dict[int, int]:
        committed = await trio.to_thread.run_sync(self._committed.read, limiter=self._one_at_a_time)
        if committed is None:
            return {}
        # What was dispatched before the answer is in the sockets by now: every listener reads what it has.
        await trio.testing.wait_all_tasks_blocked()
        self.ledger.sampled(committed, trio.current_time())
        return dict(committed)

    def _take_stored(self) -> None:
        while not self._stored.empty():
            self.ledger.produced(*self._stored.get_nowait())
        if self._refused:
            raise RuntimeError(f"the broker did not store what was produced: {self._refused[0]}")

    # In a thread of its own.

    def _produce(self) -> None:
        produce_steadily(
            self._bootstrap_servers,
            self._topic,
            self._partitions,
            rate=self._rate,
            value_bytes=self._value_bytes,
            stopped=self._stop_producing.is_set,
            on_stored=lambda *record: self._stored.put(record),
            on_refused=self._refused.append,
        )


class Rows(Protocol):
    """What a table is made of."""

    def rows(self) -> Iterable[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""


def table(report: Rows, title: str = "Audit") -> Table:
    """The report for people."""
    shown = Table(title=title, show_header=False)
    shown.add_column("")
    shown.add_column("", justify="right")
    for name, value, good in report.rows():
        shown.add_row(name, value if good else f"[bold red]{value}[/]")
    return shown
