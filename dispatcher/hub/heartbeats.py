"""Sends each subscriber heartbeats, and ends the streams of peers that are silent.

*Thread*: Trio's.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from math import ceil
from typing import NamedTuple

import trio

from dispatcher.hub.fan_out import FanOut
from dispatcher.hub.feed import Feed
from dispatcher.hub.subscriber import Subscriber
from dispatcher.invariants import Invariant, invariants
from dispatcher.sansio.history import History

HEARTBEAT_SLICES = 10
"""Heartbeats are spread over the interval in this many slices: an idle replica wakes no more often for them."""

PIECE = 32
"""Maximum number of heartbeats at once: about 12 µs each, and five times that for the answer of a WebSocket. A slice of
more subscribers is spread out in pieces: a thousand heartbeats would hold up every record for 12 ms, and their answers
for longer."""

UNDIVIDED = 128
"""A slice of up to this many subscribers is one piece: a thousand subscribers' heartbeats and answers take less than
half a percent of the time, so they delay few records, and one burst costs less than several: of 100 WebSockets, a third
of the CPU time."""


class Piece(NamedTuple):
    """A part of what is done in one slice of the interval."""

    looked_at: Sequence[Mapping[int, Subscriber]]
    """Subscribers whose peers may be silent: everybody is looked at in every slice."""
    due: Sequence[Subscriber]
    """Those that are sent a heartbeat."""


class Heartbeats:
    """The heartbeats of one hub.

    Args:
        interval_seconds: Time between two heartbeats of a subscriber, give or take a tenth when others come or go.
        history: Knows the head.
        fan_out: Knows which feeds have records that were not offered yet.
        slices: The connected subscribers, in `HEARTBEAT_SLICES` parts.
    """

    def __init__(
        self,
        interval_seconds: float,
        history: History,
        fan_out: FanOut,
        slices: Sequence[Mapping[int, Subscriber]],
    ) -> None:
        self._interval_seconds = interval_seconds
        self._history = history
        self._fan_out = fan_out
        self._slices = slices
        self.sent = 0
        """Heartbeats since the start."""

    async def run(self) -> None:
        """Send each subscriber a heartbeat per interval, until cancelled."""
        for tick in count():
            pieces = self.pieces(tick % HEARTBEAT_SLICES)
            for piece in pieces:
                self.beat(piece)
                await trio.sleep(self._interval_seconds / HEARTBEAT_SLICES / len(pieces))

    def pieces(self, part: int) -> Sequence[Piece]:
        """What to do in one slice of the interval; there is at least one piece."""
        # No longer list of subscribers than this: the cycle collector would visit every one of them in each collection.
        due = tuple(self._slices[part].values())
        number = ceil(len(due) / PIECE) if len(due) > UNDIVIDED else 1
        return [Piece(self._slices[index::number], due[index::number]) for index in range(number)]

    def beat(self, piece: Piece) -> None:
        """End the streams of silent peers, and send a heartbeat to those that are due, unless they have left since."""
        heartbeats: dict[tuple[Feed, bool], bytes] = {}
        now = trio.current_time()
        for subscribers in piece.looked_at:
            for subscriber in subscribers.values():
                subscriber.transport.end_if_silent(now)
        for subscriber in piece.due:
            if subscriber.closed:
                continue
            key = feed, is_whole = subscriber.feed.shared, not self._fan_out.is_behind(subscriber.feed)
            if key not in heartbeats:
                heartbeats[key] = self._data(feed, is_whole=is_whole)
            self.sent += 1
            subscriber.heartbeat(heartbeats[key])
            if not subscriber.is_within_bound:
                invariants.violated(
                    Invariant.BUFFERS_WITHIN_BOUNDS, subscriber=subscriber.number, size_bytes=subscriber.buffered_bytes
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
