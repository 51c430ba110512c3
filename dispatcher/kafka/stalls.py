"""Asks the leaders about partitions from which nothing arrives (`sansio.stalls` decides).

*Thread*: the one that owns the consumer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaException

from dispatcher.kafka.start_lookups import REQUEST_SECONDS
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.stalls import Stall, StallWatch

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 2 * REQUEST_SECONDS
"""After this time an answer is no longer expected: a replaced client's answers never arrive."""

AskLogEnds = Callable[[Collection[TopicPartition]], Mapping[TopicPartition, "Future[Any]"]]
"""Asks leaders where logs end at the consumer's isolation level."""


class Fetched(Protocol):
    """What a consumer fetches."""

    @property
    def next_offsets(self) -> Mapping[TopicPartition, int]:
        """The next offset of each partition."""

    @property
    def paused(self) -> Collection[TopicPartition]:
        """Partitions that are not being fetched for now."""


class StallDetector:
    """Finds partitions that are not fetched although they have records.

    Args:
        ask_log_ends: Asks the leaders; the answers are checked between polls.
    """

    def __init__(self, ask_log_ends: AskLogEnds) -> None:
        self._ask_log_ends = ask_log_ends
        self._watch = StallWatch()
        self._asked: Mapping[TopicPartition, Future[Any]] = {}
        self._give_up_at = 0.0
        self._standing: Mapping[TopicPartition, tuple[int, int]] = {}
        """Next offset and log end of the partitions that the last answers were about."""

    def check(self, fetched: Fetched, now: float, *, idle: bool) -> list[Stall]:
        """The partitions that are stalled now, each reported once. Free between checks while none is suspected.

        Args:
            fetched: What the consumer fetches.
            now: Seconds on any monotonic clock.
            idle: Whether the last poll found nothing.
        """
        if not (self._asked or self._watch.is_due(now)):
            return []
        if self._asked:
            if now >= self._give_up_at or all(future.done() for future in self._asked.values()):
                log_ends, self._asked = _known(self._asked), {}
                next_offsets = self._watch.answered(log_ends, now)
                self._standing = {tp: (next_offset, log_ends[tp]) for tp, next_offset in next_offsets.items()}
        elif still := self._watch.look(fetched.next_offsets, fetched.paused, now):
            self._asked, self._give_up_at = self._ask_log_ends(still), now + ANSWER_SECONDS
        return self._watch.stalled(fetched.next_offsets, fetched.paused, now, idle=idle)

    def log_end(self, partition: TopicPartition, next_offset: int) -> int:
        """Where the log of a partition ends, by its leader's last answer; -1 if it was not asked, or it flows again."""
        at, end = self._standing.get(partition, (-1, -1))
        return end if at == next_offset else -1


def _known(asked: Mapping[TopicPartition, "Future[Any]"]) -> dict[TopicPartition, int]:
    found = {}
    for partition, future in asked.items():
        # A leader that has not answered in time yields librdkafka's -1001, which is no error, but below any offset.
        with suppress(KafkaException):
            if future.done():
                found[partition] = future.result().offset
    return found


def log_stalls(stalls: Sequence[Stall], consumer: str) -> None:
    """Log which partitions a consumer does not fetch, and what is done about it. *Thread*: any."""
    for was_restarted in (False, True):
        found = [stall for stall in stalls if stall.was_restarted is was_restarted]
        if found:
            log.warning(
                "partitions still not fetched" if was_restarted else "partitions not fetched, restarting them",
                partitions=[str(stall.partition) for stall in found],
                next_offsets=[stall.next_offset for stall in found],
                log_ends=[stall.log_end for stall in found],
                consumer=consumer,
            )
