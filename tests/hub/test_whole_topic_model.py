"""The whole topic from one replica against a model, without Kafka and sockets: G1, G2, G11 and G13 whoever owns what.

Partition 0 changes its owner at any step: this replica has it, follows it, or neither. Partition 1 is always owned
here, and its records are between those of the other in memory. Everything is real but the log, the group's committed
offset, the group's consumer and the follower, each of which takes a step when the model says so.
"""

import json
import math
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, NoReturn

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dispatcher.errors import SubscriberGoneError
from dispatcher.following import Following
from dispatcher.hub import settlement
from dispatcher.hub.feed import Feed, feed_of
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
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.flow import FlowControl
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import NOW, Bounds, Chunk, Range
from dispatcher.sansio.records import Batch, Record, Records, TopicPartition
from dispatcher.settings import Settings
from tests.hub.test_fan_out_model import SteppedTransport
from tests.hub.test_hub import beat, settle

PARTITION, BESIDE = TopicPartition("assets", 0), TopicPartition("assets", 1)
TOPICS = frozenset({"assets"})
WHOLE = feed_of(SSE_VALUE, TOPICS, whole=True)
OBSERVING = feed_of(SSE_VALUE, TOPICS, whole=True, counts=False)
OWN = feed_of(SSE_VALUE, TOPICS)


EVEN, ODD = read_filter({"exact": {"key": "0"}}), read_filter({"exact": {"key": "1"}})
"""The key of a record says whether its offset is odd."""


class Kind(NamedTuple):
    """What a reader asks for."""

    feed: Feed
    with_id: bool = False

    def wanted_from(self, offset: int) -> int:
        """The first offset that it wants, from one on."""
        return offset if self.feed.filter is None else offset + (offset % 2 != (self.feed.filter is ODD))


KINDS = (Kind(WHOLE), Kind(WHOLE, with_id=True), Kind(OBSERVING), Kind(OBSERVING, with_id=True), Kind(OWN))

FILTERED = (
    Kind(feed_of(SSE_VALUE, TOPICS, EVEN, whole=True)),
    Kind(feed_of(SSE_VALUE, TOPICS, EVEN, whole=True), with_id=True),
    Kind(feed_of(SSE_VALUE, TOPICS, ODD, whole=True), with_id=True),
    Kind(feed_of(SSE_VALUE, TOPICS, ODD, whole=True, counts=False)),
    Kind(feed_of(SSE_VALUE, TOPICS, ODD)),
)


@dataclass
class Reader:
    """One connection."""

    kind: Kind
    named: int | None
    """The offset after the one that its id names."""
    committed: int
    """The group's offset when it came."""
    end: int
    """The end of the log then."""
    owned: bool
    """Whether the partition was owned here before its start was known: then it begins with what nobody was dispatched,
    committed or not."""
    has_start: Callable[[], bool] = lambda: False
    """Whether its start is known."""
    floor: int | None = None
    """The group's offset when it came, or when the partition was next assigned here, if it was not here then."""
    cut_over: bool = False
    """Whether its write was under way when the partition began again in the history: that write does not count."""
    transport: SteppedTransport = field(default_factory=SteppedTransport)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def blocks(self) -> list[tuple[str, str, str]]:
        """Yield id, kind and data of each received block."""
        return list(self.transport.blocks)

    @property
    def offsets(self) -> list[int]:
        """The records that have come, whole."""
        return [int(data) for _, kind, data in self.blocks if kind == "message" and data[0] != "b"]

    def next_offset(self) -> int | None:
        """The next one by its last id."""
        ids = [event_id for event_id, _, _ in self.blocks if event_id]
        return parse_position(ids[-1]).get(PARTITION, -1) + 1 if ids else self.named


class World:
    """A log, a group, and one replica of it without threads.

    Args:
        more: More settings of the replica.
    """

    def __init__(self, **more: object) -> None:
        self.end = 0
        self.committed = 0
        self.elsewhere = 0
        """Up to where other owners have dispatched, and committed."""
        self.taken: set[int] = set()
        """What was written to somebody who counts."""
        self.unwanted: set[int] = set()
        """What somebody present, while the partition was owned here, might have had, and nobody wanted."""
        self.group_at: int | None = None
        """Where the group's consumer is; None: it does not have the partition."""
        self.follower: dict[TopicPartition, tuple[int, int]] = {}
        """Epoch and next offset."""
        self.readers: list[Reader] = []
        self.ids: list[int] = [0]
        tiny = {"history_bytes": 6000, "pause_above_bytes": 2000, "resume_below_bytes": 1000, **more}
        config = Settings(client_id="replica", topics=("assets",), subscriber_buffer_bytes=200, write_bytes=100, **tiny)  # type: ignore[arg-type]
        self.offsets = OffsetTracker()
        self.hub = Hub(config, self._dispatched, _Lookups(self), self._replayed)
        self.following = Following(config, self.hub, self, self.offsets, Spacing(0))  # type: ignore[arg-type]
        self.intake = Intake(self.offsets, FlowControl(2000, 1000), self.hub, self.following)
        self.hub.set_state(ReplicaState.STREAMING)
        self.hub.expect({"assets": 2})
        self.end_beside = 0
        self.offsets.assigned(BESIDE)
        self.hub.assigned([BESIDE])
        self.intake.take(PollResult(starts=[Start(BESIDE, 0, committed=True)]))

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        self.offsets.dispatched(batch.partition, batch.epoch, start, end)
        self.following.taken(batch.partition, start, end)

    def _replayed(self, partition: TopicPartition, first: int, end: int) -> None:
        self.following.taken(partition, first, end)

    # What happens.

    def own(self) -> None:
        """The group assigns the partition; it begins at the committed offset."""
        if self.group_at is None:
            history = self.hub.history
            before = history.begin(PARTITION) if history.knows(PARTITION) else None
            for reader in self.readers:
                reader.owned |= not reader.has_start()
                reader.floor = self.committed if reader.floor is None else reader.floor
            self.offsets.assigned(PARTITION)
            self.hub.assigned([PARTITION])
            self.intake.take(PollResult(starts=[Start(PARTITION, self.committed, committed=True)]))
            if before is not None and history.begin(PARTITION) != before:
                for reader in self.readers:
                    reader.cut_over = True
            self.group_at = self.committed

    def revoke(self, *, lost: bool) -> None:
        """The group takes it away; a commit of what was dispatched goes before that, unless it was lost."""
        if self.group_at is not None:
            disowned = self.following.disowned([PARTITION])
            self.hub.unassigned([PARTITION], disowned)
            if lost:
                self.offsets.lost([PARTITION])
            else:
                self._commit(self.offsets.revoked([PARTITION]))
            self.intake.forget([PARTITION])
            self.group_at = None

    def commit(self) -> None:
        """What was dispatched is committed."""
        commits = self.offsets.committable(0)
        self.offsets.sent(commits, 0)
        self._commit(commits)
        for commit in commits:
            self.offsets.answered(commit.partition, commit.offset, 0, stored=True)

    def _commit(self, commits: Iterable[Commit]) -> None:
        for commit in commits:
            if commit.partition == BESIDE:
                continue
            assert self.group_at is not None, "a commit of what is not owned"
            self.committed = max(self.committed, commit.offset)
            early = [n for n in range(self.elsewhere, self.committed) if n not in self.taken | self.unwanted]
            assert not early, f"{early} committed, and nobody was sent them"

    def dispatch_elsewhere(self, number: int) -> None:
        """Another owner's subscribers take records, and it commits."""
        if self.group_at is None:
            self.committed = min(self.end, max(self.committed, self.elsewhere) + number)
            self.elsewhere = max(self.elsewhere, self.committed)

    def poll(self, number: int) -> None:
        """The group's consumer brings records."""
        if self.group_at is not None and (wanted := range(self.group_at, min(self.end, self.group_at + number))):
            self.group_at = wanted.stop
            self.intake.take(PollResult(groups=[Group(PARTITION, records(wanted), None)]))

    def poll_beside(self, number: int) -> None:
        """The group's consumer brings records of the partition that stays."""
        wanted = range(self.end_beside, self.end_beside + number)
        self.end_beside = wanted.stop
        self.intake.take(PollResult(groups=[Group(BESIDE, records(wanted, "b"), None)]))

    def follow(self, number: int) -> None:
        """The follower brings records; it is there as soon as somebody needs it."""
        self._obey(self.following.followed(Followed()))
        history, ownership = self.hub.history, self.following._ownership
        if self.hub.whole_topics() and self.group_at is None and not ownership.followed:
            begin = max(0, self.end - 4)
            self.following.logs.ids.begin(PARTITION, self.following.logs.ids.reported("assets"))
            self.following._orders.follow(PARTITION, ownership.follow(PARTITION), begin)
            self.hub.followed.follow(PARTITION, begin)
            assert history.is_followed(PARTITION)
            self._obey(self.following.followed(Followed()))
        for partition, (epoch, at) in tuple(self.follower.items()):
            wanted = range(at, min(self.end, at + number))
            if wanted:
                self.follower[partition] = (epoch, wanted.stop)
                self._obey(self.following.followed(Followed(groups=[(epoch, Group(partition, records(wanted), None))])))

    def unfollow(self) -> None:
        """The last subscriber of the whole topic has left: the follower is closed."""
        if not self.hub.whole_topics():
            self.following._drop_topics({"assets"})
            self._obey(self.following.followed(Followed()))

    def _obey(self, commands: FollowCommands) -> None:
        for partition in commands.unassign:
            self.follower.pop(partition, None)
        self.follower.update(commands.assign)

    async def connect(self, kind: Kind, named: int, task_status: trio.TaskStatus[None]) -> None:
        """Somebody comes, and stays until the end of the connection."""
        reader = Reader(kind, named if kind.with_id else None, self.committed, self.end, self.group_at is not None)
        reader.floor = self.committed if reader.owned else None
        self.readers.append(reader)
        since = None if kind.feed.counts else NOW
        position = {PARTITION: named - 1} if kind.with_id else {}
        subscriber = self.hub.subscribe(kind.feed, reader.transport, position, since)
        reader.has_start = lambda: subscriber.resumption.has_start
        task_status.started()
        with reader.scope, suppress(SubscriberGoneError):
            await subscriber.run()
        self.hub.unsubscribe(subscriber)
        self.readers.remove(reader)
        if (next_offset := reader.next_offset()) is not None:
            self.ids.append(next_offset)

    # What the hub asks of Kafka (lookups.Replays).

    async def read(self, ranges: Mapping[TopicPartition, Range], max_bytes: int, client: Hashable = None) -> Chunk:  # noqa: ARG002
        """Two records."""
        partition, part = min(ranges.items())
        wanted = range(part.first, min(part.end, part.first + 2))
        found = records(wanted, "b" if partition == BESIDE else "")
        others = {tp: other.first for tp, other in ranges.items()}
        return Chunk([Batch(partition, found)], {**others, partition: wanted.stop}, ())

    def log_ends(self, partitions: object) -> NoReturn:
        """Nobody asks: the follower has no thread."""
        raise AssertionError(partitions)

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """All of the log."""
        return {tp: Bounds(0, self.end_beside if tp == BESIDE else self.end) for tp in partitions}

    async def offsets_since(
        self,
        partitions: Iterable[TopicPartition],
        since_ms: int,  # noqa: ARG002
    ) -> Mapping[TopicPartition, int | None]:
        """Nobody asks."""
        raise AssertionError(partitions)

    # What has to be true.

    def look(self) -> None:
        """Take note of what nobody present wants."""
        present = [reader.kind for reader in self.readers if reader.kind.feed.counts]
        if present and self.group_at is not None:
            self.unwanted.update(n for n in range(self.end) if all(kind.wanted_from(n) > n for kind in present))

    def check(self) -> None:  # noqa: PLR0912 - one assertion each
        """Records come in order and without a hole; a repeat only to whoever counts and came with an id."""
        self.look()
        for reader in self.readers:
            offsets, kind = reader.offsets, reader.kind
            assert all(kind.wanted_from(offset) == offset for offset in offsets), (kind, offsets)
            if kind.feed.counts and kind.feed.whole:
                self.taken.update(offsets)
            for before, offset in pairwise(offsets):
                assert offset <= kind.wanted_from(before + 1) or not kind.feed.whole, (kind, offsets)
                # To the others a partition comes back as after a crash, with what was not committed.
                may_repeat = kind.feed.counts and (kind.with_id or reader.cut_over)
                if kind.feed.whole and not may_repeat:
                    assert offset > before, (kind.feed.counts, kind.feed.whole, offsets, reader.owned)
            if offsets and kind.feed.whole:
                if kind.with_id:
                    assert reader.named is not None
                    first = kind.wanted_from(reader.named)
                    assert offsets[0] <= first if kind.feed.counts else offsets[0] == first
                elif kind.feed.counts:
                    assert reader.owned or offsets[0] <= kind.wanted_from(max(reader.committed, self.committed)), (
                        offsets,
                        reader.committed,
                    )
                else:
                    assert offsets[0] >= reader.end
            sent = -1 if reader.named is None else reader.named - 1
            for event_id, event, data in reader.blocks:
                if data.startswith("b"):
                    continue
                sent = int(data) if event == "message" else sent
                if event_id and kind.feed.whole:
                    position = parse_position(event_id)
                    assert PARTITION in position, event_id
                    if event == "message":
                        assert position[PARTITION] == sent
                    elif offsets:
                        assert position[PARTITION] < kind.wanted_from(max(sent + 1, offsets[0])), (event_id, sent)
        for reader in self.readers:
            self.check_ids(reader)
            if reader.kind.feed.counts and not reader.kind.feed.whole:
                self.taken.update(reader.offsets)
                self.check_own(reader)

    @staticmethod
    def check_ids(reader: Reader) -> None:
        """Of the partition that stays, each record comes once, and ids from then on name it."""
        seen = -1
        for event_id, event, data in reader.blocks:
            if event == "message" and data.startswith("b"):
                assert int(data[1:]) > seen, (reader.kind, seen, data)
                seen = int(data[1:])
            if event_id:
                assert parse_position(event_id).get(BESIDE, -1) >= seen, (reader.kind, event_id, seen)

    @staticmethod
    def check_own(reader: Reader) -> None:
        """What was committed elsewhere before the partition came is not for it, and repeats are what its ids named."""
        assert reader.floor is not None or not reader.offsets
        assert min(reader.offsets, default=math.inf) >= (reader.floor or 0), (reader.floor, reader.offsets)
        named = -1
        for event_id, event, data in reader.blocks:
            if event_id:
                named = max(named, parse_position(event_id).get(PARTITION, -1))
            for repeats in json.loads(data).get("repeats", ()) if event == "state" else ():
                # To the end of what its ids named, and of what its filter left out after that.
                assert repeats["from"] <= named, (repeats, named)


def records(offsets: range, prefix: str = "") -> Records:
    """Records whose values are their offsets."""
    return Records.of(Record(n, None, str(n % 2).encode(), f"{prefix}{n}".encode(), ()) for n in offsets)


class WholeTopic(RuleBasedStateMachine):
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

    @rule(number=st.integers(1, 4))
    def produce(self, number: int) -> None:
        """Records are written."""
        self.world.end += number

    @rule(number=st.integers(1, 4))
    def poll(self, number: int) -> None:
        """The group's consumer brings records, if it has the partition."""
        self._do(lambda: self.world.poll(number))

    @rule(number=st.integers(1, 2))
    def poll_beside(self, number: int) -> None:
        """The group's consumer brings records of the partition that stays."""
        self._do(lambda: self.world.poll_beside(number))

    @rule(number=st.integers(0, 4))
    def follow(self, number: int) -> None:
        """The follower brings records, if it is needed; or everybody gets a heartbeat."""

        def step() -> None:
            self.world.follow(number)
            for part in range(HEARTBEAT_SLICES if number == 0 else 0):
                beat(self.world.hub, part)

        self._do(step)

    @initialize(committed=st.integers(0, 4))
    def begin(self, committed: int) -> None:
        """Others have begun with the topic, and somebody here wants the whole of it."""
        self.world.end = 8
        self.world.committed = self.world.elsewhere = committed

        async def step() -> None:
            await self._nursery.start(self.world.connect, KINDS[1], 6)
            self.world.readers[0].transport.allowed.release()

        self._do(step)
        self._do(lambda: self.world.follow(4))

    @rule(number=st.integers(1, 4))
    def flow(self, number: int) -> None:
        """Records are written, read, and taken by everybody."""
        self.world.end += number

        def step() -> None:
            for reader in self.world.readers:
                for _ in range(3):
                    reader.transport.allowed.release()

        self._do(lambda: self.world.poll(8))
        self._do(lambda: self.world.follow(8))
        self._do(step)

    @rule()
    def own(self) -> None:
        """The partition is assigned."""
        self._do(self.world.own)

    @rule(lost=st.booleans())
    def revoke(self, lost: bool) -> None:
        """The partition is revoked, or lost."""
        self._do(lambda: self.world.revoke(lost=lost))

    @rule()
    def commit(self) -> None:
        """Commit what was dispatched."""
        self._do(self.world.commit)

    @rule(number=st.integers(1, 4))
    def dispatch_elsewhere(self, number: int) -> None:
        """Another owner goes on."""
        self._do(lambda: self.world.dispatch_elsewhere(number))

    @rule(kind=st.sampled_from(KINDS), data=st.data())
    def connect(self, kind: Kind, data: st.DataObject) -> None:
        """Somebody comes, perhaps with an id of before or of another replica."""
        named = (
            data.draw(st.sampled_from(self.world.ids) | st.integers(self.world.committed, self.world.end))
            if kind.with_id
            else 0
        )

        async def step() -> None:
            await self._nursery.start(self.world.connect, kind, min(named, self.world.end))

        self._do(step)

    @rule(data=st.data(), number=st.integers(1, 5))
    def write(self, data: st.DataObject, number: int) -> None:
        """A socket takes some writes, or each does."""
        if self.world.readers:
            which = data.draw(st.none() | st.integers(0, len(self.world.readers) - 1))

            def step() -> None:
                for reader in self.world.readers if which is None else [self.world.readers[which]]:
                    for _ in range(number):
                        reader.transport.allowed.release()

            self._do(step)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A connection is cut, in a write or between two."""
        if self.world.readers:
            reader = self.world.readers[data.draw(st.integers(0, len(self.world.readers) - 1))]
            self._do(reader.scope.cancel)
            self._do(self.world.unfollow)

    def teardown(self) -> None:
        """In the end the partition is owned here, everybody takes everything, and nothing sticks."""
        try:
            self._do(self.world.own)
            for _ in range(3):
                self._let_all_write()
                self._do(lambda: self.world.poll(1_000))
            self._let_all_write()
            self._do(self.world.commit)
            world = self.world
            for reader in world.readers:
                # One without an id begins where the group, or the log, is when the partition is here.
                is_owed = reader.offsets or reader.kind.with_id
                if reader.kind.feed.whole and is_owed:
                    start = reader.committed if reader.named is None else reader.named
                    wanted = [n for n in range(start, world.end) if reader.kind.wanted_from(n) == n]
                    if wanted:
                        assert max(reader.offsets, default=start - 1) == wanted[-1], (
                            reader.kind,
                            reader.named,
                            reader.offsets,
                            world.end,
                        )
            if any(reader.kind.feed.counts for reader in world.readers):
                assert world.committed == world.end, f"{world.committed} committed of {world.end}"
        finally:
            trio.from_thread.run_sync(self._nursery.cancel_scope.cancel, trio_token=self._token)
            self._thread.join()

    def _let_all_write(self) -> None:
        def step() -> None:
            for reader in self.world.readers:
                for _ in range(1_000):
                    reader.transport.allowed.release()

        self._do(step)


class _Lookups:
    """What the hub asks of Kafka, by the name that the world cannot have for it."""

    def __init__(self, world: World) -> None:
        self.read, self.bounds, self.offsets_since = world.read, world.bounds, world.offsets_since
        self._world = world

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The group's committed offsets."""
        return dict.fromkeys(partitions, self._world.committed)


class FilteredWholeTopic(WholeTopic):
    """The same with readers that want every other record: what is between is settled while the partition is owned."""

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(settlement, "PAUSE_SECONDS", 0)
        self._patch.setattr(settlement, "PAUSE_RATIO", 0)
        super().__init__()

    @rule(kind=st.sampled_from(KINDS), data=st.data())
    def connect(self, kind: Kind, data: st.DataObject) -> None:
        """Somebody comes who wants all of it."""
        super().connect(kind, data)

    @rule(kind=st.sampled_from(FILTERED), data=st.data())
    def connect_filtered(self, kind: Kind, data: st.DataObject) -> None:
        """Somebody comes who wants a part."""
        super().connect(kind, data)

    def teardown(self) -> None:
        """In the end nothing sticks."""
        try:
            super().teardown()
        finally:
            self._patch.undo()


TestFilteredWholeTopic = FilteredWholeTopic.TestCase
TestFilteredWholeTopic.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestWholeTopic = WholeTopic.TestCase
TestWholeTopic.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
