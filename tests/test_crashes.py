"""A crash of our own code is in the log when it happens, and what is no crash is not."""

import pytest
import structlog
import trio

from dispatcher.crashes import log_crash
from dispatcher.errors import ResourcesError


async def fail(error: BaseException) -> None:
    """As a part of the replica that ends."""
    raise error


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("error", "lines"), [(KeyError("plain:0"), 1), (OSError("in use"), 0), (ResourcesError("no threads"), 0)]
)
async def test_only_an_error_without_a_reason_for_people_is_a_crash(
    error: Exception, lines: int, *, grouped: bool
) -> None:
    """Alone or in a group; it is passed on either way."""
    raised = BaseExceptionGroup("of a nursery", [error]) if grouped else error
    with structlog.testing.capture_logs() as logged, pytest.raises(type(raised)):
        await log_crash(fail, raised)
    assert [line["event"] for line in logged] == ["crashed, stopping"] * lines


async def test_a_cancellation_is_no_crash() -> None:
    """Every stop ends in one."""
    with structlog.testing.capture_logs() as logged, trio.CancelScope() as scope:
        scope.cancel()
        await log_crash(trio.sleep_forever)
    assert scope.cancelled_caught
    assert logged == []
