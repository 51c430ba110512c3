"""Calls from threads into Trio: they take effect at once, and their results and errors come back."""

import pytest
import trio
import trio.testing

from dispatcher.kafka.bridge import Calls
from dispatcher.kafka.spacing import Spacing
from dispatcher.sansio.poll_size import PollSize


def current_task() -> trio.lowlevel.Task:
    """The task in which a call runs."""
    return trio.lowlevel.current_task()


async def test_a_call_does_not_wait_until_the_task_of_the_thread_has_woken() -> None:
    """That takes a turn of the loop, which records would have to wait for."""
    found = await trio.to_thread.run_sync(
        lambda: (trio.from_thread.run_sync(current_task), Calls(Spacing(0), PollSize(1, int)).call(current_task))
    )
    own = trio.lowlevel.current_task()
    assert [task is own for task in found] == [True, False]


async def test_a_call_returns_what_the_function_returns() -> None:
    """Arguments are passed on."""
    assert await trio.to_thread.run_sync(lambda: Calls(Spacing(0), PollSize(1, int)).call(divmod, 7, 3)) == (2, 1)


async def test_what_a_function_raises_is_raised_in_the_thread() -> None:
    """The loop continues."""
    with pytest.raises(ZeroDivisionError):
        await trio.to_thread.run_sync(lambda: Calls(Spacing(0), PollSize(1, int)).call(divmod, 7, 0))


async def test_a_thread_whose_task_was_cancelled_can_still_call() -> None:
    """The poller hands over what it has taken before it notices that it is cancelled."""
    noticed = list[bool]()

    def call_late() -> None:
        calls = Calls(Spacing(0), PollSize(1, int))
        trio.from_thread.run_sync(scope.cancel)
        calls.call(noticed.append, False)
        try:
            trio.from_thread.check_cancelled()
        except trio.Cancelled:
            calls.call(noticed.append, True)
            raise

    with trio.CancelScope() as scope:
        await trio.to_thread.run_sync(call_late)
    assert scope.cancelled_caught
    assert noticed == [False, True]
