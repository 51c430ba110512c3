"""One subscriber: its channel, its place in the history, and the task that writes to its transport.

The seam between catching up and live: a subscriber that is catching up reads the history from its cursor on, one write
at a time. When nothing is left to read, it goes live in the same step, without an ``await`` in between: from
then on the hub puts every new entry into its channel. When the channel is full, it is emptied and the subscriber
catches up again from where it was. So every record reaches it once, in order, and no one waits for it.

What is no longer in memory is read again from Kafka, a chunk whenever the socket has taken the one before, until
nothing is missing any more between what was read and what is in memory; then the history goes on. All missing
partitions come before the history does: the ids in the history name the last offset of every partition.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Protocol

import trio

from dispatcher.errors import FellBehindError, SubscriberGoneError, SubscriberStalledError
from dispatcher.hub.announcements import Announcements
from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed import Feed
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.statistics import SubscriberState, SubscriberStatistics
from dispatcher.hub.transport import Transport
from dispatcher.invariants import Invariant, invariants
from dispatcher.sansio.catch_up import BoundsQuestion, CatchUp, Question, ReadQuestion, TimeQuestion, recreated
from dispatcher.sansio.entries import Entry, Item, Offer
from dispatcher.sansio.history import History
from dispatcher.sansio.ranges import Bounds, Chunk, Gap
from dispatcher.sansio.records import TopicPartition

CHANNEL_ENTRIES = 1024
"""Most entries in a channel; its real bound is `subscriber_buffer_bytes`, this one keeps tiny entries bounded."""

_open_channel = trio.open_memory_channel[Item | None]
"""Typed once: to build the type each time would be a fifteenth of what it costs to take a subscriber."""


class Source(Protocol):
    """What a subscriber needs of the hub, which owns the history and every send channel."""

    @property
    def encoder(self) -> Encoder:
        """Makes the bytes of records."""

    @property
    def announcements(self) -> Announcements:
        """Makes the bytes of the replica's state."""

    def ask(self, subscriber: "Subscriber", question: Question) -> None:
        """Look something up; the answer comes with its question, through `read`, `placed` or `bounded`.

        Never waits.
        """

    @property
    def history(self) -> History:
        """Recent and undispatched batches."""

    def heartbeat_bytes(self, feed: Feed, *, at_head: bool) -> bytes:
        """A sign of life, encoded for the feed, with the position of the head for who has taken all of it."""

    def now_live(self, subscriber: "Subscriber", *, needed_kafka: bool) -> None:
        """From now on every new entry is offered to the subscriber.

        Args:
            subscriber: It has caught up.
            needed_kafka: Whether it needed more than the history for that.
        """

    def not_live(self, subscriber: "Subscriber") -> None:
        """The subscriber reads the history itself."""

    def dispatched(self, entries: Iterable[Entry], subscribers: int) -> None:
        """So many sockets accepted all bytes of these entries."""

    def stalled(self) -> None:
        """A socket took nothing for too long."""


class Subscriber:
    """Writes its feed to its transport until the client or the server ends it.

    Made by `Hub.subscribe`. *Thread*: Trio's only.

    Args:
        number: Its number within this process.
        source: The hub.
        feed: What it gets.
        transport: Where it gets it.
        position: The last offset that it has seen of some partitions.
        since_ms: Where the others begin, in ms since the epoch, or `EARLIEST`; None: as for a new subscriber.
        buffer_bytes: Bound of its channel. An entry that is larger than all of it fits into an empty channel.
        write_bytes: Entries are joined into one write up to this size; one entry always fits.
    """

    def __init__(
        self,
        number: int,
        source: Source,
        feed: Feed,
        transport: Transport,
        *,
        position: Mapping[TopicPartition, int],
        since_ms: int | None,
        buffer_bytes: int,
        write_bytes: int,
    ) -> None:
        self.number = number
        self.feed = feed
        self.state = SubscriberState.CATCHING_UP
        self.asking = trio.CancelScope()
        """Around what is found out for it; cancelled when it leaves."""
        self.has_left = False
        self.in_flight: Sequence[Entry] = ()
        """The entries of the write under way."""
        self.records = 0
        self._source = source
        self.transport = transport
        self._buffer_bytes = buffer_bytes
        self._write_bytes = write_bytes
        self._send_channel, self._receive_channel = _open_channel(CHANNEL_ENTRIES)
        self.buffered_bytes = self.buffered_records = 0
        self._handed: Item | None = None
        self._parked = False
        """Whether its task waits with nothing to do: then the socket is free, and nothing is due before new entries."""
        self._unsent = False
        """Whether the transport may have kept bytes that have to go out before anything else."""
        self._leaves = False
        self._told: tuple[int, bool] | None = None
        self._departure = source.announcements.last_departure
        """The last state that it was sent of those in which partitions had left."""
        self._heartbeat_due = False
        self._goodbye: Goodbye | None = None
        self._catch_up = CatchUp(source.history, feed.topics, position, since_ms)
        self.cursor = self._catch_up.cursor
        """Where it stands."""
        self._found: list[bytes] = []
        """What is to be sent before the history goes on."""
        self._needed_kafka = False

    def offer(self, offer: Offer) -> bool:
        """Take new entries while live: at once if the socket takes them, else through the channel.

        When the channel is full the subscriber catches up from where it is. Never waits. Called by `FanOut`.

        Returns:
            Whether the socket has taken all of them.
        """
        cursor = self.cursor
        if self._parked and cursor.sequence < offer.first_sequence:
            sent = self.transport.try_send(offer.data)
            if sent == offer.size_bytes:
                cursor.seen, cursor.sequence = offer.last, offer.last_sequence
                self.records += offer.records
                return True
            if sent:
                cursor.seen, cursor.sequence = offer.last, offer.last_sequence
                self.in_flight = offer.entries
                self.flush()
                return False
        for item in offer.items:
            if self.state is SubscriberState.LIVE and item[0].sequence > self.cursor.sequence:
                self._buffer(item)
        return False

    def _buffer(self, item: Item) -> None:
        entry, data = item
        if not self.buffered_bytes or self.buffered_bytes + len(data) <= self._buffer_bytes:
            try:
                self._send_channel.send_nowait(item)
            except trio.WouldBlock:
                pass
            else:
                self._parked = False
                self.buffered_bytes += len(data)
                self.buffered_records += entry.records
                return
        self.fall_back()

    def placed(self, question: TimeQuestion, offsets: Mapping[TopicPartition, int | None]) -> None:
        """Take the first offsets of what came since its time; called by the hub."""
        if self._catch_up.placed(question, offsets):
            self._nudge()

    def bounded(self, question: BoundsQuestion, bounds: Mapping[TopicPartition, Bounds]) -> None:
        """Take where logs begin and end; called by the hub."""
        gaps = self._catch_up.bounded(question, bounds)
        if gaps is not None:
            self._found += self._encode_gaps(gaps)
            self._nudge()

    def read(self, question: ReadQuestion, chunk: Chunk) -> None:
        """Take what was read again; called by the hub."""
        found = self._catch_up.read(question, chunk)
        if found is not None:
            gaps, batches = found
            for batch, seen in batches:
                # After the records that precede it: a gap moves clients past its last offset.
                before = [gap for gap in gaps if gap.partition == batch.partition and gap.last < batch.first_offset]
                gaps = [gap for gap in gaps if gap not in before]
                self._found += self._encode_gaps(before)
                self._found.append(self._source.encoder.replayed(self.feed, batch, seen))
                self.records += len(batch.records)
            self._found += self._encode_gaps(gaps)
            self._nudge()

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Partitions that had no answer may be asked for again; called by the hub."""
        self._catch_up.ask_again(partitions)
        self._nudge()

    def partition_added(self, partition: TopicPartition, left_at: int | None) -> None:
        """A partition is here now: if that changes where it goes on, go on there; called by the hub.

        Args:
            partition: The partition.
            left_at: The next offset when it left, if the subscriber was there.
        """
        if self.state is SubscriberState.LIVE:
            if not self._catch_up.concerns(partition, left_at):
                return
            self.fall_back()
        self._catch_up.partition_added(partition, left_at)
        self._nudge()

    def next_offset(self, partition: TopicPartition) -> int | None:
        """The next offset of a partition, if it has a start; called by the hub."""
        if self.state is SubscriberState.LIVE and self._source.history.knows(partition):
            return self._source.history.end(partition)
        return self._catch_up.next_offset(partition)

    def partition_recreated(self, partition: TopicPartition, next_offset: int | None, first_offset: int) -> None:
        """The topic of a partition was recreated; called by the hub.

        Args:
            partition: The partition.
            next_offset: The next one that would have come of the old log, if any was known.
            first_offset: The first one of the new log.
        """
        if next_offset is not None:
            self._found += self._encode_gaps([recreated(partition, next_offset, first_offset)])
        self._catch_up.partition_recreated(partition)
        self._drop_look_up()
        self._nudge()

    @property
    def expects_partitions(self) -> bool:
        """Whether a partition that is added may change where it goes on, though it is live."""
        return self._catch_up.expects_partitions

    def fall_back(self) -> None:
        """Leave the live feed; what the channel held is in the history, behind the cursor."""
        self.state = SubscriberState.CATCHING_UP
        self._parked = False
        self._source.not_live(self)
        self.buffered_bytes = self.buffered_records = 0
        with suppress(trio.WouldBlock):
            while True:
                self._receive_channel.receive_nowait()
        self._nudge()

    def end(self, goodbye: Goodbye) -> None:
        """Let the write under way finish, then say goodbye and return from `run`; the first reason counts.

        Does nothing when the subscriber has left.
        """
        if self._goodbye is None and not self.has_left:
            self._goodbye = goodbye
            self._nudge()

    def leave(self) -> None:
        """The client has said that it leaves: let the write under way finish, then return from `run`."""
        self._leaves = True
        self._nudge()

    def flush(self) -> None:
        """The transport has kept bytes: send them before anything else."""
        self._unsent = True
        self._nudge()

    def partitions_removing(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions are about to leave the history; called by the hub, for those that catch up.

        The hub has withdrawn what it had published.
        """
        self._catch_up.partitions_removing(partitions)
        self._drop_look_up()

    def partitions_removed(self) -> None:
        """Partitions have left; called by the hub for those that catch up."""
        self._catch_up.partitions_removed()
        self._nudge()

    def send_state(self) -> None:
        """Send the replica's state if it is new: at once if the socket takes it, else with the next write.

        Called by `FanOut`, a slice of the subscribers at a time.
        """
        if self.has_left or self._has_state():
            return
        if self._parked:
            before = self._told, self._departure
            data = b"".join(self._state({}))
            if sent := self.transport.try_send(data):
                if sent < len(data):
                    self.flush()
                return
            self._told, self._departure = before
        self._nudge()

    def _has_state(self) -> bool:
        """Whether it was sent the replica's present state."""
        return self._told is not None and self._told[0] == self._source.announcements.version

    def heartbeat(self, data: bytes) -> None:
        """Send a sign of life: at once if the socket takes it, else with the next write.

        Args:
            data: What is sent to who has taken all that was offered.
        """
        # The position in it may name a partition, or no longer name one, as a state that comes before it says.
        if self._parked and self._has_state() and (sent := self.transport.try_send(data)):
            if sent < len(data):
                self.flush()
            return
        self._heartbeat_due = True
        self._nudge()

    async def run(self) -> Goodbye | None:
        """Write until the stream ends; returns why the server ended it, None when the client has left.

        *Cancellation*: the connection cannot be used afterwards; entries of a write that was cut are not counted
        as dispatched.

        Raises:
            SubscriberGoneError: the client closed the connection.
            SubscriberStalledError: the client took nothing for too long.
        """
        begins_at = self._catch_up.position(here=False)
        while True:
            if self._unsent:
                self._unsent = False
                await self._write((), self.in_flight)
                continue
            if self._leaves:
                return None
            if self._goodbye is not None:
                break
            found, self._found = self._found, []
            taken = [] if found or self._catch_up.pending else self._take()
            buffers = [*self._state(begins_at), *found, *(data for _, data in taken), *self._heartbeat()]
            if buffers:
                begins_at = {}
                await self._write(buffers, [entry for entry, _ in taken])
            else:
                self._ask()
                self._parked = self.state is SubscriberState.LIVE
                self._handed = await self._receive_channel.receive()
        goodbye = self._goodbye
        await self.transport.send_all([self.feed.wire.goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms)])
        return goodbye

    async def _write(self, buffers: Sequence[bytes | memoryview], entries: Sequence[Entry]) -> None:
        self.in_flight = entries
        try:
            await self.transport.send_all(buffers)
            if self.has_left or self.transport.ended:
                invariants.violated(Invariant.NOTHING_DISPATCHED_AFTER_CLOSE, subscriber=self.number)
                raise SubscriberGoneError("the stream has ended")
            self._source.dispatched(entries, 1)
        except SubscriberStalledError:
            self._source.stalled()
            raise
        finally:
            self.in_flight = ()
        self.records += sum(entry.records for entry in entries)

    def close(self) -> None:
        """Close both ends of the channel; the hub calls it when the subscriber has left."""
        self.has_left = True
        # A round that is under way still knows it, and must offer it nothing.
        self.state = SubscriberState.CATCHING_UP
        self._parked = False
        self.asking.cancel()
        self._send_channel.close()
        self._receive_channel.close()

    def statistics(self) -> SubscriberStatistics:
        """A snapshot of this subscriber."""
        return SubscriberStatistics(
            id=self.number,
            state=self.state,
            transport=self.transport.name,
            wire=self.feed.wire.name,
            buffered_bytes=self.buffered_bytes,
            records=self.records,
            replaying=self.replaying,
            behind_records=self.behind_records(),
        )

    @property
    def replaying(self) -> bool:
        """Whether it is replayed to from Kafka, or waits in line for it."""
        return self._catch_up.pending

    def behind_records(self) -> int:
        """How many records it is behind: what its channel holds when it is live, else offsets, by partition."""
        if self.state is SubscriberState.LIVE:
            return self.buffered_records
        return self._catch_up.missing_records()

    def _take(self) -> list[Item]:
        """What goes into the next write: from the channel when live, else from the history."""
        handed, self._handed = self._handed, None
        if self.state is SubscriberState.LIVE:
            return self._take_live(handed)
        taken = self._take_history()
        if not taken and not self._catch_up.pending and self._goodbye is None:
            self.state = SubscriberState.LIVE
            self._source.history.now_live(self.cursor)
            self._source.now_live(self, needed_kafka=self._needed_kafka)
            self._needed_kafka = False
        return taken

    def _take_live(self, item: Item | None) -> list[Item]:
        taken: list[Item] = []
        size_bytes = 0
        while True:
            if item is not None:
                entry, data = item
                self.buffered_bytes -= len(data)
                self.buffered_records -= entry.records
                self.cursor.seen, self.cursor.sequence = entry, entry.sequence
                if not entry.retired:
                    taken.append(item)
                    size_bytes += len(data)
            if size_bytes >= self._write_bytes:
                return taken
            try:
                item = self._receive_channel.receive_nowait()
            except trio.WouldBlock:
                return taken

    def _take_history(self) -> list[Item]:
        taken: list[Item] = []
        size_bytes = 0
        cursor, feed = self.cursor, self.feed
        self._source.history.locate(cursor)
        try:
            for entry in self._source.history.ahead(cursor):
                data: bytes | None
                if cursor.first_offset > entry.batch.first_offset:
                    data = self._source.encoder.part(feed, entry, cursor.first_offset)
                else:
                    data = entry.encoded.get(feed) or self._source.encoder.entry(feed, entry)
                taken.append((entry, data))
                size_bytes += len(data)
                if size_bytes >= self._write_bytes:
                    break
        except FellBehindError:
            self._catch_up.fell_behind()
        # Encoding for this reader made the history grow; on a quiet topic nobody else would trim it.
        self._source.history.trim()
        return taken

    def _ask(self) -> None:
        """Look up what the history has to wait for, one thing at a time: the socket has taken what was found before."""
        question = self._catch_up.ask()
        if question is not None:
            self._needed_kafka = True
            self._source.ask(self, question)

    def _drop_look_up(self) -> None:
        """End a look-up that is no longer of use, so that others in line are served sooner."""
        if self._catch_up.question is None:
            self.asking.cancel()

    def _encode_gaps(self, gaps: Iterable[Gap]) -> Iterator[bytes]:
        for gap in gaps:
            yield self.feed.wire.gap(gap.partition.topic, gap.partition.partition, gap.first, gap.last, gap.reason)

    def _state(self, begins_at: Mapping[TopicPartition, int]) -> Iterator[bytes]:
        """What the replica does, before the records that come with it, if that is news.

        And every state in which partitions had left, though others followed before the socket took anything.

        Args:
            begins_at: The position at which the stream begins, which goes with its very first state.
        """
        announcements = self._source.announcements
        told = (announcements.version, self.state is SubscriberState.CATCHING_UP)
        if self._told is None:
            self._departure = announcements.last_departure
            position = self._source.encoder.snapshot(begins_at).format()
            yield announcements.first_data(self.feed, position, catching_up=told[1])
        else:
            while (departure := self._departure.next_departure) is not None:
                self._departure = departure
                if departure.version != told[0]:
                    yield departure.data(self.feed, catching_up=True)
            if told != self._told:
                yield announcements.data(self.feed, catching_up=told[1])
        self._told = told

    def _heartbeat(self) -> Iterator[bytes]:
        """A sign of life if it is due; behind the records, because it may name the position that they lead to."""
        if self._heartbeat_due:
            self._heartbeat_due = False
            at_head = self.state is SubscriberState.LIVE and not self.buffered_bytes
            yield self._source.heartbeat_bytes(self.feed, at_head=at_head)

    def _nudge(self) -> None:
        """Wake the task if it waits; if it does not, it looks by itself before it waits again."""
        self._parked = False
        with suppress(trio.WouldBlock):
            self._send_channel.send_nowait(None)
