"""Hub, history and subscribers against a model, without Kafka and sockets: guarantee G2 under any order of events."""

import itertools
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from dispatcher.errors import SubscriberGoneError
from dispatcher.hub.hub import Hub
from dispatcher.hub.statistics import ReplicaState
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings
from tests.hub.test_hub import FEED, ONE, TWO, RecordingTransport, settle, subscribed

T = TypeVar("T")
PARTITIONS = (ONE, TWO)
partitions = st.sampled_from(PARTITIONS)


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
        return len(taken)

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Wait for leave, then take all."""
        await self.allowed.acquire()
        self.writes.append(b"".join(buffers))


class Connection:
    """One connection, and from where on it has to be handed each partition."""

    def __init__(
        self, claims: Mapping[TopicPartition, int], bounds: Mapping[TopicPartition, int], since_ms: int
    ) -> None:
        self.transport = SteppedTransport()
        self.scope = trio.CancelScope()
        self.claims = dict(claims)
        self.since_ms = since_ms
        self.bounds = dict(bounds)
        """Of each partition, an id names no offset from here on before that record has come."""
        self.met = set(bounds)
        """Partitions that were here with a record."""
        self.origins: dict[TopicPartition, set[int]] = {}
        """Offsets where a partition that had left began again."""

    def begins(self, partition: TopicPartition, offset: int) -> None:
        """What comes before this offset, or before its time, is not for this connection (any more)."""
        self.bounds[partition] = max(self.bounds.get(partition, 0), offset, self.since_ms)

    @property
    def received(self) -> dict[TopicPartition, list[int]]:
        """The offsets of each partition, in order."""
        found: dict[TopicPartition, list[int]] = {tp: [] for tp in PARTITIONS}
        for event_id, kind, value in self.transport.events:
            if kind == "message":
                found[TopicPartition("assets", int(event_id[len("assets:")]))].append(int(value))
        return found

    @property
    def last_id(self) -> str:
        """What an EventSource would come back with."""
        return next((event_id for event_id, _, _ in reversed(self.transport.events) if event_id), "")


class World:
    """A log, a poller's place in it, a hub, and who is connected.

    Offsets count over both partitions: so each log has holes, as after compaction.
    """

    def __init__(self) -> None:
        self.log: dict[TopicPartition, list[int]] = {tp: [] for tp in PARTITIONS}
        self.place = dict.fromkeys(PARTITIONS, 0)
        """The next index in the log that the poller takes."""
        self.taken: set[tuple[TopicPartition, int]] = set()
        """What was dispatched."""
        self.assigned: set[TopicPartition] = set()
        self.known: set[TopicPartition] = set()
        """Partitions with a record in this assignment."""
        self.connections: list[Connection] = []
        self.ids = [""]
        self.answers = trio.Semaphore(0)
        tiny = {"history_bytes": 3000, "pause_above_bytes": 2000, "resume_below_bytes": 1000}
        config = Settings(client_id="replica", subscriber_buffer_bytes=200, write_bytes=100, **tiny)  # type: ignore[arg-type]
        self.hub = Hub(config, self._dispatched, self)
        self.hub.set_state(ReplicaState.STREAMING)
        for partition in PARTITIONS:
            self.assign(partition)

    def _dispatched(self, batch: Batch) -> None:
        self.taken |= {(batch.partition, record.offset) for record in batch.records}

    # What happens.

    def produce(self, partition: TopicPartition) -> None:
        self.log[partition].append(sum(len(log) for log in self.log.values()))

    def publish(self, partition: TopicPartition, number: int) -> None:
        offsets = self.log[partition][self.place[partition] :][:number]
        if offsets:
            if partition not in self.known:
                self.known.add(partition)
                for connection in self.connections:
                    connection.claims.setdefault(partition, offsets[0])
                    connection.begins(partition, offsets[0])
                    if partition in connection.met:
                        connection.origins.setdefault(partition, set()).add(offsets[0])
                    connection.met.add(partition)
            self.place[partition] += len(offsets)
            self.hub.publish(Batch(partition, tuple(record(offset) for offset in offsets)))

    def assign(self, partition: TopicPartition) -> None:
        """From what nobody was dispatched on."""
        self.assigned.add(partition)
        waiting = (n for n, offset in enumerate(self.log[partition]) if (partition, offset) not in self.taken)
        self.place[partition] = next(waiting, len(self.log[partition]))
        self.hub.assigned([partition])

    def revoke(self, partition: TopicPartition) -> None:
        self.assigned.discard(partition)
        self.known.discard(partition)
        self.hub.unassigned([partition])

    async def connect(
        self,
        last_id: str,
        since_ms: int | None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        position = parse_position(last_id) if last_id else {}
        bounds = {tp: self.log[tp][self.place[tp] - 1] + 1 for tp in self.known}
        claims = bounds if since_ms is None else dict.fromkeys(PARTITIONS, since_ms)
        named = {tp: offset + 1 for tp, offset in position.items()}
        begins = bounds if since_ms is None else dict.fromkeys(bounds, since_ms)
        connection = Connection(claims | named, begins | named, since_ms or 0)
        self.connections.append(connection)
        with connection.scope, subscribed(self.hub, FEED, connection.transport, position, since_ms) as subscriber:
            task_status.started()
            with suppress(SubscriberGoneError):
                await subscriber.run()
        self.connections.remove(connection)
        self.ids.append(connection.last_id)

    # What the hub asks of Kafka (answers.Replays), answered one at a time.

    async def read(self, ranges: Mapping[TopicPartition, Range], most_bytes: int) -> Chunk:  # noqa: ARG002
        await self.answers.acquire()
        partition, part = next(iter(ranges.items()))
        offsets = [offset for offset in self.log[partition] if part.first <= offset < part.end]
        batches = [Batch(partition, tuple(record(offset) for offset in offsets[:2]))] if offsets else []
        return Chunk(batches, {partition: offsets[1] + 1 if offsets[2:] else part.end}, ())

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        await self.answers.acquire()
        return {tp: Bounds(0, self.log[tp][-1] + 1 if self.log[tp] else 0) for tp in partitions}

    async def offsets_since(self, partitions: Iterable[TopicPartition], since_ms: int) -> Mapping[TopicPartition, int]:
        await self.answers.acquire()
        found = {tp: [offset for offset in self.log[tp] if offset >= since_ms] for tp in partitions}
        return {tp: offsets[0] for tp, offsets in found.items() if offsets}

    # What has to be true.

    def check(self) -> None:
        """Each partition comes to each connection in order, without a hole or a repeat, until it leaves.

        And no id names what has not come.
        """
        for connection in self.connections:
            bounds = dict(connection.bounds)
            for event_id, kind, value in connection.transport.events:
                if event_id:
                    position = parse_position(event_id)
                    if kind == "message":
                        own = TopicPartition("assets", int(event_id[len("assets:")]))
                        bounds[own] = max(bounds.get(own, 0), int(value) + 1)
                    for tp, offset in position.items():
                        assert not [o for o in self.log[tp] if bounds.get(tp, 0) <= o <= offset], (event_id, bounds)
            for partition, offsets in connection.received.items():
                log = self.log[partition]
                origins = connection.origins.get(partition, ())
                for before, offset in itertools.pairwise(offsets):
                    follows = log[log.index(before) + 1 :][:1] == [offset]
                    assert follows or offset in origins, (partition, offsets)
                if offsets and offsets[0] not in origins:
                    assert not [o for o in log if connection.claims[partition] <= o < offsets[0]], (partition, offsets)

    def check_whole(self) -> None:
        """Nothing more is to come: everybody has all that was published."""
        for connection in self.connections:
            received = connection.received
            for partition in self.known:
                last = self.log[partition][self.place[partition] - 1]
                if connection.claims[partition] <= last:
                    assert received[partition][-1:] == [last], (partition, received)


def record(offset: int) -> Record:
    """A record whose value is its offset."""
    return Record(offset, None, None, str(offset).encode(), ())


class FanOut(RuleBasedStateMachine):
    """Any order of what can happen to a hub. Trio runs in a thread of its own; every step waits until all is quiet."""

    def __init__(self) -> None:
        super().__init__()
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

    def _connect(self, last_id: str, since_ms: int | None) -> None:
        async def step() -> None:
            await self._nursery.start(self.world.connect, last_id, since_ms)

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

    @rule(since_ms=st.one_of(st.none(), st.integers(0, 30)))
    def connect(self, since_ms: int | None) -> None:
        """Somebody new."""
        self._connect("", since_ms)

    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """Somebody with the id of an earlier connection."""
        last_id = data.draw(st.sampled_from(self.world.ids))
        self._connect(last_id, None)

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
            trio.from_thread.run_sync(self._nursery.cancel_scope.cancel, trio_token=self._token)
            self._thread.join()

    async def _finish(self) -> None:
        for connection in self.world.connections:
            for _ in range(1000):
                connection.transport.allowed.release()
        for _ in range(1000):
            self.world.answers.release()
        await settle()
        self.world.check_whole()


FanOut.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestFanOut = FanOut.TestCase
