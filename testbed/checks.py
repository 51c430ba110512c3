"""``python -m testbed.checks lint types``: what is checked without running a test."""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

PYTHON_FILES = ("dispatcher", "testbed", "tests", "benchmarks", "deploy", "noxfile.py")

STARTABLE = (
    "supervise",
    "supervise_until_stopped",
    "serve",
    "connect",
    "read_sse",
    "read_ws",
    "read_heads",
    "listen",
    "read_address",
    "run_to_end",
    "witness",
    "_clients",
    "_until_signal",
    "inspect_on_signal",
    "_stop_on_signal",
    "reload_on_hangup",
    "_take_stop_signals",
    "_take_reports",
    "serve_all",
)
"""Functions that may be started in the nursery of a context manager, by name."""

ABOUT_ASYNC = re.compile(r"\basync |\btrio\b")
"""Files without a match are left out of flake8-async, which takes 2 ms of CPU per line for them as well."""


def _files_about_async() -> Iterator[str]:
    for name in PYTHON_FILES:
        path = Path(name)
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if ABOUT_ASYNC.search(file.read_text()):
                yield str(file)


CHECKS: Mapping[str, Sequence[Sequence[str]]] = {
    "lint": (
        ("ruff", "check", *PYTHON_FILES),
        ("ruff", "format", "--check", *PYTHON_FILES),
        # flake8-async's own rules: ruff has 17 of its 47.
        # ASYNC9: wants a checkpoint in every function; ASYNC124: Quart runs handlers that are not async in threads.
        (
            *("flake8", "--select=ASYNC", "--extend-ignore=ASYNC9,ASYNC124"),
            f"--startable-in-context-manager={','.join(STARTABLE)}",
            *_files_about_async(),
        ),
        ("lint-imports", "--no-cache"),
        ("python", "-m", "testbed.rooms", "--check"),
        ("python", "-m", "testbed.english"),
    ),
    "types": (("mypy",),),
}
"""Commands by check, of the environment that this runs in."""


def run(name: str) -> bool:
    """Run the commands of a check until one fails; returns whether all passed."""
    for program, *arguments in CHECKS[name]:
        shown = (one for one in arguments if one not in PYTHON_FILES and not one.endswith(".py"))
        click.echo(f"{name}: {program} {' '.join(shown)}")
        if subprocess.run([Path(sys.executable).with_name(program), *arguments], check=False).returncode:
            click.echo(f"{name}: {program} failed")
            return False
    return True


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice([*CHECKS]))
def main(names: tuple[str, ...]) -> None:
    """Run checks one after the other."""
    sys.exit(any(not run(name) for name in names))


if __name__ == "__main__":
    main()
