"""The parts of the hub, what subscribers need from them, and what they report.

`Hub` adds the order of events: assignments, batches, and subscribers that connect and leave.

*Thread*: Trio's. Nothing here awaits.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict

from dispatcher.hub.acking import Acking
from dispatcher.hub.announcements import Announcements
from dispatcher.hub.asked_decoding import AskedDecoder, AskedDecoding
from dispatcher.hub.dispatch_times import DispatchTimes
from dispatcher.hub.encoder import Encoder
from dispatcher.hub.fan_out import FanOut
from dispatcher.hub.feed import Feed
from dispatcher.hub.feed_registry import FeedRegistry
from dispatcher.hub.heartbeats import Heartbeats
from dispatcher.hub.lookups import LogReader, Lookups
from dispatcher.hub.pace import Pace
from dispatcher.hub.parking import ParkedRead
from dispatcher.hub.registry import Registry
from dispatcher.hub.settlement import Settlement
from dispatcher.hub.statistics import Census, HubCounts, HubStatistics, SubscriberStatistics
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.encoding.compression import Compression
from dispatcher.sansio.entries import Entry, Offered
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.history import History
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.sansio.spelling import Spelling
from dispatcher.settings import Settings

CATCH_UP_WRITES_PER_TURN = 4
"""Maximum number of writes to subscribers that are catching up, per turn of the loop: at 256 KiB and 300 µs each, they
delay live subscribers by little more than a millisecond, for some turns in a row."""

SKIPPED_TURNS = 3
"""How many long turns of the loop in a row may pass without such a write: live records have priority."""


class HubParts:
    """Makes the parts, joins them for subscribers (`source.Source`), and reports their statistics.

    Args:
        settings: Bounds of history, channels and writes.
        on_dispatched: See `Hub`, as for the other arguments.
        replays: Reads what is no longer in memory.
        on_replayed: Called with a range of a followed partition that was sent from Kafka.
        decoder: Decodes for subscribers that ask; None if they cannot ask.
    """

    def __init__(
        self,
        settings: Settings,
        on_dispatched: Callable[[Batch, int, int], None],
        replays: LogReader,
        on_replayed: Callable[[TopicPartition, int, int], None],
        decoder: AskedDecoder | None = None,
    ) -> None:
        self.history = History(settings.history_bytes, settings.max_parked_ranges)
        self.state = ReplicaState.BROKER_DOWN
        self._settings = settings
        self._on_replayed = on_replayed
        self.asked = AskedDecoding(self.history, decoder, self._decided)
        self.lookups = Lookups(replays, settings.write_bytes, self.asked)
        self._partitions: set[TopicPartition] = set()
        is_on = settings.compression == "on"
        compression = Compression(settings.compression_level, settings.compression_min_bytes) if is_on else None
        spellings = {topic: Spelling(*both) for topic, both in settings.encodings.items()}
        self.encoder = Encoder(self.history, compression, spellings)
        self.announcements = Announcements(self.state, settings.client_id, settings.heartbeat_seconds)
        self.catch_up_pace = Pace(CATCH_UP_WRITES_PER_TURN, skips=SKIPPED_TURNS)
        self._registry = Registry()
        self._feeds = FeedRegistry(settings.max_feeds, settings.topics)
        self.census = Census(self._registry.everybody.values, lambda: len(self._partitions))
        self.times = DispatchTimes()
        self.settlement = Settlement(
            settings, self.history, self._feeds, on_dispatched, self.times.dispatched, on_undecided=self.asked.ask
        )
        self.acking = Acking(settings.acked_topics, self.history, self.settlement, on_replayed)
        self._fan_out = FanOut(
            self.encoder,
            settings.write_bytes,
            self.settlement.dispatched,
            self._registry.everybody.values,
            settings.linger_ms / 1000,
            on_wrote=self.times.wrote,
        )
        self._heartbeats = Heartbeats(settings.heartbeat_seconds, self.history, self._fan_out, self._registry.slices)
        self._counts = HubCounts()
        self._assignments = 0

    # For subscribers (source.Source).

    @property
    def is_serving(self) -> bool:
        """Whether the replica is in a state in which it serves records."""
        return self.state in {ReplicaState.STREAMING, ReplicaState.WAITING, ReplicaState.STANDBY}

    def dispatched(self, feed: Feed, entries: Iterable[Offered], subscribers: int) -> None:
        """Note that this many subscribers' sockets, all of one feed, accepted every byte of these entries."""
        self.settlement.dispatched(feed, entries, subscribers)

    def replayed(self, ranges: Iterable[tuple[TopicPartition, int, int]]) -> None:
        """Note that a subscriber that counts was sent these ranges from Kafka."""
        for partition, first, end in ranges:
            if partition.topic not in self.acking.topics:
                self._on_replayed(partition, first, end)
                self.settlement.acked_between(partition, first, end)

    def parked_replayed(self, reads: Sequence[ParkedRead]) -> None:
        """Note that a subscriber that counts was sent parked records from Kafka, or that waiting ones are gone."""
        self.settlement.parked_replayed(reads)
        for read in reads:
            for first, end in read.ranges if read.parked is None else ():
                self.settlement.acked_between(read.partition, first, end)

    def await_head(self, subscriber: Subscriber) -> None:
        """Let a subscriber look again when more has been read."""
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
        """Count a subscriber that took nothing for too long."""
        self._counts.stalled += 1

    def is_behind(self, feed: Feed) -> bool:
        """Whether something was published that has not been offered to every live subscriber of a feed."""
        return self._fan_out.is_behind(feed)

    def heartbeat_bytes(self, feed: Feed, *, at_head: bool) -> bytes:
        """A heartbeat for a feed; for a live subscriber with nothing queued it carries the position of the head."""
        return self._heartbeats.data(feed, at_head=at_head)

    def _feeds_changed(self, feed: Feed) -> None:
        """Note that a feed has gained its first subscriber, or lost its last."""
        self.asked.topics_changed(self._feeds.asked_topics)
        self.settlement.feeds_changed(feed.topics)

    def _hold_back(self, entry: Entry, *, followed: bool) -> None:
        """Have a newly published entry decoded, if somebody asks for that and it is not decoded yet."""
        if self._feeds.is_undecided(entry.batch):
            self._fan_out.hold_back(entry.batch.partition.topic, followed=followed)
            self.asked.ask(entry)

    def _decided(self, entry: Entry) -> None:
        """Note that an entry was decoded: filters can be evaluated now."""
        if not entry.removed and self._feeds.has_filters(entry.batch.partition.topic):
            self.settlement.settle(entry, self._feeds.match(entry.batch))

    # For others.

    def gather(self) -> None:
        """Offer nothing of what is published before `hand_out`."""
        self._fan_out.gather()

    def hand_out(self) -> None:
        """Offer what was published since `gather`: at once if that is little work. Never waits."""
        self._fan_out.hand_out()

    def first_writes(self) -> set[int]:
        """The sequences of entries that are being written to subscribers that count."""
        return self._registry.first_writes()

    def tries(self) -> int:
        """How often filters were tried on single records: only differences mean anything."""
        return self._feeds.tried_singly()

    def statistics(self) -> HubStatistics:
        """A snapshot of the running sums, at a cost that does not grow with the subscribers. `census` has the rest."""
        return HubStatistics(
            subscribers=self._registry.states(),
            transports=self._registry.transports(),
            takers=self._registry.takers,
            history=self.history.statistics(),
            fan_out=self._fan_out.statistics(),
            lookups=self.lookups.statistics(),
            encoder=self.encoder.statistics(),
            registry=self._registry.statistics(),
            feeds=self._feeds.statistics(),
            announcements=self.announcements.statistics(),
            heartbeats=self._heartbeats.sent,
            times=self.times.statistics(),
            acking=self.acking.statistics(),
            unmatched=self.settlement.unmatched,
            parked=self.history.parked.statistics(),
            parked_records=self.settlement.parking.records,
            dispatched_records=self.settlement.dispatched_records,
            deliveries=self.settlement.deliveries,
            **asdict(self._counts),
        )

    def take_late_seconds(self) -> float:
        """How late records were handed out since the last call: see `round_times.RoundTimes`."""
        return self._fan_out.times.take_late_seconds()

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

    @property
    def owns_everything(self) -> bool:
        """Whether every known partition of the topics is assigned."""
        return len(self._partitions) >= sum(self.history.expected.values())

    def has_partitions(self, topics: AbstractSet[str]) -> bool:
        """Whether some partition of these topics is assigned to this replica."""
        return any(partition.topic in topics for partition in self._partitions)

    def without_partitions(self, topics: AbstractSet[str]) -> list[Subscriber]:
        """Subscribers that count and read only those of these topics that have no partition on this replica."""
        elsewhere = topics - {partition.topic for partition in self._partitions}
        return self._registry.without_partitions(elsewhere) if elsewhere else []

    def has_readers(self, topic: str) -> bool:
        """Whether some subscriber that counts reads a topic."""
        return self._registry.has_readers(topic)

    def park_observed(self) -> None:
        """Park waiting records of topics that are only observed, to make room, so that fetching need not pause."""
        for topic in self._registry.observed_topics():
            self.settlement.park_observed(topic)

    @property
    def first_taker(self) -> int | None:
        """The number of the subscriber that has been connected longest of those that count; None if there is none."""
        return self._registry.first_taker

    def whole_topics(self) -> frozenset[str]:
        """Topics with a subscriber of the whole topic."""
        return self._registry.whole_topics()

    def subscriber_statistics(self) -> Sequence[SubscriberStatistics]:
        """A snapshot of every subscriber."""
        return [subscriber.statistics() for subscriber in self._registry.everybody.values()]

    def _leave_feed(self, feed: Feed) -> None:
        is_last = self._feeds.remove(feed)
        if is_last or feed.acks:
            # Records that one of several did not acknowledge are still parked: the next subscriber has to look at them.
            self.settlement.parking.has_left(feed)
        if is_last:
            self._feeds_changed(feed)
        if not self._feeds.has_shared(feed):
            self.announcements.forget(feed.shared)
