"""Repeats are put down to what the logs say, and how fast a machine is changes no verdict."""

from collections.abc import Sequence

import pytest

from tests.audit.ledger import Backwards, Repeat
from tests.chaos.attribution import (
    COMMITTED,
    CONTINUED,
    LOST,
    NOTHING,
    SLOW,
    Attribution,
    Ending,
    Incident,
    Line,
    Stored,
    tenures,
)

REPEAT = Repeat(20.0, 0, 7, "a", "b")
"""Record 7 came of a at 4, and of b at 20."""


def had(process: str, *times: float, ending: str = "revoking") -> list[Line]:
    """A process has partition 0 from the first to the second time, or to the end."""
    lines = [Line(times[0], process, "assigned", 0)]
    return [*lines, Line(times[1], process, ending, 0)] if len(times) > 1 else lines


def cause(
    lines: Sequence[Line],
    commits: Sequence[tuple[int, float]],
    incidents: Sequence[Incident] = (),
    killed: Sequence[tuple[str, float]] = (),
    slowness: float = 1.0,
) -> str:
    """What `REPEAT` comes from; on a machine that is slower all times are longer."""
    attribution = Attribution(
        [line._replace(at=line.at * slowness) for line in lines],
        [Stored(0, offset, at * slowness) for offset, at in commits],
        [(4.0 * slowness, "a", 0, 7), (20.0 * slowness, "b", 0, 7)],
        [one._replace(began=one.began * slowness, ended=one.ended * slowness) for one in incidents],
        [(process, at * slowness) for process, at in killed],
    )
    found = attribution.cause(REPEAT._replace(at=REPEAT.at * slowness))
    assert bool(attribution.evidence) == (found in {NOTHING, COMMITTED, "join", "SIGTERM"})
    return found


def fault(kind: str, began: float, ended: float, process: str | None = None) -> Incident:
    """One that excuses."""
    return Incident(kind, began, ended, process, is_fault=True)


JOIN = Incident("join", 9, 11, None, is_fault=False)
ASKED = [*had("a", 1, 10), *had("b", 11)]
OPEN = [*had("a", 1), *had("b", 11)]


@pytest.mark.parametrize("slowness", [1.0, 50.0])
@pytest.mark.parametrize(
    ("lines", "commits", "incidents", "killed", "expected"),
    [
        (OPEN, [(7, 3)], [fault("kill -9", 5, 15, "a"), JOIN], [("a", 5)], "kill -9"),
        (OPEN, [(8, 3)], [fault("kill -9", 5, 15, "a")], [("a", 5)], COMMITTED),
        ([*had("a", 1, 12, ending="partitions lost"), *had("b", 11)], [(7, 3)], [], [], LOST),
        ([*ASKED, Line(10.5, "a", SLOW, 0)], [(7, 3)], [JOIN], [], SLOW),
        ([*ASKED, Line(10.5, "a", SLOW, 1)], [(7, 3)], [JOIN], [], "join"),
        ([*ASKED, Line(11.5, "a", SLOW, 0)], [(7, 3)], [JOIN], [], "join"),
        (
            [*had("a", 1, 12, ending="partitions lost"), *had("b", 11)],
            [(7, 3)],
            [fault("SIGSTOP", 5, 12, "a"), JOIN],
            [],
            "SIGSTOP",
        ),
        (ASKED, [(7, 3)], [JOIN], [], "join"),
        (ASKED, [(7, 3)], [], [], NOTHING),
        (ASKED, [(7, 3)], [fault("broker kill", 3.5, 9), JOIN], [], "broker kill"),
        # It answered again, and took a commit, before the record came: it kept nobody from committing it.
        (ASKED, [(6, 1), (7, 3)], [fault("broker kill", 0, 2), JOIN], [], "join"),
        # Long after it answers again it is still the cause, for Kafka has stored nothing since.
        (ASKED, [(6, 1)], [fault("broker kill", 1.5, 2), JOIN], [], "broker kill"),
        (ASKED, [(8, 9.9)], [fault("broker kill", 5, 30), JOIN], [], "broker kill"),
        # The group waits for a member that does not answer, and nobody can commit.
        (
            [*ASKED, Line(1, "c", "assigned", 1), Line(14, "b", "assigned", 1)],
            [(7, 3)],
            [fault("SIGSTOP", 5, 14, "c"), JOIN],
            [],
            "SIGSTOP",
        ),
        # Others had all of its partitions before the record came.
        (
            [*ASKED, *[Line(1, "c", "assigned", 1), Line(3, "b", "assigned", 1)]],
            [(7, 3)],
            [fault("kill -9", 2, 14, "c"), JOIN],
            [("c", 2)],
            "join",
        ),
        # Both have it, and nobody has lost it.
        (OPEN, [(7, 3)], [], [], NOTHING),
        (ASKED[:1], [(7, 3)], [fault("kill -9", 5, 15, "a")], [], NOTHING),
    ],
)
def test_a_repeat_is_put_down_to_what_the_logs_say(  # noqa: PLR0917 - pytest passes names
    lines: list[Line],
    commits: list[tuple[int, float]],
    incidents: list[Incident],
    killed: list[tuple[str, float]],
    expected: str,
    slowness: float,
) -> None:
    """A repeat is explained by how the previous owner let go, and by a fault only while it was in force."""
    assert cause(lines, commits, incidents, killed, slowness) == expected


@pytest.mark.parametrize(("since", "found"), [(10.9, CONTINUED), (11.1, COMMITTED)])
def test_a_committed_record_is_sent_again_to_subscribers_that_continue(since: float, found: str) -> None:
    """They had the partition of this process before it was assigned again; others begin at what was committed."""
    attribution = Attribution(ASKED, [Stored(0, 8, 3.0)], [(4.0, "a", 0, 7), (20.0, "b", 0, 7)], [], [])
    assert attribution.cause(REPEAT._replace(since=since)) == found


def test_an_owner_without_a_last_word_had_a_fault_of_its_own() -> None:
    """The fault is the owner's, not just the last one of the run."""
    incidents = [fault("kill -9", 5, 15, "a"), fault("SIGSTOP", 6, 12, "c")]
    assert cause(OPEN, [(7, 3)], incidents, [("a", 5)]) == "kill -9"


def test_tenures_end_as_the_logs_say() -> None:
    """A tenure ends by a revoke, a loss, a kill, or not at all, whatever the order of the lines."""
    lines = [*had("c", 5), *had("b", 3, 4, ending="partitions lost"), *had("a", 1, 2), *had("d", 6)]
    found = tenures(lines, [("c", 5.5)])
    assert [(one.process, one.ending) for one in found] == [
        ("a", Ending.ASKED),
        ("b", Ending.LOST),
        ("c", Ending.KILLED),
        ("d", None),
    ]


@pytest.mark.parametrize(
    ("offset", "error", "at", "later", "late"),
    [
        (5, "_TIMED_OUT", 9.0, True, True),
        (5, "NOT_COORDINATOR", 9.0, True, True),
        (5, "_TIMED_OUT", 11.0, True, False),
        (5, "_TIMED_OUT", 9.0, False, False),
        (5, "ILLEGAL_GENERATION", 9.0, True, False),
        (4, "_TIMED_OUT", 9.0, True, False),
    ],
)
def test_a_commit_that_steps_back(offset: int, error: str, at: float, later: bool, late: bool) -> None:
    """It is a late commit only if librdkafka had given up that very commit, and Kafka's log shows the correction."""
    line = Line(at, "a", "commit not stored", 0, offset, error)
    commits = [Stored(0, 8, 9.5), Stored(0, 5, 10.0), *([Stored(0, 9, 12.0)] if later else [])]
    assert Attribution([line], commits, [], [], []).is_late(Backwards(0, 5, 8, 10_000)) == late


@pytest.mark.parametrize(
    ("first_at", "later", "late"),
    [(9.2, True, True), (9.2, False, False), (8.9, True, False), (None, True, False)],
)
def test_a_commit_that_is_stored_twice(first_at: float | None, later: bool, late: bool) -> None:
    """For the owner of that time, whose assignment began at 9; an equal commit of its predecessor is another one."""
    commits = [Stored(0, 8, 9.5), Stored(0, 5, 10.0), *([Stored(0, 9, 12.0)] if later else [])]
    if first_at is not None:
        commits.insert(0, Stored(0, 5, first_at))
    lines = [*had("a", 1, 8), *had("b", 9)]
    assert Attribution(lines, commits, [], [], []).is_late(Backwards(0, 5, 8, 10_000)) == late


@pytest.mark.parametrize(
    ("ended", "incidents", "later", "late"),
    [
        (9.8, [fault("broker kill", 3, 6)], True, True),
        (9.8, [fault("broker kill", 3, 6)], False, False),
        (9.8, [fault("SIGSTOP", 3, 6, "c")], True, False),
        (9.8, [fault("broker kill", 0.5, 0.9)], True, False),
        (4.9, [fault("broker kill", 3, 6)], True, False),
    ],
)
def test_a_commit_that_is_held_back_while_a_broker_is_away(
    ended: float, incidents: list[Incident], later: bool, late: bool
) -> None:
    """The owner leaves, and the lower one of its last two commits is stored after the higher one."""
    commits = [Stored(0, 2, 2.0), Stored(0, 8, 4.5), Stored(0, 5, 10.0), *([Stored(0, 9, 12.0)] if later else [])]
    assert Attribution(had("a", 1, ended), commits, [], incidents, []).is_late(Backwards(0, 5, 8, 10_000)) == late


@pytest.mark.parametrize(
    ("stored_at", "sent_at", "incidents", "later", "late"),
    [
        (11.5, 13.0, [fault("broker kill", 8, 9)], True, True),
        (11.5, 13.0, [fault("broker kill", 8, 9)], False, False),
        (11.5, 13.0, [fault("SIGSTOP", 8, 9, "c")], True, False),
        (11.5, 13.0, [fault("broker kill", 12.5, 13)], True, False),
        # It was stored in time, or the new owner had sent that record itself.
        (9.9, 13.0, [fault("broker kill", 8, 9)], True, False),
        (11.5, 11.2, [fault("broker kill", 8, 9)], True, False),
    ],
)
def test_a_commit_that_follows_a_late_one_of_the_previous_owner(
    stored_at: float, sent_at: float, incidents: list[Incident], later: bool, late: bool
) -> None:
    """The new owner began before the late commit was stored, so its own first one is lower."""
    commits = [Stored(0, 2, 5.0), Stored(0, 8, stored_at), Stored(0, 5, 12.0)]
    if later:
        commits.append(Stored(0, 9, 14.0))
    receipts = [(4.0, "a", 0, 7), (sent_at, "b", 0, 7)]
    assert Attribution(ASKED, commits, receipts, incidents, []).is_late(Backwards(0, 5, 8, 12_000)) == late
