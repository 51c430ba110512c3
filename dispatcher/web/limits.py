"""Limits what one client may use: streams, new streams per second, replays. Counted by address and subject.

The address is the client's, even behind trusted proxies (`proxies`); for IPv6 the /64 network counts. The subject is
that of the token, None without one. Above a limit a client gets 4429 (docs/protocol.md).
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import trio

from dispatcher.errors import BadRequestError, TooManyError, UnavailableError
from dispatcher.sansio.addresses import Address, client_key
from dispatcher.sansio.budgets import Budgets
from dispatcher.sansio.quotas import Quota, QuotaStatistics, Refusal
from dispatcher.sansio.ranges import NOW
from dispatcher.settings import Settings
from dispatcher.web.draining import REASON as DRAINING
from dispatcher.web.proxies import Fields, Proxies
from dispatcher.web.requests import Query
from dispatcher.web.visits import NOBODY, Visitor, Visits

SKEW_SECONDS = 60.0
"""Tolerance of `max_since_seconds`: a client's clock may be slow, and its request takes time."""

LIMITED_LAST_RECORDS = 1_000
"""Maximum of ``last`` if `max_since_seconds` bounds how far back clients may read."""

BURST_SECONDS = 10
"""A bucket of connects holds this many seconds' worth, because the pages of an office load at the same time."""

UNBOUNDED = 2**62


@dataclass(frozen=True, slots=True)
class LimitsStatistics:
    """A snapshot."""

    addresses: QuotaStatistics = field(default_factory=QuotaStatistics)
    subjects: QuotaStatistics = field(default_factory=QuotaStatistics)
    refused: int = 0
    """Requests for a stream that got 4429."""


class Admission:
    """A stream that was admitted, until `release`.

    Args:
        owner: Its owner: owners take turns when records have to be read from Kafka.
        quotas: The quotas in which it is counted, each with its holder.
    """

    __slots__ = ("_quotas", "owner", "visitor", "visits")

    def __init__(self, owner: Hashable, quotas: list[tuple[Quota, Hashable]]) -> None:
        self.owner = owner
        self.visitor = NOBODY
        """The visitor, as operators see it."""
        self.visits: Visits | None = None
        """Where the stream is listed while it is open; None if it is not listed."""
        self._quotas = quotas
        for quota, holder in quotas:
            quota.take(holder)

    def release(self) -> None:
        """Stop counting it; a second call does nothing."""
        while self._quotas:
            quota, holder = self._quotas.pop()
            quota.release(holder)


class Limits:
    """Admits streams.

    *Thread*: Trio's.

    Args:
        settings: The bounds.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._addresses = Quota(settings.max_subscribers, settings.max_subscribers_per_address)
        self._subjects = Quota(UNBOUNDED, settings.max_subscribers_per_subject)
        self._address_connects = _budgets(settings.connects_per_second_per_address)
        self._subject_connects = _budgets(settings.connects_per_second_per_subject)
        self._replays = _budgets(settings.since_per_minute / 60, BURST_SECONDS * 6)
        self._refused = 0

    @property
    def max_since_seconds(self) -> float:
        """How far back ``since`` may go; 0: no limit."""
        return self._settings.max_since_seconds

    def admit(self, address: str, subject: str | None, now: float, *, since: bool = False) -> Admission:
        """Admit a stream; the caller releases the admission when the stream ends.

        Args:
            address: See `sansio.addresses.client_key`.
            subject: The subject of the client's token.
            now: Seconds of a monotonic clock.
            since: Whether the request has a `since`, which may have to be read from Kafka.

        Raises:
            TooManyError: the client has reached a limit; the reason names the setting.
            UnavailableError: the last places are reserved for clients that have fewer.
        """
        settings = self._settings
        try:
            self._check_rate(self._address_connects, address, now, "connects_per_second_per_address")
            if subject is not None:
                self._check_rate(self._subject_connects, subject, now, "connects_per_second_per_subject")
            if since:
                self._check_rate(self._replays, ("address", address), now, "since_per_minute")
                if subject is not None:
                    self._check_rate(self._replays, ("subject", subject), now, "since_per_minute")
            match self._addresses.refusal(address):
                case Refusal.HOLDER_FULL:
                    limit = settings.max_subscribers_per_address
                    raise TooManyError(f"one address may have {limit} streams here (max_subscribers_per_address)")  # noqa: TRY301
                case Refusal.RESERVED:  # another replica may have room
                    raise UnavailableError("the replica is nearly full, and this address has many streams already")
            if subject is not None and self._subjects.refusal(subject):
                limit = settings.max_subscribers_per_subject
                raise TooManyError(f"one subject may have {limit} streams here (max_subscribers_per_subject)")  # noqa: TRY301
        except TooManyError:
            self._refused += 1
            raise
        # The hub reports `Refusal.FULL`: it counts subscribers of every kind.
        quotas: list[tuple[Quota, Hashable]] = [(self._addresses, address)]
        if subject is not None:
            quotas.append((self._subjects, subject))
        return Admission(("address", address) if subject is None else ("subject", subject), quotas)

    def statistics(self) -> LimitsStatistics:
        """A snapshot."""
        return LimitsStatistics(self._addresses.statistics(), self._subjects.statistics(), self._refused)

    @staticmethod
    def _check_rate(budgets: Budgets | None, key: Hashable, now: float, setting: str) -> None:
        if budgets is not None and not budgets.try_spend(key, 1, now):
            raise TooManyError(f"too many new streams from one client ({setting})")


class Entrance:
    """Admits requests for streams, by client.

    Args:
        limits: What each client may use.
        proxies: Identifies the client of a connection.
        visits: Where streams are listed.
        is_draining: Whether new streams are refused.
    """

    def __init__(
        self,
        limits: Limits,
        proxies: Proxies,
        visits: Visits | None = None,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.limits = limits
        self._proxies = proxies
        self._visits = visits
        self._is_draining = is_draining

    def check(self, query: Query) -> None:
        """Check how far back a request goes.

        Raises:
            BadRequestError: it goes further back than `max_since_seconds`.
        """
        limit = self.limits.max_since_seconds
        if not limit:
            return
        earliest_ms = (time.time() - limit - SKEW_SECONDS) * 1000
        if query.since_ms is not None and query.since_ms != NOW and query.since_ms < earliest_ms:
            raise BadRequestError(f"since may go back at most {limit:g} seconds here (max_since_seconds)")
        if query.last is not None and query.last > LIMITED_LAST_RECORDS:
            # Their age is not known before they are read.
            raise BadRequestError(f"last may be at most {LIMITED_LAST_RECORDS} here (max_since_seconds is set)")

    def admit(self, peer: Address, fields: Fields, query: Query, subject: str | None = None) -> Admission:
        """Admit a stream; see `Limits.admit`.

        Args:
            peer: The other end of the connection (`Connection.client`).
            fields: The request's header fields.
            query: The request's query.
            subject: The subject of the client's token.

        Raises:
            TooManyError: See `Limits.admit`.
            UnavailableError: See `Limits.admit`; also while an operator drains the replica.
        """
        if self._is_draining():
            raise UnavailableError(DRAINING)
        client = self._proxies.client(peer, fields)
        reads_again = query.since_ms not in {None, NOW} or query.last is not None
        admission = self.limits.admit(client_key(client), subject, trio.current_time(), since=reads_again)
        if self._visits is not None:
            admission.visits = self._visits
            admission.visitor = Visitor.of(client, subject, ", ".join(fields.getlist("User-Agent")))
        return admission


def _budgets(per_second: float, burst_seconds: float = BURST_SECONDS) -> Budgets | None:
    return Budgets(max(1.0, per_second * burst_seconds), per_second) if per_second else None
