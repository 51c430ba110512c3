"""Both clients end with the same records, each once, whatever replicas, topics and the network do."""

from collections.abc import Callable
from typing import Any

import pytest

from dispatcher.client.events import Gap
from dispatcher.client.resume_position import ResumePosition
from tests.client_histories.run import judge, play_all, play_all_to_python
from tests.client_histories.server import history_server

FEW = [seed for seed in range(60) if seed % 10]
"""Without those that have many connections, between which clients wait for seconds."""


async def test_both_clients_hand_out_every_record_once() -> None:
    """Records, gaps and ids are those that the history owes (`nox -s histories` plays more)."""
    played, wrong = await play_all(FEW)
    assert wrong == []
    assert played >= 3 * len(FEW)  # Node may be without WebSocket


def _forgets_others(position: ResumePosition) -> str:
    """The fault of a client that keeps the last id alone."""
    own = next(reversed(position._offsets.items()), None)
    return "" if own is None else f"{own[0]}={own[1]}"


def _takes_all(position: ResumePosition, record: Any) -> bool:
    _record(position, record)
    return True


def _goes_on(position: ResumePosition, gap: Gap) -> None:
    """The fault of a client to which a log that was made again is the same one."""
    if gap.reason != "recreated":
        _gap(position, gap)


_record, _gap = ResumePosition.record, ResumePosition.gap


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("format", _forgets_others),
        ("format", lambda _position: ""),
        ("record", _takes_all),
        ("gap", _goes_on),
        ("move_to", lambda _position, _id: None),
    ],
    ids=["keeps-one-pair", "never-resumes", "takes-repeats", "goes-on-after-recreated", "passes-over-positions"],
)
async def test_histories_find_a_fault_that_is_put_in(
    monkeypatch: pytest.MonkeyPatch, method: str, fault: Callable[..., Any]
) -> None:
    """Each fault is one that a client once had, or might have."""
    monkeypatch.setattr(ResumePosition, method, fault)
    async with history_server() as server:
        outcomes = await play_all_to_python(server, FEW)
        assert any(judge(server, outcome) for outcome in outcomes)
