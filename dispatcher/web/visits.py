"""Streams as operators see them: the client and its address, when each one began, and how it ended.

A stream is a visit from the moment it has its subscriber. When it ends, one line is written to the access log. The log
takes at most `LINES_PER_SECOND`, and for short streams of one address at most `SHORT_LINES`, then one every two
seconds: a client that opens and closes streams as fast as it can would fill the log. Lines left out are counted, and
reported in a separate line.

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

log = structlog.get_logger(__name__)

LINES_PER_SECOND = 50

SHORT_SECONDS = 10.0
SHORT_LINES = 20
SHORT_LINES_PER_SECOND = 0.5
"""For streams shorter than `SHORT_SECONDS` from one address: how many lines at once, and how many more per second."""

REPORT_SECONDS = 10.0
"""Minimum time between two lines about lines that were left out."""

SHOWN_TOPICS = 10
SHOWN_CHARACTERS = 120
"""Maximum length of a text that the client has chosen."""


class Ending(StrEnum):
    """Why a stream ended."""

    CLIENT_LEFT = "client left"
    """The client closed its connection, or the connection broke."""
    CLIENT_CLOSED = "client closed"
    """The client sent a close frame."""
    BROKE_PROTOCOL = "client broke the protocol"
    STALLED = "stalled"
    VANISHED = "vanished"
    """The client acknowledged nothing, or answered no ping."""
    GOODBYE = "goodbye"
    """The server ended it; the code says why."""
    CUT = "cut"
    """The server closed the connection, because it failed or is stopping."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The client of a stream."""

    address: str
    """The client's address, even behind a trusted proxy."""
    subject: str | None
    """The subject of its token."""
    agent: str
    """Its ``User-Agent``."""

    @classmethod
    def of(cls, address: object, subject: str | None, agent: str) -> "Visitor":
        """A visitor, its texts made printable and short enough for a line."""
        return cls(str(address), None if subject is None else printable(subject), printable(agent))


NOBODY = Visitor("", None, "")


class Visit:
    """One stream, from `Visits.begin` to `end`.

    It does not keep the request, whose event id may name thousands of partitions: what is shown of that, the
    subscriber's feed says.

    Args:
        visits: All open streams.
        visitor: The client.
        subscriber: The subscriber.
        liveness: Knows how much the client's kernel has acknowledged.
    """

    __slots__ = ("_began_at", "_began_bytes", "_liveness", "_visits", "began", "subscriber", "visitor")

    def __init__(self, visits: "Visits", visitor: Visitor, subscriber: Subscriber, liveness: Liveness) -> None:
        self.visitor = visitor
        self.subscriber = subscriber
        self.began = time.time()
        """The time of its start, in seconds since the epoch."""
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
        """Its duration."""
        return trio.current_time() - self._began_at

    @property
    def acknowledged_bytes(self) -> int:
        """How much the client's kernel has acknowledged since the start, including heads and TLS."""
        return max(0, self._liveness.acknowledged_bytes() - self._began_bytes)


class Visits:
    """All open streams, and the access log.

    Args:
        writes_log: Whether the end of each stream is logged.
    """

    def __init__(self, *, writes_log: bool = True) -> None:
        self.open: dict[int, Visit] = {}
        """Open streams by the numbers of their subscribers, in the order in which they began."""
        self.endings: Counter[Ending] = Counter(dict.fromkeys(Ending, 0))
        """Counts of ended streams since the start."""
        self.left_out = 0
        """Number of lines left out of the log since the start."""
        self._writes_log = writes_log
        self._lines: deque[float] = deque(maxlen=LINES_PER_SECOND)
        """When the last lines were written."""
        self._short_lines = Budgets(SHORT_LINES, SHORT_LINES_PER_SECOND)
        self._unreported = 0
        self._has_unreported = trio.Event()

    def begin(self, visitor: Visitor, subscriber: Subscriber, liveness: Liveness) -> Visit:
        """List a stream that has its subscriber."""
        visit = self.open[subscriber.number] = Visit(self, visitor, subscriber, liveness)
        return visit

    def forget(self, visit: Visit) -> bool:
        """Remove a stream that is over; returns False if it was removed before."""
        return self.open.pop(visit.subscriber.number, None) is not None

    def log(self, visit: Visit, ending: Ending, code: int | None, reason: str) -> None:
        """Write the line about an ended stream, if the log has room for it."""
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
        subscriber, feed = visit.subscriber, visit.subscriber.feed
        statistics = subscriber.statistics()
        topics = sorted(feed.topics)
        log.info(
            "stream ended",
            subscriber=subscriber.number,
            transport=statistics.transport,
            client=visit.visitor.address,
            subject=visit.visitor.subject,
            agent=visit.visitor.agent,
            topics=topics if len(topics) <= SHOWN_TOPICS else [*topics[:SHOWN_TOPICS], "…"],
            scope="topic" if feed.whole else "replica",
            observe=not feed.counts,
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
        """Report lines that were left out, until cancelled."""
        reported_at = -math.inf
        while True:
            await self._has_unreported.wait()
            await trio.sleep(max(1.0, reported_at + REPORT_SECONDS - trio.current_time()))
            reported_at = trio.current_time()
            number, self._unreported, self._has_unreported = self._unreported, 0, trio.Event()
            log.info("access log lines left out", number=number)


def printable(text: str) -> str:
    """A text from a client, for terminals and logs: ASCII, with everything else escaped, and of bounded length."""
    return ascii(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")[1:-1]
