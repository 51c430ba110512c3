"""Crossings keep a space, in which records collect."""

from typing import Any

import pytest
import trio

from dispatcher.kafka import spacing
from dispatcher.kafka.bridge import Calls, PollResult
from dispatcher.kafka.follower import FollowCommands, Followed, Follower
from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.spacing import LONGEST_SECONDS, MANY, WORKERS_SHARE, Spacing
from dispatcher.pipeline import Pipeline
from dispatcher.sansio.poll_size import PollSize
from dispatcher.settings import Settings
from dispatcher.supervisor import supervise


class Clock:
    """The time as `spacing` sees it, which passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept = list[float]()

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """It passes."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replaces that of the module."""
    clock = Clock()
    monkeypatch.setattr(spacing, "time", clock)
    return clock


def test_the_next_crossing_waits_in_proportion_to_the_last(clock: Clock) -> None:
    """What has passed since then counts."""
    between = Spacing(2)
    between.wait()
    assert clock.slept == []
    between.crossed(1, 0.0005)
    clock.now += 0.0002
    between.wait()
    between.wait()
    assert clock.slept == pytest.approx([2 * 0.0005 - 0.0002])


def test_no_crossing_waits_longer_than_the_bound(clock: Clock) -> None:
    """However long the loop was busy, and whichever thread crossed last."""
    between = Spacing(2)
    between.crossed(1, 2.0)
    between.crossed(1, 0.0001)
    between.wait()
    assert clock.slept == pytest.approx([LONGEST_SECONDS])


@pytest.mark.parametrize("messages", [0, MANY])
def test_crossings_without_records_or_with_many_are_not_spaced(clock: Clock, messages: int) -> None:
    """An idle thread polls at its own interval, and one that catches up as fast as it can."""
    between = Spacing(2)
    between.crossed(messages, 0.0005)
    between.wait()
    assert clock.slept == []


class Watched(Spacing):
    """Notes what it is asked and told."""

    def __init__(self) -> None:
        super().__init__(2)
        self.waits = 0
        self.crossings = list[int]()

    def wait(self) -> None:
        """Somebody is about to poll."""
        self.waits += 1
        super().wait()

    def crossed(self, messages: int, seconds: float) -> None:
        """There was a crossing."""
        assert seconds >= 0
        self.crossings.append(messages)
        super().crossed(messages, seconds)


async def test_a_hand_over_tells_how_much_it_had() -> None:
    """With the time that it took."""
    watched = Watched()
    await trio.to_thread.run_sync(lambda: Calls(watched, PollSize(1000, int)).hand_over(str, PollResult(messages=7)))
    assert watched.crossings == [7]


class StopsAt:
    """The downstream of a follower, which has it stop at the third poll."""

    has_orders = True

    def __init__(self) -> None:
        self.polls = 0

    def follow(self) -> FollowCommands:
        """No partition."""
        return FollowCommands()

    def followed(self, _: Followed) -> FollowCommands:
        """Stop, or not yet."""
        self.polls += 1
        return FollowCommands(stop=self.polls == 3)

    async def followed_when_settled(self, result: Followed) -> FollowCommands:
        """The same."""
        return self.followed(result)


NOWHERE = "127.0.0.1:1"


async def test_the_follower_waits_before_each_poll() -> None:
    """Records collect in librdkafka meanwhile."""
    watched, downstream = Watched(), StopsAt()
    properties: dict[str, str | int | float | bool] = {"bootstrap.servers": NOWHERE, "group.id": "none", "log_level": 0}
    bounds = {"poll_size": PollSize(1, int), "batch_bytes": 1}
    await Follower(properties, downstream, watched, Leaders(properties).log_ends, **bounds).run()  # type: ignore[arg-type]
    assert watched.waits == downstream.polls == 3


async def test_the_member_of_the_group_waits_before_each_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the spacing of the follower."""
    watched = Watched()
    monkeypatch.setattr("dispatcher.pipeline.Spacing", lambda _share: watched)
    pipeline = Pipeline(Settings(client_id="replica", bootstrap_servers=NOWHERE))
    assert pipeline._following._follower._spacing is watched
    pipeline._stop = True
    await trio.to_thread.run_sync(pipeline.make_consumer().run)
    assert watched.waits == 1


@pytest.mark.parametrize(("parent", "share"), [(None, 0.0), (object(), WORKERS_SHARE)])
async def test_workers_keep_a_space_and_a_process_by_itself_does_not(
    parent: Any, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It uses one core at most, so records need not wait."""
    found = list[float]()

    class EnoughError(Exception):
        """What the test wants to know is known."""

    def make(*_: object, spacing: float) -> None:
        found.append(spacing)
        raise EnoughError

    monkeypatch.setattr("dispatcher.supervisor.Pipeline", make)
    with pytest.raises(EnoughError):
        await supervise(Settings(client_id="replica", bootstrap_servers=NOWHERE), parent=parent)
    assert found == [share]
