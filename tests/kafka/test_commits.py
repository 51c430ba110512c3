"""The commit coordinator: each error code has its meaning, none is silent, none ends the process."""

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from dispatcher.invariants import Invariant, invariants
from dispatcher.kafka.commits import LOG_SECONDS, CommitAnswer, CommitCoordinator, CommitOutcome, outcome_of
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.offsets import RECOMMIT_SECONDS, OffsetTracker
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
    tracker.assigned(ONE)
    epoch = tracker.began(ONE, 0, committed=True)
    tracker.received(ONE, 0, offset)
    tracker.dispatched(ONE, epoch, 0, offset)
    return tracker


@pytest.mark.parametrize("code", list(BY_CODE), ids=str)
def test_a_failed_commit_is_reported_and_tried_again(code: int) -> None:
    """One log line has code and meaning, it is counted, and the offset is sent again after the interval."""
    assert outcome_of(code) is BY_CODE[code]
    coordinator = CommitCoordinator(dispatched_to(7), 1.0)
    (commit,) = coordinator.due(10.0)
    assert commit == Commit(ONE, commit.epoch, 7, None)
    with capture_logs() as lines:
        rebuild = coordinator.answered([CommitAnswer(ONE, 7, code, "NAME", "its reason")], 10.0)
    (line,) = lines
    assert (line["code"], line["outcome"]) == (code, BY_CODE[code])
    assert ("its reason" in (rebuild or "")) is (BY_CODE[code] is CommitOutcome.FATAL)
    assert coordinator.statistics().failed[BY_CODE[code]] == 1
    assert list(coordinator.due(10.5)) == []
    assert list(coordinator.due(11.0)) == [commit]


@pytest.mark.parametrize(
    ("code", "again"),
    [(-195, True), (-185, True), (-180, True), (7, True), (14, True), (15, True), (16, True), (22, False), (29, False)],
)
def test_a_commit_that_may_still_be_stored_is_put_right(code: int, again: bool) -> None:
    """The newer offset is committed again some seconds later, in case the older one arrived after it."""
    tracker = dispatched_to(7)
    coordinator = CommitCoordinator(tracker, 1.0)
    (commit,) = coordinator.due(10.0)
    tracker.received(ONE, 7, 9)
    tracker.dispatched(ONE, commit.epoch, 7, 9)
    coordinator.answered([CommitAnswer(ONE, 7, code, "NAME", "its reason")], 10.0)
    assert [newer.offset for newer in coordinator.due(11.0)] == [9]
    coordinator.answered([CommitAnswer(ONE, 9)], 11.0)
    assert [once_more.offset for once_more in coordinator.due(11.0 + RECOMMIT_SECONDS)] == ([9] if again else [])


@pytest.mark.parametrize("code", [0, KafkaError._NO_OFFSET], ids=str)
def test_a_commit_that_was_stored_is_not_sent_again(code: int) -> None:
    """This holds even if the broker had nothing to store."""
    coordinator = CommitCoordinator(dispatched_to(7), 1.0)
    assert [commit.offset for commit in coordinator.due(10.0)] == [7]
    assert coordinator.answered([CommitAnswer(ONE, 7, code)], 10.0) is None
    assert coordinator.statistics().confirmed == 1
    assert list(coordinator.due(20.0)) == []


def test_one_commit_is_on_its_way_at_a_time() -> None:
    """What is dispatched meanwhile is in the next one."""
    tracker = dispatched_to(7)
    coordinator = CommitCoordinator(tracker, 1.0)
    (commit,) = coordinator.due(10.0)
    tracker.received(ONE, 7, 9)
    tracker.dispatched(ONE, commit.epoch, 7, 9)
    assert list(coordinator.due(20.0)) == []
    coordinator.answered([CommitAnswer(ONE, 7)], 10.0)
    assert [commit.offset for commit in coordinator.due(20.0)] == [9]


def test_a_late_answer_says_nothing_of_the_next_assignment() -> None:
    """The partition was lost and returned before the answer, and its new commits are unaffected."""
    tracker = dispatched_to(7)
    coordinator = CommitCoordinator(tracker, 1.0)
    (old,) = coordinator.due(10.0)
    tracker.lost([ONE])
    tracker.assigned(ONE)
    epoch = tracker.began(ONE, 3, committed=True)
    tracker.received(ONE, 3, 5)
    tracker.dispatched(ONE, epoch, 3, 5)
    coordinator.answered([CommitAnswer(ONE, old.offset)], 10.0)
    assert list(coordinator.due(20.0)) == [Commit(ONE, epoch, 5, None)]


def test_commits_of_partitions_that_were_lost_hold_back_nothing() -> None:
    """Their answers may take a minute; other dispatches are committed meanwhile."""
    tracker = dispatched_to(7)
    coordinator = CommitCoordinator(tracker, 1.0)
    coordinator.due(10.0)
    tracker.lost([ONE])
    two = TopicPartition("assets", 1)
    tracker.assigned(two)
    epoch = tracker.began(two, 3)
    assert list(coordinator.due(11.0)) == [Commit(two, epoch, 3, None)]
    assert coordinator.statistics().under_way == 2
    coordinator.forget()
    assert coordinator.statistics().under_way == 0


def test_what_is_committed_on_revoke_is_in_the_book() -> None:
    """Its answer counts, although the partition has left."""
    coordinator = CommitCoordinator(dispatched_to(7), 1.0)
    (commit,) = coordinator.revoked([ONE], 10.0)
    assert commit.offset == 7
    coordinator.answered([CommitAnswer(ONE, 7)], 10.0)
    assert (coordinator.statistics().confirmed, coordinator.statistics().under_way) == (1, 0)


def test_a_commit_that_is_refused_for_ever_is_logged_now_and_then() -> None:
    """One line per code and `LOG_SECONDS` has the number of failures; debug has one for each."""
    coordinator = CommitCoordinator(dispatched_to(7), 0.2)
    with capture_logs() as lines:
        for tenth in range(int(10 * LOG_SECONDS) + 1):
            now = 10.0 + tenth / 10
            for commit in coordinator.due(now):
                coordinator.answered([CommitAnswer(ONE, commit.offset, 29, "TOPIC_AUTHORIZATION_FAILED", "no")], now)
    failed = coordinator.statistics().failed[CommitOutcome.REFUSED]
    warnings = [line["times"] for line in lines if line["log_level"] == "warning"]
    assert warnings == [1, failed - 1]
    assert [line["log_level"] for line in lines].count("debug") == failed - len(warnings)


def test_a_commit_never_steps_back() -> None:
    """If the tracker has such a fault, the commit is not sent, and the violation is counted."""

    class StepsBack(OffsetTracker):
        def committable(self, now: float) -> list[Commit]:
            return [commit._replace(offset=3) for commit in super().committable(now)]

    tracker = StepsBack()
    tracker.assigned(ONE)
    epoch = tracker.began(ONE, 5, committed=True)
    tracker.received(ONE, 5, 9)
    tracker.dispatched(ONE, epoch, 5, 9)
    before = invariants.statistics()[Invariant.COMMITS_NEVER_STEP_BACK]
    assert list(CommitCoordinator(tracker, 1.0).due(10.0)) == []
    assert invariants.statistics()[Invariant.COMMITS_NEVER_STEP_BACK] == before + 1
