"""``python -m testbed.english``: refuse more of the habits that make a text foreign than a folder has had so far.

Each folder has a budget, which may only fall: ``--write`` lowers it to what is left. A habit in a folder without a
budget, or above it, is an error that says where it is and what to write instead.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
BUDGETS = Path(__file__).with_name("english.json")
SUFFIXES = {".css", ".html", ".js", ".json", ".md", ".py", ".sh", ".toml", ".ts", ".yaml", ".yml"}
EXEMPT = {"CONTRIBUTING.md", "testbed/english.py", "testbed/english.json", "tests/testbed/test_english.py"}
"""They quote the habits."""

HABITS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "anew": (re.compile(r"\banew\b", re.IGNORECASE), "again, from scratch; rebuilt, reassigned, recreated"),
    "behind for after": (
        re.compile(
            r"(?<!left )(?<!fall )(?<!falls )(?<!fell )(?<!far )\bbehind "
            r"(?=(?:it|its|the|a|an|that|this|what|so|each|every|both|them|one|\d+)\b)"
            r"(?!(?:\w+ ){0,2}(?:balancers?|edge|head|haproxy|nginx|prox(?:y|ies)|TLS|load|traefik|cloud)\b)",
            re.IGNORECASE,
        ),
        "after, past, following (behind is for lag and for proxies)",
    ),
    "is told": (
        re.compile(r"\b(?:is|are|was|were|be|been|being) told\b(?! (?:from|apart)\b)", re.IGNORECASE),
        "say who does what: reports, says, sends, logs, is notified",
    ),
    "Who as a subject": (
        re.compile(
            r"(?:^|[.;:!?(#|*>\"'] ?|\"\"\")\s*Who "
            r"(?:asks|comes|came|can|does|gets|goes|had|has|is|leaves|left|needs|reads|sends|subscribes|takes|wants|was|waits)"
            r"\b(?! what\b)(?![^.\n]*\?)"
        ),
        "whoever, clients that, a subscriber that",
    ),
    "so many, so often": (
        re.compile(r"\bso (?:many|often)\b(?! that)", re.IGNORECASE),
        "this many, at most, how often",
    ),
    "once a batch": (
        re.compile(r"\b(?:once|twice|times|one) a (?:batch|poll|round|record|subscriber)\b", re.IGNORECASE),
        "once per batch",
    ),
}


@dataclass(frozen=True, slots=True)
class Find:
    """A habit in a line."""

    path: str
    line: int
    habit: str
    text: str

    @property
    def folder(self) -> str:
        """What has a budget: a room of the package, a folder of tests, or a folder of the root."""
        parts = self.path.split("/")[:-1]
        deep = parts[:1] in (["dispatcher"], ["tests"])
        return "/".join(parts[: 2 if deep else 1]) or "."

    def __str__(self) -> str:
        """As compilers say it, so that editors find the line."""
        return f"{self.path}:{self.line}: {self.habit}: {self.text}\n    write: {HABITS[self.habit][1]}"


def search(path: str, text: str) -> Iterator[Find]:
    """The habits in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        for habit, (pattern, _) in HABITS.items():
            for found in pattern.finditer(line):
                begin = max(0, found.start() - 30)
                yield Find(path, number, habit, line[begin : found.end() + 30].strip())


def by_folder(finds: Iterable[Find]) -> dict[str, list[Find]]:
    """Finds by the folder whose budget they are in."""
    folders: dict[str, list[Find]] = defaultdict(list)
    for find in finds:
        folders[find.folder].append(find)
    return folders


def over(budgets: Mapping[str, int], folders: Mapping[str, list[Find]]) -> dict[str, list[Find]]:
    """The folders that have more than their budget."""
    return {folder: finds for folder, finds in folders.items() if len(finds) > budgets.get(folder, 0)}


def lowered(budgets: Mapping[str, int], folders: Mapping[str, list[Find]]) -> dict[str, int]:
    """Budgets of what is left; none rises."""
    found = {folder: min(budgets.get(folder, 0), len(finds)) for folder, finds in folders.items()}
    return {folder: found[folder] for folder in sorted(found) if found[folder]}


def _of_the_tree() -> Iterator[Find]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in listed.stdout.splitlines():
        if Path(path).suffix in SUFFIXES and path not in EXEMPT and (ROOT / path).is_file():
            yield from search(path, (ROOT / path).read_text(errors="replace"))


@click.command()
@click.option("--write", is_flag=True, help="Lower the budgets to what is left.")
@click.option("--show", metavar="FOLDER", help="Show all that is left in a folder.")
def main(*, write: bool, show: str | None) -> None:
    """Refuse more of the habits that make a text foreign than a folder has had so far."""
    folders = by_folder(_of_the_tree())
    budgets: dict[str, int] = json.loads(BUDGETS.read_text())
    for find in folders.get(show or "", []):
        click.echo(find)
    too_many = over(budgets, folders)
    for folder, finds in too_many.items():
        for find in finds:
            click.echo(find)
        click.echo(f"{folder}: {len(finds)}, and the budget is {budgets.get(folder, 0)}\n")
    if write:
        BUDGETS.write_text(json.dumps(lowered(budgets, folders), indent=2) + "\n")
    left = sum(len(finds) for finds in folders.values())
    click.echo(f"habits left: {left}, budget: {sum(budgets.values())} (--write lowers it)")
    sys.exit(bool(too_many))


if __name__ == "__main__":
    main()
