"""Knows how old the oldest waiting record of each partition is, and how long Kafka still keeps it.

Most of what waits is in the history, and looked at when somebody asks. What a paused partition has in Kafka alone, its
log's end, and its topic's retention have to be asked for: here, at a modest pace, and only while something waits.

*Thread*: Trio's; requests wait in worker threads.
"""

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import structlog
import trio

from dispatcher.hub.hub import Hub
from dispatcher.kafka.replay import Replays
from dispatcher.kafka.retention_probe import RetentionProber
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.retention import NOTHING_WAITS, UNKNOWN, Outlook, Retention, RetentionWatch, Waiting, oldest
from dispatcher.settings import Settings

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at what waits."""

CONFIG_SECONDS = 60.0
"""How often topics' configurations are asked for."""

PEEKS = 16
"""Most partitions of which a record is read again per look."""


@dataclass(frozen=True, slots=True)
class ExpiryStatistics:
    """A snapshot of the watch."""

    retentions: Mapping[str, Retention]
    """By topic, as far as they are known."""
    outlooks: Mapping[TopicPartition, Outlook]
    """By assigned partition."""
    looks: int
    """How often logs were measured."""


class ExpiryWatch:
    """Looks at what waits, until cancelled.

    Args:
        settings: The topics.
        replays: Reads a record that is in Kafka alone, and asks where logs end.
        hub: Has the history.
        offsets: Knows what was dispatched.
        paused: Partitions that are paused.
    """

    def __init__(
        self,
        settings: Settings,
        replays: Replays,
        hub: Hub,
        offsets: OffsetTracker,
        paused: Callable[[], frozenset[TopicPartition]],
    ) -> None:
        self._prober = RetentionProber(replays.leaders, settings.topics)
        self._replays = replays
        self._history = hub.history
        self._offsets = offsets
        self._paused = paused
        self._watch = RetentionWatch()
        self._retentions: Mapping[str, Retention] = {}
        self._ask_at = 0.0
        self._before: Mapping[TopicPartition, int] = {}
        """The oldest waiting offsets at the last look: what is in passing needs no question."""
        self._peeked: dict[TopicPartition, Waiting] = {}
        """The oldest waiting records that are in Kafka alone."""
        self._near: frozenset[str] = frozenset()
        self._looks = 0

    async def run(self) -> None:
        """Look until cancelled. *Cancellation*: safe, late by a request that is under way."""
        while True:
            if (now := time.monotonic()) >= self._ask_at:
                probe = await self._prober.probe()
                self._retentions = probe.retentions
                self._ask_at = now + (CONFIG_SECONDS if probe.answered else LOOK_SECONDS)
            await self._look()
            self._say_what_is_near()
            await trio.sleep(LOOK_SECONDS)

    def oldest(self, partition: TopicPartition) -> Waiting | None:
        """The oldest record of a partition that waits, in memory or in Kafka, if that is known."""
        if self._is_in_kafka(partition):
            # What memory has comes after it, and is younger: it would say that nothing is near its end.
            peeked = self._peeked.get(partition)
            return peeked if peeked is not None and peeked.offset == self._next_offset(partition) else None
        return oldest(self._history.waiting_of(partition))

    def outlook(self, partition: TopicPartition) -> Outlook:
        """What is known of a partition's oldest record that waits."""
        waiting = self.oldest(partition)
        if waiting is not None:
            retention = self._retentions.get(partition.topic)
            return self._watch.outlook(partition, waiting, retention, time.time() * 1000)
        return UNKNOWN if self._is_in_kafka(partition) else NOTHING_WAITS

    def statistics(self) -> ExpiryStatistics:
        """A snapshot of the watch."""
        outlooks = {tp: self.outlook(tp) for tp in self._offsets.begun}
        return ExpiryStatistics(dict(self._retentions), outlooks, self._looks)

    async def _look(self) -> None:
        """Measure the logs in which something waits for longer than one look, and read what is in Kafka alone."""
        begun = self._offsets.begun
        waiting = {tp: found.offset for tp in begun if (found := self.oldest(tp)) is not None}
        in_kafka = {tp for tp in begun if self._is_in_kafka(tp)}
        stuck = {tp for tp, offset in waiting.items() if self._before.get(tp) == offset} | in_kafka
        self._before = waiting
        if not stuck:
            self._watch.measured({}, time.monotonic())
            self._peeked.clear()
            return
        self._looks += 1
        self._watch.measured(await self._replays.bounds(stuck), time.monotonic())
        await self._peek(in_kafka)

    async def _peek(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Read the first waiting record of partitions that have it in Kafka alone."""
        self._peeked = {tp: one for tp, one in self._peeked.items() if self._waits_in_kafka(tp, one.offset)}
        for tp in sorted(partitions - self._peeked.keys())[:PEEKS]:
            bounds, next_offset = self._watch.bounds(tp), self._next_offset(tp)
            if bounds is None or next_offset is None or next_offset >= bounds.end:
                continue
            chunk = await self._replays.read({tp: Range(next_offset, bounds.end)}, 1, client=self)
            batch = next((batch for batch in chunk.batches if batch.records), None)
            if batch is not None:
                record_bytes = batch.records.size_bytes / len(batch.records)
                # Expired offsets and those without a record belong to the record after them.
                self._peeked[tp] = Waiting.of(batch.records[0], record_bytes)._replace(offset=next_offset)

    def _next_offset(self, partition: TopicPartition) -> int | None:
        """What comes after all that was dispatched without a hole."""
        return self._offsets.dispatched_to(partition)

    def _is_in_kafka(self, partition: TopicPartition) -> bool:
        """Whether the first waiting record of a partition, if there is one, is in Kafka alone: paused, or parked."""
        parked = self._history.parked.find(partition)
        if parked is not None and self._next_offset(partition) == parked.first:
            return True
        return partition in self._paused() and not self._history.waiting_of(partition)

    def _waits_in_kafka(self, partition: TopicPartition, offset: int) -> bool:
        return self._next_offset(partition) == offset and self._is_in_kafka(partition)

    def _say_what_is_near(self) -> None:
        """One log line for each topic whose waiting records are soon deleted, and one when they are safe again."""
        least: dict[str, float] = {}
        for tp in self._before:
            headroom = self.outlook(tp).headroom_seconds
            if headroom is not None:
                least[tp.topic] = min(headroom, least.get(tp.topic, headroom))
        near = {topic: seconds for topic, seconds in least.items() if self._is_near(topic, seconds)}
        for topic in sorted(near.keys() - self._near):
            log.warning("waiting records are about to expire", topic=topic, headroom_seconds=round(near[topic], 1))
        for topic in sorted(self._near - near.keys()):
            log.info("waiting records are no longer about to expire", topic=topic)
        self._near = frozenset(near)

    def _is_near(self, topic: str, headroom_seconds: float) -> bool:
        retention = self._retentions.get(topic)
        return headroom_seconds == 0 if retention is None else retention.is_near(headroom_seconds)
