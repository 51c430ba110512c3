"""The schedule of a chaos run: repeatable, and never more than the rules allow at once."""

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.schedule import (
    ASIDE,
    EXPLAINED,
    OF_BROKERS,
    OF_SUBSCRIBERS,
    OF_WORKERS,
    QUIET_SECONDS,
    Event,
    Kind,
    schedule,
)

REPLICAS = 3
SEEDS = st.integers(0, 10_000)


def of_replicas(events: list[Event]) -> list[Event]:
    """Those after which one of the first replicas is not there for a while."""
    others = OF_SUBSCRIBERS | OF_BROKERS | ASIDE | {Kind.JOIN}
    return [event for event in events if event.kind not in others]


@given(seed=SEEDS)
def test_the_same_seed_gives_the_same_schedule(seed: int) -> None:
    """A failed run can be repeated with its seed."""
    assert schedule(seed, 180, REPLICAS) == schedule(seed, 180, REPLICAS)
    assert schedule(seed, 180, REPLICAS) != schedule(seed + 1, 180, REPLICAS)


@given(seed=SEEDS, seconds=st.sampled_from([120.0, 180.0]))
def test_some_replica_is_undisturbed_and_two_brokers_are_there(seed: int, seconds: float) -> None:
    """This holds at every moment, and everything is undone before the end."""
    events = schedule(seed, seconds, REPLICAS)
    assert [event.at for event in events] == sorted(event.at for event in events)
    for event in events:
        away = {e.target for e in of_replicas(events) if e.at <= event.at <= e.at + e.lasts}
        assert len(away) < REPLICAS
        assert sum(e.at <= event.at <= e.at + e.lasts for e in events if e.kind in OF_BROKERS) <= 1
        assert event.at + event.lasts <= seconds - QUIET_SECONDS


@given(seed=SEEDS)
def test_three_minutes_have_every_kind(seed: int) -> None:
    """Ten seeds therefore try each kind many times."""
    assert {event.kind for event in schedule(seed, 180, REPLICAS)} == set(Kind) - OF_WORKERS


@given(seed=SEEDS, kinds=st.sets(st.sampled_from(list(Kind))))
def test_only_what_is_asked_for_happens(seed: int, kinds: set[Kind]) -> None:
    """A kind that is left out does not happen, and companions change nothing else."""
    assert {event.kind for event in schedule(seed, 180, REPLICAS, kinds=kinds)} <= kinds
    rest = [event for event in schedule(seed, 180, REPLICAS) if event.kind not in ASIDE]
    assert rest == schedule(seed, 180, REPLICAS, kinds=set(Kind) - ASIDE - OF_WORKERS)


def test_every_kind_is_explained() -> None:
    """``--help`` lists every kind under a name that can be typed."""
    assert set(EXPLAINED) == set(Kind)
    assert all(kind.option.replace("-", "").isalpha() for kind in Kind)
