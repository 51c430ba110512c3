"""One assignment: whether it has something to commit, and what the commit says."""

import pytest

from dispatcher.sansio.assignment import Assignment
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.records import TopicPartition

A = TopicPartition("assets", 0)


@pytest.mark.parametrize(
    ("assignment", "has_news"),
    [
        (Assignment(1), False),
        (Assignment(1, first=5, dispatched_to=5), False),
        (Assignment(1, first=5, dispatched_to=5, commits_beginning=True), True),
        (Assignment(1, first=5, dispatched_to=7), True),
        (Assignment(1, first=5, dispatched_to=7, committed=6), True),
        (Assignment(1, first=5, dispatched_to=7, committed=7), False),
    ],
)
def test_news_is_what_the_broker_has_not_confirmed(assignment: Assignment, *, has_news: bool) -> None:
    """There is none before the start is known; the start itself is news if it has to be committed."""
    assert assignment.has_news is has_news


def test_a_commit_carries_the_leader_epoch_of_its_last_record() -> None:
    """It has none before the first change, and none that begins at its offset or later."""
    epochs: list[tuple[int, int | None]] = [(0, 3), (5, 4), (8, 5)]
    assignment = Assignment(2, first=0, dispatched_to=8, leader_epochs=epochs, metadata="id")
    assert assignment.commit(A) == Commit(A, 2, 8, 4, "id")
    assert Assignment(2, first=0, dispatched_to=8).commit(A) == Commit(A, 2, 8, None, "")
