"""The wait before the next attempt: exponential, with full jitter, and never zero for many attempts in a row.

*Source*: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: of all ways to spread clients, full
jitter causes the least work for the server.

``client.js`` has the same rules; docs/protocol.md, "When to reconnect", states them.
"""

from collections.abc import Callable

LIVED_SECONDS = 5.0
"""A stream that lasted this long after its first state has worked: earlier failures are forgotten."""

QUICK_ATTEMPTS = 3
"""How many attempts in a row may follow each other as fast as the server asks."""

FLOOR_SECONDS = 1.0
"""After those, no wait is shorter than this, whatever the server says; with jitter it may be twice as long."""


class Backoff:
    """Counts attempts that failed in a row.

    Args:
        base_seconds: The upper limit of the first wait, until the server's ``retry`` says otherwise.
        max_seconds: The upper limit of any wait that the server did not ask for.
        random: Returns a number from 0 to 1.
    """

    def __init__(self, base_seconds: float, max_seconds: float, random: Callable[[], float]) -> None:
        self._base_seconds = base_seconds
        self._max_seconds = max_seconds
        self._random = random
        self._began_at: float | None = None
        self._short = 0
        """Attempts in a row without a stream that lasted for a while."""
        self.failures = 0
        """Attempts in a row that received no state."""

    def set_base(self, seconds: float) -> None:
        """The server sent ``retry:``."""
        self._base_seconds = min(max(seconds, 0.0), self._max_seconds)

    def began(self, now: float) -> None:
        """A state was received."""
        self.failures = 0
        if self._began_at is None:
            self._began_at = now

    def ended(self, now: float, asked_seconds: float | None = None) -> float:
        """The attempt is over; returns how many seconds to wait before the next one.

        Args:
            now: The time, on the same clock as for `began`.
            asked_seconds: The wait that the server asked for. A wait of zero, which it asks of clients that were too
                slow, is honoured the first time only.
        """
        began_at, self._began_at = self._began_at, None
        if began_at is None:
            self.failures += 1
        elif now - began_at >= LIVED_SECONDS:
            self._short = 0
        self._short += 1
        if asked_seconds or (asked_seconds is not None and self._short == 1):
            seconds = asked_seconds
        else:
            # 2.0 ** 30 times any base is above every limit.
            seconds = self._random() * min(self._max_seconds, self._base_seconds * 2.0 ** min(self._short - 1, 30))
        if self._short > QUICK_ATTEMPTS:
            seconds = max(seconds, min(FLOOR_SECONDS, self._max_seconds) * (1 + self._random()))
        return seconds
