"""Decides what the end of a connection means: reconnect, and when; go elsewhere; or give up.

*Source*: the tables "Codes" and "Limits and refusals" of docs/protocol.md.
"""

import math
from collections.abc import Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import orjson

from dispatcher.client.errors import NotAllowedError, RefusedError, WrongServerError
from dispatcher.client.events import Fail, Outcome, Reconnect, Redirect

MAX_ASKED_SECONDS = 3600.0
"""Maximum wait, even if a server asks for a longer one."""

_AT_ONCE = {4408}
_FOR_GOOD = {1002, 1003, 1007, 1008, 1009, 4400, 4401, 4403}
"""Codes after which a client must not reconnect. All others are temporary, including those of later versions."""

_NOT_ALLOWED = {401, 403, 4401, 4403}
_PASSING = {408, 425, 429}
"""Client error statuses that are temporary."""

_REDIRECTS = {301, 302, 303, 307, 308}


def closed(code: int, reason: str, retry_seconds: float | None = None) -> Reconnect | Fail:
    """The server ended the stream with a goodbye, or a close frame.

    Args:
        code: The code in either.
        reason: The server's words.
        retry_seconds: The wait that the goodbye asks for, if it does.
    """
    if code in _FOR_GOOD:
        kind = NotAllowedError if code in _NOT_ALLOWED else RefusedError
        return Fail(kind(reason or "the server gave no reason", code=code))
    if code in _AT_ONCE:
        return Reconnect(reason or "the server found this client too slow", 0.0)
    return Reconnect(reason or f"the server closed the connection with {code}", _bounded(retry_seconds))


def answered(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """The server answered with something other than a stream.

    Args:
        status: The HTTP status; even 200 and 204 are wrong here.
        headers: The headers, by lower-case name.
        body: The beginning of the body.
    """
    if status in _REDIRECTS:
        location = headers.get("location")
        return Redirect(location) if location else Fail(WrongServerError(f"HTTP {status} without a Location"))
    reason = _reason(status, headers, body)
    if status in _PASSING or status >= 500:
        return Reconnect(f"HTTP {status}: {reason}", retry_after_seconds(headers))
    if status >= 400:
        kind = NotAllowedError if status in _NOT_ALLOWED else RefusedError
        return Fail(kind(reason, status=status))
    kind_of_content = headers.get("content-type", "nothing")
    return Fail(WrongServerError(f"HTTP {status} with {kind_of_content}: this is not a dispatcher's stream"))


def server_time_ms(headers: Mapping[str, str]) -> float | None:
    """The time in ``Date`` (RFC 9110, section 6.6.1), in milliseconds since the epoch; None if there is none."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp() * 1000
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` (RFC 9110, section 10.2.3); a date is relative to the ``Date`` of the same response."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return _bounded(float(value[:15]))
    try:
        wait: timedelta = parsedate_to_datetime(value) - parsedate_to_datetime(headers["date"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return _bounded(wait.total_seconds())


def _bounded(seconds: float | None) -> float | None:
    """A wait that a server asked for, within limits; None if it is not a number."""
    return None if seconds is None or math.isnan(seconds) else min(max(seconds, 0.0), MAX_ASKED_SECONDS)


def _reason(status: int, headers: Mapping[str, str], body: bytes) -> str:
    if headers.get("content-type", "").startswith(("application/problem+json", "application/json")):
        try:
            problem = orjson.loads(body)
        except orjson.JSONDecodeError:
            problem = None
        if isinstance(problem, dict):
            detail = problem.get("detail") or problem.get("title")
            if isinstance(detail, str):
                return detail[:500]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "not an HTTP status"
