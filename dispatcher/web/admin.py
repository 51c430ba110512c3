"""``/admin`` on the port for operators: who is connected, disconnecting them, and draining the replica.

Nothing here is cheap for one who may not: the token is checked first (`admin_access`), and the request's origin before
that (`origin_check`). Every change is one line in the log, with who asked for it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
import trio
from quart import Quart, request
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError, NotFoundError
from dispatcher.hub.goodbyes import disconnected, refused
from dispatcher.hub.statistics import SubscriberState
from dispatcher.web.admin_access import AdminAccess
from dispatcher.web.draining import DEFAULT_SECONDS, MAX_SECONDS, Drain
from dispatcher.web.visits import Visit, Visits, printable

log = structlog.get_logger(__name__)

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
LOOKS_PER_STEP = 500
"""Streams compared with what was asked for in one step of the loop."""
DETAILS_PER_STEP = 20
"""Streams described, or ended, in one step of the loop."""

SELECTORS = ("subject", "topic", "state", "address")
MAX_NUMBER = 2**63 - 1

Arguments = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which streams are meant: the same name again is OR, different names are AND."""

    subject: frozenset[str] = frozenset()
    topic: frozenset[str] = frozenset()
    state: frozenset[str] = frozenset()
    address: frozenset[str] = frozenset()

    @classmethod
    def of(cls, arguments: Arguments) -> "Selection":
        """From a query.

        Raises:
            BadRequestError: there is no such state.
        """
        states = [str(state) for state in SubscriberState]
        for state in arguments.get("state", ()):
            if state not in states:
                raise BadRequestError(f"unknown state {printable(state)}; there are {', '.join(states)}")
        return cls(**{name: frozenset(arguments.get(name, ())) for name in SELECTORS})

    @property
    def is_empty(self) -> bool:
        """Whether it means every stream."""
        return not (self.subject or self.topic or self.state or self.address)

    def matches(self, visit: Visit) -> bool:
        """Whether a stream is meant."""
        visitor = visit.visitor
        return (
            (not self.subject or visitor.subject in self.subject)
            and (not self.topic or not self.topic.isdisjoint(visit.query.topics))
            and (not self.state or visit.subscriber.state in self.state)
            and (not self.address or visitor.address in self.address)
        )


@dataclass(frozen=True, slots=True)
class Admin:
    """What administrators see and change."""

    visits: Visits
    """The open streams."""
    drain: Drain
    access: AdminAccess


def add_admin(app: Quart, admin: Admin) -> None:
    """Add the routes."""
    visits, drain, access = admin.visits, admin.drain, admin.access

    @app.get("/admin/subscribers")
    async def subscribers() -> TrioResponse:
        await access.check(request.headers)
        arguments = _arguments({*SELECTORS, "after", "limit"})
        selection = Selection.of(arguments)
        after = _number(arguments, "after", 0, MAX_NUMBER, 0)
        limit = _number(arguments, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
        selected = await _select(visits, selection, after, limit + 1)
        found: list[Mapping[str, Any]] = []
        for visits_of_step in _steps(selected[:limit]):
            found += map(_described, visits_of_step)
            await trio.lowlevel.checkpoint()
        following = found[-1]["id"] if len(selected) > limit else None
        return _json({"subscribers": found, "next": following, "total": len(visits.open)})

    @app.delete("/admin/subscribers/<int:number>")
    async def disconnect_one(number: int) -> TrioResponse:
        who = await access.check(request.headers)
        returns = _flag(_arguments({"reconnect"}), "reconnect", default=True)
        visit = visits.open.get(number)
        if visit is None:
            raise NotFoundError(f"there is no subscriber {number} here (any more)")
        _end(visit, returns=returns)
        log.warning("disconnected by an operator", number=1, subscriber=number, by=who, reconnect=returns)
        return _json({"disconnected": 1})

    @app.post("/admin/disconnect")
    async def disconnect() -> TrioResponse:
        who = await access.check(request.headers)
        arguments = _arguments({*SELECTORS, "all", "reconnect"})
        selection = Selection.of(arguments)
        returns = _flag(arguments, "reconnect", default=True)
        if selection.is_empty is not _flag(arguments, "all", default=False):
            raise BadRequestError(f"name which: {', '.join(SELECTORS)}, or all=1 without any of them")
        selected = await _select(visits, selection)
        for visits_of_step in _steps(selected):
            for visit in visits_of_step:
                _end(visit, returns=returns)
            await trio.lowlevel.checkpoint()
        chosen = {name: [printable(value) for value in arguments[name][:5]] for name in SELECTORS if name in arguments}
        log.warning("disconnected by an operator", number=len(selected), by=who, reconnect=returns, **chosen)
        return _json({"disconnected": len(selected)})

    @app.post("/admin/drain")
    async def begin_drain() -> TrioResponse:
        who = await access.check(request.headers)
        arguments = _arguments({"seconds", "stop"})
        seconds = _number(arguments, "seconds", 0, int(MAX_SECONDS), int(DEFAULT_SECONDS))
        drain.begin(seconds, stops=_flag(arguments, "stop", default=False))
        log.warning("drain ordered", by=who)
        return _json({"draining": True, "subscribers": len(visits.open), "seconds": seconds}, 202)

    @app.delete("/admin/drain")
    async def end_drain() -> TrioResponse:
        who = await access.check(request.headers)
        _arguments(())
        drain.cancel()
        log.warning("drain cancelled", by=who)
        return _json({"draining": False})


async def _select(visits: Visits, selection: Selection, after: int = 0, most: int | None = None) -> list[Visit]:
    """The streams that are meant, by their numbers: a snapshot, of which some may have ended meanwhile."""
    found: list[Visit] = []
    for looked, (number, visit) in enumerate(tuple(visits.open.items()), 1):
        if number > after and number in visits.open and selection.matches(visit):
            found.append(visit)
            if len(found) == most:
                break
        if looked % LOOKS_PER_STEP == 0:
            await trio.lowlevel.checkpoint()
    return found


def _steps(visits: Sequence[Visit]) -> Iterator[Sequence[Visit]]:
    """Streams in pieces, of which the loop does one at a time."""
    for start in range(0, len(visits), DETAILS_PER_STEP):
        yield visits[start : start + DETAILS_PER_STEP]


def _described(visit: Visit) -> Mapping[str, Any]:
    """One stream, as docs/operations.md names the members."""
    subscriber, query, visitor = visit.subscriber, visit.query, visit.visitor
    statistics = subscriber.statistics()
    return {
        "id": statistics.id,
        "subject": visitor.subject,
        "address": visitor.address,
        "agent": visitor.agent,
        "transport": statistics.transport,
        "wire": statistics.wire,
        "topics": sorted(query.topics),
        "scope": "topic" if query.whole else "replica",
        "observe": query.observe,
        "filter": None if query.filter is None else query.filter.dialect(),
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


def _arguments(known: Iterable[str]) -> Arguments:
    """The query. An unknown name is refused: a misspelled selector must not mean everybody.

    Raises:
        BadRequestError: it has an unknown name.
    """
    known = set(known)
    arguments: Arguments = request.args.to_dict(flat=False)
    for name in arguments:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise BadRequestError(f"unknown query parameter {printable(name)}; there are: {names}")
    return arguments


def _one(arguments: Arguments, name: str) -> str | None:
    values = arguments.get(name, ())
    if len(values) > 1:
        raise BadRequestError(f"{name} is given {len(values)} times; give it once")
    return values[0] if values else None


def _number(arguments: Arguments, name: str, least: int, most: int, default: int) -> int:
    text = _one(arguments, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise BadRequestError(f"{name} {printable(text)} is not a whole number from {least} to {most}")
    return int(text)


def _flag(arguments: Arguments, name: str, *, default: bool) -> bool:
    text = _one(arguments, name)
    if text not in {None, "0", "1"}:
        raise BadRequestError(f"{name} {printable(str(text))} is neither 1 nor 0")
    return default if text is None else text == "1"


def _json(body: Mapping[str, Any], status: int = 200) -> TrioResponse:
    page = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    return TrioResponse(page, status, {"Cache-Control": "no-store"}, content_type="application/json")
