"""What one connection was sent and has not acknowledged: deliveries in, acknowledgements in, records that are done out.

Rules of this module (docs/delivery.md):

* An acknowledgement is cumulative by partition: every record up to the offset that it names is done. It counts up to
  what the connection was sent. The rest of it, and partitions that are not here, are passed over and counted.
* At most a window of records and of bytes is outstanding. One record always fits when nothing is.
* A record that is refused (``nack``) is set aside: no acknowledgement makes it done, only its dead letter does, once
  that is stored. Until then it has its place in the window.
* What is sent again replaces what was outstanding from there on.
* When a partition leaves, its records leave the window, refused ones as well. They can be acknowledged until the
  partition is released.
* The client has to make progress while something waits for it. Records that were set aside do not wait for the client.
* Work is bounded by what was sent: each record becomes done once. An acknowledgement that covers much is taken in
  steps, or one message of a client whose window is wide would hold everybody up.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from dispatcher.sansio.deliveries import Delivery, Done
from dispatcher.sansio.records import TopicPartition

STEP_DELIVERIES = 256
"""What becomes done in one step: each costs 3 to 15 µs, with what follows from it."""

_NOTHING: deque[Delivery] = deque()
_LAST: Callable[[Delivery], int] = attrgetter("last")


@dataclass(frozen=True, slots=True)
class AckStatistics:
    """What one connection has acknowledged."""

    outstanding_records: int
    outstanding_bytes: int
    acked_records: int
    passed_over: int
    """Parts of acknowledgements that named what was not sent, or partitions that are not here."""
    nacked_records: int


class Acknowledgements:
    """The window of one connection.

    Args:
        window_records: Most records outstanding.
        window_bytes: Most bytes outstanding.
        timeout_seconds: How long the client may make no progress while records wait for it.
        step_deliveries: How many deliveries become done in one step.
    """

    __slots__ = (
        "_acked",
        "_covered",
        "_departed",
        "_highest",
        "_nacked",
        "_passed_over",
        "_refused",
        "_sent",
        "_set_aside",
        "_step_deliveries",
        "_timeout_seconds",
        "_waiting_since",
        "outstanding_bytes",
        "outstanding_records",
        "window_bytes",
        "window_records",
    )

    def __init__(
        self,
        *,
        window_records: int,
        window_bytes: int,
        timeout_seconds: float,
        step_deliveries: int = STEP_DELIVERIES,
    ) -> None:
        self.window_records = window_records
        self.window_bytes = window_bytes
        self._timeout_seconds = timeout_seconds
        self._step_deliveries = step_deliveries
        self._covered: dict[TopicPartition, tuple[deque[Delivery], int]] = {}
        """Up to which offsets the client is done, where that may not be all done here yet."""
        self.outstanding_records = 0
        self.outstanding_bytes = 0
        self._sent: dict[TopicPartition, deque[Delivery]] = {}
        self._departed: dict[TopicPartition, deque[Delivery]] = {}
        """Of partitions that have left and are not released yet: out of the window."""
        self._highest: dict[TopicPartition, int] = {}
        """The last offset that was sent of each partition that is here."""
        self._refused: dict[TopicPartition, list[Done]] = {}
        """What was set aside and is not stored."""
        self._set_aside = 0
        """How many of the outstanding records wait for their dead letter and not for the client."""
        self._waiting_since = -math.inf
        self._acked = self._passed_over = self._nacked = 0

    def fits(self, records: int, size_bytes: int) -> bool:
        """Whether this many records more fit into the window."""
        return self.outstanding_records + records <= self.window_records and (
            self.outstanding_bytes + size_bytes <= self.window_bytes or (records <= 1 and not self.outstanding_records)
        )

    def room(self) -> tuple[int, int]:
        """How many records and bytes fit; one record of any size does when nothing is outstanding."""
        records = self.window_records - self.outstanding_records
        size_bytes = self.window_bytes - self.outstanding_bytes
        return (max(0, records), max(0, size_bytes)) if self.outstanding_records else (records, max(1, size_bytes))

    def sent(self, delivery: Delivery, now: float) -> None:
        """Records were handed to the socket; those of them that were outstanding already are sent again."""
        partition = delivery.partition
        sent = self._sent.get(partition)
        if sent is None:
            sent = self._sent[partition] = deque()
        first = delivery.offset_at(0)
        if first <= self._highest.get(partition, -1):
            self._take_back(sent, first)
        if self.outstanding_records == self._set_aside:
            self._waiting_since = now
        sent.append(delivery)
        self._highest[partition] = delivery.last
        self.outstanding_records += delivery.end
        self.outstanding_bytes += delivery.end * delivery.each_bytes

    def acked(
        self, position: Mapping[TopicPartition, int], now: float, place: Callable[[TopicPartition], int | None]
    ) -> list[Done]:
        """Take an acknowledgement, and return what is done of it in a first step; see `go_on`.

        Args:
            position: The last offset that is done of some partitions.
            now: Seconds on any clock that only goes forward.
            place: The next offset of the connection in a partition of which nothing was sent; None: it is not here. An
                id names such partitions, too.
        """
        for partition, offset in position.items():
            highest = self._highest.get(partition)
            if highest is None:
                departed = self._departed.get(partition)
                if departed is not None:
                    self._cover(partition, departed, offset)
                # -1: nothing of it is done. Ids of the whole topic say so of the partition that would be added next.
                elif offset >= 0 and ((next_offset := place(partition)) is None or offset >= next_offset):
                    self._passed_over += 1
                continue
            if offset > highest:
                self._passed_over += 1
            self._cover(partition, self._sent[partition], offset)
        return self.go_on(now)

    def go_on(self, now: float) -> list[Done]:
        """What else is done of what was acknowledged, a step of it; empty when that is all.

        Args:
            now: As for `acked`.
        """
        done: list[Done] = []
        while self._covered and len(done) < self._step_deliveries:
            partition, (sent, offset) = next(iter(self._covered.items()))
            before = len(done)
            if self._take(sent, offset, done, self._step_deliveries):
                del self._covered[partition]
            if sent is self._sent.get(partition):
                for delivery, first, end in done[before:]:
                    self._leave_window(delivery, end - first)
        if done:
            self._waiting_since = now
            self._acked += sum([end - first for _, first, end in done])
        return done

    def nacked(self, partition: TopicPartition, offset: int, now: float) -> Done | None:
        """Set a record aside, and return it; None when it is not outstanding, or was set aside already."""
        sent = self._sent.get(partition, _NOTHING)
        at = bisect_left(sent, offset, key=_LAST)
        covered, covered_to = self._covered.get(partition, (_NOTHING, -1))
        if at < len(sent) and not (covered is sent and offset <= covered_to):
            delivery = sent[at]
            place = delivery.place_of(offset)
            is_it = place < delivery.end and delivery.offset_at(place) == offset
            if is_it and place not in delivery.set_aside:
                if isinstance(delivery.set_aside, set):
                    delivery.set_aside.add(place)
                else:
                    delivery.set_aside = {place}
                self._set_aside += 1
                self._nacked += 1
                self._waiting_since = now
                self._refused.setdefault(partition, []).append(nacked := Done(delivery, place, place + 1))
                return nacked
        self._passed_over += 1
        return None

    def stored(self, nacked: Done) -> None:
        """The dead letter of a record that was set aside is stored: the record is done."""
        refused = self._refused.get(nacked.delivery.partition, [])
        if nacked in refused:
            refused.remove(nacked)
            self._forget_refused(nacked)

    def left(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions leave: what is outstanding of them leaves the window, and can be acknowledged until `released`."""
        for partition in partitions:
            self._highest.pop(partition, None)
            self._release_refused(partition)
            sent = self._sent.pop(partition, None)
            if sent is not None:
                for delivery in sent:
                    self._leave_window(delivery, _waiting(delivery, delivery.begin, delivery.end))
                self._departed[partition] = sent

    def released(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions are let go: nothing of them can be acknowledged any more."""
        for partition in partitions:
            departed = self._departed.pop(partition, None)
            if departed is not None and self._covered.get(partition, (None,))[0] is departed:
                del self._covered[partition]
            self._release_refused(partition)

    def outstanding(self, partition: TopicPartition) -> Iterable[Delivery]:
        """Deliveries of a partition that are not done, also of one that has left and is not released."""
        yield from self._departed.get(partition, ())
        yield from self._sent.get(partition, ())

    @property
    def expires_at(self) -> float:
        """When the client has made no progress for too long; infinity while nothing waits for it."""
        if self.outstanding_records == self._set_aside:
            return math.inf
        return self._waiting_since + self._timeout_seconds

    def statistics(self) -> AckStatistics:
        """A snapshot."""
        return AckStatistics(
            self.outstanding_records, self.outstanding_bytes, self._acked, self._passed_over, self._nacked
        )

    def _cover(self, partition: TopicPartition, sent: deque[Delivery], offset: int) -> None:
        covered = self._covered.get(partition)
        if covered is None or covered[0] is not sent or covered[1] < offset:
            self._covered[partition] = sent, offset

    @staticmethod
    def _take(sent: deque[Delivery], offset: int, done: list[Done], most: int) -> bool:
        """Take from a queue what is done up to an offset, what was set aside left out; returns whether that is all."""
        while sent and (end := (delivery := sent[0]).place_after(offset)) > delivery.begin:
            if len(done) >= most:
                return False
            begin, delivery.begin = delivery.begin, end
            for place in sorted(place for place in delivery.set_aside if begin <= place < end):
                if place > begin:
                    done.append(Done(delivery, begin, place))
                begin = place + 1
            if begin < end:
                done.append(Done(delivery, begin, end))
            if end < delivery.end:
                break
            sent.popleft()
        return True

    def _take_back(self, sent: deque[Delivery], first: int) -> None:
        """What is outstanding from an offset on is sent again."""
        while sent and (delivery := sent[-1]).last >= first:
            place = delivery.place_of(first)
            self._leave_window(delivery, _waiting(delivery, place, delivery.end))
            if place > delivery.begin:
                delivery.end = place
                delivery.last = delivery.offset_at(place - 1)
                break
            sent.pop()

    def _release_refused(self, partition: TopicPartition) -> None:
        """Nobody says any more what becomes of dead letters of a partition: its next owner decides."""
        for nacked in self._refused.pop(partition, ()):
            self._forget_refused(nacked)

    def _forget_refused(self, nacked: Done) -> None:
        self._set_aside -= 1
        self._leave_window(nacked.delivery, 1)

    def _leave_window(self, delivery: Delivery, records: int) -> None:
        self.outstanding_records -= records
        self.outstanding_bytes -= records * delivery.each_bytes


def _waiting(delivery: Delivery, begin: int, end: int) -> int:
    """How many records between two places wait for the client."""
    return end - begin - sum([begin <= place < end for place in delivery.set_aside])
