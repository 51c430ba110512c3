"""One subscriber: the task that writes to its transport, what it writes next, and whether it is live.

The seam between catching up and live: a subscriber that is catching up reads the history from its cursor on, one write
at a time. When nothing is left to read, it goes live in the same step, without an ``await`` in between: from then on
the hub puts every new entry into its channel. When the channel is full, it is emptied, and the subscriber catches up
from where it was. So every record reaches it once, in order, and no subscriber waits for another.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from dispatcher.errors import SubscriberGoneError, SubscriberStalledError
from dispatcher.hub.feed import Feed
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.interludes import Interludes
from dispatcher.hub.live_buffer import LiveBuffer
from dispatcher.hub.parking import ParkedRead
from dispatcher.hub.resumption import Resumption
from dispatcher.hub.source import Source
from dispatcher.hub.statistics import SubscriberState, SubscriberStatistics
from dispatcher.hub.transport import Transport
from dispatcher.invariants import Invariant, invariants
from dispatcher.sansio.entries import EncodedEntry, Entry, Offered, Round, Selection
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.records import TopicPartition

FIRST_WRITE_BYTES = 16 * 1024
"""Up to this size entries of the history are joined for a subscriber that has been sent none: a larger write would hold
the loop for a millisecond, while others wait for their first record."""


class Subscriber(Interludes):
    """Writes its feed to its transport until the client or the server ends it.

    Made by `Hub.subscribe`. *Thread*: Trio's only.

    Args:
        number: Its number within this process.
        source: The hub.
        feed: What it asked for.
        transport: The way to its socket.
        position: The last offsets that it has seen, of some partitions.
        since_ms: Where the others begin, in ms since the epoch, `EARLIEST` or `NOW`; None: as for a new subscriber.
        last: Alternatively, they begin this many records before their ends.
        ignored: Unknown parameters of its request.
        buffer_bytes: Capacity of its channel. A larger entry still fits into an empty channel.
        write_bytes: Entries are joined into one write up to this size; one entry always fits.
        make_buffer: Makes its channel.
        make_resumption: Makes the part that takes it to the head.
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
        last: int | None = None,
        ignored: Sequence[str] = (),
        buffer_bytes: int,
        write_bytes: int,
        make_buffer: Callable[[int], LiveBuffer] = LiveBuffer,
        make_resumption: Callable[..., Resumption] = Resumption,
    ) -> None:
        super().__init__(source, feed, transport, make_buffer(buffer_bytes), ignored)
        self.number = number
        self.in_flight: Sequence[Offered] = ()
        """The entries of the current write."""
        self.record_count = 0
        self._write_bytes, self._first_write_bytes = write_bytes, min(write_bytes, FIRST_WRITE_BYTES)
        self._leaves = False
        self._in_part: list[tuple[Entry, int]] = []
        """Entries of which the current write has only the end, and the offset where that begins."""
        self._goodbye: Goodbye | None = None
        self.resumption = make_resumption(
            source.history,
            source.encoder,
            source.lookups,
            feed,
            position=position,
            since_ms=since_ms,
            last=last,
            wake=self._wake,
        )
        self.cursor = self.resumption.cursor
        """Where it is in the history."""

    def offer(self, round_: Round) -> bool:
        """Take new entries while live: at once if the socket takes them, otherwise through the channel.

        If the channel is full, the subscriber catches up from where it is. Never waits. Called by `FanOut`.

        Returns:
            Whether the socket has taken all of them.
        """
        cursor = self.cursor
        if self._parked and cursor.sequence < round_.first_sequence:
            sent = self.transport.try_send(round_.data)
            if sent == round_.size_bytes:
                cursor.seen, cursor.sequence = round_.last, round_.last_sequence
                self.record_count += round_.record_count
                return True
            if sent:
                cursor.seen, cursor.sequence = round_.last, round_.last_sequence
                self.in_flight = round_.entries
                self.flush()
                return False
        for item in round_.items:
            if self.state is SubscriberState.LIVE and item[0].sequence > self.cursor.sequence:
                if self._buffer.put(item):
                    self._parked = False
                else:
                    self.fall_back()
        return False

    def partition_added(self, partition: TopicPartition, left_at: int | None) -> None:
        """A partition was added: catch up if that changes what has to be sent. Called by the hub.

        `left_at` is its next offset when it left, if the subscriber was connected then.
        """
        if self.state is SubscriberState.LIVE:
            if not self.resumption.concerns(partition, left_at):
                return
            self.fall_back()
        self.resumption.partition_added(partition, left_at)

    def next_offset(self, partition: TopicPartition) -> int | None:
        """The next offset of a partition, if its start is known. Called by the hub."""
        if self.state is SubscriberState.LIVE and self._source.history.knows(partition, whole=self.feed.whole):
            return self._source.history.end(partition)
        return self.resumption.next_offset(partition)

    def handing_over(self, partition: TopicPartition) -> None:
        """A followed partition is owned now: note entries of which the current write has all that still counts."""
        for entry, first in self._in_part:
            if entry.batch.partition == partition and first <= entry.batch.covers_from and not entry.removed:
                self.in_flight = entries = list(self.in_flight)
                entries.append(entry)

    def under_way(self, partition: TopicPartition) -> Iterator[OffsetRange]:
        """The offsets of a partition that the current write would dispatch."""
        if self.feed.counts_for(partition.topic):
            for entry in self.in_flight:
                if entry.batch.partition == partition and not entry.removed:
                    if isinstance(entry, Selection):
                        yield from entry.ranges
                    else:
                        yield entry.batch.covers_from, entry.batch.next_offset

    def leave_live(self) -> None:
        """Make it catch up, if it is live."""
        if self.state is SubscriberState.LIVE and not self.closed:
            self.fall_back()

    def fall_back(self) -> None:
        """Leave the live feed; what the channel held is in the history, past the cursor."""
        self.state = SubscriberState.CATCHING_UP
        self._parked = False
        self._source.left_live(self)
        self._buffer.clear()
        self._wake()

    def end(self, goodbye: Goodbye) -> None:
        """Let the current write finish, then say goodbye and return from `run`; the first goodbye wins.

        Does nothing if the subscriber has left.
        """
        if self._goodbye is None and not self.closed:
            self._goodbye = goodbye
            self._wake()

    def leave(self) -> None:
        """The client announced that it is leaving: let the current write finish, then return from `run`."""
        self._leaves = True
        self._wake()

    async def run(self) -> Goodbye | None:
        """Write until the stream ends; returns why the server ended it, or None if the client left.

        *Cancellation*: the connection cannot be used afterwards; entries of an interrupted write do not count as
        dispatched.

        Raises:
            SubscriberGoneError: the client closed the connection.
            SubscriberStalledError: the client took nothing for too long.
        """
        begins_at = "" if self.feed.whole else self._position()
        while True:
            if self._unsent:
                self._unsent = False
                await self._write((), self.in_flight)
                continue
            if self._leaves:
                return None
            if self._goodbye is not None:
                break
            if self.resumption.pending:
                self.resumption.refresh()
            begins = self.feed.whole and not self._has_begun and self.resumption.has_start
            if begins:
                begins_at = self._position()
            found = self.resumption.take_replay_output()
            taken = [] if found or self.resumption.pending else self._take()
            records = [self._source.encoder.write(self.feed, taken)] if taken else []
            buffers = [*self._news(begins_at, begins=begins), *found, *records, *self._heartbeat()]
            if buffers:
                begins_at = ""
                entries = [entry for entry, _ in taken]
                self._in_part = self.resumption.in_part if taken else []
                for entry, _ in self._in_part:
                    entries.remove(entry)
                await self._write(
                    buffers, entries, self.resumption.take_replayed_ranges(), self.resumption.take_parked_reads()
                )
                if taken and self.state is SubscriberState.CATCHING_UP and self.resumption.has_more:
                    await self._source.catch_up_pace.pass_by(self.resumption.owner)
            elif self.state is SubscriberState.CATCHING_UP and self.resumption.has_more:
                # Its filter wanted nothing of this part.
                await self._source.catch_up_pace.pass_by(self.resumption.owner)
            else:
                self.resumption.ask()
                if self.resumption.awaits_head:
                    self._source.await_head(self)
                self._parked = self.state is SubscriberState.LIVE
                await self._buffer.wait()
        goodbye = self._goodbye
        await self.transport.send_all([self.feed.wire.goodbye(goodbye.code, goodbye.reason, goodbye.retry_ms)])
        return goodbye

    async def _write(
        self,
        buffers: Sequence[bytes | memoryview],
        entries: Sequence[Offered],
        ranges: list[tuple[TopicPartition, int, int]] | None = None,
        parked: Sequence[ParkedRead] = (),
    ) -> None:
        self.in_flight = entries
        try:
            await self.transport.send_all(buffers)
            if self.closed or self.transport.ended:
                invariants.violated(Invariant.NOTHING_DISPATCHED_AFTER_CLOSE, subscriber=self.number)
                raise SubscriberGoneError("the stream has ended")
            self._source.dispatched(self.feed, self.in_flight, 1)
            if ranges:
                self._source.replayed(ranges)
                ranges.clear()
            if parked:
                self._source.parked_replayed(parked)
        except SubscriberStalledError:
            self._source.stalled()
            raise
        finally:
            self.in_flight, self._in_part = (), []
        self.record_count += sum(entry.record_count for entry in entries)

    def close(self) -> None:
        """Close both ends of the channel. Called by the hub when the subscriber has left."""
        self.closed = True
        # A round in progress may still hold it, and must not offer it entries.
        self.state = SubscriberState.CATCHING_UP
        self._parked = False
        self.resumption.close()
        self._buffer.close()

    def statistics(self) -> SubscriberStatistics:
        """A snapshot of this subscriber."""
        return SubscriberStatistics(
            id=self.number,
            state=self.state,
            transport=self.transport.name,
            wire=self.feed.wire.name,
            buffered_bytes=self.buffered_bytes,
            records=self.record_count + self.resumption.record_count,
            replaying=self.replaying,
            behind_records=self.behind_records(),
        )

    @property
    def replaying(self) -> bool:
        """Whether records are being replayed to it from Kafka, or it waits in line for that."""
        return self.resumption.pending

    @property
    def buffered_bytes(self) -> int:
        """The bytes in its channel."""
        return self._buffer.size_bytes

    @property
    def buffered_records(self) -> int:
        """The number of records in its channel."""
        return self._buffer.record_count

    def behind_records(self) -> int:
        """How far it lags: the records in its channel while it is live, otherwise the offsets up to each log's end."""
        return self.buffered_records if self.state is SubscriberState.LIVE else self.resumption.missing_records()

    def _take(self) -> list[EncodedEntry]:
        """The entries of the next write: from the channel while live, otherwise from the history."""
        if self.state is SubscriberState.LIVE:
            return self._buffer.take(self.cursor, self._write_bytes)
        self._buffer.discard_first()
        # Many subscribers return at the same time, and all of them should have something soon.
        taken = self.resumption.take(self._write_bytes if self.record_count else self._first_write_bytes)
        if not taken and self.resumption.is_at_head and self._goodbye is None:
            self.state = SubscriberState.LIVE
            self._source.became_live(self, needed_kafka=self.resumption.go_live())
        return taken
