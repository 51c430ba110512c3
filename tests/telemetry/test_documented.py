"""The docs name what an operator may find in the log and among the metrics."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily

from dispatcher.telemetry.metrics import ROWS

ROOT = Path(__file__).parents[2]
DOCS = "\n".join(page.read_text() for folder in ("docs", "deploy") for page in (ROOT / folder).rglob("*.md"))
NAMED = set(re.findall(r"`([^`\n]+)`", DOCS))
LEVELS = {"warning", "error", "exception"}
HEALTH = {f"{kind} {health}" for kind in ("topic", "group") for health in ("degraded", "healthy")}
"""Events that are put together (`dispatcher.sansio.topic_health`)."""


def _is_log_line(call: ast.Call) -> bool:
    """Whether a call writes, or describes, a line that is a warning or an error."""
    func = call.func.body if isinstance(call.func, ast.IfExp) else call.func
    if isinstance(func, ast.Attribute):
        is_log = isinstance(func.value, ast.Name) and func.value.id == "log"
        return func.attr == "_warn" or (is_log and func.attr in LEVELS)
    is_line = isinstance(func, ast.Name) and func.id == "LogLine"
    return is_line and isinstance(call.args[0], ast.Constant) and call.args[0].value in LEVELS


def _events(tree: ast.AST) -> Iterator[str]:
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and call.args and _is_log_line(call):
            event = call.args[1 if isinstance(call.func, ast.Name) else 0]
            choices = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
            yield from (str(one.value) for one in choices if isinstance(one, ast.Constant))


def _trees() -> Iterator[ast.AST]:
    """The package's code, but the client's: its log lines are for the programs that use it."""
    package = ROOT / "dispatcher"
    for file in package.rglob("*.py"):
        if package / "client" not in file.parents:
            yield ast.parse(file.read_text())


def test_warnings_and_errors_are_documented() -> None:
    """An operator who sees one finds it on a page, by its whole text."""
    events = {event for tree in _trees() for event in _events(tree)}
    assert {"commit not stored", "partitions not fetched, restarting them", "kafka client error"} <= events
    assert sorted(events - NAMED) == []


def test_documented_events_exist() -> None:
    """Each event in the table has the text that the code writes."""
    texts = {one.value for tree in _trees() for one in ast.walk(tree) if isinstance(one, ast.Constant)} | HEALTH
    table = (ROOT / "docs" / "operations.md").read_text().partition("## Log events")[2].partition("\n## ")[0]
    events = {event for row in table.splitlines() for event in re.findall(r"`([^`]+)`", row[: row.find(" | ")])}
    assert len(events) > 80
    assert sorted(events - texts) == []


def test_metrics_are_documented() -> None:
    """Those of `dispatcher.telemetry.metrics`, with their whole names."""
    names = {f"dispatcher_{row.name}{'_total' if row.family is CounterMetricFamily else ''}" for row in ROWS}
    named = {name.partition("{")[0] for name in NAMED}
    assert sorted(names - named) == []
