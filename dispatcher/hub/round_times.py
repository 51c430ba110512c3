"""How long the rounds of the fan-out take, and how long what was published waits for the end of its round.

*Thread*: Trio's.
"""

import time
from collections.abc import Callable


class RoundTimes:
    """Counts and measures rounds, at a cost per round.

    Args:
        linger_seconds: How long a round may wait on purpose, which is not late.
        now: A clock, in seconds.
    """

    def __init__(self, linger_seconds: float = 0, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._linger_seconds = linger_seconds
        self._now = now
        self.rounds = 0
        """Rounds since the start."""
        self.seconds = 0.0
        """How long the last round took."""
        self._began = 0.0
        self._waiting_since: float | None = None
        """When the oldest of what waits for the next round was published."""
        self._under_way_since: float | None = None
        """When the oldest of what the current round hands out was published."""
        self._late_seconds = 0.0

    def published(self) -> None:
        """Note that something was published for the next round, which had nothing before."""
        self._waiting_since = self._now()

    def began(self) -> None:
        """Note that a round begins, with everything that waits for it."""
        self.rounds += 1
        self._began = self._now()
        self._under_way_since, self._waiting_since = self._waiting_since, None

    def ended(self) -> None:
        """Note that the round has ended."""
        self.seconds = self._now() - self._began
        self._late_seconds = max(self._late_seconds, self._seconds_since(self._under_way_since))
        self._under_way_since = None

    def withdrawn(self) -> None:
        """Note that nothing that was published waits any longer."""
        self._waiting_since = self._under_way_since = None

    def take_late_seconds(self) -> float:
        """How late the rounds were since the last call: the longest time from publication to the end of a round.

        Records that still wait are included, because a round may take longer than the time between two calls.
        """
        longest = max(self._late_seconds, *map(self._seconds_since, (self._under_way_since, self._waiting_since)))
        self._late_seconds = 0.0
        return max(0.0, longest - self._linger_seconds)

    def _seconds_since(self, moment: float | None) -> float:
        return 0.0 if moment is None else self._now() - moment
