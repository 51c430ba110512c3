"""When a replica without subscribers leaves its group, and when it joins again (``idle_leave_seconds``).

This way partitions follow subscribers: a lone client on one of three replicas makes that replica the owner of all.

Rules of this module:

* Only subscribers that count keep a replica in the group, and only one that has stayed for `STAYED_SECONDS` brings the
  replica back: health checks and scanners move no partition.
* A group must not become empty, because Kafka eventually deletes the offsets of an empty group. So a replica that owns
  every partition stays, and so does one that cannot know whether it owns every partition.
* That alone would not suffice when all subscribers leave at once: two replicas with half of the partitions each could
  leave at the same moment. So the owner of the first partition (there is only one) leaves only after all others that
  became idle at the same time: by then it owns everything, and stays.
* If the group is found empty nevertheless, for example after its last member crashed, a replica joins again.
* A replica leaves only a settled group: an ongoing rebalance may be about to give it everything.

Times are seconds on any clock that only goes forward.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

STAYED_SECONDS = 1.0
"""How long a subscriber must have been connected before the replica joins."""

SETTLED_SECONDS = 1.0
"""How long the assignment must have been unchanged before the replica leaves."""

GROWN_SECONDS = 60.0
"""How long a replica stays after a topic got more partitions: the group assigns them later than they become visible."""

SPREAD_SHARE = 0.5
"""Replicas leave at different moments, spread over this share of the idle time."""

MAX_LEAVES = 3
LEAVES_SECONDS = 600.0
"""After this many leaves within this time, a replica that has rejoined stays for this time."""


class Step(Enum):
    """What the replica has to do."""

    LEAVE = "leave"
    JOIN = "join"


class Seen(NamedTuple):
    """What the replica observes about itself at one moment."""

    taker: int | None = None
    """The number of the longest connected subscriber that counts; None if there is none."""
    settled: bool = True
    """Whether the replica is a member of the group and no rebalance is under way."""
    assignment: Hashable = None
    """A value that differs for each assignment."""
    owned: int = 0
    """How many partitions are assigned to it."""
    partitions: int | None = None
    """How many partitions its topics have in all; None until that is known for every topic."""
    owns_first: bool = False
    """Whether the first partition of the first topic is assigned."""


@dataclass(frozen=True, slots=True)
class StandbyStatistics:
    """A snapshot."""

    is_standby: bool
    """Whether the replica has left its group deliberately."""
    leaves: int
    """How often it has left since the start."""


class Standby:
    """Decides when to leave the group, and when to join it again.

    Args:
        idle_seconds: How long a replica stays without a subscriber that counts.
        visible_seconds: How long it takes until the other members of a group see that one has left.
        share: Returns a random number from 0 to 1.
    """

    def __init__(self, idle_seconds: float, visible_seconds: float, share: Callable[[], float]) -> None:
        self._idle_seconds = idle_seconds
        self._visible_seconds = visible_seconds
        self._share = share
        self._is_standby = False
        self._leaves = 0
        self._left_at: list[float] = []
        """When it left, as far as that was within the last `LEAVES_SECONDS`."""
        self._stays_until = 0.0
        self._idle_since: float | None = None
        self._delay_seconds = 0.0
        self._assignment: Hashable = None
        self._settled_since: float | None = None
        self._partitions: int | None = None
        self._grown_at: float | None = None
        self._taker: int | None = None
        self._taker_since = 0.0

    @property
    def is_standby(self) -> bool:
        """Whether the replica has left its group, or is about to."""
        return self._is_standby

    def observe(self, now: float, seen: Seen) -> Step | None:
        """Take an observation; returns what to do, once."""
        return self._watch_takers(now, seen) if self._is_standby else self._watch_idleness(now, seen)

    def group_is_empty(self, now: float) -> Step | None:
        """Note that the group of a replica in standby has no members; returns what to do."""
        return self._join(now) if self._is_standby else None

    def statistics(self) -> StandbyStatistics:
        """A snapshot."""
        return StandbyStatistics(self._is_standby, self._leaves)

    def _watch_takers(self, now: float, seen: Seen) -> Step | None:
        if seen.taker is None or seen.taker != self._taker:
            self._taker, self._taker_since = seen.taker, now
            return None
        return self._join(now) if now - self._taker_since >= STAYED_SECONDS else None

    def _watch_idleness(self, now: float, seen: Seen) -> Step | None:
        self._note_assignment(now, seen)
        if seen.taker is not None:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
            self._delay_seconds = self._idle_seconds * SPREAD_SHARE * self._share()
        if self._idle_since is None or not self._may_leave(now, seen) or now < self._leaves_at(self._idle_since, seen):
            return None
        self._is_standby = True
        self._leaves += 1
        self._left_at = [at for at in self._left_at if now - at < LEAVES_SECONDS] + [now]
        self._taker = None
        return Step.LEAVE

    def _note_assignment(self, now: float, seen: Seen) -> None:
        if not seen.settled:
            self._settled_since = None
        elif self._settled_since is None or seen.assignment != self._assignment:
            self._settled_since = now
        self._assignment = seen.assignment
        if self._partitions is not None and seen.partitions is not None and seen.partitions > self._partitions:
            self._grown_at = now
        self._partitions = self._partitions if seen.partitions is None else seen.partitions

    def _may_leave(self, now: float, seen: Seen) -> bool:
        return (
            seen.partitions is not None
            and seen.owned < seen.partitions
            and self._settled_since is not None
            and now - self._settled_since >= SETTLED_SECONDS
            and now >= self._stays_until
            and (self._grown_at is None or now - self._grown_at >= GROWN_SECONDS)
        )

    def _leaves_at(self, idle_since: float, seen: Seen) -> float:
        if not seen.owns_first:
            return idle_since + self._idle_seconds + self._delay_seconds
        others_have_left = idle_since + self._idle_seconds * (1 + SPREAD_SHARE)
        # They may see the last change later, and wait until it has settled for them.
        settled_for_others = (self._settled_since or idle_since) + self._visible_seconds + SETTLED_SECONDS
        return max(others_have_left, settled_for_others) + self._visible_seconds

    def _join(self, now: float) -> Step:
        self._is_standby = False
        if sum(now - at < LEAVES_SECONDS for at in self._left_at) >= MAX_LEAVES:
            self._stays_until = now + LEAVES_SECONDS
        self._idle_since = self._settled_since = None
        return Step.JOIN
