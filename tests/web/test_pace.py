"""The pace at which requests begin."""

import trio
import trio.testing

from dispatcher.web.pace import PER_TURN, Pace


async def test_a_flood_waits_for_itself() -> None:
    """A hundred requests of one address are ahead of an honest one by a turn, not by a hundred; none is forgotten."""
    pace, passed = Pace(), list[str]()

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
            assert pace.waiting == 101
            pacing.start_soon(pace.run)
        pacing.cancel_scope.cancel()
    assert passed.index("honest") < 2 * PER_TURN
    assert (len(passed), pace.waiting) == (101, 0)


async def test_one_that_is_cancelled_leaves_the_line() -> None:
    """Whether others of its address wait or not."""
    pace = Pace()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pace.pass_by, "a")
        nursery.start_soon(pace.pass_by, "a")
        with trio.move_on_after(0.01):
            await pace.pass_by("a")
        assert pace.waiting == 2
        nursery.cancel_scope.cancel()
    assert pace.waiting == 0
