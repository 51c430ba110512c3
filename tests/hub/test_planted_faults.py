"""The model of the fan-out finds each fault that is put into the hub on purpose: it has teeth."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from dispatcher.hub.fan_out import FanOut
from dispatcher.sansio.catch_up import CatchUp
from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.history import History
from dispatcher.sansio.records import TopicPartition
from tests.hub import test_fan_out_model as model

ROOT = Path(__file__).parents[2]
EXAMPLES = settings(
    max_examples=10_000,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

position = CatchUp.position


def replays_name_what_waits(self: CatchUp, *, here: bool) -> Mapping[TopicPartition, int]:
    """During a replay ids name the head of partitions of which the reader is owed what waits (the first wave's)."""
    found, history = position(self, here=here), self._history
    for tp in [tp for tp in found if here and found[tp] + 1 == history.start(tp)]:
        found[tp] = history.end(tp) - 1
    return found


def streams_begin_at_the_head(self: CatchUp, *, here: bool) -> Mapping[TopicPartition, int]:
    """The first state names what is still to come."""
    found, history = position(self, here=here), self._history
    return {tp: history.end(tp) - 1 if not here and history.knows(tp) else found[tp] for tp in found}


def heartbeats_run_ahead(_self: FanOut, _feed: object) -> bool:
    """In the middle of a round, heartbeats name what has not been offered to everybody."""
    return False


def ids_forget_partitions(_self: History, _entry: object) -> None:
    """Entries that are older than a partition do not name it."""


def readers_begin_at_the_end(self: History, cursor: Cursor) -> dict[TopicPartition, int]:
    """Waiting records are skipped."""
    return self.ends(cursor)


FAULTS: dict[str, tuple[type, str, Callable[..., object], int]] = {
    "replays name what waits": (CatchUp, "position", replays_name_what_waits, 1),
    "streams begin at the head": (CatchUp, "position", streams_begin_at_the_head, 1),
    "heartbeats run ahead": (FanOut, "is_behind", heartbeats_run_ahead, 1),
    "ids forget partitions": (History, "_renew", ids_forget_partitions, 1),
    "readers begin at the end": (History, "starts", readers_begin_at_the_end, 1),
}
"""Whose method is replaced, by what, and a seed with which the model finds it soon: by some it needs 3,000 examples."""


def find(fault: str) -> bool:
    """Whether the model finds it; to be called in a process of its own, as the fault stays where it is."""
    owner, name, replacement, number = FAULTS[fault]
    setattr(owner, name, replacement)
    is_found = False
    try:
        run_state_machine_as_test(seed(number)(model.FanOut), settings=EXAMPLES)
    except* AssertionError:
        is_found = True
    return is_found


@pytest.mark.timeout(600)
async def test_the_model_finds_each_fault() -> None:
    """Each is found within ten thousand examples; with these seeds, within a few dozen.

    Side by side, and each in a process of its own: what Hypothesis draws depends on which modules are loaded.
    """
    found: dict[str, int] = {}

    async def run(fault: str) -> None:
        code = f"import sys; from {__name__} import find; sys.exit(not find({fault!r}))"
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = await trio.run_process(command, check=False, cwd=ROOT, env=environment, capture_stdout=True)
        found[fault] = done.returncode

    async with trio.open_nursery() as nursery:
        for fault in FAULTS:
            nursery.start_soon(run, fault)
    assert found == dict.fromkeys(FAULTS, 0)
