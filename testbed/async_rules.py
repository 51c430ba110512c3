"""``python -m testbed.async_rules``: what flake8-async finds, with a tenth of the work.

Three of its rules want trees of libcst, which it walks six times, at 2 ms of CPU per line. All others want trees of
`ast`, which take 0.2 ms. So a file gets the former only if it has something that one of the three may be about, or if
one of the others has found something; then flake8-async itself says what is reported.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flake8_async import Plugin
from flake8_async.runner import Flake8AsyncRunner

from testbed.checks import PYTHON_FILES

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

LEFT_OUT = ("ASYNC9", "ASYNC124")
"""ASYNC9: wants a checkpoint in every function; ASYNC124: Quart runs handlers that are not async in threads."""

SLOW = frozenset({"ASYNC100", "ASYNC101", "ASYNC300"})
"""The rules with trees of libcst: scopes without a checkpoint, yields within scopes, and tasks that nobody keeps."""

ABOUT_ASYNC = re.compile(r"\basync |\btrio\b")
"""In a file without a match there is nothing to find."""

_SCOPES = {"fail_after", "fail_at", "move_on_after", "move_on_at", "CancelScope", "timeout", "timeout_at"}
_MAY_YIELD = {"contextmanager", "asynccontextmanager", "fixture"}
_HAS_OTHER_NAMES = re.compile(r"\bcreate_task\b|^\s*from (?:trio|anyio|asyncio) import", re.MULTILINE)
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_With = (ast.With, ast.AsyncWith)
_Yield = (ast.Yield, ast.YieldFrom)


def findings(source: str) -> list[str]:
    """What flake8-async reports of a file, as lines without the file's name."""
    if not ABOUT_ASYNC.search(source):
        return []
    tree = ast.parse(source)
    if not may_concern_slow_rules(source, tree) and not [*_found_quickly(source, tree)]:
        return []
    return [str(error) for error in sorted(Plugin.from_source(source).run())]


def may_concern_slow_rules(source: str, tree: ast.Module) -> bool:
    """Whether one of `SLOW` may find something: false only if none of them does."""
    if _HAS_OTHER_NAMES.search(source):
        return True
    withs = [node for node in ast.walk(tree) if isinstance(node, _With)]
    functions = [node for node in ast.walk(tree) if isinstance(node, _Function) and not _may_yield(node)]
    within = [one for node in functions for one in _within(node.body) if isinstance(one, _With)]
    is_empty = any(_opens_scope(one) and not _has(one.body, ast.Await) for one in withs)
    return is_empty or any(_has(one.body, *_Yield) for one in within)


def _found_quickly(source: str, tree: ast.Module) -> Iterator[object]:
    lines = source.splitlines()
    for error in Flake8AsyncRunner.run(tree, Plugin(tree, []).options):
        if not re.search(rf"# noqa:.*\b{error.code}\b", lines[error.line - 1]):
            yield error


def _opens_scope(node: ast.With | ast.AsyncWith) -> bool:
    calls = [item.context_expr.func for item in node.items if isinstance(item.context_expr, ast.Call)]
    return any(_last_name(call) in _SCOPES for call in calls)


def _may_yield(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    called = [one.func if isinstance(one, ast.Call) else one for one in function.decorator_list]
    return any(_last_name(one) in _MAY_YIELD for one in called)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _has(nodes: Iterable[ast.AST], *kinds: type[ast.AST]) -> bool:
    return any(isinstance(node, kinds) for node in _within(nodes))


def _within(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes and all in them, without what other functions do."""
    for node in nodes:
        yield node
        if not isinstance(node, (*_Function, ast.ClassDef)):
            yield from _within(ast.iter_child_nodes(node))


def configure() -> None:
    """Set the options of flake8-async, which has them once for a process."""
    parser = argparse.ArgumentParser()
    Plugin.add_options(parser)
    options = (f"--disable={','.join(LEFT_OUT)}", f"--startable-in-context-manager={','.join(STARTABLE)}")
    Plugin.parse_options(parser.parse_args([*options]))


def main(names: Sequence[str] = PYTHON_FILES) -> None:
    """Print what is found in these files and folders, and end with 1 if there is something."""
    configure()
    found = 0
    for path in map(Path, names):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for line in findings(file.read_text()):
                print(f"{file}:{line}")  # noqa: T201 - for people
                found += 1
    sys.exit(found > 0)


if __name__ == "__main__":
    main(sys.argv[1:] or PYTHON_FILES)
