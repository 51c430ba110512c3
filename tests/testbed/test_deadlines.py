"""Which failures say no more than that a machine was slow."""

import subprocess
import sys
from pathlib import Path

import httpx2
import orjson
import pytest
import trio

from testbed.deadlines import VARIABLE, is_late
from testbed.patience import TooLateError

LATE = [TooLateError(), trio.TooSlowError(), subprocess.TimeoutExpired("java", 5), httpx2.ReadTimeout("slow")]

TESTS = """
import pytest, trio

async def test_that_waits_too_long():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        with trio.fail_after(0.01):
            await trio.sleep_forever()

@pytest.mark.timeout(20.1)
async def test_that_hangs():
    await trio.sleep_forever()

async def test_after_it():
    pass

def test_that_is_wrong():
    assert 1 == 2
"""


@pytest.mark.parametrize("error", LATE)
def test_a_deadline_that_passed_is_late_in_a_group_as_well(error: Exception) -> None:
    """Nurseries wrap errors in nested groups."""
    assert is_late(error)
    assert is_late(ExceptionGroup("of a nursery", [ExceptionGroup("of another", [error]), error]))


@pytest.mark.parametrize("error", [None, AssertionError(), OSError(), pytest.fail.Exception("no")])
def test_anything_else_is_not(error: BaseException | None) -> None:
    """One error of another kind makes a group not late."""
    assert not is_late(error)
    if isinstance(error, Exception):
        assert not is_late(ExceptionGroup("of a nursery", [TooLateError(), error]))


def test_failures_are_written_down_with_their_kind(tmp_path: Path) -> None:
    """A hanging test is cancelled within its own run, so the next one is unaffected."""
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "testbed.deadlines", "-o", "trio_mode=true"]
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), VARIABLE: str(tmp_path / "failures")}
    run = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "test_some.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    failures = {
        name.partition("::")[2]: late for name, late in orjson.loads((tmp_path / "failures").read_bytes()).items()
    }
    assert failures == {"test_that_waits_too_long": True, "test_that_hangs": True, "test_that_is_wrong": False}
