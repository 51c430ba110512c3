"""``dispatcher config --explain-token``: what a token allows, and why no more than that. It is never shown itself."""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson

from dispatcher.access.grants import FoundGrant, find_grants, grants_of
from dispatcher.access.keys import KeySet
from dispatcher.access.principal import Principal
from dispatcher.access.tokens import Expired, Outcome, Policy, Refused, UnknownKey, Valid, check
from dispatcher.auth_settings import ACTIONS, Action
from dispatcher.settings import Settings

EXIT_ALLOWED = 0
EXIT_NOT_ALLOWED = 1

STANDARD_INPUT = "-"


def read_token(path: str) -> str:
    """The token in a file, or on standard input.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text.
    """
    text = sys.stdin.read() if path == STANDARD_INPUT else Path(path).read_text(encoding="utf-8")
    return text.strip().removeprefix("Bearer ").strip()


def explain(token: str, settings: Settings, keys: KeySet, now: float) -> tuple[list[str], int]:
    """Explain a token, line by line; also returns the exit code.

    Args:
        token: As a client sends it.
        settings: Which tokens are accepted, and what they allow.
        keys: The issuer's keys.
        now: Seconds since the epoch.
    """
    outcome = check(token, keys, Policy.of(settings), now)
    if isinstance(outcome, Refused | UnknownKey):
        return [f"refused: {outcome.reason}"], EXIT_NOT_ALLOWED
    valid = outcome.valid if isinstance(outcome, Expired) else outcome
    found = find_grants(valid.claims, settings.auth_grants)
    principal = Principal(settings.auth_issuer, valid.subject, valid.expires_at, grants_of(found), valid.key)
    lines = [*_about(outcome, valid, now), "", "grants:", *_grants(found, settings), "", "so it may:"]
    allowed = [line for action in ACTIONS for line in _allowed(principal, action, settings)]
    lines += allowed or ["  nothing"]
    may_read = any(principal.allowed_topics(action, settings.topics) for action in ACTIONS)
    return lines, EXIT_ALLOWED if isinstance(outcome, Valid) and may_read else EXIT_NOT_ALLOWED


def explain_file(path: str, settings: Settings) -> tuple[list[str], int]:
    """Read a token and the issuer's keys, and explain.

    Raises:
        OSError: the token cannot be read.
        ValueError: it is not text.
        SettingsError: the file with the keys has none.
    """
    import trio  # noqa: PLC0415 - nothing else in `config` needs it

    from dispatcher.access.keyring import FETCH_SECONDS, open_keyring  # noqa: PLC0415
    from dispatcher.access.keys import UnusableKeysError  # noqa: PLC0415

    token = read_token(path)
    keyring = open_keyring(settings)
    keys = keyring.keys

    async def fetch() -> KeySet:
        with trio.fail_after(FETCH_SECONDS):
            return await keyring.source.fetch()

    if not keys:
        try:
            keys = trio.run(fetch)
        except (UnusableKeysError, trio.TooSlowError) as error:
            reason = str(error) or "no answer in time"
            return [f"not checked: the issuer's keys cannot be fetched ({reason})"], EXIT_NOT_ALLOWED
    return explain(token, settings, keys, time.time())


def _about(outcome: Outcome, valid: Valid, now: float) -> Iterator[str]:
    yield "the token is valid" if isinstance(outcome, Valid) else "the token is genuine, but it has expired"
    yield f"  subject  {valid.subject!a}"
    left = valid.expires_at - now
    ends = f"ends     {_time(valid.expires_at)}, {_span(left)} left"
    yield f"  {ends}" if left > 0 else f"  ended    {_time(valid.expires_at)}, {_span(-left)} ago"
    yield f"  key      {valid.key}"


def _grants(found: list[FoundGrant], settings: Settings) -> Iterator[str]:
    if not found:
        yield "  none, neither in the token (authorization_details) nor in the settings (auth_grants)"
    for one in found:
        if one.grant is None:
            yield f"  {one.place}: allows nothing: {one.reason}"
            continue
        grant = one.grant
        here = [topic for topic in settings.topics if any(grant.covers(action, topic) for action in ACTIONS)]
        yield f"  {one.place}: {', '.join(sorted(grant.actions))} on {', '.join(grant.topics)}"
        yield f"    of the topics served here: {', '.join(here) or 'none'}"
        if grant.filter is not None:
            yield f"    only records that match {orjson.dumps(grant.filter.dialect()).decode()}"


def _allowed(principal: Principal, action: Action, settings: Settings) -> Iterator[str]:
    for topic in principal.allowed_topics(action, settings.topics):
        filters = principal.filters(action, topic)
        part = (
            f", records that match {' or '.join(orjson.dumps(one.dialect()).decode() for one in filters)}"
            if filters
            else ""
        )
        yield f"  {action} {topic}{part}"
    if action == "admin" and principal.may("admin"):
        yield "  admin"


def _time(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
