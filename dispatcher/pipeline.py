"""The pipeline: joins the poller, the offsets, the flow control, the commits and the hub.

This is the Trio side of the poller's crossing (`kafka.bridge.Downstream`). The hub and the kafka room do not know
each other; the pipeline passes data between them, one step per crossing.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import structlog
import trio

from dispatcher.consumer_watch import ConsumerWatch
from dispatcher.crashes import log_crash
from dispatcher.decoding_for_asking import DecodingForAsking
from dispatcher.fetching import Fetching
from dispatcher.following import Following
from dispatcher.hub.hub import Hub
from dispatcher.intake import Intake
from dispatcher.kafka.bridge import Commands, PollResult
from dispatcher.kafka.commits import CommitCoordinator
from dispatcher.kafka.group_consumer import GroupConsumer
from dispatcher.kafka.properties import consumer_properties, replay_properties
from dispatcher.kafka.replay import Replays
from dispatcher.kafka.spacing import Spacing
from dispatcher.kafka.stalls import log_stalls
from dispatcher.kafka.statistics import ConsumerStatistics
from dispatcher.kafka.topic_probe import TopicProber
from dispatcher.membership import Membership
from dispatcher.pipeline_statistics import PipelineHealth, PipelineStatistics
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.flow import FlowControl
from dispatcher.sansio.health import Event, Health, LogLine
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.poll_size import PollSize
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.sansio.stalls import StallLimit
from dispatcher.sansio.topic_health import TopicHealth
from dispatcher.sansio.topic_memory import TopicMemory
from dispatcher.schemas.decoded_topics import DecodedTopics
from dispatcher.settings import Settings
from dispatcher.topic_watch import TopicWatch
from dispatcher.undelivered import Undelivered

log = structlog.get_logger(__name__)

LEAVE_SHARE = 0.3
"""The share of `shutdown_seconds` for the last commit."""


class Pipeline:
    """Owns the parts and answers the poller.

    *Thread*: Trio's. The poller's thread gets here by `kafka.bridge.Calls`.

    Args:
        settings: The dispatcher's settings.
        make_replays: Creates the `Replays`, or a subclass for a broker that is not fully Kafka.
        spacing: See `kafka.spacing.Spacing`.
    """

    def __init__(
        self, settings: Settings, make_replays: Callable[..., Replays] = Replays, spacing: float = 0.0
    ) -> None:
        self._decoded = DecodedTopics(settings)
        decoder = self._decoded.decoder
        self._replays = make_replays(
            replay_properties(settings),
            concurrency=settings.replay_concurrency,
            batch_bytes=settings.batch_bytes,
            decoder=decoder,
        )
        self._offsets, self._spacing = OffsetTracker(), Spacing(spacing)
        decoding = None if decoder is None else DecodingForAsking(decoder)
        self.hub = Hub(settings, self._dispatched, self._replays, self._replayed, decoding)
        self._following = Following(settings, self.hub, self._replays, self._offsets, self._spacing, decoder=decoder)
        self._flow = FlowControl(settings.pause_above_bytes, settings.resume_below_bytes)
        self._commits = CommitCoordinator(self._offsets, settings.commit_interval_seconds)
        self._consumer = ConsumerWatch(settings.kafka.get("group.protocol"))
        self._poll_size = PollSize(settings.poll_records, self.hub.tries)
        self._settings, self._memory, self._health, self._stalls = settings, TopicMemory(), Health(), StallLimit()
        self._membership = Membership(
            settings,
            self.hub,
            self._replays,
            self.make_consumer,
            is_joined=lambda: self._joined,
            owns_first=lambda: TopicPartition(settings.topics[0], 0) in self._offsets.partitions,
            happened=self._happened,
        )
        self._held, self._stop = frozenset[TopicPartition](), False
        waits = {"paused": lambda: self._flow.paused, "held": lambda: self._held}
        self.undelivered = Undelivered(settings, self._replays, self.hub, self._offsets, **waits)
        self._fetching = Fetching(self._flow, self.hub, self._offsets, self._health, self.undelivered.is_wanted)
        self._intake = Intake(self._offsets, self._flow, self.hub, self._following, self.undelivered.forget)
        self._topics = TopicWatch(
            TopicProber(self._replays.leaders, settings.topics),
            TopicHealth(settings.topics, settings.group_id, time.time()),
            self.hub,
            paused=lambda: self._flow.paused,
            group=self._membership.probe,
            joined=lambda: self._joined,
            undecodable=self._decoded.undecodable,
            answered=self._brokers_answered,
            found=self._following.logs.found,
        )
        self._rebalances = self._crossings = 0
        self._revoking_since = self._last_exchange_at = -math.inf

    def open_replays(self) -> None:
        """Create the replay consumers, while a failure can still stop the start.

        Raises:
            ResourcesError: the consumers cannot be created.
        """
        self._replays.open()

    def make_consumer(self) -> GroupConsumer:
        """A member of the group that exchanges with this pipeline."""
        settings = self._settings
        return GroupConsumer(
            consumer_properties(settings),
            settings.topics,
            self,
            self._spacing,
            self._memory,
            poll_size=self._poll_size,
            batch_bytes=settings.batch_bytes,
            drain_seconds=max(settings.drain_seconds, settings.ack_drain_seconds if settings.acked_topics else 0),
            leave_seconds=settings.shutdown_seconds * LEAVE_SHARE,
            decoder=self._decoded.decoder,
        )

    async def run(self) -> None:
        """Poll and dispatch until `stop`; see `Poller.run` for cancellation and errors."""
        async with trio.open_nursery() as nursery:
            for part in (self.hub, self._replays, self._following, self._topics, self._decoded, self.undelivered):
                nursery.start_soon(log_crash, part.run, name=part.run)
            await log_crash(self._membership.run)
            nursery.cancel_scope.cancel()
        await self._replays.close()

    def stop_fetching(self) -> None:
        """Stop fetching, and stay a member of the group."""
        self._fetching.is_stopped = True
        self.undelivered.stop()

    def stop(self) -> None:
        """Commit what was dispatched, leave the group, and let `run` return."""
        self._stop = True
        self._membership.stop()

    # The poller's crossing (kafka.bridge.Downstream).

    def exchange(self, result: PollResult) -> Commands:
        """Take the result of a poll, and return what the thread must do."""
        self._crossings += 1
        self._last_exchange_at, now = time.monotonic(), trio.current_time()
        rebuild = None if result.statistics is None else self._take_statistics(result.statistics)
        for name, reason in result.errors:
            self._log(self._health.failed(name, reason, time.monotonic()))
            if name == "GROUP_AUTHORIZATION_FAILED":
                self._membership.refused()
        if result.assigned is not None:
            self._take_assigned(result.assigned)
        rebuild = self._commits.answered(result.commit_answers, now) or rebuild
        if result.stalls:
            log_stalls(result.stalls, "group")
            rebuild = self._stalls.take(result.stalls, time.monotonic()) or rebuild
        if result.groups or result.assigned is not None:
            self._fetching.received_at = now
        self.hub.gather()
        with self._poll_size.measure(sum(len(group.records) for group in result.groups)):
            self._intake.take(result)
        self._held = result.held
        self._publish_state()
        # After the state: a stream learns that it is live before it gets its first record.
        self.hub.hand_out()
        pause, resume = self._fetching.decide(result.starts)
        return Commands(
            commit=self._commits.due(now),
            pause=pause,
            resume=resume,
            stop=self._stop or self._membership.is_leaving,
            rebuild=rebuild,
            settle=self.hub.is_congested,
            poll_seconds=self._fetching.poll_seconds(now),
        )

    async def exchange_after_settling(self, result: PollResult) -> Commands:
        """The same, after everything received before has been offered to every live subscriber."""
        await self.hub.wait_settled()
        return self.exchange(result)

    def revoking(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop handing out these partitions."""
        log.info("revoking", partitions=[str(partition) for partition in partitions])
        self._rebalances += 1
        self._revoking_since = trio.current_time()
        self._happened(Event.REVOKED)
        self.hub.unassigned(partitions, self._following.disowned(partitions))

    def drained(self, partitions: Sequence[TopicPartition]) -> bool:
        """Whether no write, dead letter or acknowledgement is outstanding that would let these commit more.

        Each of them has its own setting for the longest wait.
        """
        partitions = tuple(self._offsets.partitions.intersection(partitions))
        seconds = trio.current_time() - self._revoking_since
        is_written = seconds >= self._settings.drain_seconds or not (
            self.hub.has_first_writes_for(partitions) or self.undelivered.has_letters_of(partitions)
        )
        return is_written and not self.hub.acking.are_awaited(partitions)

    def revoked(self, partitions: Sequence[TopicPartition]) -> Sequence[Commit]:
        """Forget these partitions and return what to commit before they are released."""
        if self.hub.has_first_writes_for(self._offsets.partitions.intersection(partitions)):
            # Their records are dispatched but not committed, so the next owner sends them again.
            log.warning("writes outlast a revoke", partitions=[str(partition) for partition in partitions])
        self._intake.forget(partitions)
        self.hub.acking.released(partitions)
        return self._commits.revoked(partitions, trio.current_time())

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget these partitions: they have another owner, so nothing is committed for them."""
        log.warning("partitions lost", partitions=[str(partition) for partition in partitions])
        self._rebalances += 1
        self._consumer.fenced()
        self._health.happened(Event.REVOKED)
        disowned = self._following.disowned(partitions)
        self._offsets.lost(partitions)
        self._intake.forget(partitions)
        # First: the state in which they leave is always sent, and must already have the replica's new state.
        self._publish_state()
        self.hub.unassigned(partitions, disowned)
        self.hub.acking.released(partitions)

    def leaving(self) -> Sequence[TopicPartition]:
        """Stop handing out all partitions, and return them: the consumer is being closed."""
        partitions = sorted(self._offsets.partitions)
        self._revoking_since = trio.current_time()
        self._happened(Event.LEFT_IDLE if self._membership.is_leaving and not self._stop else Event.LEFT)
        self.hub.unassigned(partitions, () if self._stop else self._following.disowned(partitions))
        self._consumer.left(partitions)
        return partitions

    def left(self) -> None:
        """The consumer is closed: commits get no more answers."""
        self._commits.forget()

    def health(self) -> PipelineHealth:
        """The pipeline's health, at a constant cost."""
        assigned = self.hub.partitions
        return PipelineHealth(
            state=self.hub.state,
            broker_reachable=self._health.broker_reachable,
            joined=self._membership.is_ready,
            stopping=self._fetching.is_stopped or self._stop,
            last_error=self._health.last_error,
            assigned=assigned,
            degraded=[*self._topics.degraded, *self._decoded.degraded],
        )

    @property
    def _joined(self) -> bool:
        return self.hub.partitions > 0 or self._consumer.has_joined

    def statistics(self) -> PipelineStatistics:
        """A snapshot of the pipeline."""
        partitions = self._offsets.statistics()
        now = time.monotonic()
        return PipelineStatistics(
            **asdict(self.health()),
            topics=self._topics.statistics(),
            partitions=partitions,
            paused=self._flow.paused,
            waiting_bytes=self.hub.history.waiting(),
            waiting_records={tp: self.hub.history.waiting_records(tp) for tp in partitions},
            lags=self._consumer.lags(partitions, now),
            prefetched_bytes=self._consumer.prefetched_bytes,
            commits=self._commits.statistics(),
            rebalances=self._rebalances,
            crossings=self._crossings,
            last_exchange_at=self._last_exchange_at,
            replays=self._replays.statistics(),
            intake=self._intake.statistics(),
            membership=self._membership.statistics(),
            following=self._following.statistics(),
            stalls=self._stalls.statistics(),
            decoding=self._decoded.statistics(),
            held=self._held,
            undelivered=self.undelivered.statistics(),
        )

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        self._offsets.dispatched(batch.partition, batch.epoch, start, end)
        self._following.taken(batch.partition, start, end)

    def _replayed(self, partition: TopicPartition, first: int, end: int) -> None:
        self._following.taken(partition, first, end)

    def _take_statistics(self, statistics: ConsumerStatistics) -> str | None:
        now = time.monotonic()
        self._log(self._health.reported(brokers_up=statistics.brokers_up, joined=statistics.joined, now=now))
        return self._consumer.reported(statistics, self._flow.not_fetched | self._held, now)

    def _take_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        log.info("assigned", partitions=[str(partition) for partition in sorted(partitions)])
        for partition in partitions:
            self._offsets.assigned(partition)
        self._consumer.forget(partitions)
        self.hub.assigned(partitions)
        self._health.happened(Event.ASSIGNED)

    def _publish_state(self) -> None:
        self.hub.set_state(self._health.state(has_partitions=not self._offsets.is_empty))

    def _happened(self, event: Event) -> None:
        self._health.happened(event)
        self._publish_state()

    def _brokers_answered(self, is_answered: bool) -> None:
        """Take the result of a probe of the topics: in standby there is no consumer to show it."""
        if self._health.is_standby:
            self._log(self._health.reported(brokers_up=int(is_answered), joined=False, now=time.monotonic()))
            self._publish_state()

    def _log(self, line: LogLine | None, **details: object) -> None:
        if line is not None:
            line.write(log, **details)
