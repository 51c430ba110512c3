"""``python -m testbed.tiers``: run the tests in tiers, as many side by side as there are cores.

The tests wait for brokers, browsers and sockets for most of their time, so a tier is spread over several processes of
pytest-xdist, file by file; each process has its own broker. The output of a tier is printed whole when it ends, and can
be watched before that in ``build/tiers``. Chaos runs first, and needs one core. The other one is for lint and types
(``--checks``, testbed/checks.py) and then for ``sansio`` and ``hub``, at a low priority; no other test runs beside
chaos.

Coverage is measured where something is checked with it: of ``sansio``, by the tests of ``sansio``. Tracing costs what
runs under it half as much again, and every replica of a test would pay for it when it starts: ``--coverage`` has it
measured everywhere.

What failed is run again when all tiers have ended, alone, and named in the summary whatever comes of it. A test that
failed by a deadline alone (testbed/deadlines.py) has to pass once: the machine was slow. One that failed in another way
has to pass twice, and is unstable: its order of events differs from run to run. Either is a bug of the test or of what
it tests, to be mended; but among thousands of tests with real brokers one of them must not hide what the others say.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import orjson
import pytest
import trio
import trio.testing

from testbed import deadlines

TIERS = {
    "broker": "the whole path on a real Apache Kafka",
    "chaos": "two minutes of chaos, and what they led to",
    "soak": "audits and recipes, which take minutes",
    "browser": "the page and client.js in Chromium and Node",
    "tests": "logic and sockets",
    "sansio": "pure logic, with its coverage",
    "hub": "models of the hub, and what else needs nothing outside of it",
}
"""By marker (tests/conftest.py gives each test one), the longest first."""

SELECTED = {"tests": "tests and not sansio and not hub", "soak": "soak and not chaos"}
"""What a tier selects, if not its marker alone: ``sansio`` is the part of ``tests`` of which coverage is checked,
``hub`` another that only computes, and ``chaos`` the part of ``soak`` beside which nothing runs."""

COVERED = {"sansio"}
"""Tiers that run under coverage, whether it is asked for or not."""

ALONE = "chaos"
"""The tier beside which no other test runs, but those that only compute."""

CHECKED = ("lint", "types")
"""What runs beside it with ``--checks``."""

COMPUTES = ("sansio", "hub")
"""The tiers that run beside it after that, one after the other: they wait for nothing."""

YIELDING = ("nice", "-n", "5")
"""How commands begin that run beside it: with a third of the weight."""

WORKERS = {"broker": 4, "soak": 2, "browser": 2, "tests": 5, "sansio": 2, "hub": 2}
"""Processes of a tier that has more than one: their tests wait for half of their time or more. Nothing runs beside the
end of `tests`, the last one.

TESTBED_WORKERS changes some of them: ``broker=6 soak=3``. TESTBED_SPREAD=0 leaves one process to each tier.
"""

RESULTS = Path("build/tiers")

FAILED = ("failed", "error")
"""What pytest counts of tests that did not pass."""

MOST_UNSTABLE = 3
"""Tests of a tier that failed by more than a deadline. Where more of them did, something is broken."""

_CLOSING_LINE = re.compile(r"^(?=.*\b(?:passed|failed|error)).* in [0-9.]+s\b.*$", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one tier ended."""

    tier: str
    returncode: int
    counts: dict[str, int]
    failures: Mapping[str, bool] = field(default_factory=dict)
    """The tests that failed; whether they did by a deadline alone."""

    @property
    def unstable(self) -> list[str]:
        """The tests that failed by more than a deadline."""
        return [test for test, was_late in self.failures.items() if not was_late]

    @property
    def is_worth_another_run(self) -> bool:
        """Whether what failed may pass when it runs alone."""
        has_failures = self.returncode == pytest.ExitCode.TESTS_FAILED and bool(self.failures)
        return has_failures and len(self.unstable) <= MOST_UNSTABLE


def spread(tier: str) -> list[str]:
    """Arguments for pytest that spread a tier over its processes."""
    asked = dict(one.split("=") for one in os.environ.get("TESTBED_WORKERS", "").split())
    number = int(asked.get(tier, WORKERS.get(tier, 1))) if os.environ.get("TESTBED_SPREAD", "1") != "0" else 1
    # In the order of tests/conftest.py, not by their number of tests.
    return ["-n", str(number), "--dist", "loadfile", "--no-loadscope-reorder"] if number > 1 else []


async def _run(tier: str, arguments: Sequence[str], *, covered: bool, prefix: Sequence[str] = ()) -> Outcome:
    click.echo(f"{tier}: started ({TIERS[tier]}), output in {RESULTS / tier}.log")
    selected = ["-m", SELECTED.get(tier, tier), *spread(tier), *arguments]
    return await _pytest(tier, *selected, covered=covered or tier in COVERED, prefix=prefix)


async def _check(name: str) -> Outcome:
    click.echo(f"{name}: started, output in {RESULTS / name}.log")
    command = [*YIELDING, sys.executable, "-m", "testbed.checks", name]
    returncode, _ = await _run_logged(name, command, os.environ)
    return Outcome(name, returncode, {})


async def _pytest(name: str, *arguments: str, covered: bool, prefix: Sequence[str] = ()) -> Outcome:
    measured = ["coverage", "run", "-m"] if covered else []
    command = [*prefix, sys.executable, "-m", *measured, "pytest", *arguments]
    command += ["-o", f"cache_dir=.pytest_cache/{name}"]
    failures = RESULTS / f"{name}.failures"
    failures.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", deadlines.VARIABLE: str(failures.absolute())}
    # Without bytecode each process of pytest compiles all tests (4 s of CPU), and each replica its code (0.25 s).
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    returncode, text = await _run_logged(name, command, environment)
    closing = (_CLOSING_LINE.findall(text) or [""])[-1]
    counts = {
        name.removesuffix("s") if name == "errors" else name: int(count) for count, name in _COUNT.findall(closing)
    }
    failed: dict[str, bool] = orjson.loads(failures.read_bytes()) if failures.exists() else {}
    return Outcome(name, returncode, counts, failed)


async def _run_logged(name: str, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a command, with its output in a file, and print that at the end; returns exit code and output."""
    began, path = time.monotonic(), RESULTS / f"{name}.log"
    with path.open("wb") as output:
        done = await trio.run_process(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    text = path.read_text(errors="replace")
    click.echo(f"\n===== {name}: exit code {done.returncode} after {time.monotonic() - began:.0f} s =====\n{text}")
    return done.returncode, text


async def _again(outcome: Outcome, arguments: Sequence[str], *, covered: bool) -> Outcome:
    """Run what failed in a tier again, with nothing beside it; returns how the tier ended then."""
    options = [argument for argument in arguments if argument.startswith("--")]
    covered = covered or outcome.tier in COVERED
    runs = [await _pytest(f"{outcome.tier}-again", *options, *outcome.failures, covered=covered)]
    if outcome.unstable and not runs[0].returncode:
        runs.append(await _pytest(f"{outcome.tier}-unstable", *options, *outcome.unstable, covered=covered))
    passed_alone = all(run.returncode == 0 for run in runs)
    for test, was_late in outcome.failures.items():
        kind = "late" if was_late else "UNSTABLE"
        click.echo(f"{kind}: {test}; alone {'it passed' if passed_alone else 'not all of them passed'}")
    if not passed_alone:
        return outcome
    counts = {
        **outcome.counts,
        "passed": outcome.counts.get("passed", 0) + len(outcome.failures),
        "late": len(outcome.failures) - len(outcome.unstable),
        "unstable": len(outcome.unstable),
    }
    return Outcome(outcome.tier, 0, {name: counts[name] for name in counts if counts[name] and name not in FAILED})


async def run_tiers(
    tiers: Sequence[str], arguments: Sequence[str], lanes: int, *, covered: bool, checks: Sequence[str] = ()
) -> list[Outcome]:
    """Run tiers, at most `lanes` at a time, in the order given; returns how each of them ended.

    The one that runs alone begins, with `checks` beside it, and after them the tiers that only compute. What failed in
    the tiers runs again when all of them have ended, alone.
    """
    limiter = trio.CapacityLimiter(lanes)
    outcomes: list[Outcome] = []
    has_room = trio.Event()

    async def run_check(name: str) -> None:
        outcomes.append(await _check(name))

    async def run_beside() -> None:
        async with trio.open_nursery() as checking:
            for name in checks:
                checking.start_soon(run_check, name)
        for tier in COMPUTES:
            if tier in tiers:
                prefix = () if has_room.is_set() else YIELDING
                outcomes.append(await _run(tier, arguments, covered=covered, prefix=prefix))

    async def run_one(tier: str) -> None:
        async with limiter:
            outcomes.append(await _run(tier, arguments, covered=covered))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_beside)
        if ALONE in tiers:
            await run_one(ALONE)
        has_room.set()
        for tier in tiers:
            if tier not in {ALONE, *COMPUTES}:
                nursery.start_soon(run_one, tier)
                await trio.testing.wait_all_tasks_blocked()
    return [
        await _again(outcome, arguments, covered=covered) if outcome.is_worth_another_run else outcome
        for outcome in outcomes
    ]


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--lanes",
    type=click.IntRange(1),
    envvar="TESTBED_LANES",
    show_envvar=True,
    default=os.cpu_count() or 1,
    show_default="one per core",
)
@click.option("--only", type=click.Choice([*TIERS]), multiple=True, help="Run just these tiers; repeatable.")
@click.option("--coverage", "covered", is_flag=True, help="Measure coverage everywhere, replicas included.")
@click.option("--checks", "checked", is_flag=True, help="Run lint and types, too.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(lanes: int, only: tuple[str, ...], arguments: tuple[str, ...], *, covered: bool, checked: bool) -> None:
    """Run the tests in tiers side by side. ARGUMENTS go to each tier's pytest."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    tiers = [tier for tier in TIERS if not only or tier in only]
    checks = CHECKED if checked else ()
    outcomes = trio.run(partial(run_tiers, tiers, arguments, lanes, covered=covered, checks=checks))
    for outcome in sorted(outcomes, key=lambda outcome: outcome.tier not in checks):
        if outcome.tier in checks:
            click.echo(f"{outcome.tier}: exit code {outcome.returncode}")
            continue
        counted = ", ".join(f"{number} {name}" for name, number in outcome.counts.items())
        click.echo(f"{outcome.tier}: {counted or 'no test ran'}, exit code {outcome.returncode}")
    passed = sum(outcome.counts.get("passed", 0) for outcome in outcomes)
    failed = sum(outcome.counts.get(name, 0) for outcome in outcomes for name in FAILED)
    click.echo(f"{passed} passed, {failed} failed")
    # Arguments such as -k may leave a tier without a test.
    fine = {0, pytest.ExitCode.NO_TESTS_COLLECTED} if arguments else {0}
    sys.exit(any(outcome.returncode not in fine for outcome in outcomes))


if __name__ == "__main__":
    main()
