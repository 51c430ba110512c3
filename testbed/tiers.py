"""``python -m testbed.tiers``: run the tests in tiers, as many side by side as there are cores.

The tests wait for brokers, browsers and sockets for nine tenths of their time, so tiers side by side cost little more
than the longest one. A tier of many files is spread over several processes of pytest-xdist, file by file; each process
has its own broker. The output of a tier is printed whole when it ends, and can be watched before that in
``build/tiers``.

A test that failed by a deadline alone (testbed/deadlines.py) is run once more when all tiers have ended, alone, and
named in the summary whatever comes of it: one that is named there often is to be mended.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import orjson
import pytest
import trio
import trio.testing

from testbed import deadlines

TIERS = {
    "broker": "the whole path on a real Apache Kafka",
    "soak": "chaos, audits and recipes, which take minutes",
    "browser": "the page and client.js in Chromium and Node",
    "tests": "pure logic and sockets in one process",
}
"""By marker (tests/conftest.py gives each test one), the longest first."""

WORKERS = {"broker": 3, "tests": 2}
"""Processes of a tier that has more than one. The others have their own load, such as chaos, or one browser.

TESTBED_SPREAD=0 leaves one process to each tier.
"""

RESULTS = Path("build/tiers")

_CLOSING_LINE = re.compile(r"^(?=.*\b(?:passed|failed|error)).* in [0-9.]+s\b.*$", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one tier ended."""

    tier: str
    returncode: int
    counts: dict[str, int]
    late: tuple[str, ...] = ()
    """The tests that failed, where all of them failed by a deadline alone."""


def spread(tier: str) -> list[str]:
    """Arguments for pytest that spread a tier over its processes."""
    number = WORKERS.get(tier, 1) if os.environ.get("TESTBED_SPREAD", "1") != "0" else 1
    return ["-n", str(number), "--dist", "loadfile"] if number > 1 else []


async def _run(tier: str, arguments: Sequence[str]) -> Outcome:
    click.echo(f"{tier}: started ({TIERS[tier]}), output in {RESULTS / tier}.log")
    return await _pytest(tier, "-m", tier, *spread(tier), *arguments)


async def _pytest(name: str, *arguments: str) -> Outcome:
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", *arguments]
    command += ["-o", f"cache_dir=.pytest_cache/{name}"]
    began = time.monotonic()
    path, failures = RESULTS / f"{name}.log", RESULTS / f"{name}.failures"
    failures.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", deadlines.VARIABLE: str(failures.absolute())}
    with path.open("wb") as output:
        done = await trio.run_process(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    text = path.read_text(errors="replace")
    click.echo(f"\n===== {name}: exit code {done.returncode} after {time.monotonic() - began:.0f} s =====\n{text}")
    closing = (_CLOSING_LINE.findall(text) or [""])[-1]
    counts = {
        name.removesuffix("s") if name == "errors" else name: int(count) for count, name in _COUNT.findall(closing)
    }
    failed: dict[str, bool] = orjson.loads(failures.read_bytes()) if failures.exists() else {}
    return Outcome(name, done.returncode, counts, tuple(failed) if all(failed.values()) else ())


async def _again(outcome: Outcome, arguments: Sequence[str]) -> Outcome:
    """Run the tests of a tier that were late once more, with nothing beside them; returns how the tier ended then."""
    options = [argument for argument in arguments if argument.startswith("--")]
    again = await _pytest(f"{outcome.tier}-again", *options, *outcome.late)
    for test in outcome.late:
        click.echo(f"{test}: failed by a deadline; alone {'passed' if again.returncode == 0 else 'not all passed'}")
    if again.returncode:
        return outcome
    passed = outcome.counts.get("passed", 0) + again.counts.get("passed", 0)
    return Outcome(outcome.tier, 0, {"passed": passed, "late": len(outcome.late)})


async def run_tiers(tiers: Sequence[str], arguments: Sequence[str], lanes: int) -> list[Outcome]:
    """Run tiers, at most `lanes` at a time, in the order given; returns how each of them ended.

    What was late in them runs again after that, alone.
    """
    limiter = trio.CapacityLimiter(lanes)
    outcomes: list[Outcome] = []

    async def run_one(tier: str) -> None:
        async with limiter:
            outcomes.append(await _run(tier, arguments))

    async with trio.open_nursery() as nursery:
        for tier in tiers:
            nursery.start_soon(run_one, tier)
            await trio.testing.wait_all_tasks_blocked()
    return [await _again(outcome, arguments) if outcome.late else outcome for outcome in outcomes]


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
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(lanes: int, only: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Run the tests in tiers side by side. ARGUMENTS go to each tier's pytest."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    outcomes = trio.run(run_tiers, [tier for tier in TIERS if not only or tier in only], arguments, lanes)
    for outcome in outcomes:
        counted = ", ".join(f"{number} {name}" for name, number in outcome.counts.items())
        click.echo(f"{outcome.tier}: {counted or 'no test ran'}, exit code {outcome.returncode}")
    passed = sum(outcome.counts.get("passed", 0) for outcome in outcomes)
    failed = sum(outcome.counts.get("failed", 0) + outcome.counts.get("error", 0) for outcome in outcomes)
    click.echo(f"{passed} passed, {failed} failed")
    # Arguments such as -k may leave a tier without a test.
    fine = {0, pytest.ExitCode.NO_TESTS_COLLECTED} if arguments else {0}
    sys.exit(any(outcome.returncode not in fine for outcome in outcomes))


if __name__ == "__main__":
    main()
