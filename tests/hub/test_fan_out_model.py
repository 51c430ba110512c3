"""Hub, history and subscribers against a model, without Kafka and sockets: G2, G5 and G9 under any order of events.

The model knows what a stream is owed from its first moment on: what waited for somebody when it came, what its id or
its time names, and what its client was owed by the connection before. Events also happen in the middle of a round of
the fan-out, between two slices.
"""

import json
import re
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from dispatcher.errors import SubscriberGoneError
from dispatcher.hub import fan_out
from dispatcher.hub.feed import feed_of
from dispatcher.hub.heartbeats import HEARTBEAT_SLICES
from dispatcher.hub.hub import Hub
from dispatcher.sansio import id_suffixes
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import Bounds, Chunk, Gap, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings
from tests.hub.test_hub import FEED, ONE, TWO, RecordingTransport, beat, settle, subscribed, unchunked

T = TypeVar("T")
PARTITIONS = (ONE, TWO)
partitions = st.sampled_from(PARTITIONS)
FEEDS = (FEED, feed_of(SSE_VALUE, frozenset({"assets", "other"})))
"""The same records for two audiences: a round goes to one after the other."""


class SteppedTransport(RecordingTransport):
    """Finishes as many writes as it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = trio.Semaphore(0)

    def try_send(self, data: bytes) -> int:
        """Take all, or half, or nothing."""
        try:
            self.allowed.acquire_nowait()
        except trio.WouldBlock:
            return 0
        taken = data if len(self.writes) % 3 else data[: len(data) // 2]
        self.writes.append(taken)
        self.kept = data[len(taken) :]
        return len(taken)

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Wait for leave, then take all."""
        await self.allowed.acquire()
        self.writes.append(self.unkept(buffers))

    @property
    def blocks(self) -> Iterator[tuple[str, str, str]]:
        """The id, kind and data of each whole block, heartbeats included, which are no events."""
        *blocks, _ = unchunked(b"".join(self.writes)).decode().split("\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if line != ":")
            yield (
                fields.get("id", ""),
                fields.get("event", "message" if "data" in fields else ""),
                fields.get("data", ""),
            )


@dataclass
class Client:
    """What a client comes back with, and what it is owed then."""

    last_id: str = ""
    since_ms: int | None = None
    owed: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    """The next offset, and the assignment in which it is owed: none that comes after it owes it."""

    def with_first_pair(self) -> "Client":
        """One that has this id from a replica that had one partition: of the others it is owed nothing."""
        position = parse_position(self.last_id) if self.last_id else {}
        first = next(iter(position), None)
        owed = {tp: what for tp, what in self.owed.items() if tp == first}
        return Client(re.split("[,;]", self.last_id)[0], self.since_ms, owed)


class Connection:
    """One connection, and what it is owed.

    Args:
        client: The new client.
        claims: From where on it has to be handed each partition.
        named: By partition, up to where (exclusive) an id may name what this connection was not sent.
        here: Partitions that were known when it came.
        log: All records, which name the partition of an event that has no id.
    """

    def __init__(
        self,
        client: Client,
        claims: Mapping[TopicPartition, int],
        named: Mapping[TopicPartition, int],
        here: Iterable[TopicPartition],
        log: Mapping[TopicPartition, Sequence[int]],
    ) -> None:
        self.transport = SteppedTransport()
        self.scope = trio.CancelScope()
        self.client = client
        self.claims = dict(claims)
        self.named = frozenset(named)
        self.bounds = {**claims, **named}
        self.here = frozenset(here)
        self.log = log
        self.met = set(here)
        """Partitions that were here with a record."""
        self.left: set[TopicPartition] = set()
        """Partitions that have left since."""
        self.origins: dict[TopicPartition, set[int]] = {}
        """Offsets where a partition that had left began again."""

    def begins(self, partition: TopicPartition, offset: int) -> None:
        """A partition has come: what is before this offset, or before its time, is not for this connection."""
        self.claims.setdefault(partition, offset)
        self.bounds[partition] = max(self.bounds.get(partition, 0), offset, self.client.since_ms or 0)
        if partition in self.met:
            self.origins.setdefault(partition, set()).add(offset)
        self.met.add(partition)

    def steps(self) -> Iterator[tuple[dict[TopicPartition, int], TopicPartition | None, int, int]]:
        """Yield for each event its position, and the offsets that it brings of a partition: a record, or a gap."""
        for event_id, kind, value in self.transport.blocks:
            position = parse_position(event_id) if event_id else {}
            if kind == "message":
                offset = int(value)
                partition = next(tp for tp, offsets in self.log.items() if offset in offsets)
                assert not event_id or event_id.startswith(f"{partition}={offset}"), event_id
                yield position, partition, offset, offset
            elif kind == "gap":
                gap = json.loads(value)
                yield position, TopicPartition(gap["topic"], gap["partition"]), gap["from"], gap["to"]
            else:
                yield position, None, 0, 0

    @property
    def last_id(self) -> str:
        """Return the id with which an EventSource reconnects."""
        ids = [event_id for event_id, _, _ in self.transport.blocks if event_id]
        return ids[-1] if ids else self.client.last_id

    def leave(self, assignments: Mapping[TopicPartition, int]) -> Client:
        """Note what the client is owed when it returns: of each partition that an id named, or its time."""
        next_offsets = dict(self.claims)
        # Whoever was sent nothing comes back as it came: others may have taken what it would have begun with.
        named = set(self.named if self.client.since_ms is None else self.here)
        for position, partition, _, last in self.steps():
            named |= position.keys()
            if partition is not None:
                next_offsets[partition] = last + 1
        client = Client(self.last_id, self.client.since_ms)
        known = parse_position(client.last_id) if client.last_id else {}
        for partition in named & next_offsets.keys() - self.left if client.last_id or client.since_ms else ():
            unresolved = client.since_ms if partition not in known else None
            client.owed[partition] = (max(next_offsets[partition], unresolved or 0), assignments[partition])
        return client


class World:
    """A log, a poller's place in it, a hub, and who is connected.

    Offsets count over both partitions: so each log has holes, as after compaction.
    """

    def __init__(self) -> None:
        self.log: dict[TopicPartition, list[int]] = {tp: [] for tp in PARTITIONS}
        self.first = dict.fromkeys(PARTITIONS, 0)
        """What is before this offset has been deleted by retention."""
        self.origin = dict.fromkeys(PARTITIONS, 0)
        """The index in the log at which this assignment began."""
        self.place = dict.fromkeys(PARTITIONS, 0)
        """The next index in the log that the poller takes."""
        self.assignments = dict.fromkeys(PARTITIONS, 0)
        self.taken: set[tuple[TopicPartition, int]] = set()
        """What was dispatched."""
        self.assigned: set[TopicPartition] = set()
        self.known: set[TopicPartition] = set()
        """Partitions of which the hub knows where this assignment began."""
        self.connections: list[Connection] = []
        self.clients = [Client()]
        self.answers = trio.Semaphore(0)
        self.slices: trio.Semaphore | None = None
        """Holds rounds between slices; None: they go on by themselves."""
        tiny = {"history_bytes": 3000, "pause_above_bytes": 2000, "resume_below_bytes": 1000}
        config = Settings(client_id="replica", subscriber_buffer_bytes=200, write_bytes=100, **tiny)  # type: ignore[arg-type]
        self.hub = Hub(config, self._dispatched, self)
        self.hub._fan_out._between_slices = self._between_slices  # type: ignore[method-assign]
        self.hub.set_state(ReplicaState.STREAMING)
        for partition in PARTITIONS:
            self.assign(partition)

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        # Its records may have left the memory by now.
        self.taken |= {(batch.partition, offset) for offset in range(max(start, batch.first_offset), end)}

    async def _between_slices(self) -> None:
        if self.slices is None:
            await trio.lowlevel.checkpoint()
        else:
            await self.slices.acquire()

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The group has committed nothing."""
        return dict.fromkeys(partitions, 0)

    # What happens.

    def produce(self, partition: TopicPartition) -> None:
        self.log[partition].append(sum(len(log) for log in self.log.values()))

    def publish(self, partition: TopicPartition, number: int) -> None:
        offsets = self.log[partition][self.place[partition] :][:number]
        if offsets:
            self._know(partition, offsets[0])
            self.place[partition] += len(offsets)
            self.hub.publish(Batch(partition, tuple(record(offset) for offset in offsets)))

    def reach(self, partition: TopicPartition) -> None:
        """The poller says where it stands, as at an assignment, or at the end of a log."""
        offset = self.next_offset(partition)
        self._know(partition, offset)
        self.hub.reached(partition, offset)

    def _know(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self.known:
            self.known.add(partition)
            for connection in self.connections:
                connection.begins(partition, offset)

    def next_offset(self, partition: TopicPartition) -> int:
        place = self.place[partition]
        return self.log[partition][place - 1] + 1 if place else 0

    def assign(self, partition: TopicPartition) -> None:
        """From what nobody was dispatched on."""
        self.assigned.add(partition)
        self.assignments[partition] += 1
        waiting = (n for n, offset in enumerate(self.log[partition]) if (partition, offset) not in self.taken)
        self.place[partition] = self.origin[partition] = next(waiting, len(self.log[partition]))
        self.hub.assigned([partition])

    def revoke(self, partition: TopicPartition) -> None:
        self.assigned.discard(partition)
        self.known.discard(partition)
        for connection in self.connections:
            connection.left.add(partition)
        self.hub.unassigned([partition])

    async def connect(
        self, client: Client, number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        position = parse_position(client.last_id) if client.last_id else {}
        since_ms = client.since_ms
        claims = {} if since_ms is None else dict.fromkeys(PARTITIONS, since_ms)
        named = {tp: offset + 1 for tp, offset in position.items()}
        for tp in self.known if since_ms is None else ():
            claims[tp] = self.next_offset(tp)
        claims |= named
        # Where a time is still looked up, what waits now may have been taken by others when the answer comes.
        for tp in self.known if since_ms is None else self.known & named.keys():
            published = self.log[tp][self.origin[tp] : self.place[tp]]
            waiting = [offset for offset in published if (tp, offset) not in self.taken]
            claims[tp] = min(claims[tp], *waiting[:1], claims[tp])
        for tp, (offset, assignment) in client.owed.items():
            if assignment == self.assignments[tp]:
                claims[tp] = min(claims.get(tp, offset), offset)
        connection = Connection(client, claims, named, self.known, self.log)
        self.connections.append(connection)
        feed = FEEDS[number]
        with connection.scope, subscribed(self.hub, feed, connection.transport, position, since_ms) as subscriber:
            task_status.started()
            with suppress(SubscriberGoneError):
                await subscriber.run()
        self.connections.remove(connection)
        self.clients.append(connection.leave(self.assignments))

    # What the hub asks of Kafka (lookups.Replays), answered one at a time.

    async def read(
        self,
        ranges: Mapping[TopicPartition, Range],
        max_bytes: int,  # noqa: ARG002
        client: Hashable = None,  # noqa: ARG002
    ) -> Chunk:
        await self.answers.acquire()
        partition, part = next(iter(ranges.items()))
        first = max(part.first, min(self.first[partition], part.end))
        gaps = [Gap(partition, part.first, first - 1, "expired")] if first > part.first else []
        offsets = [offset for offset in self.log[partition] if first <= offset < part.end]
        batches = [Batch(partition, tuple(record(offset) for offset in offsets[:2]))] if offsets else []
        others = {tp: other.first for tp, other in ranges.items()}
        return Chunk(batches, others | {partition: offsets[1] + 1 if offsets[2:] else part.end}, gaps)

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        await self.answers.acquire()
        return {tp: Bounds(self.first[tp], self.log[tp][-1] + 1 if self.log[tp] else 0) for tp in partitions}

    async def offsets_since(
        self, partitions: Iterable[TopicPartition], since_ms: int
    ) -> Mapping[TopicPartition, int | None]:
        await self.answers.acquire()
        found = {tp: [o for o in self.log[tp] if o >= max(since_ms, self.first[tp])] for tp in partitions}
        return {tp: offsets[0] if offsets else None for tp, offsets in found.items()}

    # What has to be true.

    def check(self) -> None:
        """Each partition comes to each connection in order, without a hole or a repeat, until it leaves.

        And no id names what has not come, or forgets a partition; the first one names where the stream begins.
        """
        for connection in self.connections:
            bounds = dict(connection.bounds)
            next_offsets: dict[TopicPartition, int] = {}
            first: dict[TopicPartition, int] | None = None
            named: set[TopicPartition] = set()
            for position, partition, offset, last in connection.steps():
                if partition is not None:
                    if partition in next_offsets:
                        follows = next_offsets[partition] <= offset
                        missed = self._between(partition, next_offsets[partition], offset)
                    else:
                        start = self._start(connection, partition, connection.claims[partition])
                        follows = not first or offset > first.get(partition, -1) or partition in connection.left
                        missed = self._between(partition, start, offset)
                    back = offset in connection.origins.get(partition, ())
                    assert back or (follows and not missed), (partition, offset, missed, first, connection.claims)
                    next_offsets[partition] = last + 1
                    bounds[partition] = max(bounds.get(partition, 0), last + 1)
                if position:
                    forgotten = named - position.keys() - connection.left
                    assert not forgotten, (forgotten, position)
                    named |= position.keys() & connection.here
                for tp, seen in position.items():
                    ahead = self._between(tp, self._start(connection, tp, bounds.get(tp, 0)), seen + 1)
                    assert not ahead, (tp, ahead, position, connection.bounds, list(connection.transport.blocks))
                first = position if first is None else first

    def _start(self, connection: Connection, partition: TopicPartition, offset: int) -> int:
        """Return where a partition is owed from: one that begins at a time begins with what is left then."""
        at_time = connection.client.since_ms is not None and partition not in connection.named
        return max(offset, self.first[partition]) if at_time else offset

    def _between(self, partition: TopicPartition, first: int, end: int) -> list[int]:
        return [offset for offset in self.log[partition] if first <= offset < end]

    def check_whole(self) -> None:
        """Nothing more is to come: everybody has all that was published."""
        for connection in self.connections:
            received: dict[TopicPartition | None, int] = {}
            for _, partition, _, last in connection.steps():
                received[partition] = max(received.get(partition, -1), last)
            for partition in self.known:
                # What it was owed when the partition left may have been dispatched by others since.
                origin = self.origin[partition] if partition in connection.left else 0
                published = self.log[partition][origin : self.place[partition]]
                start = self._start(connection, partition, connection.claims[partition])
                owed = [offset for offset in published if offset >= start]
                if owed:
                    # More, when the partition has come back before the place where this connection had been.
                    assert received.get(partition, -1) >= owed[-1], (partition, received, owed)


def record(offset: int) -> Record:
    """A record whose value is its offset."""
    return Record(offset, None, None, str(offset).encode(), ())


class FanOut(RuleBasedStateMachine):
    """Any order of what can happen to a hub. Trio runs in a thread of its own; every step waits until all is quiet."""

    def __init__(self) -> None:
        super().__init__()
        self._slice, fan_out.SLICE = fan_out.SLICE, 1
        started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main, started))
        self._thread.start()
        started.wait()

    async def _main(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self.world = World()
            self._nursery.start_soon(self.world.hub.run)
            started.set()

    def _do(self, step: Callable[[], object | Awaitable[object]]) -> None:
        async def run() -> None:
            result = step()
            if isinstance(result, Awaitable):
                await result
            await settle()
            self.world.check()

        trio.from_thread.run(run, trio_token=self._token)

    def _connect(self, client: Client, number: int) -> None:
        async def step() -> None:
            await self._nursery.start(self.world.connect, client, number)

        self._do(step)

    @rule(partition=partitions, number=st.integers(1, 3))
    def produce_and_publish(self, partition: TopicPartition, number: int) -> None:
        """The replica takes what comes, if it has the partition; else somebody else does."""

        def step() -> None:
            for _ in range(number):
                self.world.produce(partition)
            if partition in self.world.assigned:
                self.world.publish(partition, number)

        self._do(step)

    @rule(partition=partitions)
    def publish_what_is_left(self, partition: TopicPartition) -> None:
        """The poller catches up a step."""
        if partition in self.world.assigned:
            self._do(lambda: self.world.publish(partition, 2))

    @rule(partition=partitions)
    def reach(self, partition: TopicPartition) -> None:
        """The poller says where it stands in a partition."""
        if partition in self.world.assigned:
            self._do(lambda: self.world.reach(partition))

    @rule(since_ms=st.one_of(st.none(), st.integers(0, 30)), number=st.integers(0, 1))
    def connect(self, since_ms: int | None, number: int) -> None:
        """Somebody new."""
        self._connect(Client(since_ms=since_ms), number)

    @rule(data=st.data(), number=st.integers(0, 1), all_of_it=st.booleans())
    def come_back(self, data: st.DataObject, number: int, all_of_it: bool) -> None:
        """Somebody with the id of an earlier connection, or, as from another replica, with a part of one."""
        client = self.world.clients[data.draw(st.integers(0, len(self.world.clients) - 1))]
        self._connect(client if all_of_it else client.with_first_pair(), number)

    @rule()
    def beat(self) -> None:
        """Everybody gets a heartbeat."""

        def step() -> None:
            for part in range(HEARTBEAT_SLICES):
                beat(self.world.hub, part)

        self._do(step)

    @rule(held=st.booleans())
    def hold_rounds(self, held: bool) -> None:
        """From now on rounds stop between slices, or go on."""

        def step() -> None:
            slices, self.world.slices = self.world.slices, trio.Semaphore(0) if held else None
            if slices is not None:
                slices.release()

        self._do(step)

    @precondition(lambda self: self.world.slices)
    @rule()
    def next_slice(self) -> None:
        """A round goes on for one subscriber."""
        self._do(lambda: self.world.slices and self.world.slices.release())

    @rule(partition=partitions, number=st.integers(1, 5))
    def expire(self, partition: TopicPartition, number: int) -> None:
        """Retention deletes the oldest records that were dispatched."""
        world = self.world
        left = [offset for offset in world.log[partition] if offset >= world.first[partition]][:number]
        if left and all((partition, offset) in world.taken for offset in left):
            self._do(lambda: world.first.update({partition: left[-1] + 1}))

    @precondition(lambda self: self.world.connections)
    @rule(data=st.data(), writes=st.integers(1, 5))
    def finish_writes(self, data: st.DataObject, writes: int) -> None:
        """A socket takes something."""
        connection = data.draw(st.sampled_from(self.world.connections))

        def step() -> None:
            for _ in range(writes):
                connection.transport.allowed.release()

        self._do(step)

    @precondition(lambda self: self.world.connections)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """A connection breaks, perhaps during a write."""
        connection = data.draw(st.sampled_from(self.world.connections))
        self._do(connection.scope.cancel)

    @rule()
    def answer(self) -> None:
        """Kafka answers one question."""
        self._do(self.world.answers.release)

    @rule(partition=partitions)
    def revoke_or_assign(self, partition: TopicPartition) -> None:
        """The group moves a partition."""
        if partition in self.world.assigned:
            self._do(lambda: self.world.revoke(partition))
        else:
            self._do(lambda: self.world.assign(partition))

    def teardown(self) -> None:
        """At last every socket takes all, and Kafka answers everything."""
        try:
            self._do(self._finish)
        finally:
            fan_out.SLICE = self._slice
            trio.from_thread.run_sync(self._nursery.cancel_scope.cancel, trio_token=self._token)
            self._thread.join()

    async def _finish(self) -> None:
        if self.world.slices is not None:
            self.world.slices.release()
            self.world.slices = None
        for connection in self.world.connections:
            for _ in range(1000):
                connection.transport.allowed.release()
        for _ in range(1000):
            self.world.answers.release()
        await settle()
        self.world.check_whole()


class FanOutWithLongIds(FanOut):
    """The same where every position is long: only the last record of a write has an id."""

    def __init__(self) -> None:
        self._short, id_suffixes.SHORT_CHARACTERS = id_suffixes.SHORT_CHARACTERS, 0
        super().__init__()

    def teardown(self) -> None:
        """As always."""
        try:
            super().teardown()
        finally:
            id_suffixes.SHORT_CHARACTERS = self._short


FanOut.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
FanOutWithLongIds.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestFanOut = FanOut.TestCase
TestFanOutWithLongIds = FanOutWithLongIds.TestCase
