"""The model of the whole topic finds each fault that is put into the hand-over on purpose: it has teeth."""

from collections.abc import Callable

import pytest
import trio
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from dispatcher.following import Following
from dispatcher.hub.followed import FollowedPartitions
from dispatcher.sansio.beginnings import Start
from dispatcher.sansio.catch_up import CatchUp
from dispatcher.sansio.ownership import HandOver, Ownership
from dispatcher.sansio.records import Batch, TopicPartition
from tests.hub import test_whole_topic_model as model

EXAMPLES = settings(
    max_examples=1_000, stateful_step_count=30, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
)


def nothing_is_handed_over(self: Following, start: Start, epoch: int) -> None:
    """The partition is owned by the book, and stays followed in the history."""
    self._orders.forget(start.partition)
    self._ownership.own(start.partition)
    assert epoch


hand_over = Ownership.hand_over


def it_is_handed_over_twice(self: Ownership, partition: TopicPartition, committed: int) -> HandOver:
    """What counted in an earlier assignment counts again, although another owner read the log since."""
    found = hand_over(self, partition, committed)
    return HandOver(found.begins, [(found.begins, max((end for _, end in found.counted), default=found.begins) + 1)])


def followed_records_are_committed(self: Following, batch: Batch) -> None:
    """A dispatch of a followed record counts at once, whoever owns its partition."""
    self._ownership.taken(batch.partition, 0, batch.next_offset)


def nobody_goes_back(_self: CatchUp, _partition: TopicPartition, _first: int) -> None:
    """Records that nobody was sent are left out, because every reader is past them."""


def writes_under_way_count(self: FollowedPartitions, partition: TopicPartition) -> list[tuple[int, int]]:
    """Records in memory count as handed out."""
    return [(0, self._history.end(partition))]


# A fault may also end the hub, and with it the step of the model that is under way.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        (Following, "owned", nothing_is_handed_over),
        (Ownership, "hand_over", it_is_handed_over_twice),
        (Following, "taken", followed_records_are_committed),
        (CatchUp, "handed_over", nobody_goes_back),
        (FollowedPartitions, "_under_way", writes_under_way_count),
    ],
)
def test_the_model_finds_a_fault(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, fault: Callable[..., object]
) -> None:
    """Faults are missing and double hand-overs, commits of followed records, and the like."""
    monkeypatch.setattr(owner, name, fault)
    is_found = False
    try:
        run_state_machine_as_test(model.WholeTopic, settings=EXAMPLES)
    except* (AssertionError, KeyError, ValueError, trio.Cancelled, trio.RunFinishedError):  # noqa: ASYNC103 - Trio has ended
        is_found = True
    assert is_found
