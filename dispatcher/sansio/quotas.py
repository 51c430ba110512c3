"""Bounded numbers of things that clients hold, such as connections, shared out fairly by who holds them.

Rules of this module:

* There are never more than `total`, and no holder has more than its bound.
* The last tenth is reserved for holders that have little: whoever has more than a hundredth of the whole cannot take
  it. So one holder alone can never lock out all others, whatever the settings are.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto

RESERVED_PART = 10
"""One part in this many is reserved."""

LITTLE_PART = 100
"""What one part in this many is counts as little."""


class Refusal(Enum):
    """Why one more is refused."""

    FULL = auto()
    """All are taken."""
    HOLDER_FULL = auto()
    """This holder has as many as any may have."""
    RESERVED = auto()
    """The rest is reserved for holders that have fewer than this one."""


@dataclass(frozen=True, slots=True)
class QuotaStatistics:
    """A snapshot."""

    taken: int = 0
    holders: int = 0
    most: int = 0
    """What the holder with the most has."""


class Quota:
    """Counts what each holder has.

    Args:
        total: How many there may be.
        per_holder: How many one holder may have; 0 for no bound of its own.
    """

    def __init__(self, total: int, per_holder: int = 0) -> None:
        self.total = total
        self.per_holder = per_holder
        self.taken = 0
        self._counts: dict[Hashable, int] = {}

    def refusal(self, holder: Hashable) -> Refusal | None:
        """Why this holder cannot have one more; None when it can."""
        held = self._counts.get(holder, 0)
        if self.taken >= self.total:
            return Refusal.FULL
        if self.per_holder and held >= self.per_holder:
            return Refusal.HOLDER_FULL
        reserved = self.total // RESERVED_PART
        if self.total - self.taken <= reserved and held > self.total // LITTLE_PART:
            return Refusal.RESERVED
        return None

    def take(self, holder: Hashable) -> None:
        """This holder has one more; `refusal` is the caller's to ask."""
        self.taken += 1
        self._counts[holder] = self._counts.get(holder, 0) + 1

    def release(self, holder: Hashable) -> None:
        """This holder has one less."""
        self.taken -= 1
        left = self._counts.pop(holder) - 1
        if left:
            self._counts[holder] = left

    def held(self, holder: Hashable) -> int:
        """How many a holder has."""
        return self._counts.get(holder, 0)

    def statistics(self) -> QuotaStatistics:
        """A snapshot. Costs the number of holders."""
        return QuotaStatistics(self.taken, len(self._counts), max(self._counts.values(), default=0))
