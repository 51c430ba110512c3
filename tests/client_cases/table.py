"""The table of cases, as data (README.md beside this file)."""

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("cases.json")


def load() -> dict[str, Any]:
    """The whole table."""
    table: dict[str, Any] = json.loads(PATH.read_text())
    return table


def cases() -> dict[str, dict[str, Any]]:
    """Each case by its name."""
    return {case["name"]: case for case in load()["cases"]}
