"""What a running replica is doing, in its log: SIGUSR1 writes the task tree and every `statistics()`.

For the operator of a replica that behaves oddly, with a shell and no debugger. `/status` and `/metrics` have the
figures that are watched all the time; this has everything else.
"""

import logging
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import structlog
import trio

log = structlog.get_logger(__name__)

SLICE_TASKS = 500
"""How many tasks are examined before the loop has its next turn: about a millisecond."""

_PACKAGE = __name__.partition(".")[0]
_NOWHERE = "finished"


async def inspect_on_signal(
    roots: Mapping[str, object],
    sample: Callable[[], Mapping[str, object]] = dict,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Write a report for each SIGUSR1, until cancelled; has started once the signal no longer ends the process.

    The loop is free between slices of the task tree, and a worker thread writes the log: a stderr that nobody reads
    holds up the report, but no subscriber.

    *Cancellation*: safe; the line under way may still be written.

    Args:
        roots: The objects from which all others that have `statistics()` are reached, by name.
        sample: Returns statistics of a sample of objects of which there are many, such as subscribers, by name.
        task_status: See `trio.Nursery.start`.
    """
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        task_status.started()
        async for _ in signals:
            await inspect(roots, sample)


async def inspect(roots: Mapping[str, object], sample: Callable[[], Mapping[str, object]] = dict) -> None:
    """Write one report; see `inspect_on_signal`."""
    try:
        tree = await task_tree()
        found = {**dict(all_statistics(roots)), **sample()}
        await trio.to_thread.run_sync(_write, tree, found, abandon_on_cancel=True)
    except Exception:  # a report that cannot be made must not end the replica
        log.exception("report failed")


async def task_tree(slice_tasks: int = SLICE_TASKS) -> list[str]:
    """The tasks of this process; tasks with the same parent and name that wait at the same place share a line.

    Tasks start and end while the tree is read: with more than `slice_tasks` of them it is not a snapshot of one moment.
    """
    lines: list[str] = []
    root = trio.lowlevel.current_root_task()
    # Depth, the name of tasks, where they wait, and the tasks found.
    pending = [(0, root.name, _where(root), [root])] if root else []
    looked_at = 0
    while pending:
        depth, name, where, tasks = pending.pop()
        number = f" x{len(tasks):,}" if len(tasks) > 1 else ""
        lines.append(f"{'  ' * depth}{name}{number}, {where}")
        children: dict[tuple[str, str], list[trio.lowlevel.Task]] = {}
        for task in tasks:
            for nursery in task.child_nurseries:
                for child in tuple(nursery.child_tasks):
                    children.setdefault((child.name, _where(child)), []).append(child)
                    looked_at += 1
            if looked_at >= slice_tasks:
                looked_at = 0
                await trio.lowlevel.checkpoint()
        pending += [(depth + 1, name, where, found) for (name, where), found in sorted(children.items(), reverse=True)]
    return lines


def _where(task: trio.lowlevel.Task) -> str:
    """The innermost line that is not in Trio."""
    where = _NOWHERE
    for frame, line in task.iter_await_frames():
        module = frame.f_globals.get("__name__", "?")
        if where == _NOWHERE or module.partition(".")[0] != "trio":
            where = f"{module}:{line} in {frame.f_code.co_name}"
    return where


def all_statistics(roots: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The `statistics()` of each object of this package that can be reached through attributes, once, by its path.

    Collections are not searched: they may hold many objects.
    """
    pending = list(roots.items())
    seen: set[int] = set()
    while pending:
        path, owner = pending.pop(0)
        if id(owner) in seen or isinstance(owner, (type, Enum)) or not _is_of_this_package(owner):
            continue
        seen.add(id(owner))
        statistics = getattr(owner, "statistics", None)
        if callable(statistics):
            yield path, statistics()
        pending += [(f"{path}.{name.lstrip('_')}", value) for name, value in _attributes(owner)]


def _is_of_this_package(owner: object) -> bool:
    return type(owner).__module__.partition(".")[0] == _PACKAGE


def _attributes(owner: object) -> Iterator[tuple[str, object]]:
    names = [*getattr(owner, "__dict__", ())]
    for each in type(owner).__mro__:
        slots = getattr(each, "__slots__", ())
        names += [slots] if isinstance(slots, str) else [*slots]
    for name in names:
        if hasattr(owner, name):
            yield name, getattr(owner, name)


def _write(tree: list[str], found: Mapping[str, object]) -> None:
    """Write one line for the tree and one for each object, at a level that is logged."""
    level = max(logging.INFO, logging.getLogger().getEffectiveLevel())
    log.log(level, "task tree", tasks=tree)
    for path, statistics in found.items():
        log.log(level, "statistics", of=path, statistics=plain(statistics))


def plain(value: object) -> Any:
    """A value in types that a log line can hold: dicts, lists, numbers and text, nested to any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, AbstractSet)) or type(value) is tuple:
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
