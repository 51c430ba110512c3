"""Partitions that could not be read a moment ago, for example without a leader, so that readers do not wait for them.

Rules of this module:

* A partition that fails rests. Until its rest is over, requests for it are answered at once: unreadable.
* After its rest, one attempt is due, not one per subscriber: the attempt begins the next rest.
* Each failure in a row doubles the rest, and the patience of the next attempt, up to a bound: a slow broker gets more
  time, and a broker that is away is asked less often.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.sansio.records import TopicPartition

REST_SECONDS = 0.5
"""The rest after the first failure."""

LONGEST_REST_SECONDS = 4.0

PATIENCE_SECONDS = 0.05
"""How long an attempt waits for its first answer while others are in line, if nothing has failed before."""

LONGEST_PATIENCE_SECONDS = 1.0

FORGOTTEN_SECONDS = 60.0
"""A failure that nobody has asked about for this long is forgotten."""


class Asked(NamedTuple):
    """Partitions that somebody wants to read, by what is known about them."""

    readable: frozenset[TopicPartition]
    due: frozenset[TopicPartition]
    """Their rest is over: whoever gets these has to find out whether they can be read now."""
    resting: frozenset[TopicPartition]


@dataclass(slots=True)
class _Trouble:
    failures: int
    resting: bool
    until: float
    """When its rest is over; after that, when the failure is forgotten."""


class Unreadable:
    """What is known about partitions that failed; all others count as readable."""

    def __init__(self) -> None:
        self._troubles: dict[TopicPartition, _Trouble] = {}

    def ask(self, partitions: Iterable[TopicPartition], now: float) -> Asked:
        """Sort partitions by what is known about them; those that are due rest again, because an attempt begins."""
        partitions = frozenset(partitions)
        resting = frozenset(tp for tp in partitions & self._troubles.keys() if self._troubles[tp].resting)
        due = frozenset(tp for tp in resting if self._troubles[tp].until <= now)
        for tp in due:
            self._troubles[tp].until = now + _rest(self._troubles[tp].failures)
        return Asked(partitions - resting, due, resting - due)

    def failed(self, partitions: Collection[TopicPartition], now: float) -> None:
        """Note that reading these failed or returned nothing."""
        for tp in partitions:
            failures = self._troubles[tp].failures + 1 if tp in self._troubles else 1
            self._troubles[tp] = _Trouble(failures, resting=True, until=now + _rest(failures))
        for tp in [tp for tp, trouble in self._troubles.items() if trouble.until + FORGOTTEN_SECONDS < now]:
            del self._troubles[tp]

    def answered(self, partitions: Collection[TopicPartition]) -> None:
        """Note that their leaders answer again, so they may be read; the patience from their failures stays."""
        for tp in self._troubles.keys() & partitions:
            self._troubles[tp].resting = False

    def read(self, partitions: Iterable[TopicPartition]) -> None:
        """Note that something was read of these, which makes them readable."""
        if self._troubles:
            for tp in partitions:
                self._troubles.pop(tp, None)

    def patience(self, partitions: Iterable[TopicPartition]) -> float:
        """Return how long an attempt to read these waits for its first answer while others are in line, in seconds."""
        failures = max((self._troubles[tp].failures for tp in self._troubles.keys() & set(partitions)), default=0)
        return min(PATIENCE_SECONDS * 2.0 ** min(failures, 10), LONGEST_PATIENCE_SECONDS)

    def __len__(self) -> int:
        """Return how many partitions are resting."""
        return sum(trouble.resting for trouble in self._troubles.values())


def _rest(failures: int) -> float:
    return min(REST_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_REST_SECONDS)
