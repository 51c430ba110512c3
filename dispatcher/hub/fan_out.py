"""Hands what is published to every live subscriber, in rounds, and between rounds new states to every subscriber.

A round is what was published since the previous one, joined for each feed: under load records share writes, and at a
low rate each is sent at once. If a subscriber's task is waiting for work, this module writes to its socket directly,
without waking the task: the socket takes all bytes, or the rest is left to the task. The other subscribers get the
round through their channels. A short round of what one crossing brought is run within the crossing (`FanOut.hand_out`),
any other by a task.

A round yields to the loop between slices of subscribers, and after a long round other tasks get their share of the
loop, so rounds do not monopolize it. With `linger_ms` the next round also waits until that time has passed since the
previous one: the first record after a pause is sent at once, and the records after it share a write.

A new state is sent in the same way before the next round begins, so a state that names a partition as assigned precedes
its records in every stream. While rounds are slower than publishing, the poller waits (`FanOut.wait_settled`), which
bounds the bytes that rounds hold.

*Thread*: everything here belongs to the Trio thread.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from operator import attrgetter

import trio

from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed import Feed
from dispatcher.hub.feed_registry import Matches
from dispatcher.hub.pace import leave_to_others
from dispatcher.hub.round_times import RoundTimes
from dispatcher.hub.statistics import FanOutStatistics
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.entries import EncodedEntry, Entry, Offered, Part, Round, joined

SLICE = 256
"""Maximum number of subscribers between two yields: at 7 µs each the loop is held for less than two milliseconds. At
the start of their streams, writes of 1 to 2 KiB take three times as long (`web/writer.py`)."""

SLICE_BYTES = 1024 * 1024
"""Maximum number of bytes between two yields, for the same reason: the kernel copies about 1 GiB per second."""

STATE_SLICE = 64
"""Maximum number of subscribers that are sent a new state between two yields: 16 µs each, more if the task has to
wake."""

LONG_ROUND_SECONDS = 0.001
"""A round that took longer has delayed other tasks."""

YIELD_RATIO = 3.0
"""After a long round, other tasks get the loop for this many times as long as the round took, if they want it. The
next round then carries more records, which is less work overall: in the reconnect storm after a restart, newcomers are
served sooner."""

_ACKS = attrgetter("acks")

CONGESTED_BYTES = 256 * 1024
"""From this size on, the poller waits until the round is over."""


class FanOut:
    """The live subscribers, and the rounds.

    Args:
        encoder: Makes the bytes that are offered.
        round_bytes: Maximum size of one round; one entry always fits.
        on_dispatched: Called with a feed, entries, and how many of its subscribers' sockets accepted all of them.
        everybody: All subscribers, live or not.
        linger_seconds: Minimum time between two rounds: what is published meanwhile shares a write.
        on_wrote: Called with the seconds that it took to offer one write to all live subscribers of a feed.
    """

    def __init__(
        self,
        encoder: Encoder,
        round_bytes: int,
        on_dispatched: Callable[[Feed, Sequence[Offered], int], None],
        everybody: Callable[[], Iterable[Subscriber]],
        linger_seconds: float = 0,
        *,
        on_wrote: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._encoder = encoder
        self._round_bytes = round_bytes
        self._everybody = everybody
        self._state_is_new = False
        self._on_dispatched = on_dispatched
        self._on_wrote = on_wrote
        self._live: dict[Feed, dict[int, Subscriber]] = {}
        self._unfiltered: dict[Feed, None] = {}
        """The live feeds that have no filters."""
        self._asking: dict[Feed, None] = {}
        """The live feeds that ask for decoded records."""
        self._published: dict[Feed, list[EncodedEntry]] = {}
        self._published_bytes = 0
        self._newest: dict[Feed, int] = {}
        """For each feed with a live subscriber, the sequence of the newest entry that was published for it."""
        self._under_way: dict[Feed, list[EncodedEntry]] = {}
        """The items that this round has not offered to everybody yet; empty once it is withdrawn."""
        self.times = RoundTimes(linger_seconds)
        self._linger_seconds = linger_seconds
        self._lingers_until = -math.inf
        self._is_awaited = False
        """Whether a task waits for the next round."""
        self._is_gathering = False
        """Whether more is about to be published for the next round."""
        self._is_idle = False
        """Whether the task waits for something to do."""
        self._wake_up = trio.Event()
        self._settled = trio.Event()

    def add(self, subscriber: Subscriber) -> None:
        """Offer everything from now on to a subscriber that has seen all that was published."""
        self._live.setdefault(subscriber.feed, {})[subscriber.number] = subscriber
        if subscriber.feed.wanted is None:
            self._unfiltered[subscriber.feed] = None
        if subscriber.feed.decodes:
            self._asking[subscriber.feed] = None

    def remove(self, subscriber: Subscriber) -> None:
        """Stop offering it entries."""
        live = self._live.get(subscriber.feed)
        if live is not None:
            live.pop(subscriber.number, None)
            if not live:
                del self._live[subscriber.feed]
                self._unfiltered.pop(subscriber.feed, None)
                self._asking.pop(subscriber.feed, None)
                self._newest.pop(subscriber.feed, None)

    def state_changed(self) -> None:
        """Send every subscriber the replica's state, a slice at a time, before what is published from now on."""
        self._state_is_new = True
        self._wake_up.set()

    def publish(self, entry: Entry, *, followed: bool = False) -> None:
        """Offer an entry with the next round. It is encoded now, because the history may have dropped it by then.

        Args:
            entry: What was published.
            followed: Whether only subscribers of the whole topic get it.
        """
        topic = entry.batch.partition.topic
        for feed in self._unfiltered:
            if (feed.whole or not followed) and topic in feed.topics:
                self._publish(feed, entry, self._encoder.entry(feed, entry))

    def publish_selected(self, entry: Entry, matches: Matches, *, followed: bool = False) -> None:
        """Offer some records of an entry with the next round, to feeds with filters, and its gap to all of them.

        Args:
            entry: What was published.
            matches: The records that feeds with filters want.
            followed: Whether only subscribers of the whole topic get it.
        """
        live, topic, has_gap = self._live, entry.batch.partition.topic, entry.batch.gap is not None
        wanted = {
            feed: indexes
            for feeds, indexes in matches
            for feed in feeds
            if feed in live and (feed.whole or not followed)
        }
        if has_gap:
            nothing: Sequence[int] = ()
            wanted = {
                feed: wanted.get(feed, nothing)
                for feed in live
                if feed.wanted is not None and topic in feed.topics and (feed.whole or not followed)
            }
        asking = {feed: indexes for feed, indexes in wanted.items() if topic in feed.decodes}
        plain = {feed: indexes for feed, indexes in wanted.items() if feed not in asking} if asking else wanted
        for some in filter(None, (plain, asking)):
            for feed, selection, part in self._encoder.selections(entry, some):
                self._publish(feed, selection, part)

    def _publish(self, feed: Feed, offered: Offered, part: Part) -> None:
        if not self._published:
            self.times.published()
        self._published.setdefault(feed, []).append((offered, part))
        self._newest[feed] = offered.sequence
        self._published_bytes += len(part)
        if not self._is_gathering:
            self._wake_up.set()

    def gather(self) -> None:
        """Begin no round before `hand_out`: more is about to be published."""
        self._is_gathering = True

    def hand_out(self) -> None:
        """Offer what was gathered: at once if the round is short, and otherwise in the task.

        Waking the task takes another turn of the loop, in which the poller's thread competes with the writes for the
        interpreter.
        """
        self._is_gathering = False
        if self._published and self._is_short:
            list(self._run_round())  # it never yields: a short round is one slice
        elif self._published:
            self._wake_up.set()

    @property
    def _is_short(self) -> bool:
        """Whether the next round needs no yield: nothing precedes it, and it is one slice, and one write per feed."""
        if not self._is_idle or self._state_is_new or self._linger_seconds or self.times.seconds > LONG_ROUND_SECONDS:
            return False
        live = sum([len(self._live[feed]) for feed in self._published if feed in self._live])
        return live <= SLICE and self._published_bytes <= min(self._round_bytes, SLICE_BYTES // max(1, live))

    def hold_back(self, topic: str, *, followed: bool) -> None:
        """Send subscribers that ask for decoded records back to the history: something undecoded was published.

        Args:
            topic: The topic.
            followed: Whether only subscribers of the whole topic get it.
        """
        for feed in tuple(self._asking):
            if topic in feed.decodes and (feed.whole or not followed):
                for subscriber in tuple(self._live[feed].values()):
                    subscriber.fall_back()

    def withdraw(self) -> None:
        """Take back what the sockets have not received yet: partitions have left, and its ids still name them.

        Subscribers that have not taken all of it catch up from the history, where it is encoded again. So nobody
        needs the rest of a round, which could not be framed anyway: its entries may have other positions by then.
        """
        self._published.clear()
        self._under_way.clear()
        self._published_bytes = 0
        self.times.withdrawn()
        for feed, live in tuple(self._live.items()):
            for subscriber in tuple(live.values()):
                if subscriber.cursor.sequence < self._newest.get(feed, 0):
                    subscriber.fall_back()

    def is_behind(self, feed: Feed) -> bool:
        """Whether something was published that has not been offered to every live subscriber of a feed."""
        return feed in self._under_way or feed in self._published

    @property
    def is_congested(self) -> bool:
        """Whether to publish nothing more until `wait_settled` returns."""
        return self._published_bytes >= CONGESTED_BYTES

    async def wait_settled(self) -> None:
        """Return when all that was published has been offered. *Cancellation*: safe."""
        while self._published or self._under_way:
            self._is_awaited = True
            self._wake_up.set()
            await self._settled.wait()

    def statistics(self) -> FanOutStatistics:
        """A snapshot."""
        return FanOutStatistics(self.times.rounds, len(self._live), self._published_bytes, self.is_congested)

    async def run(self) -> None:
        """Run rounds until cancelled."""
        while True:
            self._is_idle = True
            await self._wake_up.wait()
            self._is_idle = False
            self._wake_up = trio.Event()
            while self._published or self._state_is_new:
                if self._state_is_new:
                    await self._send_state()
                    continue
                if self._linger_seconds and await self._linger():
                    continue
                for _ in self._run_round():
                    await self._between_slices()
                if self.times.seconds > LONG_ROUND_SECONDS:
                    await leave_to_others(YIELD_RATIO * self.times.seconds)
            if self._is_awaited:
                self._is_awaited = False
                # Waiters hold this event, perhaps since before this task began: set it, then replace it.
                self._settled.set()
                self._settled = trio.Event()

    async def _send_state(self) -> None:
        """Send the state once to everybody; if it changes meanwhile, another pass follows."""
        self._state_is_new = False
        for number, subscriber in enumerate(tuple(self._everybody()), 1):
            subscriber.send_state()
            if not number % STATE_SLICE:
                await trio.lowlevel.checkpoint()

    async def _linger(self) -> bool:
        """Wait a moment for more; returns whether it has waited, and so whether anything may have changed."""
        now = trio.current_time()
        if now >= self._lingers_until or self._is_awaited or self.is_congested:
            self._lingers_until = now + self._linger_seconds
            return False
        self._wake_up = trio.Event()
        with trio.move_on_at(self._lingers_until):
            await self._wake_up.wait()
        return True

    async def _between_slices(self) -> None:
        """Let other tasks have the loop: anything may have changed afterwards."""
        await trio.lowlevel.checkpoint()

    def _run_round(self) -> Iterator[None]:
        """Offer what was published; yields between slices, where anything may change."""
        self.times.began()
        self._under_way, self._published, self._published_bytes = self._published, {}, 0
        offered = 0
        # Acknowledging subscribers are served after the others, so their answers delay nobody.
        for feed in sorted(self._under_way, key=_ACKS):
            for items in joined(self._under_way.get(feed, ()), self._round_bytes):
                if offered >= SLICE:
                    # Many feeds with few subscribers each would hold the loop as long as one feed with many.
                    offered = 0
                    yield
                if feed in self._under_way:
                    offered += yield from self._offer(feed, items)
            self._under_way.pop(feed, None)
        self.times.ended()

    def _offer(self, feed: Feed, items: Sequence[EncodedEntry]) -> Generator[None, None, int]:
        """Offer one write to one feed; returns how many subscribers were offered it since the last yield."""
        subscribers = list(self._live[feed].values()) if feed in self._live else []
        began = time.perf_counter()
        round_ = Round(items, self._encoder.round(feed, items))
        step = max(1, min(SLICE, SLICE_BYTES // round_.size_bytes))
        for start in range(0, len(subscribers), step):
            if start:
                # A subscriber that stops being live meanwhile ignores the offer.
                yield
                if feed not in self._under_way:
                    break
            taken = 0
            for subscriber in subscribers[start : start + step]:
                taken += subscriber.offer(round_)
            self._on_dispatched(feed, round_.entries, taken)
        self._on_wrote(time.perf_counter() - began)
        return min(step, len(subscribers))
