"""The books of acknowledgements: what nobody acknowledged may not be committed, and what was, not sent again."""

import pytest

from tests.chaos.ack_books import AckBooks, Client
from tests.chaos.attribution import NOTHING, Attribution, Incident, Line, Stored


def client(books: AckBooks, process: str, at: float, named: dict[int, int] | None = None, window: int = 10) -> Client:
    """A connection to a replica that has partition 0."""
    made = books.opened(process, named or {}, window, at)
    made.state(frozenset({0}), at)
    return made


def work(books: AckBooks, process: str, at: float, offsets: range, *, is_sure: bool = True) -> None:
    """Somebody acknowledges these at a time, and the pong comes with it."""
    one = client(books, process, at - 0.1, {0: offsets.start - 1})
    for offset in offsets:
        one.record(0, offset, at)
    one.asked(1, one.says_done(at))
    if is_sure:
        one.answered(1, at)


@pytest.mark.parametrize(("commit", "at", "ahead"), [(3, 2.0, 0), (4, 2.0, 1), (3, 0.9, 3), (2, 1.0, 0)])
def test_a_commit_ahead_of_acknowledgements(commit: int, at: float, ahead: int) -> None:
    """It passes what nobody had said to be done when it was stored; half an acknowledgement may have arrived."""
    books = AckBooks()
    work(books, "a", 1.0, range(3), is_sure=False)
    books.judge_commits([Stored(0, commit, at)])
    assert books.ahead == ahead
    assert bool(books.evidence) == bool(ahead)


def handed_over(ending: str) -> list[Line]:
    """Partition 0 goes from a to b at 5."""
    return [Line(0.0, "a", "assigned", 0), Line(5.0, "a", ending, 0), Line(5.5, "b", "assigned", 0)]


@pytest.mark.parametrize(
    ("ending", "stored", "offset", "named", "faults", "unexcused"),
    [
        # The hand-over committed it, or did not; and a fault was the reason.
        ("revoking", 3, 1, {}, False, 1),
        ("revoking", 0, 1, {}, False, 1),
        ("revoking", 0, 1, {}, True, 0),
        ("partitions lost", 0, 1, {}, False, 0),
        # It was asked for, and it was not; and it was never acknowledged.
        ("revoking", 0, 1, {0: 0}, False, 0),
        ("revoking", 0, 1, {0: 2}, False, 1),
        ("revoking", 3, 3, {}, False, 0),
    ],
)
def test_what_was_acknowledged_and_is_sent_again(  # noqa: PLR0917 - pytest passes names
    ending: str, stored: int, offset: int, named: dict[int, int], faults: bool, unexcused: int
) -> None:
    """Only a fault excuses it, or the wish of a client whose id names less."""
    books = AckBooks()
    work(books, "a", 1.0, range(3))
    later = client(books, "b", 6.0, named)
    later.record(0, offset, 6.1)
    incidents = [Incident("SIGSTOP", 0.5, 5.2, "c", is_fault=True)] if faults else []
    lines = handed_over(ending) + ([Line(0.0, "c", "assigned", 1)] if faults else [])
    commits = [Stored(0, 0, 0.0), Stored(0, stored, 4.9)]
    books.judge_again(Attribution(lines, commits, [(1.0, "a", 0, n) for n in range(3)], incidents, []))
    assert books.unexcused == unexcused, (books.evidence, NOTHING)


def test_what_was_acknowledged_out_of_turn_comes_again() -> None:
    """What precedes it was not acknowledged here, and no hole may be left."""
    books = AckBooks()
    work(books, "a", 1.0, range(2, 4))
    client(books, "b", 6.0).record(0, 3, 6.1)
    books.judge_again(Attribution(handed_over("revoking"), [Stored(0, 0, 0.0)], [], [], []))
    assert (books.unexcused, books.excused) == (0, 1)


def test_more_than_the_window() -> None:
    """Counts what was sent and not acknowledged; what a partition takes along counts no longer."""
    books = AckBooks()
    one = client(books, "a", 1.0, window=2)
    for offset in range(2):
        one.record(0, offset, 1.0)
    one.state(frozenset(), 2.0)
    one.state(frozenset({0}), 3.0)
    for offset in range(2):
        one.record(0, offset, 3.0)
    assert books.beyond_window == 0
    one.record(0, 2, 3.0)
    assert books.beyond_window == 1
    assert all(good == ("window" not in name and name != "acknowledged") for name, _, good in books.rows())
