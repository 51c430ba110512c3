"""``python -m testbed.checks lint types``: what is checked without running a test."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

PYTHON_FILES = ("dispatcher", "testbed", "tests", "benchmarks", "deploy", "noxfile.py")

CHECKS: Mapping[str, Sequence[Sequence[str]]] = {
    "lint": (
        ("ruff", "check", *PYTHON_FILES),
        ("ruff", "format", "--check", *PYTHON_FILES),
        # flake8-async's own rules: ruff has 17 of its 47.
        ("python", "-m", "testbed.async_rules"),
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
        shown = (one for one in arguments if one not in PYTHON_FILES)
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
