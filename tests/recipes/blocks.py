"""docs/clients.md read: its blocks by name, and the table that tells which duties each recipe has."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"

_BLOCK = re.compile(r"^<!-- recipe: (\S+) -->\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```\w+$", re.MULTILINE)


def blocks() -> dict[str, str]:
    """Each block by the name of the file that it is."""
    return dict(_BLOCK.findall(PAGE.read_text()))


def number_of_fences() -> int:
    """How many blocks there are, with a name or without."""
    return len(_FENCE.findall(PAGE.read_text()))


def duties() -> dict[str, dict[str, str]]:
    """Return each recipe's entry for each duty: yes, another word that the page explains, or nothing."""
    head, *rows = _table("duties")
    return {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def states() -> dict[str, str]:
    """Return the words that people are shown for each state."""
    _, *rows = _table("states")
    return {row[0].strip("`* "): row[1] for row in rows}


def _table(name: str) -> list[list[str]]:
    """The cells of a table between two comments, head first."""
    table = re.search(rf"<!-- {name}: begin -->\n\n(.*?)\n\n<!-- {name}: end -->", PAGE.read_text(), re.DOTALL)
    assert table is not None
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines())
    return [head, *rows]
