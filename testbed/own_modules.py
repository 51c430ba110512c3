"""``python -m testbed.own_modules``: is each file of the pure rooms covered to its last branch by its own test file?

The own test file of ``dispatcher/hub/lookups.py`` is ``tests/hub/test_lookups.py``: somebody who changes the one knows
where to look, and what it promises is tried there, not by chance in a test of something else. Files that are parts of
one thing share its test file (`TESTED_WITH`).
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
ROOMS = ("sansio", "hub")
PERCENT = 100

TESTED_WITH = {
    "announcements": "states",
    "heartbeats": "states",
    "feed": "feeds",
    "feed_registry": "feeds",
    "acked_subscriber": "acking",
    "acked_resumption": "acking",
    "hub/dead_letters": "acking",
    "present_subscribers": "feeds",
    "source": "parts",
    "transport": "parts",
    "envelope": "wire",
    "frames": "wire",
    "messages": "wire",
    "sse": "wire",
    "filter_dialect": "filters",
    "record_view": "filters",
    "head": "history",
    "history_partition": "history",
    "layout": "position",
    "ranges": "catch_up",
}
"""Files whose promises are tried through the file that they are parts of; with a room where two have the same name."""


def own_test(source: Path, tests: Path) -> Path:
    """Where the tests of a file are: in the folder of the tests of its room, whatever the folder within the room."""
    name = TESTED_WITH.get(f"{tests.name}/{source.stem}", TESTED_WITH.get(source.stem, source.stem))
    return tests / f"test_{name}.py"


def check(room: str, source: Path) -> str | None:
    """Why a file falls short; None when it does not."""
    test = own_test(source, ROOT / "tests" / room)
    if not test.exists():
        return f"no {test.relative_to(ROOT)}"
    with tempfile.TemporaryDirectory(prefix="own-module-") as folder:
        environment = {**os.environ, "COVERAGE_FILE": f"{folder}/coverage"}

        def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
            command = [sys.executable, "-m", *arguments]
            return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

        tested = run("coverage", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "tests", str(test))
        if tested.returncode:
            return f"{test.relative_to(ROOT)} fails:\n{tested.stdout[-3000:]}"
        run("coverage", "combine", "--quiet")
        report = run("coverage", "report", f"--include={source}", f"--fail-under={PERCENT}")
        return report.stdout if report.returncode else None


@click.command()
@click.argument("only", nargs=-1)
def main(only: tuple[str, ...]) -> None:
    """Check each file of the pure rooms, or those with one of the names ONLY."""
    found = {
        str(source.relative_to(ROOT)): (room, source)
        for room in ROOMS
        for source in sorted((ROOT / "dispatcher" / room).rglob("*.py"))
        if source.stem != "__init__" and (not only or source.stem in only)
    }
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        reasons = dict(zip(found, workers.map(lambda each: check(*each), found.values()), strict=True))
    for path, reason in reasons.items():
        if reason is not None:
            click.echo(f"{path} falls short: {reason}")
    covered = sum(reason is None for reason in reasons.values())
    click.echo(f"{covered} of {len(reasons)} files are covered to the last branch by a test file of their own")
    sys.exit(covered < len(reasons))


if __name__ == "__main__":
    main()
