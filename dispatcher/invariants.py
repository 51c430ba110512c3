"""Conditions that must always hold. A violation is counted and logged, and the process continues to serve.

Each check is cheap enough to be always on. A violation is a bug, so it increments a metric
(``dispatcher_invariant_violations_total``) that operators can alert on, and one log line per invariant and minute.

*Thread*: any. The counts are of this process, as its log is.
"""

import time
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

import structlog

log = structlog.get_logger(__name__)

LOG_SECONDS = 60.0
"""Minimum time between two log lines about the same invariant."""


class Invariant(StrEnum):
    """The invariants, as the metric's label names them."""

    SUBSCRIBERS_HAVE_CONNECTIONS = "subscribers-have-connections"
    """There are never more subscribers than open connections."""
    NOTHING_DISPATCHED_AFTER_CLOSE = "nothing-dispatched-after-close"
    """No record counts as dispatched once a stream's last bytes, such as a Close frame, were sent."""
    COMMITS_NEVER_STEP_BACK = "commits-never-step-back"
    """A commit is never below one that was confirmed in the same assignment."""
    BUFFERS_WITHIN_BOUNDS = "buffers-within-bounds"
    """No subscriber's buffer holds more bytes than its setting allows, and no count of bytes has gone astray: not a
    subscriber's, nor those by which the history is kept within its bound."""


class Invariants:
    """Counts violations, and logs them at a bounded rate."""

    def __init__(self) -> None:
        self._counts: Counter[Invariant] = Counter()
        self._logged_at: dict[Invariant, float] = {}

    def violated(self, invariant: Invariant, **details: object) -> None:
        """Count a violation, and log it with its details, at most once per `LOG_SECONDS`."""
        self._counts[invariant] += 1
        now = time.monotonic()
        if now - self._logged_at.get(invariant, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged_at[invariant] = now
            log.error("invariant violated", invariant=invariant, count=self._counts[invariant], **details)

    def statistics(self) -> Mapping[Invariant, int]:
        """Violations since the start, by invariant; 0 for invariants that held."""
        return {invariant: self._counts[invariant] for invariant in Invariant}


invariants = Invariants()
"""The invariants of this process."""
