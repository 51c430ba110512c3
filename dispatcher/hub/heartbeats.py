"""Sends each subscriber heartbeats, and ends the streams of peers that are silent.

*Thread*: Trio's.
"""

from collections.abc import Mapping
from itertools import count

import trio

from dispatcher.hub.fan_out import FanOut
from dispatcher.hub.feed import Feed
from dispatcher.hub.subscriber import Subscriber
from dispatcher.invariants import Invariant, invariants
from dispatcher.sansio.history import History

HEARTBEAT_SLICES = 10
"""Heartbeats are spread over the interval in slices: ten thousand at once would hold the loop for half a second."""


class Heartbeats:
    """The heartbeats of one hub.

    Args:
        interval_seconds: Time between two heartbeats of a subscriber.
        history: Knows the head.
        fan_out: Knows which feeds have records that were not offered yet.
        subscribers: The connected subscribers, by number.
    """

    def __init__(
        self, interval_seconds: float, history: History, fan_out: FanOut, subscribers: Mapping[int, Subscriber]
    ) -> None:
        self._interval_seconds = interval_seconds
        self._history = history
        self._fan_out = fan_out
        self._subscribers = subscribers
        self.sent = 0
        """Heartbeats since the start."""

    async def run(self) -> None:
        """Send a heartbeat per interval, to a slice of the subscribers at a time, until cancelled."""
        for tick in count():
            await trio.sleep(self._interval_seconds / HEARTBEAT_SLICES)
            self.beat(tick % HEARTBEAT_SLICES)

    def beat(self, part: int) -> None:
        """Send a heartbeat to one slice of the subscribers, and end the streams of silent peers in all slices."""
        heartbeats: dict[tuple[Feed, bool], bytes] = {}
        now = trio.current_time()
        for number, subscriber in tuple(self._subscribers.items()):
            subscriber.transport.end_if_silent(now)
            if number % HEARTBEAT_SLICES == part:
                key = feed, is_whole = subscriber.feed.shared, not self._fan_out.is_behind(subscriber.feed)
                if key not in heartbeats:
                    heartbeats[key] = self._data(feed, is_whole=is_whole)
                self.sent += 1
                subscriber.heartbeat(heartbeats[key])
                if not subscriber.is_within_bound:
                    invariants.violated(
                        Invariant.BUFFERS_WITHIN_BOUNDS, subscriber=number, size_bytes=subscriber.buffered_bytes
                    )
        if not self._history.is_counted:
            found = self._history.statistics()
            invariants.violated(
                Invariant.BUFFERS_WITHIN_BOUNDS, size_bytes=found.size_bytes, waiting_bytes=found.waiting_bytes
            )

    def data(self, feed: Feed, *, at_head: bool) -> bytes:
        """A heartbeat for a feed; for a live subscriber with nothing queued it carries the position of the head."""
        return self._data(feed, is_whole=at_head and not self._fan_out.is_behind(feed))

    def _data(self, feed: Feed, *, is_whole: bool) -> bytes:
        position = ""
        if is_whole:
            head = self._history.snapshot()
            position = (head if feed.whole else head.owned()).format(feed.topics, whole=feed.whole)
        return feed.wire.heartbeat(position)
