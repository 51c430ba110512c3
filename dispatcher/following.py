"""Joins the follower, the ownership of partitions and the hub: the whole topic from any replica.

This is the Trio side of the follower's crossing (`kafka.follower.FollowDownstream`), and what the pipeline calls when
the group assigns and revokes. The follower exists while a subscriber wants a whole topic and a partition of it is not
owned; otherwise none of this costs anything.

*Thread*: Trio's. The follower's thread gets here by `kafka.bridge.Calls`.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Collection, Mapping

import structlog
import trio

from dispatcher.followed_logs import FollowedLogs
from dispatcher.follower_orders import FollowerOrders, FollowingStatistics
from dispatcher.hub.hub import Hub
from dispatcher.kafka.decoding import Group
from dispatcher.kafka.follower import FollowCommands, Followed, Follower
from dispatcher.kafka.held import RecordDecoder
from dispatcher.kafka.properties import replay_properties
from dispatcher.kafka.replay import Replays
from dispatcher.kafka.spacing import Spacing
from dispatcher.sansio.beginnings import Start
from dispatcher.sansio.known_records import KnownRecords
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.ownership import Ownership, Role
from dispatcher.sansio.poll_size import PollSize
from dispatcher.sansio.ranges import Bounds
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.sansio.topic_counts import TopicCounts
from dispatcher.settings import Settings

log = structlog.get_logger(__name__)

TOPICS_SECONDS = 5.0
"""Interval at which the number of partitions of each topic is looked up: an added one is found within this time, and
sooner if a client connects that has had records of it."""

TOPICS_UNKNOWN_SECONDS = 0.5
"""The same while the number is not known for some topic; also the minimum time between two look-ups."""

RETRY_SECONDS = 0.5
"""How soon a look-up that had no answer is made again."""

BACKLOG_RECORDS = 1_000
"""How many records before the end of a log the follower begins at most: the history then has them for clients that
arrive from another replica with recent ids. Older records are replayed on demand."""

LOG_SECONDS = 10.0
"""Minimum time between two log lines about the follower's errors."""


class Following:
    """Follows partitions that the replica does not own, for subscribers of the whole topic.

    Args:
        settings: The dispatcher's settings.
        hub: Where followed records go.
        replays: Looks offsets up.
        offsets: Where owned partitions are.
        spacing: When to hand over records.
        decoder: Decodes the records of some topics; None if no topic is decoded.
    """

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        replays: Replays,
        offsets: OffsetTracker,
        spacing: Spacing,
        *,
        decoder: RecordDecoder | None = None,
    ) -> None:
        self._settings, self._hub, self._replays, self._offsets = settings, hub, replays, offsets
        self._ownership, self._poll_size = Ownership(), PollSize(settings.poll_records, hub.tries)
        self._follower = Follower(
            replay_properties(settings),
            self,
            spacing,
            replays.log_ends,
            poll_size=self._poll_size,
            batch_bytes=settings.batch_bytes,
            decoder=decoder,
            client_rack=settings.client_rack,
        )
        self._is_running = False
        self._counts, self._orders = TopicCounts(), FollowerOrders()
        self.logs = FollowedLogs(hub, replays, self._ownership, self._orders, self._wake_up)
        """Which log is read of each partition."""
        self.known = KnownRecords()
        """Records from the group's consumer that the history already has from the follower."""
        self._wake = trio.Event()
        self._log_at = -math.inf
        self._records = self._bytes = 0

    async def run(self) -> None:
        """Follow while somebody needs it, until cancelled. *Cancellation*: safe."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._count_partitions)
            while True:
                await self._until_needed()
                await self._follow()

    # Called by the pipeline.

    def taken(self, partition: TopicPartition, start: int, end: int) -> None:
        """A subscriber that counts was sent a range: if its partition is followed, remember that for later."""
        self._ownership.taken(partition, start, end)
        self.known.taken(partition, start, end)

    def is_followed(self, partition: TopicPartition) -> bool:
        """Whether a partition is followed now."""
        return self._ownership.role(partition) is Role.FOLLOWED

    def disowned(self, partitions: Collection[TopicPartition]) -> list[TopicPartition]:
        """Owned partitions leave; returns those that are followed from now on, from where the history ends."""
        wanted = self._hub.whole_topics()
        disowned = []
        for partition in partitions:
            self.known.forget(partition)
            role = self._ownership.role(partition)
            if role is Role.FOLLOWED:
                continue
            if role is Role.OWNED:  # otherwise it has left already, or has not begun
                self.logs.ids.left(partition)
            if partition.topic in wanted and self._hub.history.knows(partition):
                epoch = self._ownership.follow(partition, self._offsets.dispatched_ranges(partition))
                self._orders.follow(partition, epoch, self._hub.history.end(partition))
                disowned.append(partition)
            else:
                self._ownership.drop([partition])
                self.logs.ids.forget([partition])
        self._wake.set()
        return disowned

    def owned(self, start: Start, epoch: int) -> None:
        """An assigned partition begins, or another log in its place.

        Records that were sent while it was followed count from its committed offset on.

        Args:
            start: Where it begins.
            epoch: Of its assignment, in which nothing was received yet.
        """
        partition, offset = start.partition, start.offset
        self.known.forget(partition)
        self._orders.forget(partition)
        is_followed = self.is_followed(partition) and not start.recreated
        if is_followed:
            self.logs.owned(start)
        self.logs.ids.begin(partition, start.stamp.topic_id)
        if not is_followed:
            self._ownership.own(partition)
            return
        hand_over = self._ownership.hand_over(partition, offset)
        read_to = self._hub.history.end(partition)
        end = self._hub.followed.own(partition, epoch, hand_over)
        self.known.begins_again(partition, end, read_to)
        log.info(
            "partition handed over",
            partition=str(partition),
            committed=offset,
            counted_to=hand_over.counted_to,
            history_end=end,
        )
        if end > offset:
            self._offsets.received(partition, offset, end)
            for first, last in hand_over.counted:
                if first < end:
                    self._offsets.dispatched(partition, epoch, first, min(last, end))
            self.known.note(partition, end)

    def statistics(self) -> FollowingStatistics:
        """A snapshot."""
        followed, follower = self._ownership.followed, self._follower
        counts = self._records, self._bytes, follower.failures, follower.stall_limit.statistics().restarts
        lags = {tp: lag for tp, lag in self._orders.lags.items() if tp in followed}
        return FollowingStatistics(self._is_running, len(followed), *counts, lags)

    # The follower's crossing (kafka.follower.FollowDownstream).

    @property
    def has_orders(self) -> bool:
        """Whether the follower has something to do."""
        return self._orders.are_any

    def follow(self) -> FollowCommands:
        """The partitions that a new consumer has to follow."""
        self._orders.lost.clear()
        for partition in self._ownership.followed:
            self._orders.follow(partition, self._epoch(partition), self._hub.history.end(partition))
        return self._orders.take(settle=self._hub.is_congested)

    def followed(self, result: Followed) -> FollowCommands:
        """Take the result of a poll, and return what the thread must do."""
        with self._poll_size.measure(sum(len(group.records) for _, group in result.groups)):
            for epoch, group in result.groups:
                if self._ownership.epoch(group.partition) == epoch:
                    self._take_records(group)
        for partition, epoch, end in result.ends:
            if self._ownership.epoch(partition) == epoch:
                self._reach(partition, end)
        for partition, epoch, next_offset in result.out_of_range:
            self._orders.lost[partition] = (epoch, next_offset)
            self._wake.set()
        self._orders.lags = self._orders.lags if result.lags is None else result.lags
        for name, reason in result.errors:
            if time.monotonic() - self._log_at >= LOG_SECONDS:
                self._log_at = time.monotonic()
                log.warning("follower error", error=name, reason=reason)
        return self._orders.take(settle=self._hub.is_congested)

    async def followed_when_settled(self, result: Followed) -> FollowCommands:
        """The same, after everything received before has been offered to every live subscriber."""
        await self._hub.wait_settled()
        return self.followed(result)

    def _epoch(self, partition: TopicPartition) -> int:
        epoch = self._ownership.epoch(partition)
        assert epoch is not None  # noqa: S101 - it is followed
        return epoch

    def _take_records(self, group: Group) -> None:
        partition = group.partition
        records, end = group.records, self._hub.history.end(partition)
        if records.offsets[0] < end:
            records = records[bisect_left(records.offsets, end) :]
        if records:
            self._records += len(records)
            self._bytes += records.size_bytes
            self._hub.publish(Batch(partition, records, covers_from=end, leader_epoch=group.leader_epoch))

    def _reach(self, partition: TopicPartition, end: int) -> None:
        """Note that no record lies between the last one and this end."""
        self._ownership.taken(partition, self._hub.history.end(partition), end)
        self._hub.reached(partition, end)

    # Starting, looking up, stopping.

    async def _count_partitions(self) -> None:
        """Look up how many partitions each topic has; added ones are followed."""
        hub = self._hub
        while True:
            hub.topics_have_grown = grown = trio.Event()
            found = await self._replays.partition_counts(self._settings.topics)
            followed = {tp.topic for tp in self._ownership.followed}
            counts = self._counts.counted(found, hub.degraded, hub.whole_topics(), followed)
            hub.expect(counts)
            self._wake.set()
            with trio.move_on_after(TOPICS_SECONDS):
                await trio.sleep(TOPICS_UNKNOWN_SECONDS)
                if len(counts) == len(self._settings.topics):
                    await grown.wait()

    def _wake_up(self) -> None:
        self._wake.set()

    async def _until_needed(self) -> None:
        while not self._missing():
            self._wake = self._hub.whole_topics_changed = trio.Event()
            await self._wake.wait()

    def _missing(self) -> frozenset[TopicPartition]:
        """Partitions that have to be followed and are not yet."""
        expected = self._hub.history.expected
        topics = {topic: expected[topic] for topic in self._hub.whole_topics() if topic in expected}
        missing = self._ownership.to_follow(topics, self._offsets.partitions)
        return missing if self._is_running else missing.union(self._ownership.followed)

    async def _follow(self) -> None:
        """Run the follower until nobody has needed it for a while."""
        log.info("follower started")
        self._is_running, self._orders.stop = True, False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follower.run)
            await self._keep_up()
            self._orders.stop = True
        self._is_running = False
        # A subscriber may have connected meanwhile: the history keeps its records, and another follower continues
        # there.
        self._drop_topics({tp.topic for tp in self._ownership.followed} - self._hub.whole_topics())
        self._orders.clear()
        log.info("follower closed")

    def _drop_topics(self, topics: Collection[str]) -> None:
        """Stop following topics that no subscriber wants as a whole."""
        dropped = [tp for tp in self._ownership.followed if tp.topic in topics]
        for partition in dropped:
            self._orders.forget(partition)
        self._ownership.drop(dropped)
        self.logs.ids.forget(dropped)
        self._hub.followed.drop(dropped)
        self._counts.forget(topics)

    async def _keep_up(self) -> None:
        """Follow missing partitions and look up lost offsets, until nobody has needed the follower for a while."""
        linger_seconds = self._settings.follow_linger_seconds
        needed_at: dict[str, float] = {}
        while True:
            self._wake = self._hub.whole_topics_changed = trio.Event()
            now = trio.current_time()
            followed = {tp.topic for tp in self._ownership.followed}
            wanted = self._hub.whole_topics() & (followed | {tp.topic for tp in self._missing()})
            needed_at = {**dict.fromkeys(followed, now), **needed_at, **dict.fromkeys(wanted, now)}
            over = {topic for topic, at in needed_at.items() if topic not in wanted and now >= at + linger_seconds}
            self._drop_topics(over)
            for topic in over:
                del needed_at[topic]
            if not needed_at:
                return
            answered = await self._follow_missing()
            answered &= await self.logs.find_lost()
            seconds = max(linger_seconds, RETRY_SECONDS) if answered else RETRY_SECONDS
            with trio.move_on_after(seconds):
                await self._wake.wait()

    async def _follow_missing(self) -> bool:
        """Begin to follow missing partitions; returns whether all look-ups were answered."""
        missing = self._missing()
        if not missing:
            return True
        topic_ids = {partition: self.logs.ids.reported(partition.topic) for partition in missing}
        bounds = await self._replays.bounds(missing)
        committed = await self._replays.committed(missing)
        begins = {}
        for partition in sorted(bounds.keys() & self._missing()):
            begins[partition] = _begin(bounds[partition], committed, partition, is_new=self._counts.is_new(partition))
            self.logs.ids.begin(partition, topic_ids[partition])
            self._orders.follow(partition, self._ownership.follow(partition), begins[partition])
        self._hub.followed.follow_all(begins)
        return not self._missing()


def _begin(bounds: Bounds, committed: Mapping[TopicPartition, int], partition: TopicPartition, *, is_new: bool) -> int:
    """Where to begin to follow a partition: at its committed offset, unless that is far back, and a new one's start."""
    if is_new:
        return bounds.first
    recent = max(bounds.first, bounds.end - BACKLOG_RECORDS)
    return min(bounds.end, max(recent, committed.get(partition, recent)))
