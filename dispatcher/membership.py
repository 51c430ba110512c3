"""The replica's membership of the consumer group: the poller while it is a member, look-ups while it is in standby.

With `idle_leave_seconds` a replica without a subscriber that counts leaves the group, and joins again when one
connects; `sansio.standby` decides when. In standby nothing is polled: the topic watch sees whether a broker answers,
and the lag of the group is looked up, so that it is always reported.

*Thread*: Trio's.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from dispatcher.hub.hub import Hub
from dispatcher.kafka.group_consumer import GroupConsumer
from dispatcher.kafka.poller import Poller, PollerStatistics
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.health import Event, ReplicaState
from dispatcher.sansio.lag import PartitionLag, lag_of
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.standby import Seen, Standby, StandbyStatistics, Step
from dispatcher.sansio.topic_health import Finding, GroupProbe
from dispatcher.settings import Settings

log = structlog.get_logger(__name__)

SAMPLE_SECONDS = 0.25
"""Interval at which the replica decides whether to leave or join."""

LAG_SECONDS = 10.0
"""Interval between two look-ups of the group's lag, in standby."""

VISIBLE_SECONDS = 2.0
"""How long the other members take to notice that a member has left: ten heartbeats of 200 ms."""

VISIBLE_CONSUMER_SECONDS = 12.0
"""The same with ``group.protocol=consumer``, whose heartbeats the broker sets: 5 s by default."""


@dataclass(frozen=True, slots=True)
class MembershipStatistics:
    """A snapshot of the membership."""

    standby: StandbyStatistics
    poller: PollerStatistics
    group_lags: Mapping[TopicPartition, PartitionLag]
    """In standby, the lag of every partition where it is known; otherwise empty."""


class Membership:
    """Keeps the replica in its group, or in standby.

    Args:
        settings: The dispatcher's settings.
        hub: Has the subscribers, and knows what is assigned.
        replays: Looks offsets up.
        make_consumer: Makes a member of the group.
        is_joined: Whether the replica is a member that has its assignment.
        owns_first: Whether the first partition of the first topic is assigned.
        happened: Called when a new consumer is made after a standby.
    """

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        replays: Replays,
        make_consumer: Callable[[], GroupConsumer],
        *,
        is_joined: Callable[[], bool],
        owns_first: Callable[[], bool],
        happened: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._replays = replays
        self._is_joined = is_joined
        self._owns_first = owns_first
        self._happened = happened
        self._poller = Poller(make_consumer)
        is_slow = settings.kafka.get("group.protocol") == "consumer"
        self._standby = Standby(
            settings.idle_leave_seconds, VISIBLE_CONSUMER_SECONDS if is_slow else VISIBLE_SECONDS, random.random
        )
        self._join = trio.Event()
        self._is_leaving = False
        self._stopping = False
        self._is_refused = False
        self._is_returning = False
        self._group_lags: Mapping[TopicPartition, PartitionLag] = {}

    async def run(self) -> None:
        """Be a member, or in standby, until `stop`; see `Poller.run` for cancellation and errors."""
        if not self._settings.idle_leave_seconds:
            await self._poller.run()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                await self._poller.run()
                self._is_leaving = False
                if not self._stopping:
                    await self._stand_by()
                if self._stopping:
                    break
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Let `run` return when the consumer is closed, and make no new one."""
        self._stopping = True
        self._poller.stop()
        self._join.set()

    @property
    def is_leaving(self) -> bool:
        """Whether the consumer has to be closed, or is being closed, because nobody takes records."""
        return self._is_leaving

    def refused(self) -> None:
        """The group's coordinator has refused this member."""
        self._is_refused = True

    @property
    def is_ready(self) -> bool:
        """Whether the replica does what it should for its group: it is a member, in standby, or on its way back."""
        if self._is_joined():
            self._is_returning = False
        return self._is_joined() or self._standby.is_standby or (self._is_returning and not self._is_refused)

    def probe(self) -> GroupProbe:
        """The health of the group, from its coordinator's answers to this member."""
        if self._is_joined():
            self._is_refused = False
            return GroupProbe(Finding.FOUND)
        if self._standby.is_standby:
            return GroupProbe(Finding.FOUND)
        if self._is_refused:
            return GroupProbe(Finding.DENIED)
        return GroupProbe(Finding.SILENT, error="it has not been joined yet")

    def statistics(self) -> MembershipStatistics:
        """A snapshot."""
        return MembershipStatistics(self._standby.statistics(), self._poller.statistics(), self._group_lags)

    async def _watch(self) -> None:
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            # A subscriber that connects while the consumer is being closed is noticed right after that.
            if not self._is_leaving:
                self._take(self._standby.observe(trio.current_time(), self._seen()))

    def _seen(self) -> Seen:
        hub = self._hub
        expected = hub.history.expected
        counts = [expected.get(topic) for topic in self._settings.topics]
        known = [count for count in counts if count is not None]
        return Seen(
            taker=hub.first_taker,
            settled=self._is_joined() and hub.state in {ReplicaState.STREAMING, ReplicaState.WAITING},
            assignment=(hub.assignments, hub.partitions),
            owned=hub.partitions,
            partitions=sum(known) if len(known) == len(counts) else None,
            owns_first=self._owns_first(),
        )

    def _take(self, step: Step | None) -> None:
        if step is Step.LEAVE:
            log.info("leaving the group: no subscribers", idle_leave_seconds=self._settings.idle_leave_seconds)
            self._is_leaving = True
        elif step is Step.JOIN:
            log.info("rejoining the group", subscribers=self._hub.subscribers)
            self._is_returning = True
            self._happened(Event.REJOINING)
            self._join.set()

    async def _stand_by(self) -> None:
        """Look up the lag of the group until it has to be joined again. *Cancellation*: safe."""
        self._join = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_up_lags)
            if not self._stopping:
                await self._join.wait()
            nursery.cancel_scope.cancel()
        self._group_lags = {}

    async def _look_up_lags(self) -> None:
        while True:
            counts = await self._replays.partition_counts(self._settings.topics)
            # If no broker answers, the next request would wait for a coordinator that may be unreachable as well.
            self._group_lags = await self._lags(counts) if counts else {}
            if counts and await self._replays.group_is_empty():
                log.warning("the group is empty", group=self._settings.group_id)
                self._take(self._standby.group_is_empty(trio.current_time()))
            await trio.sleep(LAG_SECONDS)

    async def _lags(self, counts: Mapping[str, int]) -> Mapping[TopicPartition, PartitionLag]:
        partitions = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        committed = await self._replays.committed(partitions)
        bounds = await self._replays.bounds(partitions)
        return {tp: lag_of(committed[tp], bounds[tp].end) for tp in partitions if tp in committed and tp in bounds}
