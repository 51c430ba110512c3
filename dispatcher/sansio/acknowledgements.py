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
* Work is bounded by what was sent: each record becomes done once.
"""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from dispatcher.sansio.entries import Entry
from dispatcher.sansio.offset_set import OffsetRange
from dispatcher.sansio.parking import ParkedPartition
from dispatcher.sansio.records import Records, TopicPartition

_NONE: frozenset[int] = frozenset()
"""One for all deliveries of which nothing was refused: a window may hold as many of them as records."""


class Delivery:
    """Records of one partition that one write held, in offset order.

    Args:
        partition: Theirs.
        records: The records of the batch that they belong to.
        indexes: Those of them that were sent, one at least.
        size_bytes: What the write held of them. A record counts for an equal share of it.
        entry: The entry of the history that holds the batch; None for records that were replayed from Kafka.
        parked: What was parked of the partition when they were replayed.
        stand_for: For each of these records, the offsets that are parked no more when it is done.
    """

    __slots__ = (
        "begin",
        "each_bytes",
        "end",
        "entry",
        "indexes",
        "last",
        "parked",
        "partition",
        "records",
        "set_aside",
        "stand_for",
    )

    def __init__(
        self,
        partition: TopicPartition,
        records: Records,
        indexes: Sequence[int],
        size_bytes: int,
        entry: Entry | None = None,
        *,
        parked: ParkedPartition | None = None,
        stand_for: Sequence[OffsetRange] = (),
    ) -> None:
        self.partition = partition
        self.records = records
        self.indexes = indexes
        self.each_bytes = max(1, size_bytes // len(indexes))
        self.entry = entry
        self.parked = parked
        self.stand_for = stand_for
        self.begin, self.end = 0, len(indexes)
        """The places of `indexes` that are outstanding; those before are done, those after were sent again."""
        self.last = records.offsets[indexes[-1]]
        self.set_aside: set[int] | frozenset[int] = _NONE
        """The places among them that were refused."""

    def place_of(self, offset: int) -> int:
        """The place of the first record with this offset or a later one."""
        return bisect_left(self.indexes, offset, self.begin, self.end, key=self.records.offsets.__getitem__)

    def place_after(self, offset: int) -> int:
        """The place of the first record with a later offset."""
        if offset >= self.last:
            return self.end
        return bisect_right(self.indexes, offset, self.begin, self.end, key=self.records.offsets.__getitem__)

    def offset_at(self, place: int) -> int:
        """The offset of the record at a place."""
        return self.records.offsets[self.indexes[place]]


_NOTHING: deque[Delivery] = deque()
_LAST: Callable[[Delivery], int] = attrgetter("last")


class Done(NamedTuple):
    """Records that became done."""

    delivery: Delivery
    first: int
    """The place of the first of them in the delivery."""
    end: int
    """The place after the last one."""

    @property
    def indexes(self) -> Sequence[int]:
        """Their indexes in the batch."""
        return self.delivery.indexes[self.first : self.end]


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
    """

    __slots__ = (
        "_acked",
        "_departed",
        "_highest",
        "_nacked",
        "_passed_over",
        "_refused",
        "_sent",
        "_set_aside",
        "_timeout_seconds",
        "_waiting_since",
        "outstanding_bytes",
        "outstanding_records",
        "window_bytes",
        "window_records",
    )

    def __init__(self, *, window_records: int, window_bytes: int, timeout_seconds: float) -> None:
        self.window_records = window_records
        self.window_bytes = window_bytes
        self._timeout_seconds = timeout_seconds
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
        """Take an acknowledgement, and return what is done.

        Args:
            position: The last offset that is done of some partitions.
            now: Seconds on any clock that only goes forward.
            place: The next offset of the connection in a partition of which nothing was sent; None: it is not here. An
                id names such partitions, too.
        """
        done: list[Done] = []
        for partition, offset in position.items():
            highest = self._highest.get(partition)
            if highest is None:
                departed = self._departed.get(partition)
                if departed is not None:
                    self._take(departed, offset, done)
                # -1: nothing of it is done. Ids of the whole topic say so of the partition that would be added next.
                elif offset >= 0 and ((next_offset := place(partition)) is None or offset >= next_offset):
                    self._passed_over += 1
                continue
            if offset > highest:
                self._passed_over += 1
            before = len(done)
            self._take(self._sent[partition], offset, done)
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
        if at < len(sent):
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
            self._departed.pop(partition, None)
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

    @staticmethod
    def _take(sent: deque[Delivery], offset: int, done: list[Done]) -> None:
        """Take from a queue what is done up to an offset; what was set aside is left out."""
        while sent and (end := (delivery := sent[0]).place_after(offset)) > delivery.begin:
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
