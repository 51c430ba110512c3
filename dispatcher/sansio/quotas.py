"""Bounded numbers of things that clients hold, such as connections, shared fairly among the holders.

Rules of this module:

* There are never more than `total`, and no holder has more than its bound.
* The last tenth is reserved for holders that have little: a holder with more than a hundredth of the total cannot take
  from it. So no holder can lock out all others, whatever the settings are.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto

RESERVED_PART = 10
"""One part in this many is reserved."""

LITTLE_PART = 100
"""One part in this many counts as little."""


class Refusal(Enum):
    """Why a holder is refused one more."""

    FULL = auto()
    """All of them are taken."""
    HOLDER_FULL = auto()
    """This holder has as many as any holder may have."""
    RESERVED = auto()
    """The rest is reserved for holders that have less than this one."""


@dataclass(frozen=True, slots=True)
class QuotaStatistics:
    """A snapshot."""

    taken: int = 0
    holders: int = 0
    most: int = 0
    """How many the holder with the most has."""


class Quota:
    """Counts what each holder has.

    Args:
        total: How many there may be in all.
        per_holder: How many one holder may have; 0 for no bound per holder.
    """

    def __init__(self, total: int, per_holder: int = 0) -> None:
        self.total = total
        self.per_holder = per_holder
        self.taken = 0
        self._counts: dict[Hashable, int] = {}

    def refusal(self, holder: Hashable, number: int = 1) -> Refusal | None:
        """Say why this holder cannot have one more, or this many more at once; None if it can."""
        held, left = self._counts.get(holder, 0) + number, self.total - self.taken - number
        if left < 0:
            return Refusal.FULL
        if self.per_holder and held > self.per_holder:
            return Refusal.HOLDER_FULL
        if left < self.total // RESERVED_PART and held > self.total // LITTLE_PART + 1:
            return Refusal.RESERVED
        return None

    def take(self, holder: Hashable) -> None:
        """Give this holder one more; the caller has to ask `refusal` first."""
        self.taken += 1
        self._counts[holder] = self._counts.get(holder, 0) + 1

    def release(self, holder: Hashable) -> None:
        """Take one from this holder."""
        self.taken -= 1
        left = self._counts.pop(holder) - 1
        if left:
            self._counts[holder] = left

    def held(self, holder: Hashable) -> int:
        """Return how many a holder has."""
        return self._counts.get(holder, 0)

    def statistics(self) -> QuotaStatistics:
        """Return a snapshot. Costs the number of holders."""
        return QuotaStatistics(self.taken, len(self._counts), max(self._counts.values(), default=0))
