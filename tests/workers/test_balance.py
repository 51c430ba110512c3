"""When a worker sends subscribers on, and how many."""

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.workers.balance import LATE_SAMPLES, LATE_SECONDS, REST_SECONDS, UNEVEN_RATIO, Balance, Load, SendOn

LATE, FINE = 0.2, 0.01
CROWDED = {"1": Load(LATE, 800), "2": Load(FINE, 200)}
"""Worker 1 is late, and has more than its share."""


def orders(*samples: Mapping[str, Load | None], spread_seconds: float = 0) -> list[SendOn | None]:
    """What one balance says to each of these."""
    balance = Balance(spread_seconds)
    return [balance.observe(sample) for sample in samples]


def test_a_crowded_worker_that_stays_late_sends_a_tenth_on() -> None:
    """It does so once it was late in some samples in a row."""
    assert orders(*[CROWDED] * LATE_SAMPLES) == [None] * (LATE_SAMPLES - 1) + [SendOn("1", 80)]


@pytest.mark.parametrize(
    ("loads", "number"),
    [
        pytest.param([Load(LATE, 800), Load(FINE, 200), Load(FINE, 800)], 80, id="a tenth"),
        pytest.param([Load(LATE, 125), Load(FINE, 100), Load(FINE, 75)], 12, id="a tenth, rounded down"),
        pytest.param([Load(LATE, 5), Load(FINE, 0)], 1, id="one, if a tenth is less"),
        pytest.param([Load(LATE, 60), Load(FINE, 45), Load(FINE, 45)], 6, id="just enough more"),
        pytest.param([Load(LATE, 300), Load(FINE, 200), Load(FINE, 250)], 30, id="a fifth more"),
        pytest.param([Load(LATE_SECONDS, 800), Load(LATE_SECONDS / 2, 200)], 80, id="just late enough"),
    ],
)
def test_the_number_is_small_and_leaves_the_mean(loads: list[Load], number: int) -> None:
    """Nobody is sent on whose place nobody else would take."""
    sample: dict[str, Load | None] = {str(name): load for name, load in enumerate(loads, 1)}
    assert orders(*[sample] * LATE_SAMPLES)[-1] == SendOn("1", number)


@pytest.mark.parametrize(
    "loads",
    [
        pytest.param([Load(LATE_SECONDS * 0.9, 800), Load(0, 200)], id="nobody is late by much"),
        pytest.param([Load(LATE, 800), Load(LATE, 200)], id="all are late"),
        pytest.param([Load(LATE, 800), Load(LATE * 0.6, 200)], id="another is not much better"),
        pytest.param([Load(LATE, 800), Load(FINE, 200), Load(LATE, 200)], id="another one is late"),
        pytest.param([Load(LATE, 500), Load(FINE, 500)], id="equal shares"),
        pytest.param([Load(LATE, 590), Load(FINE, 410)], id="almost equal shares"),
        pytest.param([Load(LATE, 200), Load(FINE, 800)], id="the late one has fewer"),
        pytest.param([Load(LATE, 2), Load(FINE, 1)], id="nobody is left over"),
        pytest.param([Load(LATE, 0), Load(FINE, 0)], id="nobody is connected"),
        pytest.param([Load(LATE, 800)], id="it is alone"),
        pytest.param([Load(LATE, 800), None], id="another is not ready"),
        pytest.param([None, None], id="none is ready"),
    ],
)
def test_otherwise_everybody_stays(loads: list[Load | None]) -> None:
    """A machine that is too small does not send its clients round in circles."""
    sample = {str(name): load for name, load in enumerate(loads, 1)}
    assert orders(*[sample] * 60) == [None] * 60


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({**CROWDED, "1": Load(FINE, 800)}, id="not late for once"),
        pytest.param({**CROWDED, "2": Load(LATE, 200)}, id="the other one is late"),
        pytest.param({**CROWDED, "2": Load(2 * LATE, 200)}, id="the other one is later"),
        pytest.param({**CROWDED, "1": None}, id="it has not reported"),
        pytest.param({**CROWDED, "2": None}, id="the other one is down"),
    ],
)
def test_the_samples_must_be_in_a_row(other: dict[str, Load | None]) -> None:
    """Any other sample starts the count again."""
    before = [CROWDED] * (LATE_SAMPLES - 1)
    assert orders(*before, other, *before) == [None] * (2 * LATE_SAMPLES - 1)
    assert orders(*before, other, *before, CROWDED)[-1] == SendOn("1", 80)


@pytest.mark.parametrize("spread_seconds", [0, 7.5])
def test_the_next_step_waits_until_the_last_one_shows(spread_seconds: float) -> None:
    """The pause begins when the last subscriber has been sent on; within it a worker that recovers keeps the rest."""
    found = orders(*[CROWDED] * 60, spread_seconds=spread_seconds)
    steps = [second for second, order in enumerate(found) if order is not None]
    pauses = {later - sooner for sooner, later in pairwise(steps)}
    assert len(pauses) == 1
    assert REST_SECONDS + spread_seconds <= pauses.pop() <= REST_SECONDS + spread_seconds + 1
    recovered = {**CROWDED, "1": Load(FINE, 720)}
    assert orders(*[CROWDED] * LATE_SAMPLES, *[recovered] * 60)[LATE_SAMPLES:] == [None] * 60


@given(st.lists(st.integers(0, 2000), min_size=2, max_size=8))
def test_it_ends_with_almost_equal_shares(subscribers: list[int]) -> None:
    """A worker that stays late for another reason keeps its share."""
    balance = Balance(0)
    counts = list(subscribers)
    mean = sum(counts) / len(counts)
    for _ in range(600):
        loads = {str(name): Load(FINE if name else LATE, count) for name, count in enumerate(counts)}
        order = balance.observe(loads)
        if order is not None:
            assert order.worker == "0"
            counts[0] -= order.number
            emptiest = min(range(1, len(counts)), key=lambda name: counts[name])
            counts[emptiest] += order.number
            assert counts[0] >= mean
    assert counts[0] <= max(UNEVEN_RATIO * mean, mean + 1)
