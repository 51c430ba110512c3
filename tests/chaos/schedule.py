"""What happens when: a schedule of faults and planned changes, the same for the same seed.

Rules of this module:

* Some replica always runs undisturbed, and never is more than one broker of three away: the rest is the product's
  business.
* Every kind comes before any of them comes a second time.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

SPACING_SECONDS = (3.0, 8.0)
"""Between the beginnings of two events."""

FIRST_SECONDS = 4.0
QUIET_SECONDS = 10.0
"""At the end nothing begins any more."""

SETTLE_SECONDS = 8.0
"""How long a replica is left alone after what it went through."""

BROKER_SETTLE_SECONDS = 15.0
"""The same for brokers: until their partitions have all their replicas again."""


class Kind(StrEnum):
    """What can happen."""

    KILL = "kill -9"
    STOP = "SIGTERM"
    RESTART = "restart"
    SUSPEND = "SIGSTOP"
    JOIN = "join"
    BROKER_KILL = "broker kill"
    VANISH = "subscriber vanishes"
    FREEZE = "subscriber freezes"


PLANNED = frozenset({Kind.STOP, Kind.RESTART, Kind.JOIN})
"""What must repeat nothing as long as some subscribers are healthy."""

OF_SUBSCRIBERS = frozenset({Kind.VANISH, Kind.FREEZE})

LASTS_SECONDS = {
    Kind.KILL: (2.0, 12.0),
    Kind.STOP: (2.0, 8.0),
    Kind.RESTART: (0.0, 0.0),
    Kind.SUSPEND: (9.0, 12.0),
    Kind.JOIN: (15.0, 25.0),
    Kind.BROKER_KILL: (4.0, 10.0),
    Kind.VANISH: (0.0, 0.0),
    Kind.FREEZE: (3.0, 9.0),
}
"""How long until it is undone: the replica or the node started again, the process resumed, the new replica stopped, the
subscriber thawed. SIGSTOP lasts longer than the session timeout."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happens."""

    at: float
    """Seconds from the beginning."""
    kind: Kind
    target: int
    """Number of the replica or of the broker, from 0; of a join: of the new replica."""
    lasts: float
    """Seconds until it is undone."""


def schedule(seed: int, seconds: float, replicas: int, brokers: int = 3) -> list[Event]:
    """The events of a run, in order.

    Args:
        seed: What makes it this schedule and no other.
        seconds: Length of the run; everything is undone by its end.
        replicas: How many run from the beginning; one more may join for a while.
        brokers: How many there are.
    """
    chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
    kinds = _decks(chance)
    busy_to = dict.fromkeys(range(replicas + 1), 0.0)
    brokers_busy_to = 0.0
    at = FIRST_SECONDS
    events: list[Event] = []
    while at < seconds - QUIET_SECONDS:
        kind = next(kinds)
        lasts = min(chance.uniform(*LASTS_SECONDS[kind]), seconds - QUIET_SECONDS - at)
        free = [n for n in range(replicas) if busy_to[n] <= at]
        if kind is Kind.BROKER_KILL:
            at = max(at, brokers_busy_to)
            events.append(Event(at, kind, chance.randrange(brokers), lasts))
            brokers_busy_to = at + lasts + BROKER_SETTLE_SECONDS
        elif kind is Kind.JOIN:
            at = max(at, busy_to[replicas])
            events.append(Event(at, kind, replicas, lasts))
            busy_to[replicas] = at + lasts + SETTLE_SECONDS
        elif kind in OF_SUBSCRIBERS:
            events.append(Event(at, kind, chance.randrange(replicas), lasts))
        else:
            if len(free) < 2:
                at = sorted(busy_to[n] for n in range(replicas))[1]
                free = [n for n in range(replicas) if busy_to[n] <= at]
            target = chance.choice(free)
            events.append(Event(at, kind, target, lasts))
            busy_to[target] = at + lasts + SETTLE_SECONDS
        at += chance.uniform(*SPACING_SECONDS)
    return [event for event in events if event.at + event.lasts <= seconds - QUIET_SECONDS]


def _decks(chance: random.Random) -> Iterator[Kind]:
    while True:
        deck = list(Kind)
        chance.shuffle(deck)
        yield from deck
