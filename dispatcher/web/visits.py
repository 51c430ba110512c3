"""Open streams as operators see them: whose they are, from where, since when, and how each of them ended.

A stream is a visit from the moment it has its subscriber. Its end writes one line to the access log: at most
`LINES_PER_SECOND`, and for short streams of one address at most `SHORT_LINES`, then one every two seconds, because a
client that opens and closes streams as fast as it can would fill the log. Lines left out are counted, and reported in a
separate line.

*Thread*: Trio's.
"""

import math
import time
from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum

import structlog
import trio

from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.budgets import Budgets
from dispatcher.web.liveness import Liveness
from dispatcher.web.requests import Query

log = structlog.get_logger(__name__)

LINES_PER_SECOND = 50

SHORT_SECONDS = 10.0
SHORT_LINES = 20
SHORT_LINES_PER_SECOND = 0.5
"""Of streams that were shorter than that, from one address: this many at once, and how many more follow."""

REPORT_SECONDS = 10.0
"""Least time between two lines about what was left out."""

SHOWN_TOPICS = 10
SHOWN_CHARACTERS = 120
"""Of what a client says of itself."""


class Ending(StrEnum):
    """Why a stream ended."""

    CLIENT_LEFT = "client left"
    """It closed its connection, or the connection broke."""
    CLIENT_CLOSED = "client closed"
    """It sent a close frame."""
    BROKE_PROTOCOL = "client broke the protocol"
    STALLED = "stalled"
    VANISHED = "vanished"
    """It acknowledged nothing, or answered no ping."""
    GOODBYE = "goodbye"
    """The server ended it; the code says why."""
    CUT = "cut"
    """The server closed the connection: it failed, or is stopping."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whose stream it is."""

    address: str
    """The client's, also where a trusted proxy is in between."""
    subject: str | None
    """Of its token."""
    agent: str
    """What it calls itself (``User-Agent``)."""

    @classmethod
    def of(cls, address: object, subject: str | None, agent: str) -> "Visitor":
        """As the log and operators get it: printable, and not longer than a line."""
        return cls(str(address), None if subject is None else printable(subject), printable(agent))


NOBODY = Visitor("", None, "")


class Visit:
    """One stream, from `Visits.begin` to `end`.

    Args:
        visits: All of them.
        visitor: Whose it is.
        query: What was asked for.
        subscriber: What is sent on it.
        liveness: Knows what the client's kernel has acknowledged.
    """

    __slots__ = ("_began_at", "_began_bytes", "_liveness", "_visits", "began", "query", "subscriber", "visitor")

    def __init__(
        self, visits: "Visits", visitor: Visitor, query: Query, subscriber: Subscriber, liveness: Liveness
    ) -> None:
        self.visitor = visitor
        self.query = query
        self.subscriber = subscriber
        self.began = time.time()
        """Seconds since the epoch."""
        self._visits = visits
        self._liveness = liveness
        self._began_at = trio.current_time()
        self._began_bytes = liveness.acknowledged_bytes()

    def end(self, ending: Ending, code: int | None = None, reason: str = "") -> None:
        """The stream is over; a second call does nothing."""
        if self._visits.forget(self):
            self._visits.log(self, ending, code, printable(reason))

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return trio.current_time() - self._began_at

    @property
    def acknowledged_bytes(self) -> int:
        """What the client's kernel has acknowledged since it began, with heads and TLS."""
        return max(0, self._liveness.acknowledged_bytes() - self._began_bytes)


class Visits:
    """All open streams, and the access log.

    Args:
        writes_log: Whether the end of each is logged.
    """

    def __init__(self, *, writes_log: bool = True) -> None:
        self.open: dict[int, Visit] = {}
        """By their subscribers' numbers, in the order in which they began."""
        self.endings: Counter[Ending] = Counter(dict.fromkeys(Ending, 0))
        """Ends since the start."""
        self.left_out = 0
        """Lines that were left out of the log since the start."""
        self._writes_log = writes_log
        self._lines: deque[float] = deque(maxlen=LINES_PER_SECOND)
        """When the last lines were written."""
        self._short_lines = Budgets(SHORT_LINES, SHORT_LINES_PER_SECOND)
        self._unreported = 0
        self._has_unreported = trio.Event()

    def begin(self, visitor: Visitor, query: Query, subscriber: Subscriber, liveness: Liveness) -> Visit:
        """A stream has its subscriber."""
        visit = self.open[subscriber.number] = Visit(self, visitor, query, subscriber, liveness)
        return visit

    def forget(self, visit: Visit) -> bool:
        """A stream is over; False when it was before."""
        return self.open.pop(visit.subscriber.number, None) is not None

    def log(self, visit: Visit, ending: Ending, code: int | None, reason: str) -> None:
        """Write the line of a stream that has ended, if the log has room for it."""
        self.endings[ending] += 1
        if not self._writes_log:
            return
        now = trio.current_time()
        if not self._has_room(visit, now):
            self.left_out += 1
            self._unreported += 1
            self._has_unreported.set()
            return
        self._lines.append(now)
        subscriber, query = visit.subscriber, visit.query
        statistics = subscriber.statistics()
        topics = sorted(query.topics)
        log.info(
            "stream ended",
            subscriber=subscriber.number,
            transport=statistics.transport,
            client=visit.visitor.address,
            subject=visit.visitor.subject,
            agent=visit.visitor.agent,
            topics=topics if len(topics) <= SHOWN_TOPICS else [*topics[:SHOWN_TOPICS], "…"],
            scope="topic" if query.whole else "replica",
            observe=query.observe,
            seconds=round(visit.seconds, 3),
            records=statistics.records,
            bytes=visit.acknowledged_bytes,
            why=str(ending),
            code=code,
            reason=reason,
        )

    def _has_room(self, visit: Visit, now: float) -> bool:
        if len(self._lines) == LINES_PER_SECOND and now - self._lines[0] < 1:
            return False
        return visit.seconds >= SHORT_SECONDS or self._short_lines.try_spend(visit.visitor.address, 1, now)

    async def run(self) -> None:
        """Report what was left out, until cancelled."""
        reported_at = -math.inf
        while True:
            await self._has_unreported.wait()
            await trio.sleep(max(1.0, reported_at + REPORT_SECONDS - trio.current_time()))
            reported_at = trio.current_time()
            number, self._unreported, self._has_unreported = self._unreported, 0, trio.Event()
            log.info("streams ended, left out of the log", number=number)


def printable(text: str) -> str:
    """A client's words, for terminals and logs: ASCII, with everything else escaped, and bounded."""
    return ascii(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")[1:-1]
