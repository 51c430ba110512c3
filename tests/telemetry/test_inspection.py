"""SIGUSR1: what the tasks and every object of a running replica are doing, in its log, at no cost to subscribers."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from dispatcher.invariants import Invariants
from dispatcher.sansio.records import TopicPartition
from dispatcher.telemetry import inspection
from dispatcher.telemetry.inspection import all_statistics, inspect_on_signal, plain, task_tree
from testbed.clients import open_sse
from testbed.patience import seconds
from testbed.replicas import Replica


async def sleeper() -> None:
    """Wait here."""
    await trio.sleep_forever()


@pytest.mark.parametrize("slice_tasks", [1, 500])
async def test_the_tree_has_one_line_for_all_that_wait_at_one_place(slice_tasks: int) -> None:
    """A thousand subscribers are one line with their number, under their parent task."""
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked()
        lines = await task_tree(slice_tasks)
        nursery.cancel_scope.cancel()
    found = [line for line in lines if "sleeper" in line]
    assert len(found) == 1
    assert f"{__name__}.sleeper x3, {__name__}:" in found[0]
    assert found[0].endswith("in sleeper")
    parents = [line for line in lines[: lines.index(found[0])] if not line.startswith(" " * found[0].index("t"))]
    assert parents
    assert parents[0].startswith("<init>")


async def test_tasks_that_end_while_the_tree_is_read_are_no_trouble() -> None:
    """The loop runs between slices, and tasks start and end in between."""

    async def brief() -> None:
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(brief)
        assert await task_tree(1)


class Color(Enum):
    """A value that JSON does not know."""

    RED = "red"


@dataclass(frozen=True)
class Numbers:
    """A snapshot."""

    by_partition: Mapping[TopicPartition, int]
    color: Color
    seen: frozenset[int]


def test_snapshots_become_what_a_line_can_hold() -> None:
    """Keys become text, sets become lists, and unknown values use their own text."""
    numbers = Numbers({TopicPartition("t", 3): 1}, Color.RED, frozenset({7}))
    assert plain(numbers) == {"by_partition": {"t:3": 1}, "color": "red", "seen": [7]}
    assert plain([(1, 2.5), True, None, "text", object]) == [[1, 2.5], True, None, "text", str(object)]
    assert plain([float("-inf"), float("nan")]) == ["-inf", "nan"]


def test_each_object_reports_once_however_it_is_reached() -> None:
    """Objects are named by their attributes; foreign ones and collections are skipped."""
    shared = Invariants()
    shared.__dict__["itself"] = shared
    owner = Invariants()
    owner.__dict__.update(_part=shared, again=shared, many=[Invariants()], foreign=Color.RED)
    assert [path for path, _ in all_statistics({"owner": owner})] == ["owner", "owner.part"]


async def test_a_report_that_cannot_be_made_ends_nothing() -> None:
    """The failure is logged, and the next signal is answered."""

    def fail() -> Mapping[str, object]:
        raise ValueError("put in on purpose")

    with structlog.testing.capture_logs() as lines, trio.fail_after(seconds(10)):
        async with trio.open_nursery() as nursery:
            await nursery.start(inspect_on_signal, {}, fail)
            for number in (1, 2):
                os.kill(os.getpid(), signal.SIGUSR1)
                while len(lines) < number:  # noqa: ASYNC110 - a signal handler starts it
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in lines] == ["report failed"] * 2


async def test_a_log_that_nobody_reads_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker thread writes the report, and is abandoned when the replica stops."""
    go_on, writing = threading.Event(), threading.Event()

    def write(*_arguments: Any) -> None:
        writing.set()
        go_on.wait()

    monkeypatch.setattr(inspection, "_write", write)
    try:
        with trio.fail_after(seconds(10)):
            async with trio.open_nursery() as nursery:
                await nursery.start(inspect_on_signal, {})
                os.kill(os.getpid(), signal.SIGUSR1)
                while not writing.is_set():  # noqa: ASYNC110 - another thread sets it
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
    finally:
        go_on.set()


def test_it_is_written_whatever_level_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who asked for it gets it even with ``log_level = "error"``."""
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)
    with structlog.testing.capture_logs() as lines:
        inspection._write(["<init>"], {"here": Numbers({}, Color.RED, frozenset())})
    expected = {"by_partition": {}, "color": "red", "seen": []}
    assert lines == [
        {"event": "task tree", "log_level": "error", "tasks": ["<init>"]},
        {"event": "statistics", "log_level": "error", "of": "here", "statistics": expected},
    ]


async def test_a_running_replica_reports_and_serves_on(replicas: Callable[..., Replica]) -> None:
    """It reports the task tree, every object and a sample of subscribers, and continues to serve."""
    # Nobody listens there: a replica serves without a broker.
    replica = replicas("127.0.0.1:9", "topic")
    async with open_sse(replica) as stream:
        assert (await stream.next_control("state"))["state"] == "broker-down"
        replica.signal(signal.SIGUSR1)
        (tree,) = await trio.to_thread.run_sync(replica.wait_until_logged, "task tree")
        assert any("dispatcher.hub.hub.Hub.run" in line for line in tree["tasks"])
        assert any("inspect_on_signal" in line for line in tree["tasks"])
        lines = await trio.to_thread.run_sync(
            replica.wait_until_logged, "statistics", lambda lines: any(line["of"] == "trio" for line in lines)
        )
        found = {line["of"]: line["statistics"] for line in lines}
        assert found["pipeline"]["state"] == "broker-down"
        assert found["pipeline.hub"]["transports"] == {"socket": 1}
        assert found["invariants"] == dict.fromkeys(found["invariants"], 0)
        assert [found[path]["transport"] for path in found if path.startswith("subscriber ")] == ["socket"]
        assert {"pipeline.hub.history", "pipeline.flow", "pipeline.health", "pipeline.commits"} <= set(found)
        assert replica.status()["subscribers"]["total"] == 1
