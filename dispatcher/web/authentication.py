"""Finds out who makes a request for a stream, and what the stream may read: docs/security.md has the rules.

Rules of this module:

* It runs after `origin_check`, and before any other work for a request.
* Valid tokens are remembered by their hash until they expire: a signature is checked once per token, not once per
  connection. Invalid ones are not remembered: a client could fill the memory with them.
* Everything about open streams is in `sessions`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import structlog
import trio
from werkzeug.datastructures import MultiDict

from dispatcher.access.grants import check_filters, find_grants, grants_of
from dispatcher.access.keyring_statistics import KeyringStatistics
from dispatcher.access.principal import Principal
from dispatcher.access.tokens import Expired, Policy, Refused, UnknownKey, Valid, check
from dispatcher.auth_settings import Action
from dispatcher.errors import ForbiddenError, SettingsError, SettingsProblem, UnauthenticatedError, UnavailableError
from dispatcher.settings import Settings
from dispatcher.web.credentials import QUERY_PARAMETER, Values, find_token
from dispatcher.web.requests import Query, read_query
from dispatcher.web.sessions import Session, Sessions

if TYPE_CHECKING:
    from dispatcher.access.keyring import Keyring

log = structlog.get_logger(__name__)

REMEMBERED_BYTES = 4 * 1024 * 1024
"""Maximum total length of the remembered tokens, the most recently used ones. What is kept of a token takes about four
times its length, so 16 MiB at most."""

HAS_EXPIRED = "the token has expired: get a new one, then reconnect"

NO_COOKIES: Values = MultiDict()
"""The cookies of pages that `allowed_origins` allows without credentials."""

FIXED = ("auth_issuer", "auth_jwks_url", "auth_keys_file", "auth_secret_file")
"""Settings that a reload cannot change."""

WAYS = "Authorization: Bearer, the cookie, or the subprotocol"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A valid token, and what it allows."""

    valid: Valid
    principal: Principal
    _allowed_topics: dict[Action, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)
    """By action: most clients ask for all that they may read, and many share a token."""

    def allowed_topics(self, action: Action, configured: Sequence[str]) -> tuple[str, ...]:
        """Which of the dispatcher's topics the token allows."""
        found = self._allowed_topics.get(action)
        if found is None:
            found = self._allowed_topics[action] = self.principal.allowed_topics(action, configured)
        return found


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request, with a token that is valid, or was until it expired."""

    verdict: Verdict
    has_expired: bool

    def read_query(
        self,
        arguments: Mapping[str, Sequence[str]],
        last_event_id: str | None,
        configured: Sequence[str],
        *,
        default_scope: str = "replica",
        decoded: Mapping[str, str] = {},
        counts: Mapping[str, int] = {},
    ) -> Query:
        """Check what a client asks for, and that the token allows it.

        Raises:
            BadRequestError: See `requests.read_query`.
            ForbiddenError: the token does not allow it.
        """
        principal, action = self.verdict.principal, action_of(arguments)
        allowed = self.verdict.allowed_topics(action, configured)
        if not allowed and "topic" not in arguments:
            raise ForbiddenError(f"the token allows no topic here (action {action})")
        known = frozenset(allowed)
        # Only the first of the others is compared with every grant: whatever they are, the request is refused.
        for topic in [topic for topic in arguments.get("topic", ()) if topic not in known][:1]:
            if not principal.allowed_topics(action, [topic]):
                raise ForbiddenError(f"the token does not allow this topic (action {action}): {topic[:40]!a}")
        if QUERY_PARAMETER in arguments:
            arguments = {name: values for name, values in arguments.items() if name != QUERY_PARAMETER}
        query = read_query(
            arguments, last_event_id, allowed, default_scope=default_scope, decoded=decoded, counts=counts
        )
        grant = principal.grant(action, query.topics)
        return query if grant is None else replace(query, grant=grant)


class Authentication:
    """Checks tokens, and supervises the streams that were opened with them.

    Args:
        settings: Which tokens are accepted, and what they allow.
        keyring: The issuer's keys.
        read_settings: Reads the settings again, for `reload`; None if they cannot change.
    """

    def __init__(
        self, settings: Settings, keyring: "Keyring", read_settings: Callable[[], Settings] | None = None
    ) -> None:
        self._settings = settings
        self._read_settings = read_settings or (lambda: settings)
        self._policy = Policy.of(settings)
        self._keyring = keyring
        keyring.on_change = self._forget
        self._verdicts: OrderedDict[bytes, tuple[Verdict, int]] = OrderedDict()
        """Verdicts by the hash of the token, with the length of the token."""
        self._remembered_bytes = 0
        self.sessions = Sessions(self._renew)

    @property
    def reads_cookies(self) -> bool:
        """Whether a cookie may hold the token: otherwise nobody has to parse them."""
        return bool(self._settings.auth_cookie)

    async def run(self) -> None:
        """Keep keys fresh, and end streams whose token expires, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keyring.run)
            nursery.start_soon(self.sessions.run)

    def statistics(self) -> KeyringStatistics:
        """A snapshot of the issuer's keys."""
        return self._keyring.statistics()

    async def reload(self) -> None:
        """Read grants and keys again, and end the streams that these no longer allow.

        *Cancellation*: safe; the streams stay.

        Raises:
            SettingsError: the settings are wrong now, or name another issuer; nothing changes.
        """
        settings = await trio.to_thread.run_sync(self._read_settings)
        changed = [name for name in FIXED if getattr(settings, name) != getattr(self._settings, name)]
        if changed:
            remedy = "restart to change it: open streams depend on it"
            raise SettingsError([SettingsProblem(name, "changed", remedy) for name in changed])
        check_filters(settings.auth_grants)
        await self._keyring.refresh()
        self._settings = settings
        self._policy = Policy.of(settings)
        self._forget()
        for session in self.sessions.open:
            try:
                self._judge(session)
            except Exception:
                # Otherwise the streams after it would keep what was withdrawn from them.
                log.exception("judging a stream failed", subject=session.subject)
                session.forbid("it could not be found out whether the token still allows the stream")

    async def identify(
        self, fields: Values, cookies: Values, arguments: Mapping[str, Sequence[str]], subprotocols: Sequence[str] = ()
    ) -> Caller:
        """Identify the caller of a request. *Cancellation*: safe.

        Raises:
            SeveralTokensError: it carries more than one token.
            UnauthenticatedError: it carries none, or a wrong one.
            UnavailableError: the keys to check it with are not known yet.
        """
        token = find_token(self._settings, fields, cookies, arguments, subprotocols)
        if token is None:
            raise UnauthenticatedError(f"a token is needed: {WAYS}", has_token=False)
        outcome = self._check(token)
        if isinstance(outcome, UnknownKey):
            outcome = await self._check_with_newer_keys(token)
        if isinstance(outcome, Refused | UnknownKey):
            raise UnauthenticatedError(f"the token is not valid: {outcome.reason}")
        return Caller(*outcome)

    def open_session(
        self, caller: Caller, arguments: Mapping[str, Sequence[str]], query: Query, *, can_renew: bool
    ) -> Session:
        """The session that a stream holds while it is open."""
        action = action_of(arguments)
        return Session(self.sessions, caller.verdict, action, query.topics, query.grant, can_renew=can_renew)

    async def _check_with_newer_keys(self, token: str) -> "tuple[Verdict, bool] | Refused | UnknownKey":
        if self._keyring.keys:
            await self._keyring.wait_for_unknown_key()
        else:
            await self._keyring.wait_for_first_keys()
        if not self._keyring.keys:
            raise UnavailableError("the keys to check tokens are not available yet")
        return self._check(token)

    def _check(self, token: str) -> "tuple[Verdict, bool] | Refused | UnknownKey":
        """The verdict on a token, and whether the token has expired."""
        now = time.time()
        digest = sha256(token.encode(errors="replace")).digest()
        known = self._verdicts.get(digest)
        if known is not None and now < known[0].valid.expires_at:
            self._verdicts.move_to_end(digest)
            return known[0], False
        outcome = check(token, self._keyring.keys, self._policy, now)
        if isinstance(outcome, Refused | UnknownKey):
            return outcome
        if isinstance(outcome, Expired):
            return Verdict(outcome.valid, self._principal(outcome.valid)), True
        verdict = Verdict(outcome, self._principal(outcome))
        self._verdicts[digest] = verdict, len(token)
        self._remembered_bytes += len(token)
        while self._remembered_bytes > REMEMBERED_BYTES:
            _, (_, length) = self._verdicts.popitem(last=False)
            self._remembered_bytes -= length
        return verdict, False

    def _principal(self, valid: Valid) -> Principal:
        grants = grants_of(find_grants(valid.claims, self._settings.auth_grants))
        return Principal(self._policy.issuer, valid.subject, valid.expires_at, grants, valid.key)

    def _forget(self) -> None:
        """Forget all verdicts: keys or grants have changed."""
        self._verdicts.clear()
        self._remembered_bytes = 0

    def _judge(self, session: Session) -> None:
        """End a stream that is no longer allowed, or whose token now allows other records."""
        valid = session.verdict.valid
        if valid.key not in self._keyring.keys.thumbprints:
            session.forbid("the token's key has been withdrawn")
            return
        if not self._policy.accepts_audience(valid.claims):
            session.forbid("the token's audience is no longer accepted")
            return
        principal = self._principal(valid)
        if set(principal.allowed_topics(session.action, session.topics)) != session.topics:
            session.forbid("the token no longer allows what the stream reads")
        elif principal.grant(session.action, session.topics) != session.grant:
            session.replace_by("the token now allows other records of these topics: reconnect")
        else:
            session.verdict = Verdict(valid, principal)

    async def _renew(self, session: Session, token: str) -> None:
        """Check a new token for an open stream."""
        outcome = self._check(token)
        if isinstance(outcome, UnknownKey):
            try:
                outcome = await self._check_with_newer_keys(token)
            except UnavailableError:
                return  # the stream's present token stays valid
        if isinstance(outcome, Refused | UnknownKey):
            session.refuse(f"the new token is not valid: {outcome.reason}")
            return
        verdict, has_expired = outcome
        new, old = verdict.principal, session.verdict.principal
        if not new.is_same_bearer(old):
            session.forbid("the new token belongs to another subject")
        elif has_expired:
            session.replace_by("the new token has expired, too: get another one, then reconnect")
        elif not new.has_same_grants(old):
            session.replace_by("the new token allows something else: reconnect with it")
        else:
            session.extend(verdict)


def open_authentication(
    settings: Settings, read_settings: Callable[[], Settings] | None = None
) -> Authentication | None:
    """The authentication that the settings require; None if no token is needed.

    Raises:
        SettingsError: the extra ``auth`` is not installed, a file has no keys, or a filter cannot be read.
    """
    if not settings.auth_issuer:
        return None
    check_filters(settings.auth_grants)
    try:
        from dispatcher.access.keyring import open_keyring  # noqa: PLC0415 - it needs the extra
    except ImportError as error:
        remedy = f"install the extra that it needs: pip install 'kafka-dispatcher[auth]' ({error})"
        raise SettingsError([SettingsProblem("auth_issuer", settings.auth_issuer, remedy)]) from error
    return Authentication(settings, open_keyring(settings), read_settings)


def action_of(arguments: Mapping[str, Sequence[str]]) -> Action:
    """The action that a request for a stream needs. `read_query` refuses other values of `observe`."""
    return "observe" if list(arguments.get("observe", ())) == ["1"] else "subscribe"
