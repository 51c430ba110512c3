"""Opens streams: what ``/events`` and ``/ws`` have in common, whoever has read the head of the request.

Requests reach it through Quart's routes, or directly (`direct`).

*Thread*: Trio's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dispatcher.errors import ExpiredTokenError
from dispatcher.hub.hub import Hub
from dispatcher.sansio.addresses import Address
from dispatcher.sansio.id_lengths import check_whole_topics
from dispatcher.settings import Settings
from dispatcher.web.authentication import HAS_EXPIRED, Authentication
from dispatcher.web.credentials import Values
from dispatcher.web.limits import Admission, Entrance
from dispatcher.web.requests import Query, as_observer, read_query
from dispatcher.web.sessions import Session


class Fields(Values, Protocol):
    """The header fields of a request; names are case-insensitive."""

    def get(self, key: str, /) -> str | None:
        """The value of the first field with this name."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A request for a stream."""

    client: Address
    """The other end of the connection."""
    fields: Fields
    arguments: Mapping[str, Sequence[str]]
    """Every query parameter with its values."""
    cookies: Values
    """Those that count."""
    subprotocols: Sequence[str] = ()
    """The subprotocols that a WebSocket's handshake offers."""
    extensions: Sequence[str] = ()
    """The values of its ``Sec-WebSocket-Extensions``."""
    is_http_1_1: bool = True


class StreamOpener:
    """Decides about requests for streams.

    Args:
        hub: Where to subscribe.
        settings: What clients may ask for.
        entrance: Admits streams.
        authentication: Checks tokens; None if none is needed.
    """

    can_renew = False
    """Whether a client can send a new token on its stream."""

    def __init__(
        self, hub: Hub, settings: Settings, entrance: Entrance, authentication: Authentication | None = None
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._entrance = entrance
        self._authentication = authentication
        self._plain_query = read_query({}, None, settings.topics, default_scope=settings.default_scope)
        """What a client asks for that names nothing, as most do."""

    def counts_cookies(self) -> bool:
        """Whether a cookie may hold the token: otherwise nobody has to parse them."""
        return self._authentication is not None and self._authentication.reads_cookies

    async def _ask(self, request: StreamRequest) -> tuple[Query, Session | None]:
        """Read a request: what it asks for, and whether its caller may have it.

        Raises:
            BadRequestError, UnauthenticatedError, ForbiddenError, UnavailableError: it cannot be had.
            ExpiredTokenError: it can be had with a new token.
        """
        settings, authentication, arguments = self._settings, self._authentication, request.arguments
        session, last_event_id, caller = None, request.fields.get("Last-Event-ID"), None
        if authentication is not None:
            caller = await authentication.identify(request.fields, request.cookies, arguments, request.subprotocols)
        if caller is None and not arguments and last_event_id is None:
            query = self._plain_query
        else:
            query = (read_query if caller is None else caller.read_query)(
                arguments,
                last_event_id,
                settings.topics,
                default_scope=settings.default_scope,
                decoded=settings.decodable_topics,
                counts=self._hub.history.expected,
            )
        if authentication is not None and caller is not None:
            if caller.has_expired:
                raise ExpiredTokenError(HAS_EXPIRED)
            session = authentication.open_session(caller, arguments, query, can_renew=self.can_renew)
        query = as_observer(query, settings.acked_topics)
        self._entrance.check(query)
        if query.whole:
            check_whole_topics(query.topics, self._hub.history.expected)
        return query, session

    def _admit(self, request: StreamRequest, query: Query, session: Session | None) -> Admission:
        """Admit it; see `Entrance.admit`."""
        return self._entrance.admit(request.client, request.fields, query, None if session is None else session.subject)
