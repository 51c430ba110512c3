"""Lists and ends the open streams of a replica for administrators (`admin` has the routes).

Requests and answers are JSON, so that the parent of several workers can ask each worker (`workers.admin`).

*Thread*: Trio's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import trio

from dispatcher.errors import BadRequestError, NotFoundError
from dispatcher.hub.goodbyes import disconnected, refused
from dispatcher.hub.statistics import SubscriberState
from dispatcher.web.draining import Drain
from dispatcher.web.visits import Visit, Visits, printable

LOOKS_PER_STEP = 500
"""Streams compared with a selection in one step of the loop."""
DETAILS_PER_STEP = 20
"""Streams described, or ended, in one step of the loop."""

SELECTORS = ("subject", "topic", "state", "address")

Arguments = Mapping[str, Sequence[str]]
Answer = Mapping[str, Any]
"""JSON."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects streams: values of the same name are alternatives, different names must all match."""

    subject: frozenset[str] = frozenset()
    topic: frozenset[str] = frozenset()
    state: frozenset[str] = frozenset()
    address: frozenset[str] = frozenset()

    @classmethod
    def of(cls, arguments: Arguments) -> "Selection":
        """Read a query.

        Raises:
            BadRequestError: it names an unknown state.
        """
        states = [str(state) for state in SubscriberState]
        for state in arguments.get("state", ()):
            if state not in states:
                raise BadRequestError(f"unknown state {printable(state)}; use {', '.join(states)}")
        return cls(**{name: frozenset(arguments.get(name, ())) for name in SELECTORS})

    @property
    def is_empty(self) -> bool:
        """Whether it selects every stream."""
        return not (self.subject or self.topic or self.state or self.address)

    def arguments(self) -> Arguments:
        """The query that means the same."""
        return {name: sorted(getattr(self, name)) for name in SELECTORS}

    def matches(self, visit: Visit) -> bool:
        """Whether it selects a stream."""
        visitor = visit.visitor
        return (
            (not self.subject or visitor.subject in self.subject)
            and (not self.topic or not self.topic.isdisjoint(visit.subscriber.feed.topics))
            and (not self.state or visit.subscriber.state in self.state)
            and (not self.address or visitor.address in self.address)
        )


class Streams(Protocol):
    """What administrators can see and change."""

    async def page(self, selection: Selection, after: int, limit: int) -> Answer:
        """A page of the selected streams, in the order of their numbers, from the first one above `after`."""

    async def disconnect_one(self, number: int, *, returns: bool) -> Answer:
        """End one stream.

        Args:
            number: Its number.
            returns: Whether its client may reconnect.

        Raises:
            NotFoundError: no stream has this number.
            UnavailableError: the worker that would have the stream does not answer.
        """

    async def disconnect(self, selection: Selection, *, returns: bool) -> Answer:
        """End the selected streams."""

    async def begin_drain(self, seconds: float, *, stops: bool) -> Answer:
        """See `draining.Drain.begin`."""

    async def end_drain(self) -> Answer:
        """Accept new streams again."""


class OwnStreams:
    """The streams of this process.

    Args:
        visits: The open streams.
        drain: Drains the replica.
    """

    def __init__(self, visits: Visits, drain: Drain) -> None:
        self._visits = visits
        self._drain = drain

    @property
    def subscribers(self) -> int:
        """The number of open streams, including those that have not ended yet after their goodbye."""
        return self._drain.subscribers

    async def page(self, selection: Selection, after: int, limit: int) -> Answer:
        """See `Streams`. *Cancellation*: safe."""
        selected = await self._select(selection, after, limit + 1)
        found: list[Mapping[str, Any]] = []
        for visits_of_step in _steps(selected[:limit]):
            found += map(_described, visits_of_step)
            await trio.lowlevel.checkpoint()
        following = found[-1]["id"] if len(selected) > limit else None
        return {"subscribers": found, "next": following, "total": len(self._visits.open)}

    async def disconnect_one(self, number: int, *, returns: bool) -> Answer:
        """See `Streams`."""
        visit = self._visits.open.get(number)
        if visit is None:
            raise NotFoundError(f"no subscriber {number} is connected here")
        _end(visit, returns=returns)
        return {"disconnected": 1}

    async def disconnect(self, selection: Selection, *, returns: bool) -> Answer:
        """See `Streams`. *Cancellation*: some of them may have been ended already."""
        selected = await self._select(selection)
        for visits_of_step in _steps(selected):
            for visit in visits_of_step:
                _end(visit, returns=returns)
            await trio.lowlevel.checkpoint()
        return {"disconnected": len(selected)}

    async def begin_drain(self, seconds: float, *, stops: bool) -> Answer:
        """See `Streams`."""
        self._drain.begin(seconds, stops=stops)
        return {"draining": True, "subscribers": len(self._visits.open), "seconds": self._drain.seconds}

    async def end_drain(self) -> Answer:
        """See `Streams`."""
        self._drain.cancel()
        return {"draining": False}

    async def _select(self, selection: Selection, after: int = 0, most: int | None = None) -> list[Visit]:
        """The selected streams, in the order of their numbers: a snapshot; some may have ended since."""
        found: list[Visit] = []
        for looked, (number, visit) in enumerate(tuple(self._visits.open.items()), 1):
            if number > after and number in self._visits.open and selection.matches(visit):
                found.append(visit)
                if len(found) == most:
                    break
            if looked % LOOKS_PER_STEP == 0:
                await trio.lowlevel.checkpoint()
        return found


def _steps(visits: Sequence[Visit]) -> Iterator[Sequence[Visit]]:
    """Streams in slices, one for each step of the loop."""
    for start in range(0, len(visits), DETAILS_PER_STEP):
        yield visits[start : start + DETAILS_PER_STEP]


def _described(visit: Visit) -> Mapping[str, Any]:
    """One stream, with the members that docs/operations.md describes."""
    subscriber, feed, visitor = visit.subscriber, visit.subscriber.feed, visit.visitor
    statistics = subscriber.statistics()
    return {
        "id": statistics.id,
        "subject": visitor.subject,
        "address": visitor.address,
        "agent": visitor.agent,
        "transport": statistics.transport,
        "wire": statistics.wire,
        "topics": sorted(feed.topics),
        "scope": "topic" if feed.whole else "replica",
        "observe": not feed.counts,
        "filter": None if feed.filter is None else feed.filter.dialect(),
        "state": str(statistics.state),
        "since": datetime.fromtimestamp(visit.began, UTC).isoformat(timespec="milliseconds"),
        "seconds": round(visit.seconds, 3),
        "records": statistics.records,
        "bytes": visit.acknowledged_bytes,
        "buffered_bytes": statistics.buffered_bytes,
        "behind_records": statistics.behind_records,
        "replaying": statistics.replaying,
    }


def _end(visit: Visit, *, returns: bool) -> None:
    """Say goodbye. Our clients do not reconnect after 4403 (docs/protocol.md, "When to reconnect")."""
    visit.subscriber.end(disconnected() if returns else refused(4403, "an operator ended this stream"))
