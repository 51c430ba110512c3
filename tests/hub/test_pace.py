"""The pace of what many want at once: of requests, and of subscribers that catch up."""

from collections.abc import Sequence
from contextlib import ExitStack

import trio
import trio.testing

from dispatcher.hub.pace import Pace
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
