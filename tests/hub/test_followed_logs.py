"""A topic is recreated while it is followed, and has outgrown its old log by the time that anybody notices.

Without Kafka: the records of the new log continue those of the old one, as far as offsets show.
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from collections.abc import Set as AbstractSet

import pytest
import trio
import trio.testing

from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.decoding import Group
from dispatcher.kafka.follower import Followed
from dispatcher.sansio.beginnings import Stamp, Start
from dispatcher.sansio.log_ids import REPORTS
from dispatcher.sansio.ranges import Bounds
from dispatcher.sansio.records import TopicPartition
from tests.hub.test_hub import settle
from tests.hub.test_whole_topic_model import BESIDE, FILTERED, KINDS, PARTITION, Kind, Reader, World, records

OLD, NEW = 8, 13
"""The ends of both logs."""

WHOLE, OBSERVING, OWN = KINDS[0], KINDS[2], KINDS[4]
"""Readers of the whole topic, of which one does not count, and of the replica's own partitions."""


class SlowLeaders:
    """Looks offsets up for a replica: the leaders know the answer at once, and it takes its time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.asked, self.answers = trio.Event(), trio.Event()
        counts = dict.fromkeys(("assets", "others"), 1)
        world.hub.expect(world.following._counts.counted(counts, {}, frozenset(), frozenset()))
        world.following._replays = world.following.logs._replays = self  # type: ignore[assignment] # it is enough

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """All of the log as it is when asked."""
        found = await self._world.bounds(partitions)
        self.asked.set()
        await self.answers.wait()
        return found

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The group's offset."""
        return dict.fromkeys(partitions, self._world.committed)


@pytest.fixture
async def world(nursery: trio.Nursery) -> AsyncIterator[World]:
    """A reader of the whole topic has read the old log, and five records of the new one."""
    world = World()
    nursery.start_soon(world.hub.run)
    world.following.logs.found({"assets": "old"})
    await nursery.start(world.connect, KINDS[1], 0)
    for end in (OLD, NEW):
        world.end = end
        world.follow(NEW)
        await flow(world)
    yield world
    nursery.cancel_scope.cancel()


async def flow(world: World) -> Reader:
    """Let the reader take everything."""
    (reader,) = world.readers
    await let_take(reader)
    return reader


async def let_take(*readers: Reader) -> None:
    """Let these readers take everything, and nobody else."""
    for _ in range(60):
        for reader in readers:
            reader.transport.allowed.release()
        await settle()


async def report(world: World, topic_id: str) -> None:
    """A broker reports the id of the topic, and the follower obeys."""
    world.following.logs.found({"assets": topic_id})
    assert await world.following.logs.find_lost()
    world._obey(world.following.followed(Followed()))


def assign(world: World, offset: int, topic_id: str | None, *, recreated: bool = False) -> None:
    """The group assigns the partition, and has committed this offset in a log of this id."""
    world.offsets.assigned(PARTITION)
    world.hub.assigned([PARTITION])
    start = Start(PARTITION, offset, committed=not recreated, stamp=Stamp(topic_id), recreated=recreated)
    world.intake.take(PollResult(starts=[start]))
    world.group_at = offset


def committable(world: World) -> list[int]:
    """What would be committed now, but for beginnings."""
    return [commit.offset for commit in world.offsets.committable(0) if commit.offset]


def gaps(reader: Reader) -> list[str]:
    """The gaps that a reader was sent."""
    return [data for _, kind, data in reader.blocks if kind == "gap"]


@pytest.mark.parametrize("reports", range(REPORTS + 1))
@pytest.mark.parametrize("topic_id", ["new", None])
async def test_nothing_that_was_sent_of_the_old_log_counts_in_the_new_one(
    world: World, topic_id: str | None, reports: int
) -> None:
    """The group begins with the new log, perhaps without knowing its id, and commits only what was sent of that."""
    for _ in range(reports):
        world.following.logs.found({"assets": "new"})
    assign(world, 0, topic_id)
    await flow(world)
    assert committable(world) == []
    world.intake.take(PollResult(stamps={PARTITION: Stamp("new")}))
    world.poll(NEW)
    reader = await flow(world)
    assert reader.offsets[-NEW - 1 :] == [NEW - 1, *range(NEW)]
    assert committable(world) == [NEW]
    assert gaps(reader) == ['{"topic":"assets","partition":0,"from":13,"to":-1,"reason":"recreated"}']


async def test_what_others_have_dispatched_of_the_new_log_is_read_as_well(world: World) -> None:
    """A stream of the whole topic has all of it, wherever the group continues."""
    assign(world, 6, "new")
    world.poll(NEW)
    reader = await flow(world)
    assert reader.offsets[-NEW - 1 :] == [NEW - 1, *range(NEW)]
    assert len(gaps(reader)) == 1


async def test_a_topic_that_has_another_id_is_followed_from_its_first_record(world: World) -> None:
    """Nobody owns it here. A broker that still reports the old id changes nothing."""
    for topic_id in ("new", "new", "old", "new", "old", "new"):
        await report(world, topic_id)
        world.follow(NEW)
        reader = await flow(world)
    assert reader.offsets[-NEW - 1 :] == [NEW - 1, *range(NEW)]
    assert len(gaps(reader)) == 1


@pytest.mark.parametrize("recreated", [False, True])
async def test_a_log_that_is_followed_already_is_not_replaced_by_itself(world: World, recreated: bool) -> None:
    """The group has committed nothing in it, or the first record: what was sent of it counts."""
    await report(world, "new")
    await report(world, "new")
    world.follow(NEW)
    await flow(world)
    assign(world, 0, "new", recreated=recreated)
    world.poll(NEW)
    reader = await flow(world)
    assert reader.offsets[-NEW - 1 :] == [NEW - 1, *range(NEW)]
    assert len(gaps(reader)) == 1
    assert committable(world) == [NEW]


async def test_a_log_that_ends_too_early_is_not_replaced_once_more_by_its_id(world: World) -> None:
    """The follower finds the shorter log before brokers are asked for the id."""
    world.end = 5
    ((_, (epoch, _)),) = world.follower.items()
    world.following.followed(Followed(out_of_range=[(PARTITION, epoch, NEW)]))
    for topic_id in ("new", "new", "new"):
        await report(world, topic_id)
        world.follow(NEW)
        reader = await flow(world)
    assert reader.offsets[-6:] == [NEW - 1, *range(5)]
    assert len(gaps(reader)) == 1


async def test_if_the_group_knows_no_id_readers_miss_nothing_of_what_may_be_the_same_log(world: World) -> None:
    """Others have committed records that were not read here yet."""
    world.end = 20
    assign(world, 17, None)
    world.poll(NEW)
    reader = await flow(world)
    assert reader.offsets == list(range(world.end))
    assert committable(world) == [world.end]


async def test_a_log_is_known_whatever_the_group_does_while_it_is_looked_up(nursery: trio.Nursery) -> None:
    """The partition is assigned, and revoked before it begins; the recreation later is noticed as ever."""
    world = World()
    leaders = SlowLeaders(world)
    nursery.start_soon(world.hub.run)
    world.following.logs.found({"assets": "old"})
    await nursery.start(world.connect, KINDS[1], 0)
    world.end = OLD
    nursery.start_soon(world.following._follow_missing)
    await leaders.asked.wait()
    world.offsets.assigned(PARTITION)
    world.hub.assigned([PARTITION])
    world.hub.unassigned([PARTITION], world.following.disowned([PARTITION]))
    world.offsets.lost([PARTITION])
    leaders.answers.set()
    await settle()
    for end in (OLD, NEW):
        world.end = end
        world.follow(NEW)
        await flow(world)
    for _ in range(REPORTS):
        await report(world, "new")
    world.follow(NEW)
    reader = await flow(world)
    assert reader.offsets[-NEW:] == [*range(NEW)]
    assert len(gaps(reader)) == 1
    nursery.cancel_scope.cancel()


async def test_an_answer_decides_nothing_about_a_later_question(nursery: trio.Nursery) -> None:
    """A broker lags; while a leader is asked the follower begins again and reads on, and another broker lags."""
    world = World()
    nursery.start_soon(world.hub.run)
    await nursery.start(world.connect, KINDS[1], 0)
    world.end = OLD
    world.follow(NEW)
    await flow(world)
    ((_, (epoch, _)),) = world.follower.items()
    world.following.followed(Followed(out_of_range=[(PARTITION, epoch, OLD)]))
    leaders = SlowLeaders(world)
    nursery.start_soon(world.following.logs.find_lost)
    await leaders.asked.wait()
    world.following.follow()
    read_on = Group(PARTITION, records(range(OLD, NEW)), None)
    world.following.followed(Followed(groups=[(epoch, read_on)], out_of_range=[(PARTITION, epoch, NEW)]))
    world.end = NEW
    leaders.answers.set()
    await settle()
    assert await world.following.logs.find_lost()
    reader = await flow(world)
    assert reader.offsets == [*range(NEW)]
    assert gaps(reader) == []
    nursery.cancel_scope.cancel()


async def test_a_topic_whose_last_reader_leaves_at_once_is_followed_no_longer_than_others(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """It has been followed, but nobody has looked since who wants it."""
    del autojump_clock
    world = World()
    leaders = SlowLeaders(world)
    nursery.start_soon(world.hub.run)
    await nursery.start(world.connect, KINDS[1], 0)
    world.following._is_running = True
    nursery.start_soon(world.following._keep_up)
    await leaders.asked.wait()
    other = TopicPartition("others", 0)
    world.following._ownership.follow(other)
    world.hub.followed.follow(other, 0)
    leaders.answers.set()
    await trio.sleep(3 * world.following._settings.follow_linger_seconds)
    assert world.following.is_followed(PARTITION)
    assert not world.following.is_followed(other)
    nursery.cancel_scope.cancel()


async def test_writes_are_forgotten_in_one_pass_however_many_partitions_are_followed(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass looks at every subscriber, and nothing else runs meanwhile."""
    world = World()
    leaders = SlowLeaders(world)
    leaders.answers.set()
    nursery.start_soon(world.hub.run)
    for kind in (WHOLE, OWN):
        await nursery.start(world.connect, kind, 0)
    world.hub.expect({"assets": 12})
    world.following._is_running = True
    registry, passes = world.hub._registry, list[AbstractSet[TopicPartition]]()
    forget_writes = registry.forget_writes

    def count(partitions: AbstractSet[TopicPartition]) -> None:
        passes.append(partitions)
        forget_writes(partitions)

    monkeypatch.setattr(registry, "forget_writes", count)
    assert await world.following._follow_missing()
    expected = {TopicPartition("assets", number) for number in range(12)} - {BESIDE}
    assert world.hub.followed.partitions == expected
    assert passes == [expected]
    nursery.cancel_scope.cancel()


class Former:
    """A replica that owns the old log of the partition, with one reader of its own partitions.

    Args:
        nursery: Runs it.
        more: More settings of the replica.
    """

    def __init__(self, nursery: trio.Nursery, **more: object) -> None:
        self.nursery, self.world = nursery, World(**more)
        nursery.start_soon(self.world.hub.run)
        self.world.following.logs.found({"assets": "old"})
        self.world.end = OLD
        assign(self.world, 0, "old")

    async def connect(self, kind: Kind, named: int = 0) -> Reader:
        """One more reader, which has taken nothing yet; its id, if it has one, names the offset before this one."""
        await self.nursery.start(self.world.connect, kind, named)
        return self.world.readers[-1]

    async def has_been_read(self, *kinds: Kind) -> list[Reader]:
        """Readers that have taken the whole old log."""
        readers = [await self.connect(kind) for kind in kinds]
        self.world.poll(OLD)
        await let_take(*readers)
        self.world.taken.update(range(OLD))
        return readers

    async def has_stuck_write(self) -> Reader:
        """A reader whose write of the whole old log does not end."""
        reader = await self.connect(OWN)
        await let_take(reader)
        reader.transport.allowed = trio.Semaphore(0)
        self.world.poll(OLD)
        await settle()
        return reader

    async def has_stuck_replay(self) -> Reader:
        """A reader whose write of records that had left memory does not end; with a small history."""
        world = self.world
        world.poll(1)
        slow, odd = await self.connect(OWN), await self.connect(FILTERED[4])
        await settle()
        for _ in range(OLD):
            world.poll(1)
            await let_take(odd)
        subscriber = next(one for one in world.hub._registry.everybody.values() if one.feed == OWN.feed)
        while not subscriber.resumption._ranges_under_way:
            slow.transport.allowed.release()
            await settle()
        assert subscriber.resumption._ranges_under_way == [(PARTITION, 1, 3)]
        world.taken.update(range(OLD))
        await self.leave(odd)
        return slow

    async def leave(self, reader: Reader) -> None:
        """A reader's connection ends."""
        reader.scope.cancel()
        await settle()

    def recreate(self) -> None:
        """The topic is recreated, and brokers report that."""
        for _ in range(REPORTS):
            self.world.following.logs.found({"assets": "new"})
        self.world.end, self.world.committed = NEW, 0


@pytest.fixture
async def former(nursery: trio.Nursery) -> AsyncIterator[Former]:
    """A replica that owns the old log of the partition."""
    yield Former(nursery)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("was_followed", [False, True])
async def test_a_write_of_the_old_log_counts_for_nothing_in_a_log_that_is_followed_later(
    former: Former, *, was_followed: bool
) -> None:
    """The partition has left in between, so that nobody has noticed that its topic was recreated."""
    world = former.world
    slow = await former.has_stuck_write()
    if was_followed:
        whole = await former.connect(OBSERVING)
    world.revoke(lost=True)
    if was_followed:
        whole.scope.cancel()
        await settle()
        world.unfollow()
    former.recreate()
    observer = await former.connect(OBSERVING)
    world.follow(NEW)
    await let_take(observer, slow)
    assert slow.offsets == [*range(OLD)]
    slow.scope.cancel()
    await settle()
    assign(world, 0, "new")
    world.poll(NEW)
    await let_take(observer)
    assert committable(world) == []


@pytest.mark.parametrize("lost", [False, True])
async def test_a_replay_of_the_old_log_dispatches_nothing_in_a_log_that_is_assigned_later(
    nursery: trio.Nursery, *, lost: bool
) -> None:
    """What it replays had left memory before anybody was sent it. The next owner has begun with the new log."""
    former = Former(nursery, history_bytes=3000)
    world = former.world
    slow = await former.has_stuck_replay()
    world.revoke(lost=lost)
    former.recreate()
    assign(world, 1, "new")
    world.poll(NEW)
    slow.transport.allowed.release()
    await settle()
    slow.scope.cancel()
    await settle()
    assert slow.offsets == [0, 1, 2]
    assert world.offsets.dispatched_to(PARTITION) == 1
    nursery.cancel_scope.cancel()


async def test_a_write_of_the_old_log_counts_for_nothing_in_a_log_that_was_assigned_and_is_followed_now(
    former: Former,
) -> None:
    """The partition has come and gone once more during that write."""
    world = former.world
    slow = await former.has_stuck_write()
    world.revoke(lost=True)
    former.recreate()
    assign(world, 1, "new")
    observer = await former.connect(OBSERVING)
    world.poll(NEW)
    world.revoke(lost=True)
    assert world.following.is_followed(PARTITION)
    await let_take(observer, slow)
    slow.scope.cancel()
    await settle()
    assign(world, 1, "new")
    await let_take(observer)
    assert committable(world) == []


async def test_the_gap_of_a_recreated_topic_begins_where_a_reader_was_not_where_the_follower_was(
    former: Former,
) -> None:
    """A reader of the replica's own partitions was sent less, or nothing."""
    world = former.world
    own, whole = await former.has_been_read(OWN, WHOLE)
    world.revoke(lost=False)
    late = await former.connect(OWN)
    world.end = OLD + 4
    world.follow(4)
    await let_take(*world.readers)
    former.recreate()
    assign(world, 0, "new", recreated=True)
    world.poll(NEW)
    await let_take(*world.readers)
    assert [reader.offsets[-NEW:] for reader in world.readers] == [[*range(NEW)]] * 3
    assert [json.loads(gap)["from"] for gap in gaps(own) + gaps(whole)] == [OLD, OLD + 4]
    assert gaps(late) == []


@pytest.mark.parametrize("is_announced", [False, True])
async def test_readers_of_the_own_partitions_have_the_gap_of_a_topic_that_is_recreated_while_it_is_followed(
    former: Former, *, is_announced: bool
) -> None:
    """It begins where each of them was, live or not; the partition comes back later.

    By then the new log is longer than the old one was, and the group may have committed in it.
    """
    world = former.world
    own, whole = [await former.connect(kind) for kind in (OWN, WHOLE)]
    for _ in range(2):
        world.poll(OLD // 2)
        await let_take(own, whole)
    behind = await former.connect(Kind(OWN.feed, with_id=True))
    await settle()
    world.taken.update(range(OLD))
    world.revoke(lost=False)
    late = await former.connect(OWN)
    former.recreate()
    assert await world.following.logs.find_lost()
    world.follow(NEW)
    await let_take(*world.readers)
    assign(world, 0 if is_announced else NEW, "new", recreated=is_announced)
    world.end += 1
    world.poll(NEW + 1)
    await let_take(*world.readers)
    found = [[json.loads(gap) for gap in gaps(reader)] for reader in world.readers]
    assert [[(gap["from"], gap["to"]) for gap in each] for each in found] == [[(8, -1)], [(8, -1)], [(4, -1)], []]
    assert whole.offsets == [*range(OLD), *range(NEW + 1)]
    assert [own.offsets, behind.offsets, late.offsets] == [[*range(OLD), NEW], [*range(4), NEW], [NEW]]
    assert [kind for _, kind, _ in own.blocks if kind in {"gap", "message"}][-2:] == ["gap", "message"]


async def test_what_was_found_out_about_a_log_says_nothing_about_one_that_is_assigned_in_the_same_poll(
    former: Former,
) -> None:
    """The partition is revoked in between; the id of its former topic must not be committed with its offsets."""
    world = former.world
    result = PollResult(stamps={PARTITION: Stamp("old"), BESIDE: Stamp("beside")})
    world.revoke(lost=False)
    result.forget([PARTITION])
    world.offsets.assigned(PARTITION)
    world.hub.assigned([PARTITION])
    result.starts.append(Start(PARTITION, 0, committed=False, stamp=Stamp("new")))
    world.intake.take(result)
    found = {commit.partition: commit.metadata for commit in world.offsets.committable(0)}
    assert found[PARTITION] == Stamp("new").format()
    ids = world.following.logs.ids
    assert (ids.is_same(PARTITION, "new"), ids.is_same(BESIDE, "beside")) == (True, True)


@pytest.mark.parametrize(("topic_id", "offset"), [("new", 0), ("new", 5), ("old", OLD), (None, OLD)])
@pytest.mark.parametrize("is_followed", [False, True])
async def test_readers_of_a_partition_that_returns_with_another_log_have_the_gap(
    former: Former, *, is_followed: bool, topic_id: str | None, offset: int
) -> None:
    """Nobody here has noticed that its topic was recreated, and another replica may have begun with the new log.

    Whoever came after the partition had left was sent nothing of the old log.
    """
    world = former.world
    (own,) = await former.has_been_read(OWN)
    world.revoke(lost=False)
    late = await former.connect(OWN)
    if topic_id == "new":
        former.recreate()
    world.end = NEW
    if is_followed:
        await former.connect(WHOLE)
        world.follow(NEW)
        await let_take(*world.readers)
        assert world.following.is_followed(PARTITION)
    assign(world, offset, topic_id, recreated=offset == 0)
    world.end += 1
    world.poll(NEW + 1)
    await let_take(*world.readers)
    expected = [(OLD, offset - 1)] if topic_id == "new" else []
    assert [(gap["from"], gap["to"]) for gap in map(json.loads, gaps(own))] == expected
    assert gaps(late) == []
    assert own.offsets[OLD:] == late.offsets
    assert late.offsets[-1] == NEW


@pytest.mark.parametrize("is_noticed", [False, True])
async def test_an_id_that_came_after_the_partition_had_left_may_be_of_the_new_log(
    former: Former, *, is_noticed: bool
) -> None:
    """Its client was sent records of the new log by another replica, and misses none of those that follow."""
    world = former.world
    own, whole = await former.has_been_read(OWN, WHOLE)
    world.revoke(lost=False)
    world.follow(NEW)
    late = await former.connect(Kind(OWN.feed, with_id=True), 6)
    former.recreate()
    if is_noticed:
        assert await world.following.logs.find_lost()
        world.follow(NEW)
    await let_take(*world.readers)
    assign(world, 10, "new")
    world.poll(NEW)
    await let_take(*world.readers)
    assert [len(gaps(reader)) for reader in (own, whole, late)] == [1, 1, 0]
    assert late.offsets == [*range(6, NEW)]


@pytest.mark.parametrize("topic_id", [None, "old"])
async def test_if_the_group_knows_no_id_readers_of_the_own_partitions_go_on_where_they_are(
    former: Former, topic_id: str | None
) -> None:
    """As if it knew it: nothing says that the topic was recreated, and a reader that is behind misses nothing."""
    world = former.world
    own, whole, slow = [await former.connect(kind) for kind in (OWN, WHOLE, OWN)]
    await let_take(slow)
    slow.transport.allowed = trio.Semaphore(0)
    for _ in range(2):
        world.poll(OLD // 2)
        await let_take(own, whole)
    behind = await former.connect(Kind(OWN.feed, with_id=True), 4)
    await settle()
    world.taken.update(range(OLD))
    world.revoke(lost=False)
    late = await former.connect(Kind(OWN.feed, with_id=True), 6)
    world.follow(NEW)
    await let_take(own, whole, late)
    assign(world, OLD, topic_id)
    world.end = NEW
    world.poll(NEW)
    await let_take(*world.readers)
    assert [gaps(reader) for reader in (own, slow, behind, late)] == [[]] * 4
    expected = [[*range(first, NEW)] for first in (0, 0, 4, 6)]
    assert [reader.offsets for reader in (own, slow, behind, late)] == expected


@pytest.mark.parametrize("when", ["revoked twice", "assigned and revoked before it began"])
async def test_a_partition_that_leaves_twice_left_with_the_log_that_was_read(former: Former, when: str) -> None:
    """A replica that is closed gives partitions up before they are revoked, and a short assignment reads nothing."""
    world = former.world
    (own,) = await former.has_been_read(OWN)
    if when == "revoked twice":
        world.hub.unassigned([PARTITION], world.following.disowned([PARTITION]))
    world.revoke(lost=False)
    former.recreate()
    if when != "revoked twice":
        world.offsets.assigned(PARTITION)
        world.hub.assigned([PARTITION])
        world.hub.unassigned([PARTITION], world.following.disowned([PARTITION]))
        world.offsets.lost([PARTITION])
        world.intake.forget([PARTITION])
    assign(world, OLD, "new")
    world.poll(NEW)
    await let_take(own)
    assert [(gap["from"], gap["to"]) for gap in map(json.loads, gaps(own))] == [(OLD, OLD - 1)]
    assert own.offsets == [*range(NEW)]


async def test_a_write_of_the_old_log_counts_for_nothing_if_following_ends_before_the_partition_begins(
    nursery: trio.Nursery,
) -> None:
    """Of a partition that is assigned while it is followed, writes may still count; not once that has ended."""
    former = Former(nursery, history_bytes=3000)
    world = former.world
    slow = await former.has_stuck_replay()
    observer = await former.connect(OBSERVING)
    world.revoke(lost=True)
    assert world.following.is_followed(PARTITION)
    await former.leave(observer)
    world.offsets.assigned(PARTITION)
    world.hub.assigned([PARTITION])
    world.unfollow()
    former.recreate()
    world.intake.take(PollResult(starts=[Start(PARTITION, 1, committed=True, stamp=Stamp("new"))]))
    world.group_at = 1
    world.poll(NEW)
    slow.transport.allowed.release()
    await settle()
    await former.leave(slow)
    assert slow.offsets == [0, 1, 2]
    assert world.offsets.dispatched_to(PARTITION) == 1
    nursery.cancel_scope.cancel()
