"""Token buckets: how much a client may do at once, and how fast it may continue after that."""

from collections.abc import Hashable

MAX_KEYS = 20_000
"""The most buckets that are kept: about 3 MiB. Beyond that, the least recently used one is dropped, and so becomes
full."""


class Budget:
    """A token bucket.

    Args:
        amount: Tokens in a full bucket.
        per_second: How fast it fills.
        now: A time at which the bucket is full, in seconds of a monotonic clock.
    """

    __slots__ = ("_amount", "_at", "_left", "_per_second")

    def __init__(self, amount: float, per_second: float, now: float) -> None:
        self._amount = self._left = amount
        self._per_second = per_second
        self._at = now

    def spend(self, cost: float, now: float) -> bool:
        """Take tokens; if there are too few, return False and empty the bucket."""
        self._fill(now)
        self._left -= cost
        if self._left < 0:
            self._left = 0
            return False
        return True

    def try_spend(self, cost: float, now: float) -> bool:
        """Take tokens; if there are too few, return False and take none."""
        self._fill(now)
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def is_full(self, now: float) -> bool:
        """Whether the bucket is full."""
        self._fill(now)
        return self._left >= self._amount

    def _fill(self, now: float) -> None:
        self._left = min(self._amount, self._left + (now - self._at) * self._per_second)
        self._at = now


class Budgets:
    """A token bucket for each key, kept only while it is not full.

    Args:
        amount: Tokens in a full bucket.
        per_second: How fast each fills.
        max_keys: The most buckets that are kept.
    """

    def __init__(self, amount: float, per_second: float, max_keys: int = MAX_KEYS) -> None:
        self._amount = amount
        self._per_second = per_second
        self._max_keys = max_keys
        self._budgets: dict[Hashable, Budget] = {}
        """The least recently used bucket comes first."""

    def try_spend(self, key: Hashable, cost: float, now: float) -> bool:
        """Take tokens from the bucket of a key; if it holds too few, return False and take none."""
        budget = self._budgets.pop(key, None) or Budget(self._amount, self._per_second, now)
        self._budgets[key] = budget
        self._forget(now)
        return budget.try_spend(cost, now)

    def _forget(self, now: float) -> None:
        """Drop one full bucket per call, so that no call pays for many, and another one if there are too many."""
        oldest, budget = next(iter(self._budgets.items()))
        if len(self._budgets) > 1 and (budget.is_full(now) or len(self._budgets) > self._max_keys):
            del self._budgets[oldest]

    def __len__(self) -> int:
        return len(self._budgets)
