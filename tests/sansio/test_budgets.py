"""Token buckets."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.budgets import Budget, Budgets


def test_a_bucket_that_is_overdrawn_is_empty() -> None:
    """The excess is not owed: the bucket fills from 0."""
    budget = Budget(10, 1, now=0)
    assert budget.spend(10, 0)
    assert not budget.spend(5, 0)
    assert budget.spend(1, 1)
    assert not budget.is_full(1)
    assert budget.is_full(11)


def test_what_is_refused_costs_nothing() -> None:
    """A client that asks too often is served at its allowed rate."""
    budget = Budget(1, 1, now=0)
    assert [budget.try_spend(1, now / 10) for now in range(31)].count(True) == 4


def test_each_key_has_its_own_bucket() -> None:
    """An empty bucket changes nothing for other keys."""
    budgets = Budgets(2, 1)
    assert [budgets.try_spend("a", 1, 0) for _ in range(3)] == [True, True, False]
    assert budgets.try_spend("b", 1, 0)


def test_full_buckets_are_forgotten() -> None:
    """Memory depends on recent clients, not on all that ever connected."""
    budgets = Budgets(2, 1)
    for number in range(1000):
        budgets.try_spend(number, 1, now=number)
    assert len(budgets) <= 3


def test_there_are_never_more_than_the_bound() -> None:
    """A flood from a million addresses at once does not grow the process."""
    budgets = Budgets(2, 1, max_keys=10)
    for number in range(1000):
        assert budgets.try_spend(number, 1, now=0)
    assert len(budgets) == 10


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 3)), max_size=60))
def test_never_more_than_the_burst_and_the_rate(steps: list[tuple[float, float]]) -> None:
    """In any order of events, at most the full bucket and its refill are granted."""
    budgets, now, granted = Budgets(5, 2), 0.0, 0.0
    for wait, cost in steps:
        now += wait
        if budgets.try_spend("key", cost, now):
            granted += cost
        assert granted <= 5 + 2 * now + 1e-6
