"""The hub: registry of subscribers, fan-out of batches, and the seam between live and catching up.

Work is done once per batch, not once per subscriber: a batch is encoded once per feed in use, and the same bytes are
offered to every live subscriber (`fan_out`). The hub never waits for a subscriber.

*Thread*: everything here belongs to the Trio thread. Nothing awaits except `Hub.run`, `Hub.wait_settled` and
`Hub.wait_no_subscribers`, so no task can observe any other method half done.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial

import trio

from dispatcher.errors import UnavailableError
from dispatcher.hub.acked_subscriber import AckedSubscriber, AckWindow
from dispatcher.hub.asked_decoding import AskedDecoder
from dispatcher.hub.feed import Feed
from dispatcher.hub.followed import FollowedPartitions
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.lookups import LogReader
from dispatcher.hub.parts import HubParts
from dispatcher.hub.subscriber import Subscriber
from dispatcher.hub.transport import Transport
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.sansio.starts import names_more, usable
from dispatcher.settings import Settings


class Hub(HubParts):
    """Hands batches to subscribers.

    Args:
        settings: Bounds of history, channels and writes.
        on_dispatched: Called with a batch and a range of its offsets (the end excluded) when the first subscriber that
            counts has taken all records of the range, or no present subscriber wants them. A range may be passed more
            than once.
        replays: Reads what is no longer in memory.
        on_replayed: Called with a range of a followed partition that was sent from Kafka to a subscriber that counts.
        decoder: Decodes for subscribers that ask; None if they cannot ask.
    """

    def __init__(
        self,
        settings: Settings,
        on_dispatched: Callable[[Batch, int, int], None],
        replays: LogReader,
        on_replayed: Callable[[TopicPartition, int, int], None] = lambda _partition, _first, _end: None,
        decoder: AskedDecoder | None = None,
    ) -> None:
        super().__init__(settings, on_dispatched, replays, on_replayed, decoder)
        self.degraded: Mapping[str, str] = {}
        """Why topics are degraded, by topic; set by `set_degraded`."""
        self.followed = FollowedPartitions(
            self.history, self._registry, self._feeds, self._fan_out, self._lay_out, on_dropped=self.acking.dropped
        )
        self.whole_topics_changed = trio.Event()
        """Set when a subscriber of a whole topic connects or leaves."""
        self.topics_have_grown = trio.Event()
        """Set when a subscriber connects whose id names records of a partition that its topic is not known to have."""
        self._goodbye: Goodbye | None = None
        self._left = trio.Event()

    # Changes of the assignment, and records.

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Note that partitions were assigned to this replica."""
        self._assignments += 1
        # Since the time of these writes, the topic may have been recreated elsewhere. Followed ones are looked after.
        self._registry.forget_writes({tp for tp in partitions if not self.history.is_followed(tp)})
        self._remove(partitions)
        self.acking.released(partitions)
        self._partitions.update(partitions)
        self._lay_out()

    def unassigned(self, partitions: Collection[TopicPartition], disowned: Collection[TopicPartition] = ()) -> None:
        """Stop handing out these partitions at once; writes that have started continue.

        Args:
            partitions: The partitions that leave.
            disowned: Those of them that are followed from now on, for subscribers of the whole topic.
        """
        for partition in partitions:
            if self.history.knows(partition, whole=False):
                self._registry.partition_left(partition, self.history.end(partition))
        self.acking.leaving(partitions)
        self._registry.leaving([partition for partition in partitions if partition.topic not in self.acking.topics])
        self.followed.disown(disowned)
        self.acking.disowned(disowned)
        self._remove(partitions)
        self._partitions.difference_update(partitions)
        self._lay_out()
        self.announcements.partitions_left()
        for subscriber in tuple(self._registry.catching_up.values()):
            subscriber.resumption.partitions_removed()

    def has_first_writes_for(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether a write in progress would be the first to dispatch a batch of these partitions."""
        acked = self.acking.topics
        partitions = frozenset(partition for partition in partitions if partition.topic not in acked)
        # Records that the follower has read since the revoke have no epoch of the group.
        is_followed = self.history.is_followed
        return any(
            entry.batch.partition in partitions
            and not entry.dispatched
            and (entry.batch.epoch or not is_followed(entry.batch.partition))
            for subscriber in self._registry.everybody.values()
            if subscriber.feed.counts
            for entry in subscriber.in_flight
        )

    def partition_recreated(self, partition: TopicPartition, first_offset: int, replaces: int | None = None) -> None:
        """Start a partition over: its topic was recreated, and the new log begins at this offset.

        May be called right after an assignment, before the partition's beginning is known.

        Args:
            partition: The partition.
            first_offset: Where the new log begins.
            replaces: The next offset of the old log, for subscribers that were sent nothing of it.
        """
        next_offsets = self._registry.next_offsets(partition)
        self.followed.drop([partition])
        self.assigned([partition])
        for subscriber, next_offset in next_offsets:
            known = replaces if next_offset is None else next_offset
            subscriber.resumption.partition_recreated(partition, known, first_offset)

    def set_state(self, state: ReplicaState) -> None:
        """Send every subscriber the replica's state, if it changed."""
        if state is not self.state:
            self.state = state
            self._state_changed()

    def set_degraded(self, degraded: Mapping[str, str]) -> None:
        """Send subscribers the reasons why topics are degraded, by topic, if they changed."""
        if degraded != self.degraded:
            self.degraded = dict(degraded)
            self._state_changed()

    def publish(self, batch: Batch) -> None:
        """Append a batch to the history and offer it to every live subscriber."""
        is_new = not self.history.knows(batch.partition)
        entry = self.history.append(batch)
        if is_new:
            self._registry.partition_added(batch.partition, self.history.end(batch.partition))
        self._counts.published_records += len(batch.records)
        is_followed = self.history.is_followed(batch.partition)
        self._hold_back(entry, followed=is_followed)
        self._fan_out.publish(entry, followed=is_followed)
        if self._feeds.has_filters(batch.partition.topic):
            matches = self._feeds.match(batch)
            self._fan_out.publish_selected(entry, matches, followed=is_followed)
            self.settlement.settle(entry, matches)
        self._registry.head_moved()

    @property
    def is_congested(self) -> bool:
        """Whether to publish nothing more until `wait_settled` returns."""
        return self._fan_out.is_congested

    async def wait_settled(self) -> None:
        """Return when everything published has been offered to every live subscriber. *Cancellation*: safe."""
        await self._fan_out.wait_settled()

    def reached(self, partition: TopicPartition, offset: int) -> None:
        """Note that a partition was read up to an offset, and that the new part holds no record."""
        is_new = not self.history.knows(partition)
        self.history.reached(partition, offset)
        if is_new:
            self._registry.partition_added(partition, self.history.end(partition))
        self._registry.head_moved()

    def expect(self, topics: Mapping[str, int]) -> None:
        """Note how many partitions topics have."""
        if topics != self.history.expected:
            self.history.expect(topics)
            self._registry.head_moved()
            self._state_changed()

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
        owner: Hashable = None,
    ) -> Subscriber:
        """Register a subscriber, until `unsubscribe`.

        Args:
            feed: What it asked for.
            transport: The way to its socket.
            position: The last seen offsets of some partitions; that of an unassigned one takes effect when it is added.
            since_ms: Where the other partitions begin, in ms since the epoch, `EARLIEST` or `NOW`.
            last: Alternatively, how many records before their ends they begin.
            ignored: Unknown parameters of its request.
            window: Bounds of its unacknowledged records; None if it does not acknowledge.
            owner: Its owner, such as an address: owners take turns at replays, and share out the feeds fairly.

        Raises:
            UnavailableError: there are already `max_subscribers`, or the replica is stopping.
            TooManyError: there would be more feeds than `max_feeds`, or more than this owner may have.
        """
        if self._goodbye is not None:
            raise UnavailableError(self._goodbye.reason)
        if len(self._registry) >= self._settings.max_subscribers:
            raise UnavailableError(f"this replica is full: it already has {self._settings.max_subscribers} subscribers")
        self._feeds.check(feed, owner)
        make = Subscriber if window is None else partial(AckedSubscriber, window=window, acking=self.acking)
        subscriber = make(
            self._registry.next_number,
            self,
            feed,
            transport,
            position=usable(position or {}, feed.topics, self.history.expected),
            since_ms=since_ms,
            last=last,
            ignored=ignored,
            buffer_bytes=self._settings.subscriber_buffer_bytes,
            write_bytes=self._settings.write_bytes,
        )
        subscriber.resumption.owner = owner
        if feed.counts and not position and since_ms is None and last is None:
            subscriber.resumption.begin_at_parked(self.settlement.parking.starts(feed))
        self._registry.add(subscriber)
        if isinstance(subscriber, AckedSubscriber):
            self.acking.add(subscriber)
        if self._feeds.add(feed, owner):
            self._feeds_changed(feed)
        self._look_at_whole_topics(feed)
        if feed.whole and position and names_more(position, self.history.expected):
            self.topics_have_grown.set()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forget a subscriber; a second call does nothing."""
        if self._registry.remove(subscriber):
            try:
                # This counts what it has acknowledged: whatever goes wrong there, the rest must still be done.
                self.acking.remove(subscriber.number)
            finally:
                self._forget(subscriber)

    def _forget(self, subscriber: Subscriber) -> None:
        self._leave_feed(subscriber.feed)
        self._fan_out.remove(subscriber)
        subscriber.close()
        self.followed.subscriber_left()
        self._look_at_whole_topics(subscriber.feed)
        self._left.set()
        self._left = trio.Event()

    async def run(self) -> None:
        """Hand out what is published, answer subscribers' look-ups, and send heartbeats."""
        async with trio.open_nursery() as nursery:
            parts = self._fan_out, self._heartbeats, self.settlement, self.lookups, self.asked, self.catch_up_pace
            for part in parts:
                nursery.start_soon(part.run)

    def say_goodbye(self, make: Callable[[], Goodbye]) -> None:
        """End every stream after its current write, and refuse new subscribers."""
        self._goodbye = make()
        for subscriber in tuple(self._registry.everybody.values()):
            subscriber.end(make())

    async def wait_no_subscribers(self) -> None:
        """Return when no subscriber is left. *Cancellation*: safe."""
        while self._registry:
            await self._left.wait()

    def _remove(self, partitions: Collection[TopicPartition]) -> None:
        """Stop handing out these partitions' records; the partitions may return."""
        held = [tp for tp in partitions if tp in self._partitions and not self.history.is_followed(tp)]
        if held:
            self._fan_out.withdraw()
            self.acking.left(held)
            for subscriber in self._registry.catching_up.values():
                subscriber.resumption.partitions_removing(held)
            self.history.remove(held)

    def _lay_out(self) -> None:
        """Update the layout: partitions were assigned or have left."""
        followed = self.followed.partitions
        self.history.lay_out(self._partitions | followed, followed)
        self._state_changed()
        # A partition that became owned may have waiting records.
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
            self.degraded,
        )
        self._fan_out.state_changed()
