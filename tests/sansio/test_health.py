"""The replica's health: its table of states, and what is logged when."""

from itertools import product

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.health import (
    EFFECTS,
    ERROR_FORGOTTEN_SECONDS,
    STATES,
    Event,
    Health,
    HealthStatistics,
    LogLine,
    why_unreachable,
)
from dispatcher.sansio.health import ReplicaState as State


def after(*events: Event) -> Health:
    """A health to which this has happened."""
    health = Health()
    for event in events:
        health.happened(event)
    return health


@pytest.mark.parametrize(
    ("events", "empty", "assigned"),
    [
        ([], State.BROKER_DOWN, State.BROKER_DOWN),
        ([Event.BROKER_UP], State.WAITING, State.STREAMING),
        ([Event.ASSIGNED], State.WAITING, State.STREAMING),
        ([Event.ASSIGNED, Event.REVOKED], State.REBALANCING, State.REBALANCING),
        ([Event.ASSIGNED, Event.REVOKED, Event.JOINED], State.WAITING, State.STREAMING),
        ([Event.ASSIGNED, Event.REVOKED, Event.ASSIGNED], State.WAITING, State.STREAMING),
        ([Event.ASSIGNED, Event.BROKERS_DOWN], State.BROKER_DOWN, State.BROKER_DOWN),
        ([Event.ASSIGNED, Event.REVOKED, Event.LEFT], State.BROKER_DOWN, State.BROKER_DOWN),
        ([Event.BROKERS_DOWN, Event.JOINED], State.BROKER_DOWN, State.BROKER_DOWN),
        ([Event.ASSIGNED, Event.LEFT_IDLE], State.STANDBY, State.STANDBY),
        ([Event.ASSIGNED, Event.LEFT_IDLE, Event.REVOKED], State.STANDBY, State.STANDBY),
        ([Event.ASSIGNED, Event.LEFT_IDLE, Event.BROKERS_DOWN], State.BROKER_DOWN, State.BROKER_DOWN),
        ([Event.ASSIGNED, Event.LEFT_IDLE, Event.REJOINING], State.REBALANCING, State.REBALANCING),
        ([Event.ASSIGNED, Event.LEFT_IDLE, Event.REJOINING, Event.ASSIGNED], State.WAITING, State.STREAMING),
        ([Event.ASSIGNED, Event.LEFT_IDLE, Event.LEFT], State.BROKER_DOWN, State.BROKER_DOWN),
    ],
)
def test_the_state_follows_from_what_happened(events: list[Event], empty: State, assigned: State) -> None:
    """This is checked with and without assigned partitions."""
    assert after(*events).state(has_partitions=False) is empty
    assert after(*events).state(has_partitions=True) is assigned
    if State.STANDBY in {empty, assigned}:
        assert after(*events).is_standby


@given(st.lists(st.sampled_from(Event)), st.booleans())
def test_every_order_of_events_has_a_state(events: list[Event], has_partitions: bool) -> None:
    """The tables leave nothing out."""
    assert EFFECTS.keys() == set(Event)
    assert STATES.keys() == set(product([False, True], repeat=3))
    health = after(*events)
    down = not health.broker_reachable
    assert (health.state(has_partitions=has_partitions) is State.BROKER_DOWN) == down


def test_an_error_is_logged_once_until_all_is_well() -> None:
    """The client repeats it, with another time in it, as long as its cause lasts."""
    health = Health()
    first, second = (
        "broker 3: Connect failed (after 1ms in state UP)",
        "broker 3: Connect failed (after 9ms in state UP)",
    )
    line = LogLine("warning", "kafka client error", {"error": "_TRANSPORT", "reason": first})
    assert health.failed("_TRANSPORT", first, 1.0) == line
    assert health.failed("_TRANSPORT", second, 2.0) is None
    assert health.last_error == second
    health.happened(Event.ASSIGNED)
    assert health.statistics() == HealthStatistics(True, False, None)
    assert health.failed("_TRANSPORT", first, 3.0) == line


def test_an_error_is_over_when_it_has_not_recurred() -> None:
    """While it recurs, a member with its assignment is still not well."""
    health = Health()
    health.happened(Event.BROKER_UP)
    health.failed("_TRANSPORT", "away", 10.0)
    assert health.reported(brokers_up=2, joined=True, now=9.0 + ERROR_FORGOTTEN_SECONDS) is None
    assert health.statistics() == HealthStatistics(True, False, "away")
    assert health.reported(brokers_up=2, joined=False, now=10.0 + ERROR_FORGOTTEN_SECONDS) is None
    assert health.last_error == "away"
    assert health.reported(brokers_up=2, joined=True, now=10.0 + ERROR_FORGOTTEN_SECONDS) is None
    assert health.last_error is None


def test_a_broker_that_comes_back_is_logged_and_ends_every_error() -> None:
    """This happens once; the error that all brokers are down sets the state at once."""
    health = Health()
    assert health.reported(brokers_up=0, joined=False, now=0.0) is None
    assert health.reported(brokers_up=1, joined=False, now=1.0) == LogLine("info", "broker reachable")
    assert health.reported(brokers_up=1, joined=False, now=2.0) is None
    health.failed("_ALL_BROKERS_DOWN", "3/3 brokers are down", 3.0)
    assert health.state(has_partitions=True) is State.BROKER_DOWN
    assert health.reported(brokers_up=1, joined=False, now=4.0) == LogLine("info", "broker reachable")
    assert health.last_error is None


def test_that_all_brokers_are_down_hides_no_address() -> None:
    """The error before it names what is at fault, until that has not recurred."""
    health = Health()
    unresolved = (
        "kafka-1:9092/1: Failed to resolve 'kafka-1:9092': Name or service not known (after 0ms in state CONNECT)"
    )
    health.failed("_RESOLVE", unresolved, 1.0)
    assert health.failed("_ALL_BROKERS_DOWN", "1/1 brokers are down", 2.0) is not None
    assert (health.last_error, health.broker_reachable) == (unresolved, False)
    health.failed("_ALL_BROKERS_DOWN", "1/1 brokers are down", 1.0 + ERROR_FORGOTTEN_SECONDS)
    assert health.last_error == "1/1 brokers are down"


@pytest.mark.parametrize(
    ("error", "address"),
    [
        (None, "a:1,b:2"),
        ("2/2 brokers are down", "a:1,b:2"),
        ("a:1/bootstrap: Connect to ipv4#10.0.0.1:1 failed: Connection refused", "a:1,b:2"),
        ("ssl://c:3/bootstrap: SSL handshake failed", "a:1,b:2"),
        ("b:2/7: Connect to ipv4#10.0.0.1:2 failed: Connection refused", "a:1,b:2"),
        ("c:3/7: Failed to resolve 'c:3': Name or service not known", "c:3"),
        ("sasl_ssl://[::1]:3/7: Connect failed", "[::1]:3"),
        ("GroupCoordinator: c:3: Failed to resolve 'c:3': Name or service not known", "c:3"),
    ],
)
def test_an_address_that_a_broker_advertises_is_named(error: str | None, address: str) -> None:
    """It replaces the configured address, which may be reachable."""
    said = why_unreachable("a:1,b:2", error)
    advertised = "" if address == "a:1,b:2" else ", as a broker of a:1,b:2 advertises itself"
    assert said == f"no Kafka broker is reachable at {address}{advertised}{f' ({error})' if error else ''}"


def test_an_error_that_a_broker_answered_with_shows_that_one_is_reachable() -> None:
    """A forbidden group used to be reported as a missing broker."""
    health = Health()
    health.failed("GROUP_AUTHORIZATION_FAILED", "JoinGroup failed: Group authorization failed", 1.0)
    assert health.broker_reachable
    health.failed("_TRANSPORT", "broker 3: Connect failed", 2.0)
    assert health.broker_reachable
    assert health.last_error == "broker 3: Connect failed"


def test_fetching_that_is_paused_for_lack_of_subscribers_is_logged_when_it_begins_and_ends() -> None:
    """Pauses because of slow subscribers are not logged."""
    health = Health()
    assert health.fetching(paused=True, subscribers=1) is None
    assert health.fetching(paused=True, subscribers=0) == LogLine("warning", "fetching paused: no subscribers")
    assert health.paused_for_nobody
    assert health.fetching(paused=True, subscribers=0) is None
    assert health.fetching(paused=True, subscribers=1) == LogLine("info", "fetching resumed")
    assert not health.paused_for_nobody


def test_a_line_is_written_at_its_level() -> None:
    """The writer adds the details that it knows."""
    log = structlog.testing.CapturingLogger()
    LogLine("info", "fetching resumed", {"a": 1}).write(log, b=2)
    LogLine("warning", "topic degraded").write(log)
    assert [(call.method_name, call.args, call.kwargs) for call in log.calls] == [
        ("info", ("fetching resumed",), {"a": 1, "b": 2}),
        ("warning", ("topic degraded",), {}),
    ]
