"""Topics whose readers have filters: one settles what nobody wants, the other parks it.

Every tenth record is nobody's. What must hold, whatever happens to replicas and brokers:

* No reader misses a record that matches its filter, and none is sent another one (`judge`).
* Readers that stay, of the whole topic, are sent everything that matches, up to the end of the log.
* The topic that settles is committed to its end. The one that parks is never committed past its first parked record,
  until readers arrive that want those: together they are sent every one of them, and then it is committed to its end.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import trio

from testbed.patience import seconds
from tests.audit.commits import CommittedOffsets, commit_log
from tests.audit.fleet import Fleet
from tests.chaos import selections
from tests.chaos.attribution import Attribute
from tests.chaos.crowd import Crowd
from tests.chaos.judge import Fault, Judge
from tests.chaos.readers import Habits, Reader, draw_filtered
from tests.chaos.selections import EVERYBODYS, KEYS, Selection

PARTITIONS = 3
READERS = 8
RATE = 60.0
SETTLE_SECONDS = 40.0
"""A deadline in `testbed.patience.seconds`."""

NARROW = Selection.of(lambda offset: selections.key_of(offset) == "k3", ("key", "k3"))
LOYAL = Habits("sse", steady=True, whole=True, loyal=True, selection=NARROW)
TAKES_ALL = Habits("websocket", steady=True, loyal=True, selection=EVERYBODYS)
ALL_PARKED = Selection.of(lambda offset: offset >= KEYS, ("filter", '{"exists":{"key":true}}'))
LATE = Habits("sse", steady=True, whole=True, loyal=True, selection=ALL_PARKED)
"""Wants everything, as what was sent before may be parked again. It has no id: where a partition is followed it begins
at the committed offset (docs/protocol.md), and that moves as soon as the owner's reader was sent what was parked."""


class Filtered:
    """The two topics, their readers, and what the group has committed of them.

    Args:
        bootstrap_servers: Where the topics are.
        group: That of the replicas.
        prefix: Of the topics' names.
        workers: Processes of each replica.
    """

    def __init__(self, bootstrap_servers: str, group: str, prefix: str, workers: int = 1) -> None:
        self._workers = workers
        # The kernel spreads connections over workers by chance: with this many some worker has none once in a while.
        self._copies = 1 if workers == 1 else 6 * workers
        self.settles = _Topic(bootstrap_servers, group, f"{prefix}-settles", (LOYAL,) * self._copies)
        self.parks = _Topic(bootstrap_servers, group, f"{prefix}-parks", (LOYAL, *(TAKES_ALL,) * self._copies))
        self._late = Judge()
        self._not_stopped_at: dict[int, int] = {}
        self._past_parked = 0
        self._never_unparked = 0

    @property
    def topics(self) -> Mapping[str, int]:
        """Partitions by topic."""
        return dict.fromkeys([self.settles.name, self.parks.name], PARTITIONS)

    @property
    def tables(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of single topics."""
        return {self.parks.name: {"unmatched": "park"}}

    @property
    def judges(self) -> list[Judge]:
        """Return the judges of all readers."""
        return [*(topic.crowd.judge for topic in (self.settles, self.parks) if topic.crowd is not None), self._late]

    async def run(self, fleet: Fleet, seed: int, slots: int) -> None:
        """Produce until `quiet`, and let readers come and go until cancelled. *Cancellation*: safe."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.settles.run, fleet, seed, slots)
            nursery.start_soon(self.parks.run, fleet, seed + 1, slots)

    def quiet(self) -> None:
        """Produce no more."""
        for topic in (self.settles, self.parks):
            if topic.crowd is not None:
                topic.crowd.quiet()

    async def settle(self, fleet: Fleet, _: Attribute) -> None:
        """Wait for what is owed, then let those arrive that want what was parked. *Cancellation*: safe."""
        await self.settles.until_read()
        await self.parks.until_read()
        await self.settles.until_committed(self.settles.ends)
        first_parked = {
            partition: next(filter(selections.is_nobodys, range(end)), end)
            for partition, end in self.parks.ends.items()
        }
        if self._workers == 1:
            await self.parks.until_committed(first_parked)
            self._not_stopped_at = dict(self.parks.short)
        stored = await trio.to_thread.run_sync(self.parks.commits)
        self._past_parked = sum(offset > first_parked[partition] for partition, offset, _ in stored)
        crowd = Crowd(fleet, self.parks.name, 0, draw_filtered, (LATE,) * self._copies)
        crowd.judge = self._late
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.run, 0, len(fleet.slots))
            await self.parks.until_read(crowd)
            await self.parks.until_committed(self.parks.ends)
            nursery.cancel_scope.cancel()
        self._never_unparked = sum(left_parked(first_parked, self._late.begun, self.parks.ends).values())

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        if elsewhere := [topic.name for topic in (self.settles, self.parks) if topic.elsewhere]:
            yield "with filters: not judged, as records were stored elsewhere", " ".join(elsewhere), True
            return
        verdicts = [judge.verdict() for judge in self.judges]
        records = sum(one.records for one in verdicts)
        yield "records read with filters", f"{records:,}", records > 0
        sent_again = sum(one.again for one in verdicts)
        yield "with filters: sent again with the whole topic", f"{sent_again:,}", True
        for fault in Fault:
            number = sum(one.faults.get(fault, 0) for one in verdicts)
            yield f"with filters: {fault}", f"{number:,}", not number
        lost = self.settles.lost + self.parks.lost
        yield "with filters: lost", f"{lost:,}", not lost
        settled, parked = (sum(topic.short.values()) for topic in (self.settles, self.parks))
        yield "settled, and not committed to the end", f"{settled:,}", not settled
        yield "commits past what was parked", f"{self._past_parked:,}", not self._past_parked
        stopped = sum(map(abs, self._not_stopped_at.values()))
        yield "commits that did not stop at what was parked", f"{stopped:,}", not stopped
        late = verdicts[-1].records
        yield "parked, and sent to those that arrived late", f"{late:,}", late > 0
        left = self._never_unparked
        yield "parked, and sent to none of those", f"{left:,}", not left
        yield "parked, sent, and not committed", f"{parked:,}", not parked

    @property
    def evidence(self) -> Iterator[str]:
        """Return what was wrong, in words; first of all, if records are elsewhere than the judges believe."""
        for topic in (self.settles, self.parks):
            if topic.elsewhere:
                yield f"{topic.name}: {topic.elsewhere}: what readers are owed is not known"
            yield from (f"{topic.name}: {words}" for words in topic.evidence)
        for judge in self.judges:
            yield from (f"with filters: {words}" for words in judge.evidence)
        if any(self._not_stopped_at.values()):
            yield f"{self.parks.name}: commits stopped short of, or past, what was parked by {self._not_stopped_at}"


def left_parked(
    first_parked: Mapping[int, int], begun: Mapping[int, int], ends: Mapping[int, int]
) -> Mapping[int, int]:
    """How many parked records of each partition come before the first that any of the late readers was sent.

    One of them alone may begin later: what another has been sent is parked no more.

    Args:
        first_parked: By partition, the first offset that was parked.
        begun: The first offset that some late reader was sent; without it, none was sent anything.
        ends: The offset after the last record.
    """
    left = {partition: min(begun.get(partition, end), end) - first_parked[partition] for partition, end in ends.items()}
    return {partition: number for partition, number in left.items() if number > 0}


class _Topic:
    """One topic, its producer and its readers."""

    def __init__(self, bootstrap_servers: str, group: str, name: str, stayers: tuple[Habits, ...]) -> None:
        self.name = name
        self.crowd: Crowd | None = None
        self.ends: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
        """Offset after the last record by partition."""
        self.elsewhere: str | None = None
        """The first record that is not where the judges believe, in words. The producer may store a record twice when a
        broker is killed, although it is idempotent; nothing that comes later can be judged then."""
        self.lost = 0
        self.short: dict[int, int] = {}
        """By partition, how far the last commit was from where it should have been."""
        self.evidence: list[str] = []
        self._bootstrap_servers = bootstrap_servers
        self._group = group
        self._stayers = stayers

    async def run(self, fleet: Fleet, seed: int, slots: int) -> None:
        """See `Filtered.run`."""
        self.crowd = crowd = Crowd(fleet, self.name, seed, draw_filtered, self._stayers)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.run, READERS, slots)
            produce = partial(crowd.produce, record=self._record, on_stored=self._on_stored)
            nursery.start_soon(produce, self._bootstrap_servers, PARTITIONS, RATE, 0)

    async def until_read(self, crowd: Crowd | None = None) -> None:
        """Return when those that stay at replicas have read to the end; what they have not by the deadline is lost."""
        crowd = crowd or self.crowd
        assert crowd is not None

        def owing() -> dict[str, int]:
            found = {}
            for reader in crowd.stayers:
                if reader.habits.whole and reader.is_somewhere:
                    found[reader.name] = sum(self._owed(reader).values())
            return {name: number for name, number in found.items() if number}

        with trio.move_on_after(seconds(SETTLE_SECONDS)):
            while not crowd.stayers or owing():  # noqa: ASYNC110 - another thread's
                await trio.sleep(0.1)
        for name, number in owing().items():
            self.lost += number
            self.evidence.append(f"{name} has not been sent {number} records that match, by its position")

    def _owed(self, reader: Reader) -> dict[int, int]:
        assert reader.habits.selection is not None
        position, wants = reader.position, reader.habits.selection.wants
        return {p: sum(map(wants, range(position.get(p, -1) + 1, end))) for p, end in self.ends.items()}

    async def until_committed(self, offsets: Mapping[int, int]) -> None:
        """Return when the group has committed this or more, or the deadline has passed; `short` says what it lacks."""
        committed = CommittedOffsets(self._bootstrap_servers, self._group, self.name, PARTITIONS)
        self.short = dict(offsets)
        try:
            with trio.move_on_after(seconds(SETTLE_SECONDS)):
                while any(number > 0 for number in self.short.values()):
                    found = await trio.to_thread.run_sync(committed.read)
                    if found is not None:
                        self.short = {p: offset - found.get(p, 0) for p, offset in offsets.items()}
                    await trio.sleep(0.1)
        finally:
            committed.close()

    def commits(self) -> list[tuple[int, int, int]]:
        """Kafka's log of commits. *Thread*: any."""
        return list(commit_log(self._bootstrap_servers, self._group, self.name))

    def _record(self, number: int) -> Mapping[str, Any]:
        offset = number // PARTITIONS
        tenant = selections.tenant_of(offset)
        headers = [] if tenant is None else [("tenant", tenant.encode())]
        return {"value": selections.value_of(offset), "key": selections.key_of(offset), "headers": headers}

    def _on_stored(self, partition: int, offset: int, number: int) -> None:
        if divmod(number, PARTITIONS) != (offset, partition) and self.elsewhere is None:
            self.elsewhere = f"record {number} is at {partition}@{offset}"
        self.ends[partition] = max(self.ends[partition], offset + 1)
