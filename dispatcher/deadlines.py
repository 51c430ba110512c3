"""Looks for waiting records past their topic's deadline, and reports, skips or dead-letters them.

Records that wait in memory are examined there. If fetching of a partition is paused and none of its records is in
memory, they wait in Kafka: when the first of them is overdue (`ExpiryWatch` knows), the partition is fetched as if it
had a reader (`is_wanted`), until one of its records waits in memory.

*Thread*: Trio's.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from dispatcher.expiry_watch import ExpiryWatch
from dispatcher.hub.hub import Hub
from dispatcher.kafka.dead_letters import DeadLetters
from dispatcher.sansio.dead_letters import DeadLetterStatistics, Letter
from dispatcher.sansio.deadlines import Action, Deadline, DeadlineWatch, Overdue, overdue
from dispatcher.sansio.entries import GAP, Entry, covered
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.retention import Waiting
from dispatcher.settings import Settings

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""Interval between two checks, so a record is handled at most this long after its deadline."""

LOG_SECONDS = 10.0
"""Minimum time between two log lines about one topic."""


_Part = tuple[Entry, Sequence[int], Sequence[tuple[int, int]]]
"""An entry, indexes of its records, and the offsets that they cover."""


def _whole(entry: Entry, indexes: Sequence[int]) -> _Part:
    return entry, indexes, covered(entry.batch, indexes)


def _is_older(waiting: Waiting | None, cutoff_ms: float) -> bool:
    return waiting is not None and waiting.timestamp_ms is not None and waiting.timestamp_ms <= cutoff_ms


def deadlines_of(settings: Settings) -> dict[str, Deadline]:
    """The topics that have a deadline, with the deadline."""
    tables = {topic: settings.table(topic) for topic in settings.topics}
    return {
        topic: Deadline(table.undelivered_deadline_seconds, Action(table.on_deadline))
        for topic, table in tables.items()
        if table.undelivered_deadline_seconds
    }


@dataclass(frozen=True, slots=True)
class DeadlineStatistics:
    """A snapshot."""

    overdue: Mapping[tuple[str, str], int]
    """Overdue records since the start, by topic and action; dead-lettered ones once their letters are acknowledged."""
    letters: DeadLetterStatistics


class Deadlines:
    """Checks deadlines until cancelled; costs nothing if no topic has one.

    Args:
        settings: The deadlines.
        hub: Has the waiting records, and is notified of those put aside.
        offsets: Knows the assignment.
        expiry: Knows the records that wait only in Kafka.
        letters: Where dead letters go.
    """

    def __init__(
        self, settings: Settings, hub: Hub, offsets: OffsetTracker, expiry: ExpiryWatch, letters: DeadLetters
    ) -> None:
        self._deadlines = deadlines_of(settings)
        self._watch = DeadlineWatch(self._deadlines)
        self._hub = hub
        self._offsets = offsets
        self._expiry = expiry
        self._letters = letters
        self._wanted: frozenset[TopicPartition] = frozenset()
        self._under_way: dict[TopicPartition, dict[int, set[int]]] = {}
        """Records whose letters are not acknowledged: by partition and the entry's sequence, their indexes."""
        self._counts: Counter[tuple[str, str]] = Counter()
        self._unlogged: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}
        self._is_stopping = False

    async def run(self) -> None:
        """Check until cancelled. *Cancellation*: safe; no record is put aside before its letter is acknowledged."""
        if not self._deadlines:
            return
        while True:
            await trio.sleep(LOOK_SECONDS)
            if not self._is_stopping:
                await self._look()

    def stop(self) -> None:
        """Put no further records aside: the waiting ones are left to the next owner."""
        self._is_stopping = True
        self._wanted = frozenset()

    def is_wanted(self, partition: TopicPartition) -> bool:
        """Whether a partition with nothing in memory is to be fetched, for its overdue records."""
        return partition in self._wanted

    def has_letters_of(self, partitions: Sequence[TopicPartition]) -> bool:
        """Whether letters of these partitions are not acknowledged: a revoke gives them a moment."""
        return any(partition in self._under_way for partition in partitions)

    def forget(self, partitions: Sequence[TopicPartition]) -> None:
        """Partitions have left."""
        self._letters.forget(partitions)
        for partition in partitions:
            self._under_way.pop(partition, None)

    def statistics(self) -> DeadlineStatistics:
        """A snapshot."""
        return DeadlineStatistics(dict(self._counts), self._letters.statistics())

    async def _look(self) -> None:
        held = {tp: epoch for tp in self._offsets.begun if (epoch := self._offsets.epoch(tp)) is not None}
        due = self._watch.look(held, time.monotonic())
        now_ms = time.time() * 1000
        wanted = set()
        for partition, deadline in due.items():
            waiting = self._hub.history.waiting_of(partition)
            cutoff_ms = deadline.cutoff_ms(now_ms)
            is_kept = deadline.action is Action.LOG
            if waiting:
                passed_over = () if is_kept else self._hub.first_writes()
                if found := overdue(tuple(waiting), cutoff_ms, passed_over):
                    self._take(partition, deadline, found)
                await trio.lowlevel.checkpoint()
            elif not is_kept and _is_older(self._expiry.oldest(partition), cutoff_ms):
                wanted.add(partition)
        self._wanted = frozenset(wanted)
        self._say(time.monotonic())

    def _take(self, partition: TopicPartition, deadline: Deadline, found: Sequence[Overdue]) -> None:
        topic, action = partition.topic, deadline.action
        if action is Action.LOG:
            self._count(topic, action, self._watch.news(partition, found))
        elif action is Action.SKIP:
            for one in found:
                # Records that a client has refused go to the dead-letter topic, however long that takes.
                offsets = one.entry.batch.records.offsets
                left = [n for n in one.indexes if n == GAP or not self._letters.has(partition, offsets[n])]
                self._hub.settlement.put_aside(*_whole(one.entry, left))
                self._count(topic, action, len(left) - (GAP in left))
        else:
            gaps: list[_Part] = []
            for one in found:
                if one.records:
                    self._send(partition, one, gaps)
                    gaps = []
                else:
                    gaps.append(_whole(one.entry, one.indexes))

    def _send(self, partition: TopicPartition, one: Overdue, gaps: Sequence[_Part]) -> None:
        """Dead-letter as many records of one entry as there is room for; gaps go with the record after them."""
        entry = one.entry
        for index in one.records:
            under_way = self._under_way.setdefault(partition, {}).setdefault(entry.sequence, set())
            if index not in under_way:
                if not self._letters.has_room:
                    break
                under_way.add(index)
                parts = [_whole(entry, [index])]
                if index == one.records[0]:
                    parts = [*gaps, _whole(entry, [GAP, index] if one.indexes[0] == GAP else [index])]
                letter = Letter(partition, entry.batch.records[index], "deadline", "nobody took it in time")
                self._letters.post(letter, partial(self._acknowledged, partition, index, parts))
        self._forget_done(partition, entry)

    def _acknowledged(self, partition: TopicPartition, index: int, parts: Sequence[_Part]) -> None:
        """A letter was stored: put aside its record, in the last of these parts, and the gaps before it."""
        entry = parts[-1][0]
        self._under_way.get(partition, {}).get(entry.sequence, set()).discard(index)
        for part in parts:
            self._hub.settlement.put_aside(*part)
        self._count(partition.topic, Action.DEAD_LETTER, 1)
        self._forget_done(partition, entry)

    def _forget_done(self, partition: TopicPartition, entry: Entry) -> None:
        entries = self._under_way.get(partition)
        if entries is not None:
            if not entries.get(entry.sequence):
                entries.pop(entry.sequence, None)
            if not entries:
                del self._under_way[partition]

    def _count(self, topic: str, action: Action, records: int) -> None:
        self._counts[topic, action] += records
        self._unlogged[topic] += records

    def _say(self, now: float) -> None:
        for topic, records in tuple(self._unlogged.items()):
            if records and now >= self._logged_at.get(topic, -LOG_SECONDS) + LOG_SECONDS:
                self._logged_at[topic] = now
                self._unlogged[topic] = 0
                deadline = self._deadlines[topic]
                log.warning(
                    "records past their deadline",
                    topic=topic,
                    records=records,
                    deadline_seconds=deadline.seconds,
                    action=deadline.action,
                )
