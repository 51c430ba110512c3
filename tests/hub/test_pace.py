"""The pace of what many want at once: of requests, and of subscribers that catch up."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count, pairwise

import pytest
import trio
import trio.testing

from dispatcher.hub import pace as pace_module
from dispatcher.hub.pace import LONG_TURN_SECONDS, SHORT_TURN_SECONDS, Pace, leave_to_others
from dispatcher.hub.parts import CATCH_UP_WRITES_PER_TURN, SKIPPED_TURNS
from dispatcher.sansio.records import Batch, Record
from tests.hub.test_hub import FEED, ONE, Bench, RecordingTransport, subscribed

PER_TURN = 2
RECORD_BYTES = 200_000


async def test_a_flood_waits_for_itself() -> None:
    """A hundred requests of one address delay an honest one by one turn, and none is forgotten."""
    pace, passed = Pace(PER_TURN), list[str]()

    async def one(holder: str) -> None:
        await pace.pass_by(holder)
        passed.append(holder)

    async with trio.open_nursery() as pacing:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one, "flood")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(one, "honest")
            await trio.testing.wait_all_tasks_blocked()
            assert (pace.waiting, passed) == (101 - PER_TURN, ["flood"] * PER_TURN)
            pacing.start_soon(pace.run)
        pacing.cancel_scope.cancel()
    assert passed.index("honest") < 3 * PER_TURN
    assert (len(passed), pace.waiting) == (101, 0)


async def test_one_that_is_cancelled_leaves_the_line() -> None:
    """The others pass in their turn, whether or not they share its address."""
    pace, passed = Pace(0), list[str]()

    async def one(holder: str, scope: trio.CancelScope) -> None:
        with scope:
            await pace.pass_by(holder)
            passed.append(holder)

    scopes = [trio.CancelScope() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for holder, scope in zip("aab", scopes, strict=True):
            nursery.start_soon(one, holder, scope)
        await trio.testing.wait_all_tasks_blocked()
        assert pace.waiting == 3
        for scope in scopes[1:]:
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert (pace.waiting, passed) == (1, [])
        scopes[0].cancel()
    assert (pace.waiting, passed) == (0, [])


async def test_one_that_was_let_pass_has_left_the_line() -> None:
    """If it is cancelled in the same step, it still passes, and takes nobody's turn."""
    pace, passed = Pace(1), list[str]()
    await pace.pass_by("first")

    async def one(holder: str) -> None:
        with scope if holder == "cancelled" else trio.CancelScope():
            await pace.pass_by(holder)
            passed.append(holder)

    scope = trio.CancelScope()
    async with trio.open_nursery() as pacing:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "cancelled")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(one, "last")
            await trio.testing.wait_all_tasks_blocked()
            pacing.start_soon(pace.run)
            while pace.waiting > 1:  # noqa: ASYNC110 - the step that lets it pass, and no later one
                await trio.lowlevel.checkpoint()
            scope.cancel()
        pacing.cancel_scope.cancel()
    assert passed[-1:] == ["last"]
    assert pace.waiting == 0


async def test_a_turn_that_nobody_has_taken_needs_no_line() -> None:
    """As many as one turn allows pass at once; the next one waits."""
    pace, passed = Pace(PER_TURN), list[int]()

    async def one(number: int) -> None:
        await pace.pass_by("a")
        passed.append(number)

    for number in range(PER_TURN):
        await one(number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, PER_TURN)
        await trio.testing.wait_all_tasks_blocked()
        assert (pace.waiting, len(passed)) == (1, PER_TURN)
        nursery.start_soon(pace.run)
        await trio.testing.wait_all_tasks_blocked()
        assert (pace.waiting, len(passed)) == (0, PER_TURN + 1)
        for number in range(PER_TURN):
            await one(number)
        nursery.cancel_scope.cancel()


async def test_those_that_cost_more_take_the_room_of_several() -> None:
    """The last one in a turn may cost more than is left."""
    pace, passed = Pace(4), list[int]()

    async def one(cost: int) -> None:
        await pace.pass_by("a", cost)
        passed.append(cost)

    async with trio.open_nursery() as nursery:
        for costs in ([1], [1], [1], [3], [1, 3, 1]):
            for cost in costs:
                nursery.start_soon(one, cost)
            await trio.testing.wait_all_tasks_blocked()
        assert (passed, pace.waiting) == ([1, 1, 1, 3], 3)
        nursery.start_soon(pace.run)
        await trio.testing.wait_all_tasks_blocked()
        assert (sorted(passed), pace.waiting) == ([1, 1, 1, 1, 1, 3, 3], 0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("skips", "turn_seconds", "expected"),
    [
        (3, SHORT_TURN_SECONDS / 2, [4, 4, 4, 4, 4]),
        (3, SHORT_TURN_SECONDS * 1.1, [1, 1, 1, 1, 1]),
        (3, LONG_TURN_SECONDS * 1.1, [0, 0, 0, 1, 0]),
        (3, LONG_TURN_SECONDS * 2.1, [0, 1, 0, 1, 0]),
        (3, LONG_TURN_SECONDS * 4.1, [1, 1, 1, 1, 1]),
        (0, LONG_TURN_SECONDS * 1.1, [1, 1, 1, 1, 1]),
        (None, LONG_TURN_SECONDS * 1.1, [4, 4, 4, 4, 4]),
    ],
)
async def test_fewer_pass_after_a_longer_turn(skips: int | None, turn_seconds: float, expected: list[int]) -> None:
    """Records are late by some turns of the loop, so whoever waits here gives way; but somebody passes in the end."""
    passed = list[int]()
    readings, waited = count(), list[int]()

    def now() -> float:
        number = next(readings)
        if number % 2:
            waited.append(pace.waiting)
        return number // 2 + (number % 2) * turn_seconds

    async def one(number: int) -> None:
        await pace.pass_by("a")
        passed.append(number)

    pace, number = Pace(4, skips=skips, now=now), 24
    for first in range(4):
        await one(first)
    async with trio.open_nursery() as nursery:
        for each in range(number):
            nursery.start_soon(one, each)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pace.run)
        while len(passed) < 4 + number:  # noqa: ASYNC110 - steps of the loop are what is counted
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert [before - after for before, after in pairwise(waited)][:5] == expected


async def test_while_anybody_waits_elsewhere_fewer_pass() -> None:
    """Those who give way wait longer, but not for ever."""
    readings, waited, scope = count(), list[int](), trio.CancelScope()

    def now() -> float:
        if next(readings) % 2:
            waited.append(pace.waiting)
            if pace.waiting == 9:
                scope.cancel()
        return 0

    async def one_elsewhere() -> None:
        with scope:
            await first.pass_by("a")

    first, pace = Pace(0), Pace(4, now=now)
    pace.give_way_to(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_elsewhere)
        for _ in range(4 + 12):
            nursery.start_soon(pace.pass_by, "b")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pace.run)
        while pace.waits:  # noqa: ASYNC110 - steps of the loop are what is counted
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert not first.waits
    passed = [before - after for before, after in pairwise(waited)]
    assert (passed[:3], max(passed)) == ([1, 1, 1], 4)


async def test_one_that_is_cancelled_and_then_let_pass_ends_as_cancelled() -> None:
    """Seen when half heads made room for each other: it was not in line any more, and its connection failed."""
    scope, readings = trio.CancelScope(), count()

    def now() -> float:
        if next(readings) % 2:
            scope.cancel()  # in the very step that lets it pass
        return 0

    pace = Pace(1, now=now)
    await pace.pass_by("a")

    async def one() -> None:
        with scope:
            await pace.pass_by("a")
            raise AssertionError("it was cancelled before")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pace.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert scope.cancelled_caught
    assert pace.waiting == 0


class Noted(RecordingTransport):
    """Notes in which order several of them are sent records."""

    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__()
        self.gate.set()
        self._note = name
        self._order = order

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Take all; what is small is a state or a heartbeat."""
        if sum(map(len, buffers)) > RECORD_BYTES:
            self._order.append(self._note)
        await super().send_all(buffers)


async def test_subscribers_that_catch_up_let_long_turns_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their writes make turns long, and live records are late by some turns; but they write in the end."""
    bench, order, number, readings = Bench(), list[str](), 20, count()
    monkeypatch.setattr(bench.hub.catch_up_pace, "_now", lambda: next(readings) * LONG_TURN_SECONDS * 1.1)
    for each in range(20):
        bench.hub.publish(Batch(ONE, (Record(each, None, None, b"x" * RECORD_BYTES, ()),)))
    with ExitStack() as opened:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.hub.run)
            subscribers = [
                opened.enter_context(subscribed(bench.hub, FEED, Noted("a", order), {ONE: -1})) for _ in range(number)
            ]
            for subscriber in subscribers:
                nursery.start_soon(subscriber.run)
            while any(subscriber.resumption.has_more for subscriber in subscribers):  # noqa: ASYNC110 - turns are counted
                await trio.lowlevel.checkpoint()
            turns = next(readings) // 2
            nursery.cancel_scope.cancel()
    waited = len(order) - number - CATCH_UP_WRITES_PER_TURN  # each one's first write waits for no turn
    assert waited > 5 * number
    assert turns > SKIPPED_TURNS * waited


async def test_subscribers_that_catch_up_take_turns() -> None:
    """A hundred with one address and much to read delay no other, and all get everything."""
    bench, order, flood = Bench(), list[str](), 100
    for number in range(20):
        bench.hub.publish(Batch(ONE, (Record(number, None, None, b"x" * RECORD_BYTES, ()),)))
    with ExitStack() as subscribers:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.hub.run)
            for holder in ["flood"] * flood + ["honest"]:
                subscriber = subscribers.enter_context(subscribed(bench.hub, FEED, Noted(holder, order), {ONE: -1}))
                subscriber.resumption.owner = holder
                nursery.start_soon(subscriber.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    each, last = order.count("honest"), len(order) - order[::-1].index("honest")
    assert len(order) == each * (flood + 1) > 10 * flood
    assert last < len(order) / 2  # without turns of their own it is among the last hundred


async def test_others_get_the_loop_for_a_time_unless_nobody_wants_it(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that returns at once shows that no other task wanted it."""
    monkeypatch.setattr(pace_module, "IDLE_CHECKPOINT_SECONDS", math.inf)
    await leave_to_others(math.inf)
    monkeypatch.setattr(pace_module, "IDLE_CHECKPOINT_SECONDS", -1)
    done = trio.Event()

    async def leave() -> None:
        await leave_to_others(math.inf)
        done.set()

    nursery.start_soon(leave)
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    assert not done.is_set()
    monkeypatch.setattr(pace_module, "IDLE_CHECKPOINT_SECONDS", math.inf)
    await done.wait()
