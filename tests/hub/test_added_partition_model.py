"""A partition is added under readers of the whole topic, which go from one replica to another: G2 and G11.

Two replicas of one group, without Kafka and sockets. The topic has one partition, then two. At any step a replica finds
out about the second one, owns it, follows it, or loses it; others consume and commit it; and the reader, a plain
`EventSource`, is cut and comes back to either replica with its last id. Everything is real but the log, the group, its
consumer and the follower.
"""

import threading
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dispatcher.errors import SubscriberGoneError
from dispatcher.following import Following
from dispatcher.hub.feed import feed_of
from dispatcher.hub.heartbeats import HEARTBEAT_SLICES
from dispatcher.hub.hub import Hub
from dispatcher.intake import Intake
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.decoding import Group
from dispatcher.kafka.follower import FollowCommands, Followed
from dispatcher.kafka.spacing import Spacing
from dispatcher.sansio.beginnings import Start
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.flow import FlowControl
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import Batch, TopicPartition
from dispatcher.settings import Settings
from tests.hub.test_fan_out_model import SteppedTransport
from tests.hub.test_hub import beat, settle
from tests.hub.test_whole_topic_model import records

TOPIC = "assets"
FIRST, ADDED = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
WHOLE = feed_of(SSE_VALUE, frozenset({TOPIC}), whole=True)
OBSERVING = feed_of(SSE_VALUE, frozenset({TOPIC}), whole=True, counts=False)
LONG = 1_000
"""More writes than there can be."""


class Cluster:
    """The topic and the group."""

    def __init__(self) -> None:
        self.ends = {FIRST: 8}
        self.committed = {FIRST: 4, ADDED: 0}
        self.owners: dict[TopicPartition, Replica] = {}


class Replica:
    """One replica without threads; it is also what looks things up in Kafka for it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        tiny = {"history_bytes": 6000, "pause_above_bytes": 2000, "resume_below_bytes": 1000}
        config = Settings(client_id="replica", topics=(TOPIC,), subscriber_buffer_bytes=200, write_bytes=100, **tiny)  # type: ignore[arg-type]
        self.offsets = OffsetTracker()
        self.hub = Hub(config, self._dispatched, self, self._replayed)
        self.following = Following(config, self.hub, self, self.offsets, Spacing(0))  # type: ignore[arg-type]
        self.following._is_running = True
        self.intake = Intake(self.offsets, FlowControl(2000, 1000), self.hub, self.following)
        self.hub.set_state(ReplicaState.STREAMING)
        self._group_at: dict[TopicPartition, int] = {}
        self._follower: dict[TopicPartition, tuple[int, int]] = {}

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        self.offsets.dispatched(batch.partition, batch.epoch, start, end)
        self.following.taken(batch.partition, start, end)

    def _replayed(self, partition: TopicPartition, first: int, end: int) -> None:
        self.following.taken(partition, first, end)

    # What happens.

    async def count(self) -> None:
        """Metadata come, and what is missing is followed."""
        followed = {tp.topic for tp in self.following._ownership.followed}
        found = {TOPIC: len(self._cluster.ends)}
        self.hub.expect(self.following._counts.counted(found, {}, self.hub.whole_topics(), followed))
        await self.following._follow_missing()
        self._obey(self.following.followed(Followed()))

    def own(self, partition: TopicPartition) -> None:
        """The group assigns a partition that nobody has; it begins at its committed offset."""
        cluster = self._cluster
        if partition in cluster.ends and partition not in cluster.owners:
            cluster.owners[partition] = self
            self._group_at[partition] = cluster.committed[partition]
            self.offsets.assigned(partition)
            self.hub.assigned([partition])
            self.intake.take(PollResult(starts=[Start(partition, cluster.committed[partition], committed=True)]))
            self._obey(self.following.followed(Followed()))

    def revoke(self, partition: TopicPartition) -> None:
        """The group takes it away; a commit of what was dispatched goes before that."""
        if self._cluster.owners.get(partition) is self:
            self.hub.unassigned([partition], self.following.disowned([partition]))
            self._commit(self.offsets.revoked([partition]))
            self.intake.forget([partition])
            del self._cluster.owners[partition], self._group_at[partition]

    def commit(self) -> None:
        """Commit what was dispatched."""
        commits = self.offsets.committable(0)
        self.offsets.sent(commits, 0)
        self._commit(commits)
        for commit in commits:
            self.offsets.answered(commit.partition, commit.offset, 0, stored=True)

    def _commit(self, commits: Iterable[Commit]) -> None:
        for commit in commits:
            self._cluster.committed[commit.partition] = max(commit.offset, self._cluster.committed[commit.partition])

    def poll(self, number: int) -> None:
        """The group's consumer and the follower bring records."""
        for partition, at in tuple(self._group_at.items()):
            if wanted := range(at, min(self._cluster.ends[partition], at + number)):
                self._group_at[partition] = wanted.stop
                self.intake.take(PollResult(groups=[Group(partition, records(wanted), None)]))
        self._obey(self.following.followed(Followed()))
        for partition, (epoch, at) in tuple(self._follower.items()):
            if wanted := range(at, min(self._cluster.ends[partition], at + number)):
                self._follower[partition] = (epoch, wanted.stop)
                self._obey(self.following.followed(Followed(groups=[(epoch, Group(partition, records(wanted), None))])))

    def _obey(self, commands: FollowCommands) -> None:
        for partition in commands.unassign:
            self._follower.pop(partition, None)
        self._follower.update(commands.assign)

    # What is asked of Kafka.

    async def read(self, ranges: Mapping[TopicPartition, Range], max_bytes: int, client: Hashable = None) -> Chunk:  # noqa: ARG002
        """Two records of each partition."""
        wanted = {partition: range(part.first, min(part.end, part.first + 2)) for partition, part in ranges.items()}
        batches = [Batch(partition, records(offsets)) for partition, offsets in wanted.items()]
        return Chunk(batches, {partition: offsets.stop for partition, offsets in wanted.items()}, ())

    def log_ends(self, partitions: object) -> NoReturn:
        """Nobody asks: the follower has no thread."""
        raise AssertionError(partitions)

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """All of the logs."""
        return {partition: Bounds(0, self._cluster.ends[partition]) for partition in partitions}

    async def offsets_since(self, partitions: Iterable[TopicPartition], since_ms: int) -> Any:
        """Never called."""
        raise AssertionError(partitions, since_ms)

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The group's committed offsets."""
        return {partition: self._cluster.committed[partition] for partition in partitions}


class Reader:
    """A plain `EventSource`, over all of its connections."""

    def __init__(self, *, counts: bool) -> None:
        self._feed = WHOLE if counts else OBSERVING
        self.last_id = ""
        self.transport: SteppedTransport | None = None
        self._taken = 0
        self._scope = trio.CancelScope()
        self.next: dict[TopicPartition, int] = {}
        """The next offset of each partition, repeats dropped by the first pair."""
        self.began_before = False
        """Whether it had an id before the partition was added."""

    async def connect(self, replica: Replica, task_status: trio.TaskStatus[None]) -> None:
        """One connection, until it is cut."""
        self.transport, self._taken, self._scope = SteppedTransport(), 0, trio.CancelScope()
        position = parse_position(self.last_id) if self.last_id else {}
        subscriber = replica.hub.subscribe(self._feed, self.transport, position, None)
        task_status.started()
        with self._scope, suppress(SubscriberGoneError):
            await subscriber.run()
        replica.hub.unsubscribe(subscriber)

    def cut(self) -> None:
        """The connection breaks."""
        self._scope.cancel()

    def allow(self, number: int) -> None:
        """Its socket takes some writes."""
        for _ in range(number if self.transport is not None else 0):
            self.transport.allowed.release()  # type: ignore[union-attr]

    def take(self) -> None:
        """Take what has come, and look for holes."""
        blocks = [] if self.transport is None else list(self.transport.blocks)
        for event_id, kind, data in blocks[self._taken :]:
            self.last_id = event_id or self.last_id
            assert kind != "gap", data
            if kind == "message":
                partition, offset = next(iter(parse_position(event_id).items()))
                assert offset == int(data)
                begins_at = 0 if partition == ADDED and self.began_before else offset
                assert offset <= self.next.get(partition, begins_at), (partition, offset, self.next)
                self.next[partition] = max(offset + 1, self.next.get(partition, 0))
        self._taken = len(blocks)


class AddedPartition(RuleBasedStateMachine):
    """Any order of what can happen. Trio runs in a thread of its own; every step waits until all is quiet."""

    def __init__(self) -> None:
        super().__init__()
        started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main, started))
        self._thread.start()
        started.wait()

    async def _main(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self.cluster = Cluster()
            self.replicas = [Replica(self.cluster), Replica(self.cluster)]
            self.readers = [Reader(counts=True), Reader(counts=False)]
            for replica in self.replicas:
                self._nursery.start_soon(replica.hub.run)
            started.set()

    def _do(self, step: Callable[[], object | Awaitable[object]]) -> None:
        async def run() -> None:
            result = step()
            if isinstance(result, Awaitable):
                await result
            await settle()
            for reader in self.readers:
                reader.take()

        trio.from_thread.run(run, trio_token=self._token)

    def _connect(self, reader: Reader, replica: Replica) -> None:
        self._do(reader.cut)

        async def come() -> None:
            await self._nursery.start(reader.connect, replica)

        self._do(come)
        self._do(replica.count)

    @initialize(owner=st.sampled_from((0, 1)))
    def begin(self, owner: int) -> None:
        """Both readers have begun with a topic of one partition."""
        for number, replica in enumerate(self.replicas):
            if number == owner:
                self._do(partial(replica.own, FIRST))
            self._do(replica.count)
        for reader in self.readers:
            self._connect(reader, self.replicas[0])
            self._do(partial(reader.allow, 2))
        self._flow(8)
        for reader in self.readers:
            assert reader.last_id
            reader.began_before = True

    @rule(number=st.integers(1, 4))
    def add(self, number: int) -> None:
        """The topic grows, or the partition that was added gets records."""
        self.cluster.ends[ADDED] = self.cluster.ends.get(ADDED, 0) + number

    @rule(number=st.integers(1, 4))
    def produce(self, number: int) -> None:
        """The first partition gets records."""
        self.cluster.ends[FIRST] += number

    @rule(which=st.sampled_from((0, 1)))
    def count(self, which: int) -> None:
        """A replica finds out how many partitions there are."""
        self._do(self.replicas[which].count)

    @rule(which=st.sampled_from((0, 1)), partition=st.sampled_from((FIRST, ADDED)))
    def own(self, which: int, partition: TopicPartition) -> None:
        """The group assigns a partition to a replica, which may not have found out that there is one more."""
        if (owner := self.cluster.owners.get(partition)) is not None:
            self._do(lambda: owner.revoke(partition))
        self._do(lambda: self.replicas[which].own(partition))

    @rule(partition=st.sampled_from((FIRST, ADDED)), number=st.integers(1, 4))
    def consume_elsewhere(self, partition: TopicPartition, number: int) -> None:
        """A third replica owns a partition, and its subscribers take some records."""
        if (owner := self.cluster.owners.get(partition)) is not None:
            self._do(lambda: owner.revoke(partition))
        if partition in self.cluster.ends:
            committed = self.cluster.committed
            committed[partition] = min(self.cluster.ends[partition], committed[partition] + number)

    @rule(number=st.integers(1, 8))
    def flow(self, number: int) -> None:
        """Records are read, and taken; or heartbeats are sent."""
        self._flow(number)

    def _flow(self, number: int) -> None:
        for replica in self.replicas:
            self._do(partial(replica.poll, number))
            for part in range(HEARTBEAT_SLICES if number == 1 else 0):
                self._do(partial(beat, replica.hub, part))
        for reader in self.readers:
            self._do(partial(reader.allow, number))
        for replica in self.replicas:
            self._do(replica.commit)

    @rule(reader=st.sampled_from((0, 1)), which=st.sampled_from((0, 1)), number=st.integers(0, 3))
    def move(self, reader: int, which: int, number: int) -> None:
        """A reader is cut, and comes back to either replica."""
        self._connect(self.readers[reader], self.replicas[which])
        self._do(lambda: self.readers[reader].allow(number))

    def teardown(self) -> None:
        """In the end every replica knows of the partition, and every reader has all of it."""
        try:
            self.cluster.ends[ADDED] = self.cluster.ends.get(ADDED, 0) + 1
            for partition in (FIRST, ADDED):
                self.own(0, partition)
            for reader in self.readers:
                self._connect(reader, self.replicas[1])
                self._do(partial(reader.allow, LONG))
            for _ in range(3):
                self.count(0)
                self.count(1)
                self._flow(1000)
            assert [reader.next for reader in self.readers] == [self.cluster.ends] * 2
        finally:
            trio.from_thread.run_sync(self._nursery.cancel_scope.cancel, trio_token=self._token)
            self._thread.join()


AddedPartition.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestAddedPartition = AddedPartition.TestCase
