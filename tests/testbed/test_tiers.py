"""What the summary says of tests that fail when they run beside others, and of those that always fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.tiers import MOST_UNSTABLE, WORKERS, Outcome, spread

TESTS = """
from pathlib import Path

import pytest

from testbed.patience import TooLateError

pytestmark = pytest.mark.tests


def fail_at_first(name, error):
    if not Path(name).exists():
        Path(name).touch()
        raise error


def test_that_is_unstable():
    fail_at_first("unstable", AssertionError())


def test_that_is_late():
    fail_at_first("late", TooLateError())


def test_that_passes():
    pass
"""

WRONG = """
def test_that_is_wrong():
    assert Path("unstable").name == "wrong"
"""


@pytest.mark.parametrize(
    ("more", "exit_code", "summary", "verdict"),
    [
        ("", 0, ["tests: 3 passed, 1 late, 1 unstable, exit code 0", "3 passed, 0 failed"], "it passed"),
        (WRONG, 1, ["tests: 3 failed, 1 passed, exit code 1", "1 passed, 3 failed"], "not all of them passed"),
    ],
)
def test_what_failed_runs_again_alone_and_is_named(
    tmp_path: Path, more: str, exit_code: int, summary: list[str], verdict: str
) -> None:
    """A test that then passes fails nothing; one that fails again does."""
    options = "addopts = -p pytest_timeout -p testbed.deadlines\nmarkers = tests\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{options}")
    (tmp_path / "test_some.py").write_text(TESTS + more)
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "TESTBED_SPREAD": "0"}
    # Other plugins take longer to import than these tests to run.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "testbed.tiers", "--only", "tests"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == exit_code, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert lines[-2:] == summary
    assert f"UNSTABLE: test_some.py::test_that_is_unstable; alone {verdict}" in lines
    assert f"late: test_some.py::test_that_is_late; alone {verdict}" in lines


def test_what_is_compiled_is_kept(tmp_path: Path) -> None:
    """This holds whatever the environment says, because hundreds of processes run the same code."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = tests\n")
    test = "import pytest, sys\n@pytest.mark.tests\ndef test_it(): assert not sys.flags.dont_write_bytecode\n"
    (tmp_path / "test_some.py").write_text(test)
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TESTBED_SPREAD": "0"}
    command = [sys.executable, "-m", "testbed.tiers", "--only", "tests"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_checks_that_fail_fail_the_run_and_nothing_else(tmp_path: Path) -> None:
    """A folder without the code fails lint and types; the tests run all the same, and only tests run again."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = tests\n")
    (tmp_path / "test_some.py").write_text("import pytest\n@pytest.mark.tests\ndef test_it(): pass\n")
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "TESTBED_SPREAD": "0"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "testbed.tiers", "--only", "tests", "--checks"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    *_, one, other, tests, whole = run.stdout.splitlines()
    assert {one, other} == {"lint: exit code 1", "types: exit code 1"}
    assert (tests, whole) == ("tests: 1 passed, exit code 0", "1 passed, 0 failed")


BESIDE = """
import time
from pathlib import Path

import pytest


@pytest.mark.chaos
def test_chaos():
    while not Path("computed").exists():
        time.sleep(0.02)
    Path("over").touch()


@pytest.mark.sansio
def test_that_computes():
    Path("halfway").touch()


@pytest.mark.hub
def test_that_computes_after_it():
    assert Path("halfway").exists()
    Path("computed").touch()


@pytest.mark.tests
def test_of_another_tier():
    assert Path("over").exists()
"""


def test_what_only_computes_runs_beside_chaos_and_nothing_else_does(tmp_path: Path) -> None:
    """Chaos waits here for tests of sansio and hub, and the other tiers wait for chaos."""
    options = "addopts = -p pytest_timeout\ntimeout = 90\nmarkers =\n  chaos\n  sansio\n  hub\n  tests\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{options}")
    (tmp_path / "test_some.py").write_text(BESIDE)
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "TESTBED_SPREAD": "0"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    tiers = [f"--only={tier}" for tier in ("chaos", "sansio", "hub", "tests")]
    command = [sys.executable, "-m", "testbed.tiers", "--lanes=1", *tiers]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "4 passed, 0 failed"


def test_many_failures_or_a_run_that_was_broken_off_are_final() -> None:
    """Something is broken then, and another run would only take time."""
    few = {f"test_{number}": False for number in range(MOST_UNSTABLE)}
    assert Outcome("tests", 1, {}, few | {"test_late": True}).is_worth_another_run
    assert not Outcome("tests", 1, {}, few | {"test_wrong": False}).is_worth_another_run
    assert not Outcome("tests", 2, {}, few).is_worth_another_run
    assert not Outcome("tests", 0, {}).is_worth_another_run
    assert not Outcome("lint", 1, {}).is_worth_another_run


def test_a_variable_says_how_many_processes_a_tier_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names some tiers, and the others stay unchanged."""
    monkeypatch.setenv("TESTBED_WORKERS", "soak=4 tests=1")
    monkeypatch.delenv("TESTBED_SPREAD", raising=False)
    assert spread("soak")[:2] == ["-n", "4"]
    assert spread("tests") == []
    assert spread("broker")[:2] == ["-n", str(WORKERS["broker"])]
    monkeypatch.setenv("TESTBED_SPREAD", "0")
    assert spread("soak") == []
