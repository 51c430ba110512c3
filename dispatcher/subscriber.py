"""One subscriber: its channel, its place in the history, and the task that writes to its transport.

The seam between catching up and live: a subscriber that catches up reads the history behind its place, one write
at a time. When nothing is left behind it, it goes live in the same step, without an ``await`` in between: from
then on the hub puts every new entry into its channel. When the channel is full, it is emptied and the subscriber
catches up again from where it was. So every record reaches it once, in order, and no one waits for it.

What is no longer in memory is read again from Kafka, a chunk whenever the socket has taken the one before, until
nothing is missing any more between what was read and what is in memory; then the history goes on. All missing
partitions come before the history does: the ids in the history name the last offset of every partition.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from dispatcher.errors import FellBehindError
from dispatcher.feed import Feed, Goodbye, Transport
from dispatcher.hub_statistics import SubscriberState, SubscriberStatistics
from dispatcher.sansio.entries import Cursor, Entry
from dispatcher.sansio.history import History
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.sansio.replays import Chunk, Range

CHANNEL_ENTRIES = 1024
"""Most entries in a channel; its real bound is `subscriber_buffer_bytes`, this one keeps tiny entries bounded."""

_Item = tuple[Entry, bytes]
"""An entry and its bytes for the feed: when the history lets the entry go, these bytes are all that is held."""


class Source(Protocol):
    """What a subscriber needs of the hub, which owns the history and every send channel."""

    @property
    def state_version(self) -> int:
        """Changes whenever the state that subscribers are told changes."""

    def next_entry(self, cursor: Cursor) -> Entry | None:
        """The next entry for a cursor, None at the head; the cursor moves behind it.

        Raises:
            FellBehindError: what comes next is no longer in memory.
        """

    def data(self, feed: Feed, entry: Entry) -> bytes:
        """The entry, encoded for the feed."""

    def part(self, feed: Feed, entry: Entry, first_offset: int) -> bytes:
        """The entry's records from an offset on, encoded for the feed."""

    def replay(self, subscriber: "Subscriber", missing: Mapping[TopicPartition, Range]) -> None:
        """Read the next part of what is not in memory, and give it to `Subscriber.replayed`. Never waits."""

    def replayed_data(self, feed: Feed, batch: Batch, seen: Mapping[TopicPartition, int]) -> bytes:
        """A batch that was read again, encoded for who has seen so much."""

    def look_up(self, subscriber: "Subscriber", partitions: Collection[TopicPartition], since_ms: int) -> None:
        """Find out from which offset on partitions hold what came since a time, and tell `Subscriber.placed`."""

    @property
    def history(self) -> History:
        """Recent and undispatched batches."""

    def state_bytes(self, feed: Feed, *, catching_up: bool) -> bytes:
        """The replica's state, encoded for the feed."""

    def heartbeat_bytes(self, feed: Feed, *, live: bool) -> bytes:
        """A sign of life, encoded for the feed, with the position of the head for who is live."""

    def now_live(self, subscriber: "Subscriber") -> None:
        """From now on every new entry is offered to the subscriber."""

    def not_live(self, subscriber: "Subscriber") -> None:
        """The subscriber reads the history itself."""

    def dispatched(self, entries: Iterable[Entry]) -> None:
        """The socket accepted all bytes of these entries."""


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
        self.cursor: Cursor
        """Its place in the history, while nothing is missing."""
        self.since_ms = since_ms
        self.reading = trio.CancelScope()
        """Around what is read again for it; cancelled when it leaves."""
        self.in_flight: Sequence[Entry] = ()
        """The entries of the write under way."""
        self.records = 0
        self._source = source
        self._transport = transport
        self._buffer_bytes = buffer_bytes
        self._write_bytes = write_bytes
        self._send_channel, self._receive_channel = trio.open_memory_channel[_Item | None](CHANNEL_ENTRIES)
        self._buffered_bytes = 0
        self._handed: _Item | None = None
        self._told: tuple[int, bool] | None = None
        self._heartbeat_due = False
        self._goodbye: Goodbye | None = None
        self._wanted: dict[TopicPartition, int] = {}
        """The next offset of each partition, kept while something is missing."""
        self._awaited: dict[TopicPartition, int] = {}
        """The next offset of partitions that it has named and that are not here yet."""
        self._missing: Mapping[TopicPartition, Range] = {}
        """What has to be read again before the history can go on."""
        self._unplaced: set[TopicPartition] = set()
        """Partitions of which the next offset has to be looked up."""
        self._placed: set[TopicPartition] = set()
        """Partitions that began at `since_ms`: once each."""
        self._chunk: Chunk | None = None
        self._asked = False
        self._wanted = source.history.ends(feed.topics)
        if since_ms is not None:
            self._unplaced = self._wanted.keys() - position.keys()
        for partition, offset in position.items():
            (self._wanted if partition in self._wanted else self._awaited)[partition] = offset + 1
        self._locate()

    def offer(self, entry: Entry, data: bytes) -> None:
        """Put a new entry into the channel; when it is full the subscriber catches up from where it is.

        Never waits. Called by the hub for live subscribers only.
        """
        if not self._buffered_bytes or self._buffered_bytes + len(data) <= self._buffer_bytes:
            try:
                self._send_channel.send_nowait((entry, data))
            except trio.WouldBlock:
                pass
            else:
                self._buffered_bytes += len(data)
                return
        self._catch_up()

    def replayed(self, chunk: Chunk) -> None:
        """Take what was read again; called by the hub."""
        self._chunk = chunk
        self._nudge()

    def arrived(self, partition: TopicPartition) -> None:
        """A partition is here now: go on from where it has seen it, or from its time, or from its first record."""
        offset = self._awaited.pop(partition, None)
        timed = offset is None and self.since_ms is not None and partition not in self._placed
        if not self._behind:
            if offset is None and not timed:
                return
            self._wanted = self._source.history.place(self.cursor)
            if self.state is SubscriberState.LIVE:
                self._catch_up()
        if offset is not None:
            self._wanted[partition] = offset
        self._wanted.setdefault(partition, self._source.history.origin(partition))
        if timed:
            self._unplaced.add(partition)
        self._locate()
        self._nudge()

    def placed(self, partitions: Collection[TopicPartition], offsets: Mapping[TopicPartition, int] | None) -> None:
        """Take the next offsets that were looked up; called by the hub.

        Args:
            partitions: What was looked up; a partition without an offset begins where it would without a time.
            offsets: None when it has to be asked again.
        """
        self._asked = False
        if offsets is not None:
            self._unplaced -= set(partitions)
            self._placed.update(partitions)
            self._wanted.update(offsets)
            self._locate()
        self._nudge()

    def end(self, goodbye: Goodbye) -> None:
        """Let the write under way finish, then say goodbye and return from `run`; the first reason counts."""
        if self._goodbye is None:
            self._goodbye = goodbye
            self._nudge()

    def tell_state(self) -> None:
        """The replica's state has changed: tell it with the next write, which may be now."""
        self._nudge()

    def heartbeat(self) -> None:
        """Send a sign of life with the next write, which may be now."""
        self._heartbeat_due = True
        self._nudge()

    async def run(self) -> Goodbye | None:
        """Write until the stream ends; returns why the server ended it.

        *Cancellation*: the connection cannot be used afterwards; entries of a write that was cut are not counted
        as dispatched.

        Raises:
            SubscriberGoneError: the client closed the connection.
            SubscriberStalledError: the client took nothing for too long.
        """
        while self._goodbye is None:
            replayed = self._take_replayed() if self._behind else []
            taken = [] if self._behind or replayed else self._take()
            buffers = [*self._state(), *replayed, *(data for _, data in taken), *self._heartbeat()]
            if not buffers:
                if self._behind and not self._asked:
                    continue  # it has just fallen behind what is in memory
                self._handed = await self._receive_channel.receive()
                continue
            entries = self.in_flight = [entry for entry, _ in taken]
            try:
                await self._transport.send_all(buffers)
                self._source.dispatched(entries)
            finally:
                self.in_flight = ()
            for entry in entries:
                self.records += entry.records
        goodbye = self._goodbye
        await self._transport.send_all([self.feed.wire.goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms)])
        return goodbye

    def close(self) -> None:
        """Close both ends of the channel; the hub calls it when the subscriber has left."""
        self.reading.cancel()
        self._send_channel.close()
        self._receive_channel.close()

    def statistics(self) -> SubscriberStatistics:
        """A snapshot of this subscriber."""
        return SubscriberStatistics(
            id=self.number,
            state=self.state,
            transport=self._transport.name,
            wire=self.feed.wire.name,
            buffered_bytes=self._buffered_bytes,
            records=self.records,
            replaying=self._behind,
        )

    def _take(self) -> list[_Item]:
        """What goes into the next write: from the channel when live, else from the history."""
        handed, self._handed = self._handed, None
        if self.state is SubscriberState.LIVE:
            return self._take_live(handed)
        taken = self._take_history()
        if not taken and not self._behind and self._goodbye is None:
            self.state = SubscriberState.LIVE
            self._source.now_live(self)
        return taken

    def _take_live(self, item: _Item | None) -> list[_Item]:
        taken: list[_Item] = []
        size_bytes = 0
        while True:
            if item is not None:
                entry, data = item
                self._buffered_bytes -= len(data)
                self.cursor.handed(entry)
                if not entry.retired:
                    taken.append(item)
                    size_bytes += len(data)
            if size_bytes >= self._write_bytes:
                return taken
            try:
                item = self._receive_channel.receive_nowait()
            except trio.WouldBlock:
                return taken

    def _take_history(self) -> list[_Item]:
        taken: list[_Item] = []
        size_bytes = 0
        try:
            while size_bytes < self._write_bytes:
                entry = self._source.next_entry(self.cursor)
                if entry is None:
                    break
                first = self.cursor.first_of(entry)
                if first == entry.batch.first_offset:
                    data = self._source.data(self.feed, entry)
                else:
                    data = self._source.part(self.feed, entry, first)
                taken.append((entry, data))
                size_bytes += len(data)
        except FellBehindError:
            self._wanted = self._source.history.place(self.cursor)
            self._locate()
        return taken

    def _locate(self) -> None:
        """Find out what is missing between what it wants and what is in memory; if nothing is, go to the history."""
        self._missing = self._source.history.missing(self.feed.topics, self._wanted)
        if not self._behind:
            self.cursor = self._source.history.cursor(self.feed.topics, self._wanted)

    @property
    def _behind(self) -> bool:
        """Whether something has to come before the history can go on."""
        return bool(self._missing or self._unplaced)

    def _take_replayed(self) -> list[bytes]:
        """What was read again; when there is nothing, it is asked for."""
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            if not self._asked:
                self._asked = True
                if self.since_ms is not None and self._unplaced:
                    self._source.look_up(self, frozenset(self._unplaced), self.since_ms)
                else:
                    self._source.replay(self, self._missing)
            return []
        self._asked = False
        wire = self.feed.wire
        buffers = [
            wire.gap(gap.partition.topic, gap.partition.partition, gap.first, gap.last, gap.reason)
            for gap in chunk.gaps
        ]
        for batch in chunk.batches:
            self._wanted[batch.partition] = batch.next_offset
            seen = {tp: offset - 1 for tp, offset in self._wanted.items() if tp not in self._unplaced}
            buffers.append(self._source.replayed_data(self.feed, batch, seen))
            self.records += len(batch.records)
        self._wanted.update(chunk.next_offsets)
        self._locate()
        return buffers

    def _catch_up(self) -> None:
        """Leave the live feed; what the channel held is in the history, behind the cursor."""
        self.state = SubscriberState.CATCHING_UP
        self._source.not_live(self)
        self._buffered_bytes = 0
        with suppress(trio.WouldBlock):
            while True:
                self._receive_channel.receive_nowait()

    def _state(self) -> Iterator[bytes]:
        """What the replica does, before the records that come with it, if it has not been told."""
        told = (self._source.state_version, self.state is SubscriberState.CATCHING_UP)
        if told != self._told:
            self._told = told
            yield self._source.state_bytes(self.feed, catching_up=told[1])

    def _heartbeat(self) -> Iterator[bytes]:
        """A sign of life if it is due; behind the records, because it may name the position that they lead to."""
        if self._heartbeat_due:
            self._heartbeat_due = False
            live = self.state is SubscriberState.LIVE and not self._buffered_bytes
            yield self._source.heartbeat_bytes(self.feed, live=live)

    def _nudge(self) -> None:
        """Wake the task if it waits; if it does not, it looks by itself before it waits again."""
        with suppress(trio.WouldBlock):
            self._send_channel.send_nowait(None)
