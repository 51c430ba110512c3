"""Acknowledges the longest run of records, in order of delivery, in which every record is done.

Rules of this module:

* The position to resume from is the end of the run: records after it are sent again after a reconnect.
* A record that arrives again is not handed out twice. If it was done, it is acknowledged again; if it was refused and
  no dead letter is known to be stored, it is refused again.
* A refused record that is left to other clients is in the run, but is not acknowledged: its owner may have no dead
  letter of it. Either the server says so, or its replica does not have the partition, or a gap says that the record
  cannot arrive again: none of these refusals would be answered by a server that has the record.
* Only records that arrived on the present connection are acknowledged on it: to a server that has just sent a refused
  record again, a later offset of the partition would mean that the record is done.
* A record is refused only on a connection that has reached it, by a record or a position: a server leaves records that
  it has not sent to other clients, and the run would pass them. The position at which a stream begins says nothing.
* After a topic is recreated, records of the old log are not acknowledged: their offsets would name records of the new
  one.
* Acknowledgements are cumulative: one task sends the newest, as soon as everything received is done, or after a moment.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

import orjson
import trio

from dispatcher.client.events import Gap, Heartbeat, Record, State, partition_of
from dispatcher.client.resume_position import ResumePosition, keep
from dispatcher.errors import MalformedPositionError
from dispatcher.sansio.position import parse_position, shortest_position
from dispatcher.sansio.records import TopicPartition

GATHER_SECONDS = 0.005
"""How long an acknowledgement waits for later ones while received records are not done: otherwise a loop over a message
of 500 records would send 500 acknowledgements."""

FLUSH_SECONDS = 2.0
"""How long the end of a subscription waits until its last acknowledgement is sent."""

MAX_LEFT = 10_000
"""How many refused records that were left to other clients are remembered; the oldest are forgotten, because nobody
tells this client that another one is done with them."""

MAX_REASON_CHARACTERS = 1000
"""How much of a reason is kept and sent: a server keeps no more, and closes if a message is longer than 64 KiB."""

_Name = tuple[TopicPartition, int]
"""A record: its partition and its offset."""


@dataclass(slots=True)
class _Delivered:
    item: Record | Gap | Heartbeat
    is_done: bool
    may_acknowledge: bool = True
    """Not if its log is gone, or if it is left to other clients."""


class Acks:
    """The acknowledgements of one subscription.

    Args:
        position: The position up to which everything was done before.
        say: Sends a message on the current connection, if there is one.
    """

    def __init__(self, position: Mapping[TopicPartition, int], say: Callable[[str], Awaitable[bool]]) -> None:
        self._say = say
        self._run = ResumePosition(position)
        self._order: deque[_Delivered] = deque()
        """Received items after the run, in order."""
        self._open: dict[_Name, _Delivered] = {}
        """The records among them that are not done."""
        self._refused: dict[_Name, str] = {}
        """Records that were refused, with the reason, until the server has answered."""
        self._left: OrderedDict[_Name, str] = OrderedDict()
        """Refused records that the server has left to other clients, with the reason."""
        self._assigned: Mapping[str, tuple[int, ...]] | None = None
        """The replica's partitions, by topic; None while no others can be excluded."""
        self._arrived: dict[TopicPartition, int] = {}
        """The offset of each partition that arrived last on this connection."""
        self._reached: dict[TopicPartition, int] = {}
        """The highest offset of each partition that this connection has reached, as far as a refusal needed it."""
        self._waiting: defaultdict[TopicPartition, list[int]] = defaultdict(list)
        """Heaps of the offsets of refused records that this connection has not reached."""
        self._has_begun = False
        """Whether this connection has named the position at which it begins."""
        self._passed = ""
        """The last id after that, until it is read because a refusal waits."""
        self._others = ("", "")
        """Topic and other partitions of the last record's id that was read: those of a batch share them."""
        self._due: dict[TopicPartition, int] = {}
        """The offsets of the next acknowledgement."""
        self._due_refusals: dict[_Name, str] = {}
        self._wake_up = trio.Event()
        self._sending = trio.Lock()

    @property
    def position(self) -> str:
        """The position to resume from."""
        return self._run.format()

    @property
    def outstanding(self) -> int:
        """Number of received records that are not done."""
        return len(self._open)

    def connecting(self) -> None:
        """Forget what was due on the connection that is over: what the server has not heard of, it sends again."""
        self._assigned = None
        self._arrived.clear()
        self._reached.clear()
        self._has_begun, self._passed, self._others = False, "", ("", "")
        self._waiting.clear()
        for partition, offset in self._refused:
            heappush(self._waiting[partition], offset)
        self._due.clear()
        self._due_refusals.clear()

    # Called for received items.

    def came(self, item: Record | Gap | Heartbeat) -> None:
        """Note a record, gap or position that was received for the first time."""
        if isinstance(item, Gap):
            if item.reason == "recreated":
                self._forget(partition_of(item))
            self._leave_if(lambda name: name[0] == partition_of(item) and item.from_offset <= name[1] <= item.to_offset)
        is_record = isinstance(item, Record)
        delivered = _Delivered(item, is_done=not is_record)
        self._order.append(delivered)
        if isinstance(item, Heartbeat):
            self._pass(item.id)
        elif isinstance(item, Record):
            self._arrive(item)
            self._open[_name(item)] = delivered
        self._advance()

    def stated(self, state: State) -> None:
        """Note the state of the replica: refusals of partitions that it does not have are left to other clients."""
        self._assigned = state.assigned if state.scope == "replica" else None
        self._leave_if(lambda name: self._is_elsewhere(name[0]))

    def came_again(self, record: Record) -> None:
        """Note a repeated record: the server does not know whether it is done."""
        name = _name(record)
        self._arrive(record)
        reason = self._refused.get(name, self._left.get(name))
        if reason is not None:
            self._due_refusals[name] = reason
            self._wake_up.set()
        elif name not in self._open and not any(
            partition_of(record) == partition and offset < record.offset for partition, offset in self._open
        ):
            self._acknowledge(record)

    def answered(self, event_id: str, *, is_stored: bool) -> None:
        """The server has stored the dead letter of a record that was refused, or leaves it to other clients."""
        try:
            name = next(iter(parse_position(event_id).items()))
        except MalformedPositionError:
            return
        if not is_stored:
            if self._has_reached(name):
                self._leave(name)
            return
        self._left.pop(name, None)
        if self._refused.pop(name, None) is not None:
            self._finish(name)

    # Called for the caller.

    def done(self, record: Record) -> None:
        """Mark a record as done, unless it is already done or refused."""
        if self._is_open(record) and _name(record) not in self._refused:
            self._finish(_name(record))

    def refuse(self, record: Record, reason: str) -> None:
        """Refuse a record that cannot be processed; it holds up the run until the server answers.

        Raises:
            TypeError: the reason is no string.
        """
        if not isinstance(reason, str):
            raise TypeError(f"a reason is a str, not {type(reason).__name__}")
        name = _name(record)
        if self._is_open(record):
            # Paths and arguments may have half a character (`os.fsdecode`), which cannot be sent.
            shown = reason[:MAX_REASON_CHARACTERS].encode(errors="replace").decode()
            self._refused[name] = shown
            heappush(self._waiting[name[0]], name[1])
            self._reach(name[0], self._reached.get(name[0], -1))
            self._read_passed()
            if self._is_elsewhere(name[0]):
                self._leave(name)

    async def run(self) -> None:
        """Send what is due until cancelled. *Cancellation*: safe."""
        while True:
            await self._wake_up.wait()
            with trio.move_on_after(GATHER_SECONDS):
                while self._open:
                    self._wake_up = trio.Event()
                    await self._wake_up.wait()
            self._wake_up = trio.Event()
            await self.send()

    async def send(self) -> None:
        """Send what is due now; nothing without a connection: records that arrive again become due again."""
        # Of several callers, a later one finds that everything due was sent.
        async with self._sending:
            # All refusals before any acknowledgement, which would cover the refused records.
            while self._due_refusals:
                partition, offset = name = next(iter(self._due_refusals))
                reason = self._due_refusals.pop(name)
                await self._tell({"type": "nack", "id": f"{partition}={offset}", "reason": reason})
            due, self._due = self._due, {}
            if due:
                await self._tell({"type": "ack", "id": shortest_position(due)})

    async def _tell(self, message: Mapping[str, str]) -> None:
        await self._say(orjson.dumps(message).decode())

    def _finish(self, name: _Name) -> None:
        if (delivered := self._open.pop(name, None)) is not None:
            delivered.is_done = True
            self._advance()

    def _leave(self, name: _Name) -> None:
        """Let the run pass a refused record without acknowledging it, and remember the refusal."""
        reason = self._refused.pop(name, None)
        if reason is not None:
            self._left[name] = reason
            if len(self._left) > MAX_LEFT:
                self._left.popitem(last=False)
            self._open[name].may_acknowledge = False
            self._finish(name)

    def _leave_if(self, is_left: Callable[[_Name], bool]) -> None:
        for name in [name for name in self._refused if is_left(name)]:
            self._leave(name)

    def _arrive(self, record: Record) -> None:
        """Note that a record has arrived on this connection."""
        partition = partition_of(record)
        keep(self._arrived, partition, record.offset)
        self._reach(partition, record.offset)
        self._has_begun = True
        if not self._waiting:
            self._passed = record.id
        elif (others := (record.topic, record.id[len(f"{partition}={record.offset}") :])) != self._others:
            self._others = others
            self._pass(record.id)

    def _pass(self, event_id: str) -> None:
        """Note an id: the records up to its offsets were sent, or do not come any more."""
        if self._has_begun:
            self._passed = event_id or self._passed
            self._read_passed()
        elif event_id:
            self._has_begun = True

    def _read_passed(self) -> None:
        """Read the last id if a refusal may wait for it: for all others, this work would be wasted."""
        if self._waiting and self._passed:
            position, self._passed = parse_position(self._passed), ""
            for partition, offset in position.items():
                self._reach(partition, offset)

    def _reach(self, partition: TopicPartition, offset: int) -> None:
        """Let refusals go out that waited until this connection reached their record.

        Records up to there that have not arrived do not come any more, such as compacted ones: the server leaves them
        to others when it hears of them.
        """
        if offset > self._reached.get(partition, -1):
            keep(self._reached, partition, offset)
        if partition in self._waiting:
            waiting = self._waiting[partition]
            while waiting and waiting[0] <= offset:
                name = partition, heappop(waiting)
                if name in self._refused:
                    self._due_refusals[name] = self._refused[name]
                    self._wake_up.set()
            if not waiting:
                del self._waiting[partition]

    def _has_reached(self, name: _Name) -> bool:
        """Whether this connection has reached a record: a server that does not have it cannot send it any more."""
        partition, offset = name
        return offset <= self._reached.get(partition, -1)

    def _has_arrived(self, name: _Name) -> bool:
        """Whether a record, or a later one of its partition, has arrived on this connection."""
        partition, offset = name
        return offset <= self._arrived.get(partition, -1)

    def _is_elsewhere(self, partition: TopicPartition) -> bool:
        return self._assigned is not None and partition.partition not in self._assigned.get(partition.topic, ())

    def _is_open(self, record: Record) -> bool:
        """Whether it is not done yet. A record of a deleted log may have the same offset as another one."""
        delivered = self._open.get(_name(record))
        return delivered is not None and delivered.item == record

    def _forget(self, partition: TopicPartition) -> None:
        """Forget a partition whose log is gone: nothing can be acknowledged for its records."""
        for delivered in self._order:
            if isinstance(delivered.item, Record) and partition_of(delivered.item) == partition:
                delivered.is_done, delivered.may_acknowledge = True, False
        for names in (self._open, self._refused, self._left, self._due_refusals):
            for name in [name for name in names if name[0] == partition]:
                del names[name]
        self._due.pop(partition, None)
        self._arrived.pop(partition, None)
        self._reached.pop(partition, None)
        self._waiting.pop(partition, None)
        self._passed, self._others = "", ("", "")

    def _advance(self) -> None:
        """Extend the run by the items that are done."""
        while self._order and self._order[0].is_done:
            delivered = self._order.popleft()
            item = delivered.item
            if isinstance(item, Record):
                self._run.record(item)
                if delivered.may_acknowledge and self._has_arrived(_name(item)):
                    self._acknowledge(item)
            elif isinstance(item, Gap):
                self._run.gap(item)
            else:
                self._run.move_to(item.id)

    def _acknowledge(self, record: Record) -> None:
        self._due[partition_of(record)] = record.offset
        self._wake_up.set()


def _name(record: Record) -> _Name:
    return partition_of(record), record.offset
