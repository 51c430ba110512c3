"""The hub: registry of subscribers, fan-out of batches, and the seam between live and catching up.

Work is done once per batch, not once per subscriber: a batch is encoded once per feed in use, and the same bytes are
offered to every live subscriber (`fan_out`). The hub never waits for one of them.

*Thread*: everything here belongs to the Trio thread. Nothing awaits except `Hub.run`, `Hub.wait_settled` and
`Hub.wait_no_subscribers`, so every other method is one step that no task can observe half done.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

import trio

from dispatcher.errors import UnavailableError
from dispatcher.hub.acked_subscriber import AckedSubscriber, AckWindow
from dispatcher.hub.acking import Acking
from dispatcher.hub.announcements import Announcements
from dispatcher.hub.encoder import Encoder
from dispatcher.hub.fan_out import FanOut
from dispatcher.hub.feed import Feed
from dispatcher.hub.feed_registry import FeedRegistry
from dispatcher.hub.followed import FollowedPartitions
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.heartbeats import Heartbeats
from dispatcher.hub.lookups import LogReader, Lookups
from dispatcher.hub.parking import ParkedRead
from dispatcher.hub.registry import Registry
from dispatcher.hub.settlement import Settlement
from dispatcher.hub.statistics import (
    Census,
    HubCounts,
    HubStatistics,
    SubscriberStatistics,
)
from dispatcher.hub.subscriber import Subscriber
from dispatcher.hub.transport import Transport
from dispatcher.sansio.encoding.compression import Compression
from dispatcher.sansio.entries import Offered
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.history import History
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.settings import Settings


class Hub:
    """Hands batches to subscribers.

    Args:
        settings: Bounds of history, channels and writes.
        on_dispatched: Called with a batch and a range of its offsets (the end excluded) when the first subscriber that
            counts has taken all records of the range, or nobody present wants them. A range may come more than once.
        replays: Where to read what is no longer in memory.
        on_replayed: Called with a range of a followed partition that a subscriber that counts was sent from Kafka.
    """

    def __init__(
        self,
        settings: Settings,
        on_dispatched: Callable[[Batch, int, int], None],
        replays: LogReader,
        on_replayed: Callable[[TopicPartition, int, int], None] = lambda _partition, _first, _end: None,
    ) -> None:
        self.history = History(settings.history_bytes, settings.max_parked_ranges)
        self.state = ReplicaState.BROKER_DOWN
        self._degraded: Mapping[str, str] = {}
        """What is wrong with topics."""
        self._settings = settings
        self._on_replayed = on_replayed
        self.lookups = Lookups(replays, settings.write_bytes)
        self._partitions: set[TopicPartition] = set()
        is_on = settings.compression == "on"
        compression = Compression(settings.compression_level, settings.compression_min_bytes) if is_on else None
        self.encoder = Encoder(self.history, compression)
        self.announcements = Announcements(self.state, settings.client_id, settings.heartbeat_seconds)
        self._registry = Registry()
        self._feeds = FeedRegistry(settings.max_feeds)
        self.census = Census(self._registry.everybody.values, lambda: len(self._partitions))
        self.settlement = Settlement(settings, self.history, self._feeds, on_dispatched)
        self.acking = Acking(settings.acked_topics, self.history, self.settlement, on_replayed)
        self._fan_out = FanOut(
            self.encoder,
            settings.write_bytes,
            self.settlement.dispatched,
            self._registry.everybody.values,
            settings.linger_ms / 1000,
        )
        self._heartbeats = Heartbeats(settings.heartbeat_seconds, self.history, self._fan_out, self._registry.everybody)
        self.followed = FollowedPartitions(
            self.history, self._registry, self._feeds, self._fan_out, self._lay_out, on_dropped=self.acking.dropped
        )
        self.whole_topics_changed = trio.Event()
        """Set when somebody comes who wants the whole of a topic, or leaves."""
        self._goodbye: Goodbye | None = None
        self._left = trio.Event()
        self._counts = HubCounts()
        self._assignments = 0

    # Changes of the assignment, and records.

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Take note of partitions that were assigned to this replica."""
        self._assignments += 1
        self._remove(partitions)
        self.acking.released(partitions)
        self._partitions.update(partitions)
        self._lay_out()

    def unassigned(self, partitions: Collection[TopicPartition], disowned: Collection[TopicPartition] = ()) -> None:
        """Stop handing out these partitions, at once; writes under way go on.

        Args:
            partitions: Those that leave.
            disowned: Those of them that stay for subscribers of the whole topic, and are followed from now on.
        """
        for partition in partitions:
            if self.history.knows(partition, whole=False):
                self._registry.partition_left(partition, self.history.end(partition))
        self.followed.disown(disowned)
        self._remove(partitions)
        self._partitions.difference_update(partitions)
        self._lay_out()
        self.announcements.partitions_left()
        for subscriber in tuple(self._registry.catching_up.values()):
            subscriber.resumption.partitions_removed()

    def has_first_writes_for(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether a write is under way that would be the first to dispatch a batch of these partitions."""
        acked = self.acking.topics
        partitions = frozenset(partition for partition in partitions if partition.topic not in acked)
        # What was read by the follower since is in no epoch of the group's.
        is_followed = self.history.is_followed
        return any(
            entry.batch.partition in partitions
            and not entry.dispatched
            and (entry.batch.epoch or not is_followed(entry.batch.partition))
            for subscriber in self._registry.everybody.values()
            if subscriber.feed.counts
            for entry in subscriber.in_flight
        )

    def first_writes(self) -> set[int]:
        """The sequences of entries that are being written to subscribers that count."""
        return self._registry.first_writes()

    def partition_recreated(self, partition: TopicPartition, first_offset: int, replaces: int | None = None) -> None:
        """Start a partition over: its topic was recreated, and the new log begins at this offset.

        Also right after it was assigned again, when its beginning is not known yet.

        Args:
            partition: The partition.
            first_offset: Where the new log begins.
            replaces: The next offset of the old log, for subscribers that have not been sent anything of it.
        """
        next_offsets = self._registry.next_offsets(partition)
        self.followed.drop([partition])
        self.assigned([partition])
        for subscriber, next_offset in next_offsets:
            known = replaces if next_offset is None else next_offset
            subscriber.resumption.partition_recreated(partition, known, first_offset)

    def set_state(self, state: ReplicaState) -> None:
        """Send every subscriber what the replica is doing, if that changed."""
        if state is not self.state:
            self.state = state
            self._state_changed()

    def set_degraded(self, degraded: Mapping[str, str]) -> None:
        """Tell subscribers what is wrong with their topics, by topic, if that is news."""
        if degraded != self._degraded:
            self._degraded = dict(degraded)
            self._state_changed()

    def publish(self, batch: Batch) -> None:
        """Append a batch to the history and offer it to every live subscriber."""
        is_new = not self.history.knows(batch.partition)
        entry = self.history.append(batch)
        if is_new:
            self._registry.partition_added(batch.partition, self.history.end(batch.partition))
        self._counts.published_records += len(batch.records)
        is_followed = self.history.is_followed(batch.partition)
        self._fan_out.publish(entry, followed=is_followed)
        if self._feeds.has_filters(batch.partition.topic):
            matches = self._feeds.match(batch)
            self._fan_out.publish_selected(entry, matches, followed=is_followed)
            self.settlement.settle(entry, matches)
        self._registry.head_moved()

    @property
    def is_congested(self) -> bool:
        """Whether to publish nothing more until `wait_settled`."""
        return self._fan_out.is_congested

    async def wait_settled(self) -> None:
        """Return when all that was published has been offered to every live subscriber. *Cancellation*: safe."""
        await self._fan_out.wait_settled()

    def reached(self, partition: TopicPartition, offset: int) -> None:
        """Note that a partition was read up to an offset, and that the new part holds no record."""
        is_new = not self.history.knows(partition)
        self.history.reached(partition, offset)
        if is_new:
            self._registry.partition_added(partition, self.history.end(partition))
        self._registry.head_moved()

    def expect(self, topics: Mapping[str, int]) -> None:
        """Take note of how many partitions topics have."""
        if topics != self.history.expected:
            self.history.expect(topics)
            self._registry.head_moved()
            self._state_changed()

    # What subscribers ask (subscriber.Source).

    @property
    def is_serving(self) -> bool:
        """Whether the replica does what it is there for."""
        return self.state in {ReplicaState.STREAMING, ReplicaState.WAITING, ReplicaState.STANDBY}

    def dispatched(self, feed: Feed, entries: Iterable[Offered], subscribers: int) -> None:
        """Note that this many subscribers' sockets, all of one feed, accepted every byte of these entries."""
        self.settlement.dispatched(feed, entries, subscribers)

    def replayed(self, ranges: Iterable[tuple[TopicPartition, int, int]]) -> None:
        """A subscriber that counts was sent these ranges of followed partitions from Kafka."""
        for partition, first, end in ranges:
            if partition.topic not in self.acking.topics:
                self._on_replayed(partition, first, end)

    def parked_replayed(self, reads: Iterable[ParkedRead]) -> None:
        """A subscriber that counts was sent parked records from Kafka."""
        self.settlement.parked_replayed(reads)

    def await_head(self, subscriber: Subscriber) -> None:
        """Let a subscriber look again as soon as more has been read."""
        self._registry.await_head(subscriber)

    def became_live(self, subscriber: Subscriber, *, needed_kafka: bool) -> None:
        """Offer every new entry to the subscriber."""
        if needed_kafka:
            self._counts.history_misses += 1
        else:
            self._counts.history_hits += 1
        if subscriber.resumption.looks_at_parked:
            self.settlement.parking.has_looked(subscriber.feed)
        self._registry.became_live(subscriber)
        self._fan_out.add(subscriber)

    def left_live(self, subscriber: Subscriber) -> None:
        """Stop offering entries to the subscriber: it reads the history."""
        self._counts.fell_back += 1
        self._registry.left_live(subscriber)
        self._fan_out.remove(subscriber)

    def stalled(self) -> None:
        """A subscriber took nothing for too long."""
        self._counts.stalled += 1

    def is_behind(self, feed: Feed) -> bool:
        """Whether something was published that has not been offered to every live subscriber of a feed."""
        return self._fan_out.is_behind(feed)

    def heartbeat_bytes(self, feed: Feed, *, at_head: bool) -> bytes:
        """A heartbeat for a feed; for a live subscriber with nothing queued it carries the position of the head."""
        return self._heartbeats.data(feed, at_head=at_head)

    # Subscribers connect and leave.

    def subscribe(
        self,
        feed: Feed,
        transport: Transport,
        position: Mapping[TopicPartition, int] | None = None,
        since_ms: int | None = None,
        *,
        last: int | None = None,
        ignored: Sequence[str] = (),
        window: AckWindow | None = None,
    ) -> Subscriber:
        """Register a subscriber, until `unsubscribe`.

        Args:
            feed: What it gets.
            transport: Where it gets it.
            position: The last offset that it has seen of some partitions; a partition that is not assigned now
                counts when it is added.
            since_ms: Where the other partitions begin, in ms since the epoch, `EARLIEST` or `NOW`.
            last: Or how many records before their ends.
            ignored: Parameters of its request that nobody knows.
            window: What it may be sent before it acknowledges; None: it need not.

        Raises:
            UnavailableError: there are `max_subscribers` already, or the replica is stopping.
            TooManyError: it would be one feed more than `max_feeds`.
        """
        if self._goodbye is not None:
            raise UnavailableError(self._goodbye.reason)
        if len(self._registry) >= self._settings.max_subscribers:
            raise UnavailableError(f"this replica is full: it already has {self._settings.max_subscribers} subscribers")
        self._feeds.check(feed)
        make = Subscriber if window is None else partial(AckedSubscriber, window=window, acking=self.acking)
        subscriber = make(
            self._registry.next_number,
            self,
            feed,
            transport,
            position={tp: offset for tp, offset in (position or {}).items() if tp.topic in feed.topics},
            since_ms=since_ms,
            last=last,
            ignored=ignored,
            buffer_bytes=self._settings.subscriber_buffer_bytes,
            write_bytes=self._settings.write_bytes,
        )
        if feed.counts and not position and since_ms is None and last is None:
            subscriber.resumption.begin_at_parked(self.settlement.parking.starts(feed))
        self._registry.add(subscriber)
        if isinstance(subscriber, AckedSubscriber):
            self.acking.add(subscriber)
        if self._feeds.add(feed):
            self.settlement.feeds_changed(feed.topics)
        self._look_at_whole_topics(feed)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forget a subscriber; a second call does nothing."""
        if self._registry.remove(subscriber):
            if self._feeds.remove(subscriber.feed):
                self.settlement.parking.has_left(subscriber.feed)
                self.settlement.feeds_changed(subscriber.feed.topics)
            if not self._feeds.has_shared(subscriber.feed):
                self.announcements.forget(subscriber.feed.shared)
            self._fan_out.remove(subscriber)
            self.acking.remove(subscriber.number)
            subscriber.close()
            self.followed.subscriber_left()
            self._look_at_whole_topics(subscriber.feed)
            self._left.set()
            self._left = trio.Event()

    async def run(self) -> None:
        """Hand out what is published, find out what subscribers ask for, and send each of them heartbeats."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fan_out.run)
            nursery.start_soon(self._heartbeats.run)
            nursery.start_soon(self.settlement.run)
            nursery.start_soon(self.lookups.run)

    def say_goodbye(self, make: Callable[[], Goodbye]) -> None:
        """End every stream when its write under way is done, and take no new subscriber."""
        self._goodbye = make()
        for subscriber in tuple(self._registry.everybody.values()):
            subscriber.end(make())

    async def wait_no_subscribers(self) -> None:
        """Return when no subscriber is left. *Cancellation*: safe."""
        while self._registry:
            await self._left.wait()

    def statistics(self) -> HubStatistics:
        """A snapshot of the hub: running sums, whatever the number of subscribers. `census` has the rest."""
        return HubStatistics(
            subscribers=self._registry.states(),
            transports=self._registry.transports(),
            history=self.history.statistics(),
            fan_out=self._fan_out.statistics(),
            lookups=self.lookups.statistics(),
            encoder=self.encoder.statistics(),
            registry=self._registry.statistics(),
            feeds=self._feeds.statistics(),
            announcements=self.announcements.statistics(),
            heartbeats=self._heartbeats.sent,
            acking=self.acking.statistics(),
            unmatched=self.settlement.unmatched,
            parked=self.history.parked.statistics(),
            parked_records=self.settlement.parking.records,
            dispatched_records=self.settlement.dispatched_records,
            deliveries=self.settlement.deliveries,
            **asdict(self._counts),
        )

    @property
    def partitions(self) -> int:
        """How many partitions are assigned."""
        return len(self._partitions)

    @property
    def assignments(self) -> int:
        """Assignments up to now, empty ones included: every member is assigned again when another one joins."""
        return self._assignments

    @property
    def subscribers(self) -> int:
        """How many subscribers there are, in any state."""
        return len(self._registry)

    def sample_subscribers(self, number: int) -> list[Subscriber]:
        """A random sample of the current subscribers."""
        return self._registry.sample(number)

    def has_readers(self, topic: str) -> bool:
        """Whether some subscriber that counts reads a topic."""
        return self._registry.has_readers(topic)

    def park_observed(self) -> None:
        """Fetching would be paused: where only observers are present, what waits goes out of memory instead."""
        for topic in self._registry.observed_topics():
            self.settlement.park_observed(topic)

    @property
    def first_taker(self) -> int | None:
        """The number of the subscriber that counts and has been connected for longest, None if there is none."""
        return self._registry.first_taker

    def whole_topics(self) -> frozenset[str]:
        """Topics of which some subscriber has the whole."""
        return self._registry.whole_topics()

    def subscriber_statistics(self) -> Sequence[SubscriberStatistics]:
        """A snapshot of every subscriber."""
        return [subscriber.statistics() for subscriber in self._registry.everybody.values()]

    def _remove(self, partitions: Collection[TopicPartition]) -> None:
        """Stop handing out these partitions' records; those that leave may come back."""
        held = [tp for tp in partitions if tp in self._partitions and not self.history.is_followed(tp)]
        if held:
            self._fan_out.withdraw()
            self.acking.left(held)
            for subscriber in self._registry.catching_up.values():
                subscriber.resumption.partitions_removing(held)
            self.history.remove(held)

    def _lay_out(self) -> None:
        """Partitions were assigned or have left."""
        followed = self.followed.partitions
        self.history.lay_out(self._partitions | followed, followed)
        self._state_changed()
        # A partition that became owned has brought records that wait.
        self.settlement.feeds_changed({partition.topic for partition in self._partitions})

    def _look_at_whole_topics(self, feed: Feed) -> None:
        if feed.whole:
            self.whole_topics_changed.set()

    def _state_changed(self) -> None:
        layout, followed = self.history.layout, self.followed.partitions
        self.announcements.change(
            self.state,
            layout.partitions if not followed else [tp for tp in layout.partitions if tp in self._partitions],
            sorted(followed - self._partitions),
            self.history.expected,
            self._degraded,
        )
        self._fan_out.state_changed()
