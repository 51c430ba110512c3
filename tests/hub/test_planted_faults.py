"""The model of the fan-out finds each fault that is put into the hub on purpose: it has teeth."""

from collections.abc import Callable, Mapping

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from dispatcher.hub.fan_out import FanOut
from dispatcher.sansio.catch_up import CatchUp
from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.history import History
from dispatcher.sansio.records import TopicPartition
from tests.hub import test_fan_out_model as model

EXAMPLES = settings(
    max_examples=10_000, stateful_step_count=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
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
    """What waits for somebody is passed over."""
    return self.ends(cursor)


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        (CatchUp, "position", replays_name_what_waits),
        (CatchUp, "position", streams_begin_at_the_head),
        (FanOut, "is_behind", heartbeats_run_ahead),
        (History, "_renew", ids_forget_partitions),
        (History, "starts", readers_begin_at_the_end),
    ],
)
def test_the_model_finds_a_fault(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, fault: Callable[..., object]
) -> None:
    """Each within ten thousand examples: a few hundred as a rule, more where other tests ran before."""
    monkeypatch.setattr(owner, name, fault)
    is_found = False
    try:
        run_state_machine_as_test(model.FanOut, settings=EXAMPLES)
    except* AssertionError:
        is_found = True
    assert is_found
