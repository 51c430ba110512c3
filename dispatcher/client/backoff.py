"""How long to wait before the next attempt: exponential, with full jitter.

*Source*: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: of the ways to spread clients, the
full jitter makes the least work for the server.
"""

from collections.abc import Callable


class Backoff:
    """Counts attempts that failed in a row.

    Args:
        base_seconds: The most that the first wait takes, until the server's ``retry`` says otherwise.
        most_seconds: The most that any wait takes.
        random: A number from 0 to 1.
    """

    def __init__(self, base_seconds: float, most_seconds: float, random: Callable[[], float]) -> None:
        self._base_seconds = base_seconds
        self._most_seconds = most_seconds
        self._random = random
        self.failures = 0
        """Attempts in a row that brought nothing."""

    def set_base(self, seconds: float) -> None:
        """The server said ``retry:``."""
        self._base_seconds = min(seconds, self._most_seconds)

    def succeeded(self) -> None:
        """The server streams: the next failure is the first one again."""
        self.failures = 0

    def failed(self, after_seconds: float | None = None) -> float:
        """One more attempt brought nothing, or a stream ended; returns how many seconds to wait.

        Args:
            after_seconds: What the server asked for: kept to, as it has spread its clients already. It asks for no wait
                at all only of who was too slow, and only the first time.
        """
        self.failures += 1
        if after_seconds or (after_seconds is not None and self.failures == 1):
            return after_seconds
        # 2.0 ** 30 times any base is above any limit.
        return self._random() * min(self._most_seconds, self._base_seconds * 2.0 ** min(self.failures - 1, 30))
