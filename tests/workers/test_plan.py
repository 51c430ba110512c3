"""How many workers there are, what each of them gets, and when one is started again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.settings import Settings
from dispatcher.workers.plan import (
    DIVIDED,
    DIVIDED_RATES,
    Machine,
    Restarts,
    Silence,
    memory_problem,
    most_memory_bytes,
    number_of_workers,
    settings_of,
)

MIB = 1024 * 1024


def make_settings(**more: Any) -> Settings:
    """Settings that allow more than one worker."""
    return Settings(**{"workers": 4, "default_scope": "topic", "operations_bind": "127.0.0.1:0", **more})


@pytest.mark.parametrize(
    ("workers", "machine", "expected"),
    [
        (3, Machine(1), 3),
        ("auto", Machine(8), 8),
        ("auto", Machine(8, quota=2.0), 2),
        ("auto", Machine(8, quota=2.9), 2),
        ("auto", Machine(2, quota=6.0), 2),
        ("auto", Machine(8, quota=0.5), 1),
    ],
)
def test_auto_is_one_for_each_whole_core(workers: object, machine: Machine, expected: int) -> None:
    """The lower of affinity and quota counts; a number is used as given."""
    assert number_of_workers(make_settings(workers=workers), machine) == expected


def test_each_worker_has_a_name_of_its_own() -> None:
    """Kafka and subscribers see it, and a static member stays static."""
    settings = make_settings(client_id="edge", group_instance_id="slot")
    names = [(one.client_id, one.group_instance_id) for one in (settings_of(settings, n, 2) for n in (1, 2))]
    assert names == [("edge-1", "slot-1"), ("edge-2", "slot-2")]
    assert settings_of(make_settings(), 1, 2).group_instance_id == ""


@given(st.integers(1, 64), st.integers(1, 100_000), st.integers(0, 1000), st.floats(0, 1000))
def test_limits_are_shared_out(workers: int, subscribers: int, each: int, rate: float) -> None:
    """Together the workers have at least the limit, each rounded up."""
    settings = make_settings(
        max_subscribers=subscribers,
        max_subscribers_per_address=each,
        connects_per_second_per_address=rate,
    )
    share = settings_of(settings, 1, workers)
    for name in set(DIVIDED) - {"max_connections"}:
        whole = getattr(settings, name)
        assert whole <= workers * getattr(share, name) < whole + workers
    for name in DIVIDED_RATES:
        assert workers * getattr(share, name) == pytest.approx(getattr(settings, name))
    assert workers * share.max_connections >= settings.max_connections
    assert share.max_connections >= 16


def test_no_limit_stays_no_limit() -> None:
    """0 means that for limits per address."""
    share = settings_of(make_settings(), 2, 2)
    assert (share.max_subscribers_per_address, share.connects_per_second_per_address) == (0, 0)


def test_the_memory_is_that_of_the_readme() -> None:
    """With defaults and 500 subscribers: 100 + 64 + 11.2 + 8 + 9 + 28 + 2 + 20 + 48 MiB, 1.3125 each."""
    assert most_memory_bytes(make_settings(max_subscribers=500)) / MIB == pytest.approx(290.2 + 656.25)
    more = make_settings(max_subscribers=500, kafka={"queued.max.messages.kbytes": "16384"}, compression="on")
    assert most_memory_bytes(more) / MIB == pytest.approx(290.2 + 11.2 + 8 + 656.25)


def test_workers_that_do_not_fit_are_refused_with_the_numbers() -> None:
    """Subscribers are divided, everything else is per worker."""
    settings = make_settings(workers=2, max_subscribers=500)
    assert memory_problem(settings, 2, Machine(2, memory_bytes=1317 * MIB)) is None
    assert memory_problem(settings, 2, Machine(2)) is None
    problem = memory_problem(settings, 2, Machine(2, memory_bytes=1316 * MIB))
    assert problem is not None
    assert (problem.key, problem.value) == ("workers", "2")
    assert "2 workers and their parent take up to 1,317 MiB" in problem.remedy
    assert "1,316 MiB" in problem.remedy


def test_a_worker_is_started_again_at_once_then_after_longer_and_longer_pauses() -> None:
    """A minute of life resets the pause."""
    restarts = Restarts()
    assert [restarts.pause_seconds(1) for _ in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [restarts.pause_seconds(lived) for lived in (60, 1, 59)] == [0, 0.5, 1]


def test_silence_is_counted_in_looks() -> None:
    """A machine that slept has missed one check, not an hour."""
    silence = Silence(0.5)
    assert [silence.look() for _ in range(3)] == [0.5, 1.0, 1.5]
    silence.heard()
    assert silence.look() == 0.5
