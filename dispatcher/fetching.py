"""Decides what to fetch: joins the flow control, the history and the subscribers, once per crossing.

*Thread*: Trio's.
"""

from collections.abc import Callable, Sequence

import structlog

from dispatcher.hub.hub import Hub
from dispatcher.sansio.flow import FlowControl
from dispatcher.sansio.health import Health
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.records import TopicPartition

log = structlog.get_logger(__name__)


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

    @property
    def is_hurried(self) -> bool:
        """Whether commands must not wait for an idle poll."""
        return self.is_stopped or (bool(self._flow.paused) and not self._health.paused_for_nobody)

    def decide(self, begun: Sequence[TopicPartition]) -> tuple[frozenset[TopicPartition], frozenset[TopicPartition]]:
        """The partitions to pause and to resume; a new partition is resumed, whatever its earlier state."""
        if self.is_stopped:
            # librdkafka does not have a partition that has not started, and would refuse to pause it.
            return self._flow.hold(self._offsets.begun), frozenset()
        history = self._hub.history
        decision = None
        # An idle crossing examines no partition.
        if history.waiting_bytes > self._flow.pause_above or self._flow.paused:
            self._hub.park_observed()
            decision = self._flow.decide(history.waiting(), history.waiting_bytes, self._is_read)
        pause, resume = (frozenset(), frozenset()) if decision is None else decision
        line = self._health.fetching(paused=bool(self._flow.paused), subscribers=self._hub.subscribers)
        if line is not None:
            paused = [str(partition) for partition in sorted(self._flow.paused)]
            line.write(log, waiting_bytes=history.waiting_bytes, paused=paused)
        return pause, resume | (frozenset(begun) - self._flow.paused)

    def _is_read(self, partition: TopicPartition) -> bool:
        return self._hub.has_readers(partition.topic) or self._is_wanted(partition)
