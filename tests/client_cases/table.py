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


SINCE_MARGIN_MS = 70_000
"""How much earlier than its first attempt a client may begin: clocks differ."""


def check_since(case: dict[str, Any], connections: list[dict[str, Any]]) -> None:
    """Each connection asked `since` the first attempt where the table says so, and the others did not."""
    for number, (connection, expected) in enumerate(zip(connections, case["expect"].get("since", ()), strict=False)):
        since = connection["since"]
        if expected is None:
            assert since is None, (case["name"], number, connection)
        else:
            first_ms = connections[0]["at_ms"]
            assert first_ms - SINCE_MARGIN_MS <= int(since or 0) <= first_ms, (case["name"], number, connection)
