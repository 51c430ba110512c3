"""What happens when: a schedule of faults and planned changes, the same for the same seed.

Rules of this module:

* Some replica always runs undisturbed, and never is more than one broker of three away: the rest is the product's
  business.
* Every kind comes before any of them comes a second time.
* What happens aside, on topics of its own, has a track of its own: it never waits for the rest, nor the rest for it.
"""

import random
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

SPACING_SECONDS = (3.0, 8.0)
"""Between the beginnings of two events."""

FIRST_SECONDS = 4.0
QUIET_SECONDS = 10.0
"""Near the end no fault begins."""

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
    LEADERLESS = "no leader"
    RETENTION = "retention"
    RECREATE = "topic made again"
    GROW = "partition added"
    REQUESTS = "odd requests"
    SOCKETS = "odd WebSockets"
    WORKER_KILL = "worker kill"

    @property
    def option(self) -> str:
        """The name on a command line."""
        return self.name.lower().replace("_", "-")


EXPLAINED = {
    Kind.KILL: "kill -9 of a replica, started again after 2 to 12 s",
    Kind.STOP: "SIGTERM to a replica, started again after 2 to 8 s; must repeat nothing",
    Kind.RESTART: "SIGTERM to a replica, started again at once; must repeat nothing",
    Kind.SUSPEND: "SIGSTOP of a replica for longer than its session",
    Kind.JOIN: "one more replica joins, and leaves again; must repeat nothing",
    Kind.BROKER_KILL: "kill -9 of one of three brokers, started again after 4 to 10 s",
    Kind.VANISH: "a subscriber cuts its connection and comes back",
    Kind.FREEZE: "a subscriber reads nothing for 3 to 9 s",
    Kind.LEADERLESS: "the only node of a partition is killed, while healthy partitions beside it are replayed",
    Kind.RETENTION: "records are deleted while nobody listens, or readers are frozen: a gap has to tell of them",
    Kind.RECREATE: "a topic is deleted, made again and filled beyond its old end at once: all of it is owed",
    Kind.GROW: "a topic gets one more partition, with records in it before anybody has it: all of them are owed",
    Kind.REQUESTS: "GET /events with every odd header, bodies, HTTP/1.0, half-closes, and clients that leave at once",
    Kind.WORKER_KILL: "kill -9 of one worker of a replica, which its parent starts again; with --workers only",
    Kind.SOCKETS: "WebSocket clients that ping with full sockets, send too much, violate RFC 6455, and close",
}
"""What each does, for people."""


PLANNED = frozenset({Kind.STOP, Kind.RESTART, Kind.JOIN})
"""What must repeat nothing as long as some subscribers are healthy."""

OF_WORKERS = frozenset({Kind.WORKER_KILL})
"""What only happens to replicas with several."""

OF_SUBSCRIBERS = frozenset({Kind.VANISH, Kind.FREEZE})

OF_BROKERS = frozenset({Kind.BROKER_KILL, Kind.LEADERLESS})

ASIDE = frozenset({Kind.RETENTION, Kind.RECREATE, Kind.GROW, Kind.REQUESTS, Kind.SOCKETS})
"""What happens on topics of its own, beside everything else."""

LASTS_SECONDS = {
    Kind.KILL: (2.0, 12.0),
    Kind.STOP: (2.0, 8.0),
    Kind.RESTART: (0.0, 0.0),
    Kind.SUSPEND: (9.0, 12.0),
    Kind.JOIN: (15.0, 25.0),
    Kind.BROKER_KILL: (4.0, 10.0),
    Kind.VANISH: (0.0, 0.0),
    Kind.FREEZE: (3.0, 9.0),
    Kind.LEADERLESS: (4.0, 10.0),
    Kind.RETENTION: (0.0, 0.0),
    Kind.RECREATE: (0.0, 0.0),
    Kind.GROW: (0.0, 0.0),
    Kind.REQUESTS: (0.0, 0.0),
    Kind.SOCKETS: (0.0, 0.0),
    Kind.WORKER_KILL: (4.0, 4.0),
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
    """Number of the replica or of the broker, from 0; of a join: of the new replica; of what happens aside: any number,
    of which all that is left to chance there is drawn."""
    lasts: float
    """Seconds until it is undone."""


def schedule(
    seed: int, seconds: float, replicas: int, brokers: int = 3, kinds: AbstractSet[Kind] = frozenset(Kind) - OF_WORKERS
) -> list[Event]:
    """The events of a run, in order.

    Args:
        seed: What makes it this schedule and no other, together with the kinds.
        seconds: Length of the run; everything is undone by its end.
        replicas: How many run from the beginning; one more may join for a while.
        brokers: How many there are.
        kinds: What may happen.
    """
    events = [*_main_track(seed, seconds, replicas, brokers, kinds - ASIDE), *_aside(seed, seconds, kinds & ASIDE)]
    events.sort(key=lambda event: event.at)
    return [event for event in events if event.at + event.lasts <= seconds - QUIET_SECONDS]


def _main_track(seed: int, seconds: float, replicas: int, brokers: int, possible: AbstractSet[Kind]) -> list[Event]:
    chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
    kinds = _decks(chance, possible)
    busy_to = dict.fromkeys(range(replicas + 1), 0.0)
    brokers_busy_to = 0.0
    at = FIRST_SECONDS
    events: list[Event] = []
    while at < seconds - QUIET_SECONDS and possible:
        kind = next(kinds)
        lasts = min(chance.uniform(*LASTS_SECONDS[kind]), seconds - QUIET_SECONDS - at)
        free = [n for n in range(replicas) if busy_to[n] <= at]
        if kind in OF_BROKERS:
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
    return events


def _aside(seed: int, seconds: float, possible: AbstractSet[Kind]) -> list[Event]:
    chance = random.Random(f"{seed} aside")  # noqa: S311 - the same
    kinds = _decks(chance, possible)
    at = FIRST_SECONDS
    events: list[Event] = []
    while at < seconds - QUIET_SECONDS and possible:
        events.append(Event(at, next(kinds), chance.randrange(1000), 0.0))
        at += chance.uniform(*SPACING_SECONDS)
    return events


def _decks(chance: random.Random, possible: AbstractSet[Kind]) -> Iterator[Kind]:
    while True:
        deck = [kind for kind in Kind if kind in possible]
        chance.shuffle(deck)
        yield from deck
