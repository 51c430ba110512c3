"""A pytest plugin about deadlines: one for each test within its own Trio run, and which tests failed by nothing else.

A machine that does much else may be too slow for a deadline. So those that failed in no other way are written down, and
testbed/tiers.py runs them again, alone: a test that then passes was late, and one that fails again hangs.
"""

import functools
import inspect
import os
import subprocess
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import trio

from testbed.patience import TooLateError

VARIABLE = "TESTBED_FAILURES"
"""Names the file that the failures of a run are written to."""

ROOM_SECONDS = 20.0
"""How much earlier than pytest-timeout a test is cancelled.

That one raises in the midst of Trio's own code, and the next test of the process then fails as well.
"""

MADE_UP_CLOCKS = frozenset({"mock_clock", "autojump_clock"})
"""Fixtures of pytest-trio: a test that lets an hour pass in no time would be cancelled for it."""

_PASSED_DEADLINE = (TooLateError, trio.TooSlowError, subprocess.TimeoutExpired, httpx2.TimeoutException)


def is_late(error: BaseException | None) -> bool:
    """Whether an error says that a deadline passed, and nothing else; a group, whether each of its errors does."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_late(one) for one in error.exceptions)
    # What pytest-timeout raises has no class of its own.
    timed_out = isinstance(error, pytest.fail.Exception) and str(error).startswith("Timeout (>")
    return timed_out or isinstance(error, _PASSED_DEADLINE)


def _within(seconds: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def in_time(*arguments: Any, **keywords: Any) -> None:
        with trio.fail_after(seconds):
            await test(*arguments, **keywords)

    return in_time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cancel each async test before pytest-timeout would end it."""
    for item in items:
        marker = item.get_closest_marker("timeout")
        whole = float(marker.args[0] if marker and marker.args else item.config.getini("timeout") or 0)
        test = getattr(item, "obj", None)
        if MADE_UP_CLOCKS & set(getattr(item, "fixturenames", ())):
            continue
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(test) and whole > ROOM_SECONDS:
            item.obj = _within(whole - ROOM_SECONDS, test)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Write into the report of a failure whether it was late; pytest-xdist carries that to the process that sums up."""
    report = yield
    report.is_late = call.excinfo is not None and is_late(call.excinfo.value)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the failures down, where somebody asked for them."""
    if path := os.environ.get(VARIABLE):
        reports = [report for kind in ("failed", "error") for report in terminalreporter.getreports(kind)]
        failures = {report.nodeid: getattr(report, "is_late", False) for report in reports}
        Path(path).write_bytes(orjson.dumps(failures))
