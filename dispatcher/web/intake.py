"""Decides which connections are accepted: at most a fixed number, shared fairly; idle ones make room for new ones.

Rules of this module:

* A connection counts from the moment it is accepted, even while it is silent or stuck in a TLS handshake.
* When all places are taken, the new connection takes the place of an idle one: the one that has been idle longest,
  among those of the holder with the most idle connections. So idle connections lock nobody out, least of all a health
  check.
* If no connection is idle, a new one is closed at once. A single holder never gets the last tenth of the places
  (`Quota`): its new connection then replaces one of its own idle connections, or one of a holder that has more.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

from dispatcher.sansio.quotas import Quota, QuotaStatistics, Refusal


class Closable(Protocol):
    """A connection, as the intake sees it."""

    def abort(self) -> None:
        """Close it at once."""


@dataclass(frozen=True, slots=True)
class IntakeStatistics:
    """A snapshot."""

    connections: QuotaStatistics = field(default_factory=QuotaStatistics)
    idle: int = 0
    """Connections without a request: new ones, those in a TLS handshake, and those kept alive."""
    evicted: int = 0
    """Idle connections that were closed to make room."""
    refused: int = 0
    """New connections that were closed because none could be closed in their place."""


class Place:
    """One connection's place. *Thread*: Trio's.

    Args:
        intake: Where it is counted.
        holder: The owner of the connection.
    """

    __slots__ = ("_holder", "_intake", "connection")

    def __init__(self, intake: "Intake", holder: Hashable) -> None:
        self._intake = intake
        self._holder = holder
        self.connection: Closable | None = None
        """The connection that is closed to make room."""

    def note_idle(self, *, idle: bool) -> None:
        """Note whether it waits for a request."""
        self._intake.note(self, self._holder, idle=idle)

    def release(self) -> None:
        """See `Intake.release`."""
        self._intake.release(self)


class Intake:
    """Counts connections.

    *Thread*: Trio's.

    Args:
        max_connections: The maximum number.
    """

    def __init__(self, max_connections: int) -> None:
        self._quota = Quota(max_connections)
        self._idle: dict[Hashable, dict[Place, None]] = {}
        """Idle places by holder, each holder's longest idle one first."""
        self._evicted = 0
        self._refused = 0

    def take(self, holder: Hashable) -> Place | None:
        """Take a place, which is idle at first; None if the connection has to be closed."""
        refusal = self._quota.refusal(holder)
        if refusal is Refusal.FULL:
            refusal = None if self.evict() else refusal
        elif refusal is Refusal.RESERVED:
            refusal = None if self._evict_of_the_larger(holder) or self._evict_of(holder) else refusal
        if refusal is not None:
            self._refused += 1
            return None
        place = Place(self, holder)
        self._quota.take(holder)
        self.note(place, holder, idle=True)
        return place

    def release(self, place: Place) -> None:
        """Free the place of a connection that has ended, or is about to; a second call does nothing."""
        holder, place._holder = place._holder, None  # noqa: SLF001 - the two are one
        if holder is not None:
            place.connection = None  # it holds the place, too
            self._forget_idle(place, holder)
            self._quota.release(holder)

    def note(self, place: Place, holder: Hashable, *, idle: bool) -> None:
        """Note whether a connection waits for a request."""
        if holder is None:
            return
        if idle:
            self._idle.setdefault(holder, {}).setdefault(place)
        else:
            self._forget_idle(place, holder)

    def evict(self) -> bool:
        """End an idle connection; returns whether there was one."""
        if not self._idle:
            return False
        return self._evict_of(max(self._idle, key=lambda holder: len(self._idle[holder])))

    def _evict_of_the_larger(self, holder: Hashable) -> bool:
        """End an idle connection of the holder with the most idle ones, if it has more connections than this one."""
        if not self._idle:
            return False
        larger = max(self._idle, key=lambda one: len(self._idle[one]))
        return self._quota.held(larger) > self._quota.held(holder) and self._evict_of(larger)

    def statistics(self) -> IntakeStatistics:
        """A snapshot."""
        idle = sum(map(len, self._idle.values()))
        return IntakeStatistics(self._quota.statistics(), idle, self._evicted, self._refused)

    def _evict_of(self, holder: Hashable) -> bool:
        places = self._idle.get(holder)
        if not places:
            return False
        place = next(iter(places))
        connection = place.connection
        self._evicted += 1
        self.release(place)
        if connection is not None:
            connection.abort()
        return True

    def _forget_idle(self, place: Place, holder: Hashable) -> None:
        places = self._idle.get(holder)
        if places is not None and place in places:
            del places[place]
            if not places:
                del self._idle[holder]
