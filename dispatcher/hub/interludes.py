"""Sends one subscriber what comes between records: the replica's state, heartbeats, and the stream's first position.

Each is written to the socket at once if the subscriber's task is waiting for work, otherwise with the next write. Any
of them may name a position, so their place among the records matters.

*Thread*: Trio's.
"""

from collections.abc import Iterator, Sequence

from dispatcher.hub.announcements import SentState
from dispatcher.hub.feed import Feed
from dispatcher.hub.live_buffer import LiveBuffer
from dispatcher.hub.resumption import Resumption
from dispatcher.hub.source import Source
from dispatcher.hub.statistics import SubscriberState
from dispatcher.hub.transport import Transport
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition


class Interludes:
    """Sends states and heartbeats; `Subscriber` adds the records.

    Args:
        source: The hub.
        feed: What the subscriber asked for.
        transport: The way to its socket.
        buffer: Entries that were offered to it, but not taken by its socket yet.
        ignored: Unknown parameters of its request.
    """

    resumption: Resumption
    """Its way to the head."""

    def __init__(
        self, source: Source, feed: Feed, transport: Transport, buffer: LiveBuffer, ignored: Sequence[str]
    ) -> None:
        self.feed = feed
        self.state = SubscriberState.CATCHING_UP
        self.closed = False
        self.transport = transport
        self._source = source
        self._buffer = buffer
        self._parked = False
        """Whether its task waits for work: then the socket is free, and new entries may be written at once."""
        self._unsent = False
        """Whether the transport may hold bytes that must be sent before anything else."""
        self._sent_state = SentState(source.announcements, ignored)
        self._heartbeat_due = False
        self._has_begun = not feed.whole
        """Whether the stream was sent the position at which it begins; always true without ``scope=topic``."""

    @property
    def is_within_bound(self) -> bool:
        """Whether its channel holds no more than it may."""
        return self._buffer.is_within_bound

    def flush(self) -> None:
        """Send bytes that the transport holds before anything else."""
        self._unsent = True
        self._wake()

    def send_state(self) -> None:
        """Send the replica's state if it is new: at once if the socket takes it, otherwise with the next write.

        Called by `FanOut`, a slice of the subscribers at a time.
        """
        if self.closed or self._sent_state.is_current:
            return
        if self._parked:
            mark = self._sent_state.mark()
            data = b"".join(self._state())
            if sent := self.transport.try_send(data):
                if sent < len(data):
                    self.flush()
                return
            self._sent_state.reset(mark)
        self._wake()

    def heartbeat(self, data: bytes) -> None:
        """Send a heartbeat: at once if the socket takes it, otherwise with the next write.

        Args:
            data: The heartbeat for a subscriber that has taken everything offered to it.
        """
        # Its position may name other partitions than before: the state that says so must precede it.
        if self._parked and self._sent_state.is_current and (sent := self.transport.try_send(data)):
            self._skip_unwanted()
            if sent < len(data):
                self.flush()
            return
        self._heartbeat_due = True
        self._wake()

    def _skip_unwanted(self) -> None:
        """Note that its filter wants nothing up to the head, so that it need not look there when it catches up."""
        if self.feed.wanted is not None:
            self.skip_sent()

    def skip_sent(self) -> None:
        """Move to the head if it is live and was sent everything: a heartbeat may name offsets that hold no records."""
        is_whole = self.state is SubscriberState.LIVE and not self._buffer.size_bytes
        if is_whole and not self._source.is_behind(self.feed):
            self.resumption.skip_to_head()

    def _position(self) -> str:
        """The position at which it begins, as an id; before anything was sent."""
        feed, resumption, encoder = self.feed, self.resumption, self._source.encoder
        if resumption.has_start and (place := encoder.place(feed, resumption.cursor)) is not None:
            return place.format(feed.topics, whole=feed.whole)
        return encoder.snapshot(resumption.position()).format(whole=feed.whole)

    def _news(self, begins_at: str, *, begins: bool) -> Iterator[bytes]:
        """The state, if it is new or names repeats, with the position at which the stream begins, if it is the first.

        A stream of the whole topic begins once its start is known in every partition. If that takes long, or the
        replica cannot find out now, the state is sent without a position, which follows in a heartbeat before any
        record.
        """
        if self._has_begun:
            yield from self._state(begins_at, self.resumption.repeats.take())
        elif begins:
            self._has_begun = True
            is_first = self._sent_state.is_first
            yield from self._state(begins_at, self.resumption.repeats.take())
            if not is_first:
                yield self.feed.wire.heartbeat(begins_at)
        elif self._heartbeat_due or not self._sent_state.is_first or not self._source.is_serving:
            yield from self._state()

    def _state(self, begins_at: str = "", repeats: Sequence[tuple[TopicPartition, Range]] = ()) -> Iterator[bytes]:
        """The replica's state if it is new, or names repeats; the very first one says where the stream begins."""
        return self._sent_state.news(self.feed, begins_at, catching_up=self._says_catching_up, repeats=repeats)

    @property
    def _says_catching_up(self) -> bool:
        """Whether the state says that it is catching up."""
        return self.state is SubscriberState.CATCHING_UP

    def _heartbeat(self) -> Iterator[bytes]:
        """A heartbeat if one is due; after the records, because it may name the position that they lead to."""
        if self._heartbeat_due:
            self._heartbeat_due = False
            at_head = self.state is SubscriberState.LIVE and not self._buffer.size_bytes
            if at_head:
                self._skip_unwanted()
            yield self._source.heartbeat_bytes(self.feed, at_head=at_head)

    def _wake(self) -> None:
        """Wake the task if it is waiting; if not, it checks for work before it waits again."""
        self._parked = False
        self._buffer.wake()
