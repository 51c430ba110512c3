"""Decides what to fetch: joins the flow control, the history and the subscribers, once per crossing.

*Thread*: Trio's.
"""

import math
from collections.abc import Callable, Sequence

import structlog

from dispatcher.hub.hub import Hub
from dispatcher.kafka.bridge import IDLE_POLL_SECONDS
from dispatcher.sansio.beginnings import Start
from dispatcher.sansio.flow import NO_CHANGE, FlowControl, FlowDecision
from dispatcher.sansio.health import Health
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.records import TopicPartition

log = structlog.get_logger(__name__)

HURRIED_POLL_SECONDS = 0.01
"""While a partition with readers is paused, or during a stop, commands must not wait for an idle poll."""

QUIET_POLL_SECONDS = 0.25
"""How long a poll waits when nothing has been received for a while: each poll costs an idle replica 0.7 ms of CPU,
because caches are cold by then. A record ends a poll at once, and rebalances are served within it; what they assign, a
commit and a stop wait for its end."""

QUIET_AFTER_SECONDS = 2.0
"""How long nothing must have been received. A member without partitions waits for some, so it is never quiet."""


class Fetching:
    """Decides which partitions the consumer pauses and resumes.

    Args:
        flow: Decides by the waiting bytes.
        hub: Knows the waiting records, and their readers.
        offsets: Knows the partitions that have begun.
        health: Notes whether fetching is paused.
        is_wanted: Whether a partition's records are wanted although nobody reads them.
    """

    def __init__(
        self,
        flow: FlowControl,
        hub: Hub,
        offsets: OffsetTracker,
        health: Health,
        is_wanted: Callable[[TopicPartition], bool],
    ) -> None:
        self._flow = flow
        self._hub = hub
        self._offsets = offsets
        self._health = health
        self._is_wanted = is_wanted
        self.is_stopped = False
        """Whether fetching has stopped for good."""
        self.received_at = -math.inf
        """When the consumer last received records or partitions."""

    def poll_seconds(self, now: float) -> float:
        """How long the next poll may wait for a record: commands wait as long.

        Args:
            now: Seconds on the clock of `received_at`.
        """
        if self.is_stopped:
            return HURRIED_POLL_SECONDS
        if self._flow.is_pausing:
            return IDLE_POLL_SECONDS if self._health.paused_for_nobody else HURRIED_POLL_SECONDS
        is_quiet = now >= self.received_at + QUIET_AFTER_SECONDS and not self._offsets.is_empty
        return QUIET_POLL_SECONDS if is_quiet else IDLE_POLL_SECONDS

    def decide(self, starts: Sequence[Start]) -> FlowDecision:
        """The partitions to pause and to resume; one that starts is resumed, whatever its earlier state."""
        if self.is_stopped:
            # librdkafka does not have a partition that has not started, and would refuse to pause it.
            return FlowDecision(self._flow.hold(self._offsets.begun), frozenset())
        history, flow = self._hub.history, self._flow
        decision = NO_CHANGE
        # An idle crossing examines no partition.
        if history.waiting_bytes > flow.pause_above or flow.is_pausing:
            self._hub.park_observed()
            decision = flow.decide(history.waiting(), history.waiting_bytes, self._is_read) or NO_CHANGE
        if flow.is_pausing or self._health.paused_for_nobody:
            self._note_whether_paused()
        if starts:
            begun = frozenset(start.partition for start in starts)
            decision = FlowDecision(decision.pause, decision.resume | (begun - flow.paused))
        return decision

    def _note_whether_paused(self) -> None:
        line = self._health.fetching(paused=self._flow.is_pausing, subscribers=self._hub.subscribers)
        if line is not None:
            paused = [str(partition) for partition in sorted(self._flow.paused)]
            line.write(log, waiting_bytes=self._hub.history.waiting_bytes, paused=paused)

    def _is_read(self, partition: TopicPartition) -> bool:
        return self._hub.has_readers(partition.topic) or self._is_wanted(partition)
