"""Asks about the health of topics and group every few seconds, logs changes, and has them sent to subscribers.

*Thread*: Trio's; the requests wait in a worker thread.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from dispatcher.hub.hub import Hub
from dispatcher.kafka.topic_probe import TopicProber
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.topic_health import Condition, Finding, GroupProbe, Reason, TopicHealth

log = structlog.get_logger(__name__)

PROBE_SECONDS = 4.0
"""Interval between two probes. Together with the time that a silent broker has to answer, changes are reported within
10 s."""


DOUBT_SECONDS = 1.0
"""The same, once, when a broker reports that a topic was recreated: it may lag."""


@dataclass(frozen=True, slots=True)
class TopicWatchStatistics:
    """A snapshot of the watch."""

    topics: Mapping[str, Condition]
    group: Condition
    probes: int
    """How often the brokers were asked."""


class TopicWatch:
    """Keeps the health of topics and group up to date.

    Args:
        prober: Asks the brokers.
        health: Judges the answers.
        hub: Its subscribers are sent the health of their topics.
        paused: Partitions that are paused.
        group: The health of the group, as the consumer has seen it.
        joined: Whether the replica is a member of the group.
        undecodable: Topics whose new schemas cannot be fetched, and why.
        answered: Called with whether a broker has answered, after each probe.
        found: Called with the id of each topic that has one, after each probe; returns whether to probe again soon.
    """

    def __init__(
        self,
        prober: TopicProber,
        health: TopicHealth,
        hub: Hub,
        *,
        paused: Callable[[], frozenset[TopicPartition]],
        group: Callable[[], GroupProbe],
        joined: Callable[[], bool],
        undecodable: Callable[[], Mapping[str, str]],
        answered: Callable[[bool], None],
        found: Callable[[Mapping[str, str]], bool],
    ) -> None:
        self._prober = prober
        self._health = health
        self._hub = hub
        self._paused = paused
        self._group = group
        self._joined = joined
        self._undecodable = undecodable
        self._answered, self._found = answered, found
        self._probes = 0

    async def run(self) -> None:
        """Ask until cancelled. *Cancellation*: safe, waits for the current request."""
        while True:
            probe = await self._prober.probe()
            self._probes += 1
            lines = self._health.probed(
                probe.topics,
                self._group(),
                existing=probe.existing,
                paused=self._paused(),
                joined=self._joined(),
                now=time.time(),
                undecodable=self._undecodable(),
            )
            self._answered(any(one.finding is not Finding.SILENT for one in probe.topics.values()))
            ids = {topic: one.topic_id for topic, one in probe.topics.items() if one.topic_id is not None}
            is_doubtful = self._found(ids)
            for line in lines:
                line.write(log)
            self._hub.set_degraded(self._health.broken)
            await trio.sleep(DOUBT_SECONDS if is_doubtful else PROBE_SECONDS)

    @property
    def degraded(self) -> list[str]:
        """The degraded topics and group, for people. The registry is named once, not for each topic."""
        conditions = [*self._health.topics.values(), self._health.group]
        return [condition.detail for condition in conditions if condition.reason not in {None, Reason.REGISTRY}]

    def statistics(self) -> TopicWatchStatistics:
        """A snapshot of the watch."""
        return TopicWatchStatistics(dict(self._health.topics), self._health.group, self._probes)
