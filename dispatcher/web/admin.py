"""``/admin`` on the port for operators: lists clients, disconnects them, and drains the replica.

The request's origin is checked first (`origin_check`), then the token (`admin_access`), before any work is done. Every
change writes one line to the log, which names the administrator.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson
import structlog
from quart import Quart, request
from quart_trio.wrappers import TrioResponse

from dispatcher.errors import BadRequestError
from dispatcher.web.admin_access import AdminAccess
from dispatcher.web.admin_streams import SELECTORS, Answer, Arguments, Selection, Streams
from dispatcher.web.draining import DEFAULT_SECONDS, MAX_SECONDS
from dispatcher.web.visits import printable

log = structlog.get_logger(__name__)

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_NUMBER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Admin:
    """What administrators can see and change, and the check of who is one."""

    streams: Streams
    access: AdminAccess


def add_admin(app: Quart, admin: Admin) -> None:
    """Add the routes."""
    streams, access = admin.streams, admin.access

    @app.get("/admin/subscribers")
    async def subscribers() -> TrioResponse:
        await access.check(request.headers)
        arguments = _arguments({*SELECTORS, "after", "limit"})
        selection = Selection.of(arguments)
        after = _number(arguments, "after", 0, MAX_NUMBER, 0)
        limit = _number(arguments, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)
        return _json(await streams.page(selection, after, limit))

    @app.delete("/admin/subscribers/<int:number>")
    async def disconnect_one(number: int) -> TrioResponse:
        who = await access.check(request.headers)
        returns = _flag(_arguments({"reconnect"}), "reconnect", default=True)
        answer = await streams.disconnect_one(number, returns=returns)
        log.warning("disconnected by an operator", number=1, subscriber=number, by=who, reconnect=returns)
        return _json(answer)

    @app.post("/admin/disconnect")
    async def disconnect() -> TrioResponse:
        who = await access.check(request.headers)
        arguments = _arguments({*SELECTORS, "all", "reconnect"})
        selection = Selection.of(arguments)
        returns = _flag(arguments, "reconnect", default=True)
        if selection.is_empty is not _flag(arguments, "all", default=False):
            raise BadRequestError(f"select streams by {', '.join(SELECTORS)}, or use all=1 without any of these")
        answer = await streams.disconnect(selection, returns=returns)
        chosen = {name: [printable(value) for value in arguments[name][:5]] for name in SELECTORS if name in arguments}
        log.warning("disconnected by an operator", number=answer["disconnected"], by=who, reconnect=returns, **chosen)
        return _json(answer)

    @app.post("/admin/drain")
    async def begin_drain() -> TrioResponse:
        who = await access.check(request.headers)
        arguments = _arguments({"seconds", "stop"})
        seconds = _number(arguments, "seconds", 0, int(MAX_SECONDS), int(DEFAULT_SECONDS))
        answer = await streams.begin_drain(seconds, stops=_flag(arguments, "stop", default=False))
        log.warning("drain ordered", by=who)
        return _json(answer, 202)

    @app.delete("/admin/drain")
    async def end_drain() -> TrioResponse:
        who = await access.check(request.headers)
        _arguments(())
        answer = await streams.end_drain()
        log.warning("drain cancelled", by=who)
        return _json(answer)


def _arguments(known: Iterable[str]) -> Arguments:
    """The query. An unknown name is refused, because a misspelled selector must not mean everybody.

    Raises:
        BadRequestError: it has an unknown name.
    """
    known = set(known)
    arguments: Arguments = request.args.to_dict(flat=False)
    for name in arguments:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise BadRequestError(f"unknown query parameter {printable(name)}; this path takes {names}")
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


def _json(body: Answer, status: int = 200) -> TrioResponse:
    page = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    return TrioResponse(page, status, {"Cache-Control": "no-store"}, content_type="application/json")
