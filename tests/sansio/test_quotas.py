"""Bounded numbers, shared out fairly."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.quotas import Quota, QuotaStatistics, Refusal


def fill(quota: Quota, holder: str) -> int:
    """Take as many as this holder can have."""
    before = quota.taken
    while quota.refusal(holder) is None:
        quota.take(holder)
    return quota.taken - before


def test_one_holder_never_takes_all() -> None:
    """The last tenth stays for others, whatever the settings."""
    quota = Quota(1000)
    assert fill(quota, "greedy") == 900
    assert quota.refusal("greedy") is Refusal.RESERVED
    assert fill(quota, "modest") == 11
    assert sum(fill(quota, f"other-{number}") for number in range(100)) == 89
    assert quota.refusal("one more") is Refusal.FULL


def test_a_small_quota_has_nothing_reserved() -> None:
    """A tenth of 9 is nothing."""
    assert fill(Quota(9), "only") == 9


def test_several_at_once_are_refused_like_the_last_of_them() -> None:
    """Otherwise two at once could reach into what is reserved, or exceed a bound."""
    quota = Quota(100, per_holder=91)
    for _ in range(89):
        quota.take("greedy")
    assert (quota.refusal("greedy"), quota.refusal("greedy", 2)) == (None, Refusal.RESERVED)
    assert (quota.refusal("modest", 2), quota.refusal("greedy", 3)) == (None, Refusal.HOLDER_FULL)
    assert (quota.refusal("modest", 3), quota.refusal("modest", 12)) == (Refusal.RESERVED, Refusal.FULL)


def test_a_bound_for_each_holder() -> None:
    """It counts what a holder has at the moment."""
    quota = Quota(1000, per_holder=3)
    assert fill(quota, "a") == 3
    assert quota.refusal("a") is Refusal.HOLDER_FULL
    quota.release("a")
    assert (quota.refusal("a"), quota.held("a"), quota.held("b")) == (None, 2, 0)


def test_statistics() -> None:
    """They show how many there are, of how many holders, and the most of one."""
    quota = Quota(10)
    assert quota.statistics() == QuotaStatistics(0, 0, 0)
    for holder in "aab":
        quota.take(holder)
    assert quota.statistics() == QuotaStatistics(3, 2, 2)
    quota.release("b")
    assert quota.statistics() == QuotaStatistics(2, 1, 2)


@settings(max_examples=50)
@given(
    st.integers(1, 40),
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=120),
)
def test_bounds_hold_whatever_happens(total: int, per_holder: int, steps: list[tuple[str, bool]]) -> None:
    """Counts equal what was taken and not released, and no bound is exceeded."""
    quota, model = Quota(total, per_holder), dict.fromkeys("abcd", 0)
    for holder, takes in steps:
        if takes and quota.refusal(holder) is None:
            quota.take(holder)
            model[holder] += 1
        elif not takes and model[holder]:
            quota.release(holder)
            model[holder] -= 1
        assert quota.taken == sum(model.values()) <= total
        assert all(quota.held(name) == number for name, number in model.items())
        assert not per_holder or max(model.values()) <= per_holder
