"""Knows how old the oldest waiting record of each partition is, and how long Kafka still keeps it.

Most waiting records are in the history, and are examined on request. Kafka has to be asked for the records of a paused
partition, the end of its log, and its topic's retention: here, at a modest pace, and only while records wait.

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
"""Interval between two checks."""

CONFIG_SECONDS = 60.0
"""Interval at which topics' configurations are requested."""

PEEKS = 16
"""Maximum number of partitions from which a record is read per check."""


@dataclass(frozen=True, slots=True)
class ExpiryStatistics:
    """A snapshot of the watch."""

    retentions: Mapping[str, Retention]
    """Retentions by topic, where known."""
    outlooks: Mapping[TopicPartition, Outlook]
    """Outlooks by assigned partition."""
    looks: int
    """How often logs were measured."""


class ExpiryWatch:
    """Watches waiting records until cancelled.

    Args:
        settings: The topics.
        replays: Reads records that are only in Kafka, and asks where logs end.
        hub: Has the history.
        offsets: Knows what was dispatched.
        paused: Partitions that are paused.
        held: Partitions whose records wait for a schema.
    """

    def __init__(
        self,
        settings: Settings,
        replays: Replays,
        hub: Hub,
        offsets: OffsetTracker,
        *,
        paused: Callable[[], frozenset[TopicPartition]],
        held: Callable[[], frozenset[TopicPartition]],
    ) -> None:
        self._prober = RetentionProber(replays.leaders, settings.topics)
        self._replays = replays
        self._history = hub.history
        self._offsets = offsets
        self._paused, self._held = paused, held
        self._watch = RetentionWatch()
        self._retentions: Mapping[str, Retention] = {}
        self._ask_at = 0.0
        self._before: Mapping[TopicPartition, int] = {}
        """The oldest waiting offsets at the last check: records that are moving on need no request."""
        self._peeked: dict[TopicPartition, Waiting] = {}
        """The oldest waiting records that are only in Kafka."""
        self._near: frozenset[str] = frozenset()
        self._looks = 0

    async def run(self) -> None:
        """Watch until cancelled. *Cancellation*: safe, waits for the current request."""
        while True:
            if (now := time.monotonic()) >= self._ask_at:
                probe = await self._prober.probe()
                self._retentions = probe.retentions
                self._ask_at = now + (CONFIG_SECONDS if probe.answered else LOOK_SECONDS)
            await self._look()
            self._say_what_is_near()
            await trio.sleep(LOOK_SECONDS)

    def oldest(self, partition: TopicPartition) -> Waiting | None:
        """The oldest waiting record of a partition, in memory or in Kafka, if it is known."""
        if self._is_in_kafka(partition):
            # Records in memory come after it, and are younger: they would hide that it expires soon.
            peeked = self._peeked.get(partition)
            return peeked if peeked is not None and peeked.offset == self._next_offset(partition) else None
        return oldest(self._history.waiting_of(partition))

    def outlook(self, partition: TopicPartition) -> Outlook:
        """The outlook of a partition's oldest waiting record."""
        waiting = self.oldest(partition)
        if waiting is not None:
            retention = self._retentions.get(partition.topic)
            return self._watch.outlook(partition, waiting, retention, time.time() * 1000)
        # What waits for its schema is with the consumer. A replay would wait for that schema as well.
        return UNKNOWN if partition in self._held() or self._is_in_kafka(partition) else NOTHING_WAITS

    def statistics(self) -> ExpiryStatistics:
        """A snapshot of the watch."""
        outlooks = {tp: self.outlook(tp) for tp in self._offsets.begun}
        return ExpiryStatistics(dict(self._retentions), outlooks, self._looks)

    async def _look(self) -> None:
        """Measure the logs in which records wait for longer than one check, and read those that are only in Kafka."""
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
        """Read the first waiting record of partitions where it is only in Kafka."""
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
        """The end of the unbroken dispatched run."""
        return self._offsets.dispatched_to(partition)

    def _is_in_kafka(self, partition: TopicPartition) -> bool:
        """Whether the first waiting record of a partition, if there is one, is only in Kafka: paused, or parked."""
        parked = self._history.parked.find(partition)
        if parked is not None and self._next_offset(partition) == parked.first:
            return True
        return partition in self._paused() and not self._history.waiting_of(partition)

    def _waits_in_kafka(self, partition: TopicPartition, offset: int) -> bool:
        return self._next_offset(partition) == offset and self._is_in_kafka(partition)

    def _say_what_is_near(self) -> None:
        """Log one line for each topic whose waiting records will soon be deleted, and one when they are safe again."""
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
