"""Violated invariants are counted, and logged at a bounded rate."""

from structlog.testing import capture_logs

from dispatcher.invariants import Invariant, Invariants


def test_a_violation_is_counted_and_logged_once_a_minute() -> None:
    """A check that fails a thousand times per second does not fill the log."""
    counted = Invariants()
    with capture_logs() as logs:
        for offset in range(1000):
            counted.violated(Invariant.COMMITS_NEVER_STEP_BACK, offset=offset)
        counted.violated(Invariant.SUBSCRIBERS_HAVE_CONNECTIONS, subscribers=5)
    assert counted.statistics()[Invariant.COMMITS_NEVER_STEP_BACK] == 1000
    assert counted.statistics()[Invariant.NOTHING_DISPATCHED_AFTER_CLOSE] == 0
    assert [(line["event"], line["invariant"]) for line in logs] == [
        ("invariant violated", "commits-never-step-back"),
        ("invariant violated", "subscribers-have-connections"),
    ]
