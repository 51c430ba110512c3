"""The books of acknowledgements: what nobody acknowledged may not be committed, and what was, not sent again."""

import pytest

from tests.chaos.ack_books import AckBooks, Client
from tests.chaos.attribution import HANDED_OVER, NOTHING, Attribution, Incident, Line, Stored


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
    """A commit past records that nobody had acknowledged is found; half an acknowledgement may have arrived."""
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
    """Only a fault excuses it, or a client whose id names less."""
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
    """An earlier record was not acknowledged here, and no hole may remain."""
    books = AckBooks()
    work(books, "a", 1.0, range(2, 4))
    client(books, "b", 6.0).record(0, 3, 6.1)
    books.judge_again(Attribution(handed_over("revoking"), [Stored(0, 0, 0.0)], [], [], []))
    assert (books.unexcused, books.excused) == (0, 1)


def test_what_was_acknowledged_where_it_is_only_followed_comes_again() -> None:
    """It is no acknowledgement of the owner, even if the replica becomes the owner later."""
    books = AckBooks()
    work(books, "a", 1.0, range(3))
    client(books, "b", 2.0).record(0, 1, 2.1)
    work(books, "a", 6.0, range(3, 5))
    lines = [Line(0.0, "b", "assigned", 0), Line(5.0, "b", "revoking", 0), Line(5.5, "a", "assigned", 0)]
    books.judge_again(Attribution(lines, [Stored(0, 0, 0.0), Stored(0, 3, 4.9)], [], [], []))
    assert (books.unexcused, books.excused) == (0, 1), books.evidence


def test_what_the_owner_gets_acknowledged_after_others_did_is_repeated_until_then() -> None:
    """An acknowledgement on a follower, then by the owner's client, in this order, is no fault."""
    books = AckBooks()
    work(books, "a", 1.0, range(3))
    client(books, "b", 2.0).record(0, 1, 2.1)
    work(books, "b", 3.0, range(3))
    lines = [Line(0.0, "b", "assigned", 0)]
    books.judge_again(Attribution(lines, [Stored(0, 0, 0.0)], [], [], []))
    assert (books.unexcused, books.excused) == (0, 1), books.evidence
    client(books, "b", 4.0).record(0, 1, 4.1)
    books.judge_again(Attribution(lines, [Stored(0, 0, 0.0)], [], [], []))
    assert books.unexcused == 1


@pytest.mark.parametrize(("assigned_at", "unexcused"), [(2.0, 1), (0.5, 0)])
def test_a_client_that_works_learns_late_that_a_partition_was_added(assigned_at: float, unexcused: int) -> None:
    """Acknowledgements between the assignment and its state may concern what was sent before."""
    books = AckBooks()
    work(books, "a", 1.0, range(3))
    late = books.opened("b", {}, 10, 0.0)
    late.state(frozenset({1}), 0.1)
    late.state(frozenset({0, 1}), 3.0)
    late.record(0, 1, 3.1)
    lines = [Line(0.0, "a", "assigned", 0), Line(1.5, "a", "revoking", 0), Line(assigned_at, "b", "assigned", 0)]
    books.judge_again(Attribution(lines, [Stored(0, 0, 0.0)], [], [], []))
    assert books.unexcused == unexcused, books.evidence


@pytest.mark.parametrize(("opened_at", "unexcused"), [(4.0, 0), (5.6, 0), (5.8, 1)])
def test_a_connection_begins_where_the_partition_is_followed_until_it_is_owned(
    opened_at: float, unexcused: int
) -> None:
    """Its start is decided when it is opened, whatever the replica has later."""
    books = AckBooks()
    work(books, "a", 1.0, range(3))
    client(books, "b", opened_at).record(0, 1, 6.0)
    lines = [*handed_over("revoking"), Line(5.7, "b", HANDED_OVER, 0, 3)]
    books.judge_again(Attribution(lines, [Stored(0, 0, 0.0), Stored(0, 3, 4.9)], [], [], []))
    assert books.unexcused == unexcused, books.evidence


@pytest.mark.parametrize(("counted_to", "unexcused"), [(2, 1), (1, 0)])
def test_what_counts_at_a_hand_over_need_not_be_acknowledged_once_more(counted_to: int, unexcused: int) -> None:
    """Later acknowledged records are the owner's to commit."""
    books = AckBooks()
    work(books, "b", 6.0, range(2, 4))
    client(books, "a", 8.0).record(0, 3, 8.1)
    lines = [
        Line(5.5, "b", "assigned", 0),
        Line(5.6, "b", HANDED_OVER, 0, counted_to),
        Line(7.0, "b", "revoking", 0),
        Line(7.5, "a", "assigned", 0),
    ]
    books.judge_again(Attribution(lines, [Stored(0, 0, 0.0)], [], [], []))
    assert books.unexcused == unexcused, books.evidence


def test_more_than_the_window() -> None:
    """Counts what was sent and not acknowledged, without partitions that have left."""
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
    for offset in (1, 2):
        one.record(0, offset, 4.0)
    assert books.beyond_window == 2, "the second took its own place, the third is one too many once more"
    assert all(good == ("window" not in name and name != "acknowledged") for name, _, good in books.rows())
