"""A topic is recreated while it is followed, and has outgrown its old log by the time that anybody notices.

Without Kafka: the records of the new log continue those of the old one, as far as offsets show.
"""

from collections.abc import AsyncIterator

import pytest
import trio

from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.follower import Followed
from dispatcher.sansio.beginnings import Stamp, Start
from tests.hub.test_hub import settle
from tests.hub.test_whole_topic_model import KINDS, PARTITION, Reader, World

OLD, NEW = 8, 13
"""The ends of both logs."""


@pytest.fixture
async def world(nursery: trio.Nursery) -> AsyncIterator[World]:
    """A reader of the whole topic has read the old log, and five records of the new one."""
    world = World()
    nursery.start_soon(world.hub.run)
    world.following.found({"assets": "old"})
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
    for _ in range(50):
        reader.transport.allowed.release()
        await settle()
    return reader


async def test_nothing_that_was_sent_of_the_old_log_counts_in_the_new_one(world: World) -> None:
    """The group begins with the new log, and commits only what was sent of that."""
    world.offsets.assigned(PARTITION)
    world.hub.assigned([PARTITION])
    world.intake.take(PollResult(starts=[Start(PARTITION, 0, committed=True, stamp=Stamp("new"))]))
    world.group_at = 0
    await flow(world)
    assert [commit.offset for commit in world.offsets.committable(0) if commit.offset] == []
    world.poll(NEW)
    reader = await flow(world)
    assert reader.offsets[-NEW:] == list(range(NEW))
    assert [commit.offset for commit in world.offsets.committable(0)] == [NEW]
    assert [data for _, kind, data in reader.blocks if kind == "gap"] == [
        '{"topic":"assets","partition":0,"from":13,"to":-1,"reason":"recreated"}'
    ]


async def test_what_others_have_dispatched_of_the_new_log_is_read_as_well(world: World) -> None:
    """A stream of the whole topic has all of it, wherever the group continues."""
    world.offsets.assigned(PARTITION)
    world.hub.assigned([PARTITION])
    world.intake.take(PollResult(starts=[Start(PARTITION, 6, committed=True, stamp=Stamp("new"))]))
    world.group_at = 6
    world.poll(NEW)
    reader = await flow(world)
    assert reader.offsets[-NEW:] == list(range(NEW))


async def test_a_topic_that_has_another_id_is_followed_from_its_first_record(world: World) -> None:
    """Nobody owns it here. A broker that still reports the old id changes nothing."""
    world.following.found({"assets": "new"})
    assert await world.following._logs.find_lost()
    world._obey(world.following.followed(Followed()))
    for _ in range(2):
        world.follow(NEW)
        reader = await flow(world)
        assert reader.offsets[-NEW:] == list(range(NEW))
        world.following.found({"assets": "old"})
        assert await world.following._logs.find_lost()
    assert len([kind for _, kind, _ in reader.blocks if kind == "gap"]) == 1
