"""Followed partitions in the hub, and what subscribers notice when one becomes owned or is no longer owned.

Subscribers of the whole topic notice no change: a partition that is no longer owned stays in the history and continues
there; one that becomes owned stays there, too, if its entries reach up to the offset at which it continues. For
subscribers of only the replica's partitions it leaves or is added, as without a follower.

*Thread*: Trio's. Nothing awaits.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from dispatcher.hub.fan_out import FanOut
from dispatcher.hub.feed import Feed
from dispatcher.hub.feed_registry import FeedRegistry
from dispatcher.hub.registry import Registry
from dispatcher.hub.statistics import SubscriberState
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.history import History
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.records import TopicPartition


class FollowedPartitions:
    """The partitions of the history that are not owned.

    Args:
        history: Holds their entries.
        registry: Knows the subscribers.
        feeds: Knows which feeds want which records.
        fan_out: Offers what is published.
        lay_out: Called when partitions were added, have left, or became owned or followed.
        on_dropped: Called with partitions that are leaving.
    """

    def __init__(
        self,
        history: History,
        registry: Registry,
        feeds: FeedRegistry,
        fan_out: FanOut,
        lay_out: Callable[[], None],
        *,
        on_dropped: Callable[[Collection[TopicPartition]], None],
    ) -> None:
        self._history = history
        self._registry = registry
        self._feeds = feeds
        self._fan_out = fan_out
        self._lay_out = lay_out
        self._on_dropped = on_dropped
        self.partitions: set[TopicPartition] = set()
        self._unsettled: dict[TopicPartition, int] = {}
        """Partitions that became owned during a write of their records, and the offset up to which such writes go."""

    def follow(self, partition: TopicPartition, offset: int) -> None:
        """Follow a partition that is not in the history, from an offset on."""
        self.follow_all({partition: offset})

    def follow_all(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Follow partitions that are not in the history, each from an offset on.

        What is being written of an earlier time counts no more: their topics may have been recreated since they left.
        """
        if not offsets:
            return
        self._registry.forget_writes(offsets.keys())
        self.partitions.update(offsets)
        self._lay_out()
        for partition, offset in offsets.items():
            self._history.follow(partition, offset)
            self._registry.partition_added(partition, offset, whole=True)

    def disown(self, partitions: Collection[TopicPartition]) -> None:
        """Follow partitions that were owned. The caller updates the layout."""
        if partitions:
            self._fan_out.withdraw()
            for subscriber in self._registry.catching_up.values():
                if not subscriber.feed.whole:
                    subscriber.resumption.partitions_removing(partitions)
            self.partitions.update(partitions)
            self._history.disown(partitions)

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Drop followed partitions."""
        gone = self.partitions.intersection(partitions)
        if gone:
            # They may have been assigned, and begin with another log.
            self._registry.forget_writes(gone)
            self._fan_out.withdraw()
            for subscriber in self._registry.catching_up.values():
                if subscriber.feed.whole:
                    subscriber.resumption.partitions_removing(gone)
            self.partitions -= gone
            self._on_dropped(gone)
            self._history.remove(gone)
            self._lay_out()

    def recreated(self, partition: TopicPartition, first_offset: int, *, is_certain: bool = True) -> None:
        """Follow the new log of a partition whose topic was recreated, from an offset on.

        Readers of only the replica's partitions that were there when the partition left are sent the gap as well: their
        place, and what they were sent by then, is of the old log. If it is not certain that this is another log, they
        keep their place: the gap would take records from them that they have not been sent.
        """
        registry = self._registry
        find = registry.next_offsets_when_left if is_certain else registry.next_offsets_of_whole
        next_offsets = find(partition)
        self.drop([partition])
        for subscriber, next_offset in next_offsets:
            subscriber.resumption.partition_recreated(partition, next_offset, first_offset)
        self.follow(partition, first_offset)

    def returned(self, partition: TopicPartition, first_offset: int) -> None:
        """Note that a partition that is about to be owned left with the log of a topic that was recreated since.

        Readers of only the replica's partitions that were there then are sent the gap. Readers of the whole topic have
        begun with the new log, or had the gap.
        """
        for subscriber, next_offset in self._registry.next_offsets_when_left(partition):
            if not subscriber.feed.whole:
                subscriber.resumption.partition_recreated(partition, next_offset, first_offset)

    def own(self, partition: TopicPartition, epoch: int, hand_over: HandOver) -> int:
        """Own a partition that was followed.

        Returns:
            The offset after the last one in the history: the group's consumer need not deliver earlier records.
        """
        readers = []
        for subscriber in tuple(self._registry.everybody.values()):
            if partition.topic in subscriber.feed.topics:
                if subscriber.feed.whole:
                    readers.append(subscriber)
                else:
                    self._keep_place(subscriber)
        self._fan_out.withdraw()
        self.partitions.discard(partition)
        if self._history.own(partition, epoch, hand_over):
            self._lay_out()
            for subscriber in readers:
                subscriber.handing_over(partition)
            handed_to = hand_over.handed_to(self._under_way(partition))
            if handed_to > hand_over.counted_to:
                self._unsettled[partition] = handed_to
            if handed_to < self._history.end(partition):
                self._go_back(readers, partition, handed_to)
            else:
                self._go_back_from_beyond(readers, partition, handed_to)
        else:
            first = hand_over.counted_to
            next_offsets = []
            for subscriber in readers:
                subscriber.leave_live()
                next_offsets.append(subscriber.resumption.next_offset(partition))
            self._history.remove([partition])
            self._lay_out()
            self._history.reached(partition, first)
            for subscriber, next_offset in zip(readers, next_offsets, strict=True):
                subscriber.resumption.restarted(partition, next_offset, first)
        end = self._history.end(partition)
        self._registry.partition_added(partition, end, whole=False)
        return end

    def subscriber_left(self) -> None:
        """A subscriber has left, perhaps because a write failed: send the others the records that nobody was sent.

        They may be past these records, but only in partitions that became owned meanwhile.
        """
        for partition, handed_to in tuple(self._unsettled.items()):
            start = self._history.start(partition) if self._history.knows(partition) else handed_to
            if start < handed_to:
                if any(first <= start < end for first, end in self._under_way(partition)):
                    continue
                self._go_back(tuple(self._registry.everybody.values()), partition, start)
            del self._unsettled[partition]

    def _keep_place(self, subscriber: Subscriber) -> None:
        """Prepare a reader of only the replica's partitions for one with entries that precede what it was sent live.

        It was sent nothing of that partition, so its place must be known before the partition is owned. Nothing must
        have been withdrawn yet.
        """
        subscriber.skip_sent()
        subscriber.leave_live()
        self._keep_ids(subscriber)
        self._history.locate(subscriber.cursor)

    def _keep_ids(self, subscriber: Subscriber) -> None:
        """Have a reader sent no ids that name less than earlier ones, if it returns to earlier entries."""
        cursor, named_to = subscriber.cursor, subscriber.cursor.sequence
        if subscriber.resumption.pending:
            # It has no place in the history; replayed records may have named anything up to the head. Thousands may
            # wait after a deploy, and entries are encoded once for each that needs ids of its own: not for new ones.
            is_new = not (subscriber.record_count or subscriber.resumption.record_count or subscriber.in_flight)
            named_to = 0 if is_new else self._history.head
        cursor.named_to = max(cursor.named_to, named_to)

    def _go_back(self, readers: Collection[Subscriber], partition: TopicPartition, offset: int) -> None:
        """Return readers to an offset from which nobody was sent anything, or to the first one there that they want."""
        wanted: Mapping[Feed, Sequence[int]] | None = None
        for subscriber in readers:
            feed, place = subscriber.feed, offset
            if not feed.counts or partition.topic not in feed.topics:
                continue
            if feed.wanted is not None:
                if wanted is None:
                    wanted = self._wanted_by(partition, offset)
                writes = tuple(subscriber.under_way(partition))
                unsent = [n for n in wanted.get(feed, ()) if not any(first <= n < end for first, end in writes)]
                if not unsent:
                    self._go_back_from_beyond([subscriber], partition, self._history.end(partition))
                    continue
                place = unsent[0]
            subscriber.leave_live()
            self._keep_ids(subscriber)
            subscriber.resumption.handed_over(partition, place)

    def _go_back_from_beyond(self, readers: Collection[Subscriber], partition: TopicPartition, offset: int) -> None:
        """Return readers to an offset if their id named a later one, which was not read here yet."""
        for subscriber in readers:
            if subscriber.feed.counts and subscriber.state is not SubscriberState.LIVE:
                self._keep_ids(subscriber)
                subscriber.resumption.handed_over(partition, offset)

    def _wanted_by(self, partition: TopicPartition, offset: int) -> Mapping[Feed, Sequence[int]]:
        """For each feed with filters, the offsets of waiting records that it wants, from one offset on."""
        found: dict[Feed, list[int]] = {}
        for entry in self._history.waiting_of(partition):
            offsets = entry.batch.records.offsets
            for feeds, indexes in self._feeds.match(entry.batch):
                left = [
                    offsets[index]
                    for index in indexes
                    if offsets[index] >= offset and (entry.pending is None or index in entry.pending)
                ]
                for feed in feeds if left else ():
                    found.setdefault(feed, []).extend(left)
        return found

    def _under_way(self, partition: TopicPartition) -> Iterator[OffsetRange]:
        """The offsets of a partition that current writes, or outstanding acknowledgements, may still dispatch."""
        for subscriber in self._registry.everybody.values():
            yield from subscriber.under_way(partition)
