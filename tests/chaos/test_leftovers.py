"""What is left on a replica when all clients have gone is found, each kind by itself."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from testbed.patience import VARIABLE
from tests.audit.fleet import Fleet
from tests.chaos.leftovers import Leftovers, look

METRICS = "# TYPE dispatcher_invariant_violations_total counter\n"
METRICS += 'dispatcher_invariant_violations_total{invariant="a"} %d\n'


class Left:
    """A replica that answers as the test wants, and takes records when there are some."""

    identity = "replica-1/1"

    def __init__(self, subscribers: int = 0, dispatches: int = 0, violations: int = 0) -> None:
        self._subscribers = subscribers
        self._dispatches = dispatches
        self._violations = violations
        self._records = {"dispatched": 7, "published": 7}

    def status(self) -> dict[str, Any]:
        """``/status``."""
        return {"subscribers": {"total": self._subscribers}, "records": dict(self._records)}

    def metrics(self) -> str:
        """``/metrics``."""
        return METRICS % self._violations

    def produced(self) -> None:
        """Records came."""
        self._records["published"] += 10
        self._records["dispatched"] += self._dispatches


async def found(
    monkeypatch: pytest.MonkeyPatch, left: Left, logged: tuple[tuple[str, dict[str, Any]], ...] = ()
) -> Leftovers:
    """What is found on this replica, and in the logs of others."""
    monkeypatch.setenv(VARIABLE, "0.02")
    fleet = SimpleNamespace(
        slots=[SimpleNamespace(replica=left), SimpleNamespace(replica=None)],
        logged=lambda *events: [one for one in logged if one[1]["event"] in events],
    )
    return await look(cast("Fleet", fleet), left.produced)


async def test_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that arrive while nobody is connected wait."""
    leftovers = await found(monkeypatch, Left())
    assert leftovers.good
    assert {value for _, value, _ in leftovers.rows()} == {"0"}


async def test_a_subscriber_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber that is still counted after there was time to forget it is a fault."""
    assert (await found(monkeypatch, Left(subscribers=2))).subscribers == {"replica-1/1": 2}


async def test_records_dispatched_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that count although every client has left are a fault."""
    leftovers = await found(monkeypatch, Left(dispatches=3))
    assert leftovers.dispatched == {"replica-1/1": 3}
    assert not leftovers.good


async def test_violations_of_those_that_run_and_of_those_that_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Violations are counted by the metric, and by the last log line of each invariant."""
    logged = tuple(
        ("replica-2/2", {"event": "invariant violated", "invariant": "b", "count": count}) for count in (1, 5)
    )
    leftovers = await found(monkeypatch, Left(violations=4), logged)
    assert leftovers.violations == {"replica-1/1": {"a": 4}, "replica-2/2": {"b": 5}}


async def test_crashes_of_processes_and_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another replica takes over, and no record is lost: only the logs have them."""
    events = ("connection failed", "crashed, stopping", "stopped")
    leftovers = await found(monkeypatch, Left(), tuple(("replica-2/2", {"event": event}) for event in events))
    assert leftovers.crashes == {"replica-2/2": ["connection failed", "crashed, stopping"]}
    assert not leftovers.good
