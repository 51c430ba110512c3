"""How late the auditor reads."""

from tests.chaos.attribution import Stored
from tests.chaos.lateness import longest_lateness


def test_only_what_came_after_its_first_commit_is_late() -> None:
    """The first receipt of each record counts, and what never came is not late but lost."""
    receipts = [(1.0, "a", 0, 0), (4.0, "a", 0, 1), (2.5, "a", 1, 0), (9.0, "b", 0, 1)]
    commits = [Stored(0, 2, 3.0), Stored(0, 1, 1.5), Stored(1, 5, 2.0), Stored(0, 2, 8.0)]
    assert longest_lateness(receipts, commits) == 1.0
    assert longest_lateness(receipts, []) == 0.0
