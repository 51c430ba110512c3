"""The commit coordinator: each error code has its meaning, none is silent, none ends the process."""

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from dispatcher.kafka.commits import CommitCoordinator, CommitOutcome, CommitResult, outcome_of
from dispatcher.sansio.offsets import Commit, OffsetTracker
from dispatcher.sansio.records import TopicPartition

ONE = TopicPartition("assets", 0)
MEANINGS = {
    CommitOutcome.RETRY: [3, 5, 7, 14, 15, 16, -195, -185, -180, 9999],
    CommitOutcome.OWNERSHIP_IN_DOUBT: [22, 25, 27, 110, 113, KafkaError._ASSIGNMENT_LOST],
    CommitOutcome.REFUSED: [12, 24, 28, 29, 30],
    CommitOutcome.FATAL: [82, 111, KafkaError._FENCED, KafkaError._FATAL],
}
BY_CODE = {code: outcome for outcome, codes in MEANINGS.items() for code in codes}


def dispatched_to(offset: int) -> OffsetTracker:
    """A tracker with one partition, all of it dispatched."""
    tracker = OffsetTracker()
    epoch = tracker.assigned(ONE)
    tracker.received(ONE, 0, offset)
    tracker.dispatched(ONE, epoch, 0, offset)
    return tracker


@pytest.mark.parametrize("code", list(BY_CODE), ids=str)
def test_a_commit_that_failed_is_told_and_tried_again(code: int) -> None:
    """One log line with the code and what it means, one count, and the same offset again after the interval."""
    assert outcome_of(code) is BY_CODE[code]
    coordinator = CommitCoordinator(dispatched_to(7), 1.0)
    (commit,) = coordinator.due(10.0)
    assert commit == Commit(ONE, commit.epoch, 7, None)
    with capture_logs() as lines:
        rebuild = coordinator.answered([CommitResult(commit, code, "NAME", "its reason")])
    (line,) = lines
    assert (line["code"], line["outcome"]) == (code, BY_CODE[code])
    assert ("its reason" in (rebuild or "")) is (BY_CODE[code] is CommitOutcome.FATAL)
    assert coordinator.statistics().failed[BY_CODE[code]] == 1
    assert list(coordinator.due(10.5)) == []
    assert list(coordinator.due(11.0)) == [commit]


@pytest.mark.parametrize("code", [0, KafkaError._NO_OFFSET], ids=str)
def test_a_commit_that_was_stored_is_not_sent_again(code: int) -> None:
    """Also when the broker had nothing to store."""
    coordinator = CommitCoordinator(dispatched_to(7), 1.0)
    (commit,) = coordinator.due(10.0)
    assert coordinator.answered([CommitResult(commit, code, "", "")]) is None
    assert coordinator.statistics().confirmed == 1
    assert list(coordinator.due(20.0)) == []


def test_one_commit_is_on_its_way_at_a_time() -> None:
    """What is dispatched meanwhile goes with the next one."""
    tracker = dispatched_to(7)
    coordinator = CommitCoordinator(tracker, 1.0)
    (commit,) = coordinator.due(10.0)
    tracker.received(ONE, 7, 9)
    tracker.dispatched(ONE, commit.epoch, 7, 9)
    assert list(coordinator.due(20.0)) == []
    coordinator.answered([CommitResult(commit, 0, "", "")])
    assert [commit.offset for commit in coordinator.due(20.0)] == [9]


def test_a_late_answer_says_nothing_of_the_next_assignment() -> None:
    """The partition was lost and came back before the broker answered: what is new is committed as it is."""
    tracker = dispatched_to(7)
    coordinator = CommitCoordinator(tracker, 1.0)
    (old,) = coordinator.due(10.0)
    tracker.lost([ONE])
    epoch = tracker.assigned(ONE)
    tracker.received(ONE, 3, 5)
    tracker.dispatched(ONE, epoch, 3, 5)
    coordinator.answered([CommitResult(old, 0, "", "")])
    assert list(coordinator.due(20.0)) == [Commit(ONE, epoch, 5, None)]
