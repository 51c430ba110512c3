"""When a member is replaced because an answer of its coordinator was lost."""

from dispatcher.sansio.lost_answers import REPLACE_SECONDS, SETTLE_SECONDS, LostAnswers


def watch(timeouts: int = 1) -> LostAnswers:
    """Of a member whose requests timed out at time 100."""
    answers = LostAnswers(matter=True)
    assert answers.reported(timeouts, joined=True, now=100.0) is None
    return answers


def test_a_member_is_replaced_once_after_a_timeout() -> None:
    """When it is in its group again and was not fenced for a while."""
    answers = watch()
    assert answers.reported(1, joined=True, now=100.0 + SETTLE_SECONDS - 1) is None
    assert answers.reported(1, joined=False, now=100.0 + SETTLE_SECONDS) is None
    assert "perhaps an assignment" in (answers.reported(1, joined=True, now=110.0) or "")
    assert answers.reported(1, joined=True, now=1000.0) is None


def test_each_timeout_makes_it_wait_again() -> None:
    """A coordinator that does not answer yet takes no new member either."""
    answers = watch()
    assert answers.reported(2, joined=True, now=100.0 + SETTLE_SECONDS) is None
    assert answers.reported(2, joined=True, now=100.0 + 2 * SETTLE_SECONDS) is not None


def test_a_member_that_was_fenced_lacks_nothing() -> None:
    """It sends its whole state when it joins again."""
    answers = watch()
    answers.fenced()
    assert answers.reported(1, joined=True, now=1000.0) is None


def test_a_new_client_begins_without_a_debt() -> None:
    """Also if the last report of the old one comes after its end."""
    answers = watch(3)
    answers.left()
    assert answers.reported(3, joined=False, now=101.0) is None
    for now in (102.0, 1000.0):
        assert answers.reported(0, joined=True, now=now) is None
    assert answers.reported(1, joined=True, now=1001.0) is None
    assert answers.reported(1, joined=True, now=1001.0 + SETTLE_SECONDS) is not None


def test_replacements_are_rare() -> None:
    """Each is a rebalance for the whole group."""
    answers = watch()
    first = 100.0 + SETTLE_SECONDS
    assert answers.reported(1, joined=True, now=first) is not None
    assert answers.reported(2, joined=True, now=first + 1) is None
    assert answers.reported(2, joined=True, now=first + REPLACE_SECONDS - 1) is None
    assert answers.reported(2, joined=True, now=first + REPLACE_SECONDS) is not None


def test_nothing_is_replaced_in_the_classic_protocol() -> None:
    """A member learns its whole assignment at each rebalance."""
    answers = LostAnswers(matter=False)
    assert answers.reported(1, joined=True, now=0.0) is None
    assert answers.reported(1, joined=True, now=1000.0) is None
