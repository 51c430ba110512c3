"""What one connection has been sent and not acknowledged: takes deliveries and acknowledgements, returns what is done.

Rules of this module (docs/delivery.md):

* An acknowledgement is cumulative per partition: every record up to the named offset is done. It counts only up to what
  the connection was sent; anything past that, and partitions that are not here, are ignored and counted.
* At most one window of records and of bytes is outstanding. When nothing is, one record of any size fits.
* A refused record (``nack``) is set aside: an acknowledgement no longer makes it done, only the storing of its dead
  letter does. Until then it keeps its place in the window.
* Records that are sent again replace the outstanding records from that offset on.
* When a partition leaves, its records leave the window, including refused ones. They can be acknowledged until the
  partition is released, except those that are refused meanwhile: the next owner decides about them.
* The client has to make progress while records wait for it. Records that were set aside do not wait for the client.
* Work is bounded by what was sent, because each record becomes done once. A large acknowledgement is processed in
  steps, because otherwise one message of a client with a wide window would hold everybody up.
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
"""How many deliveries become done in one step: each costs 3 to 15 µs, everything that follows from it included."""

_NOTHING: deque[Delivery] = deque()
_LAST: Callable[[Delivery], int] = attrgetter("last")


@dataclass(frozen=True, slots=True)
class AckStatistics:
    """What one connection has acknowledged so far."""

    outstanding_records: int
    outstanding_bytes: int
    acked_records: int
    passed_over: int
    """Parts of acknowledgements that named records that were not sent, or partitions that are not here."""
    nacked_records: int


class Acknowledgements:
    """The window of one connection.

    Args:
        window_records: The most records that may be outstanding.
        window_bytes: The most bytes that may be outstanding.
        timeout_seconds: How long the client may take without progress while records wait for it.
        step_deliveries: How many deliveries become done in one step.
    """

    __slots__ = (
        "_acked",
        "_covered",
        "_departed",
        "_ends",
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
        """Acknowledged offsets, per partition, whose deliveries have not all been processed yet."""
        self.outstanding_records = 0
        self.outstanding_bytes = 0
        self._sent: dict[TopicPartition, deque[Delivery]] = {}
        self._departed: dict[TopicPartition, deque[Delivery]] = {}
        """Deliveries of partitions that have left and are not released yet: they are outside of the window."""
        self._highest: dict[TopicPartition, int] = {}
        """The last offset that was sent, per partition that is here."""
        self._ends: dict[str, int] = {}
        """See `end`."""
        self._refused: dict[TopicPartition, list[Done]] = {}
        """Records that were set aside and whose dead letters are not stored yet."""
        self._set_aside = 0
        """How many outstanding records wait for their dead letter instead of the client."""
        self._waiting_since = -math.inf
        self._acked = self._passed_over = self._nacked = 0

    def fits(self, records: int, size_bytes: int) -> bool:
        """Whether this many more records and bytes fit into the window."""
        return self.outstanding_records + records <= self.window_records and (
            self.outstanding_bytes + size_bytes <= self.window_bytes or (records <= 1 and not self.outstanding_records)
        )

    def room(self) -> tuple[int, int]:
        """Return how many records and bytes fit; one record of any size fits when nothing is outstanding."""
        records = self.window_records - self.outstanding_records
        size_bytes = self.window_bytes - self.outstanding_bytes
        return (max(0, records), max(0, size_bytes)) if self.outstanding_records else (records, max(1, size_bytes))

    def sent(self, delivery: Delivery, now: float) -> None:
        """Note that records were handed to the socket; any that were outstanding already are being sent again."""
        partition = delivery.partition
        sent = self._sent.get(partition)
        if sent is None:
            sent = self._sent[partition] = deque()
            self._ends[partition.topic] = max(self._ends.get(partition.topic, 0), partition.partition + 1)
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
        """Take an acknowledgement, and return what is done in a first step; `go_on` returns the rest.

        Args:
            position: The last offset that is done, per partition.
            now: Seconds on any clock that only moves forward.
            place: Returns the connection's next offset in a partition of which it was sent nothing, because ids name
                such partitions, too; None if the partition is not here.
        """
        for partition, offset in position.items():
            highest = self._highest.get(partition)
            if highest is None:
                departed = self._departed.get(partition)
                if departed is not None:
                    self._cover(partition, departed, offset)
                # -1 means that nothing is done. Ids of the whole topic say that of the partition that would be added
                # next.
                elif offset >= 0 and ((next_offset := place(partition)) is None or offset >= next_offset):
                    self._passed_over += 1
                continue
            if offset > highest:
                self._passed_over += 1
            self._cover(partition, self._sent[partition], offset)
        return self.go_on(now)

    def go_on(self, now: float) -> list[Done]:
        """Return what else is done of what was acknowledged, up to one step; empty when that was all.

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
        """Set a record aside, and return it; None if it is not in the window, or was set aside already.

        A record of a partition that has left is set aside, too: an acknowledgement must not make it done.
        """
        found = self._find(self._sent, partition, offset)
        if found is not None and found.first not in found.delivery.set_aside:
            _set_aside(found)
            self._set_aside += 1
            self._nacked += 1
            self._waiting_since = now
            self._refused.setdefault(partition, []).append(found)
            return found
        if found is None and (departed := self._find(self._departed, partition, offset)) is not None:
            _set_aside(departed)
        self._passed_over += 1
        return None

    def is_set_aside(self, partition: TopicPartition, offset: int) -> bool:
        """Whether a record is in the window, and was set aside."""
        found = self._find(self._sent, partition, offset)
        return found is not None and found.first in found.delivery.set_aside

    def stored(self, nacked: Done) -> bool:
        """Note that the dead letter of a record that was set aside is stored: the record is done.

        Returns:
            Whether its partition has not left since.
        """
        refused = self._refused.get(nacked.delivery.partition, [])
        is_here = nacked in refused
        if is_here:
            refused.remove(nacked)
            self._forget_refused(nacked)
        return is_here

    def left(self, partitions: Iterable[TopicPartition]) -> None:
        """Take partitions that leave out of the window; their records can be acknowledged until `released`."""
        for partition in partitions:
            self._highest.pop(partition, None)
            self._release_refused(partition)
            sent = self._sent.pop(partition, None)
            if sent is not None:
                for delivery in sent:
                    self._leave_window(delivery, _waiting(delivery, delivery.begin, delivery.end))
                self._departed[partition] = sent

    def end(self, topic: str) -> int:
        """Return the number after that of the last partition of a topic of which anything was sent."""
        return self._ends.get(topic, 0)

    def released(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions: nothing of them can be acknowledged any longer."""
        for partition in partitions:
            departed = self._departed.pop(partition, None)
            if departed is not None and self._covered.get(partition, (None,))[0] is departed:
                del self._covered[partition]
            self._release_refused(partition)

    def outstanding(self, partition: TopicPartition) -> Iterable[Delivery]:
        """Return the deliveries of a partition that are not done, even after it has left, until it is released."""
        yield from self._departed.get(partition, ())
        yield from self._sent.get(partition, ())

    def refused(self, partition: TopicPartition) -> Iterable[Delivery]:
        """Return the delivery of each record that was set aside and whose dead letter is not stored yet."""
        return [delivery for delivery, _, _ in self._refused.get(partition, ())]

    @property
    def expires_at(self) -> float:
        """When the client will have made no progress for too long; infinity while no records wait for it."""
        if self.outstanding_records == self._set_aside:
            return math.inf
        return self._waiting_since + self._timeout_seconds

    def statistics(self) -> AckStatistics:
        """A snapshot."""
        return AckStatistics(
            self.outstanding_records, self.outstanding_bytes, self._acked, self._passed_over, self._nacked
        )

    def _find(
        self, queues: Mapping[TopicPartition, deque[Delivery]], partition: TopicPartition, offset: int
    ) -> Done | None:
        """Find a record that was sent, and that no acknowledgement has covered."""
        sent = queues.get(partition, _NOTHING)
        at = bisect_left(sent, offset, key=_LAST)
        covered, covered_to = self._covered.get(partition, (_NOTHING, -1))
        if at == len(sent) or (covered is sent and offset <= covered_to):
            return None
        delivery = sent[at]
        place = delivery.place_of(offset)
        is_it = place < delivery.end and delivery.offset_at(place) == offset
        return Done(delivery, place, place + 1) if is_it else None

    def _cover(self, partition: TopicPartition, sent: deque[Delivery], offset: int) -> None:
        covered = self._covered.get(partition)
        if covered is None or covered[0] is not sent or covered[1] < offset:
            self._covered[partition] = sent, offset

    @staticmethod
    def _take(sent: deque[Delivery], offset: int, done: list[Done], most: int) -> bool:
        """Take everything up to an offset from a queue, except what was set aside; returns whether that is all."""
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
        """Take back outstanding records from an offset on, because they are being sent again."""
        while sent and (delivery := sent[-1]).last >= first:
            place = delivery.place_of(first)
            self._leave_window(delivery, _waiting(delivery, place, delivery.end))
            if place > delivery.begin:
                delivery.end = place
                delivery.last = delivery.offset_at(place - 1)
                break
            sent.pop()

    def _release_refused(self, partition: TopicPartition) -> None:
        """Forget a partition's dead letters that are under way: its next owner decides about these records."""
        for nacked in self._refused.pop(partition, ()):
            self._forget_refused(nacked)

    def _forget_refused(self, nacked: Done) -> None:
        self._set_aside -= 1
        self._leave_window(nacked.delivery, 1)

    def _leave_window(self, delivery: Delivery, records: int) -> None:
        self.outstanding_records -= records
        self.outstanding_bytes -= records * delivery.each_bytes


def _set_aside(record: Done) -> None:
    if isinstance(record.delivery.set_aside, set):
        record.delivery.set_aside.add(record.first)
    else:
        record.delivery.set_aside = {record.first}


def _waiting(delivery: Delivery, begin: int, end: int) -> int:
    """Count the records between two places that wait for the client."""
    return end - begin - sum([begin <= place < end for place in delivery.set_aside])
