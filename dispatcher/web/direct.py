"""Begins ordinary streams without Quart, Hypercorn and h11, which are half of what a connection costs.

Rules of this module (docs/adr/0009 has the reasons):

* It only ever says yes. A head that is not ordinary (`sansio.plain_heads`), and a request that must be refused, go
  through Hypercorn and Quart as they came: every other response is made there.
* It decides nothing itself: origins, tokens, limits and the stream are decided by the same functions as in the routes
  (`origins.decide`, `opening`). What they have refused here is not asked again (`Connection.raise_refusal`).
* A response has the fields that it would have there (`tests/web/test_direct.py`).

*Thread*: Trio's.
"""

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl

import structlog
import werkzeug.urls  # noqa: F401 - it registers how bytes of a query that are not UTF-8 are decoded
from werkzeug.http import parse_cookie
from wsproto.utilities import generate_accept_token

from dispatcher.errors import DispatcherError
from dispatcher.sansio.plain_heads import PlainHead, read_list, read_plain_head
from dispatcher.web.authentication import NO_COOKIES
from dispatcher.web.connection import Connection
from dispatcher.web.dates import HttpDate
from dispatcher.web.events import EventsOpener
from dispatcher.web.http11 import MAX_HEAD_BYTES
from dispatcher.web.opening import StreamOpener, StreamRequest
from dispatcher.web.origins import Policy, Verdict, decide
from dispatcher.web.problems import FAILED
from dispatcher.web.proxies import Proxies
from dispatcher.web.websocket import WebSocketOpener, chosen_subprotocol

log = structlog.get_logger(__name__)

EVENTS, WEBSOCKET = "/events", "/ws"
PATHS = frozenset({EVENTS, WEBSOCKET})


class DirectStreams:
    """Begins streams.

    Args:
        policy: What the settings allow.
        proxies: The proxies that are trusted.
        events: Opens server-sent events.
        websockets: Opens WebSockets.
    """

    def __init__(self, policy: Policy, proxies: Proxies, events: EventsOpener, websockets: WebSocketOpener) -> None:
        self._policy = policy
        self._proxies = proxies
        self._events = events
        self._websockets = websockets
        self._date = HttpDate()

    def read(self, data: bytes) -> PlainHead | None:
        """Read the first bytes of a connection; None if they are not an ordinary request for a stream."""
        head = read_plain_head(data, PATHS, MAX_HEAD_BYTES)
        return head if head is not None and (head.key is not None) == (head.path == WEBSOCKET) else None

    async def begin(self, head: PlainHead, connection: Connection) -> bytes | None:
        """Leave a stream with its connection. *Cancellation*: safe.

        Returns:
            The head of the response; None if there is no stream, and the routes have to answer.
        """
        fields = head.fields
        verdict = decide(
            self._policy,
            frozenset(),
            "GET",
            head.path,
            fields,
            forwarded_host=self._proxies.host(connection.client, fields),
        )
        if verdict.status is not None:
            return None
        try:
            if head.key is None:
                return await self._begin_events(head, verdict, connection)
            return await self._begin_websocket(head, head.key, verdict, connection)
        except DispatcherError as error:
            connection.refusal = error.with_traceback(None)  # the traceback would hold the connection
        except Exception:
            log.exception("request failed")
            connection.refusal = DispatcherError(FAILED)
        return None

    async def _begin_events(self, head: PlainHead, verdict: Verdict, connection: Connection) -> bytes:
        request = _request(head, self._events, verdict, connection)
        plan = await self._events.plan(request)
        fields = self._events.open(request, plan, connection)
        lines = (*fields.items(), *verdict.headers.items(), ("X-Content-Type-Options", "nosniff"))
        begin = _response("200 ", lines, self._date, ("Transfer-Encoding", "chunked"))
        return begin + b"%x\r\n%b\r\n" % (len(plan.opening), plan.opening) if plan.opening else begin

    async def _begin_websocket(self, head: PlainHead, key: str, verdict: Verdict, connection: Connection) -> bytes:
        offered = read_list(head.fields.getlist("Sec-WebSocket-Protocol"))
        request = _request(head, self._websockets, verdict, connection, offered)
        extension = await self._websockets.open(request, connection)
        lines = []
        if (subprotocol := chosen_subprotocol(offered)) is not None:
            lines.append(("Sec-WebSocket-Protocol", subprotocol))
        lines += [
            ("Sec-WebSocket-Accept", generate_accept_token(key.encode()).decode()),
            ("Upgrade", "WebSocket"),
            ("Connection", "Upgrade"),
        ]
        if extension is not None:
            lines.append(("Sec-WebSocket-Extensions", extension))
        return _response("101 ", lines, self._date)


def read_arguments(query: str) -> Mapping[str, list[str]]:
    """The parameters of a query with their values, as Quart reads them."""
    arguments: dict[str, list[str]] = {}
    if query:
        for name, value in parse_qsl(query, keep_blank_values=True, errors="werkzeug.url_quote"):
            arguments.setdefault(name, []).append(value)
    return arguments


def _request(
    head: PlainHead,
    opener: StreamOpener,
    verdict: Verdict,
    connection: Connection,
    subprotocols: Sequence[str] = (),
) -> StreamRequest:
    fields, cookies = head.fields, NO_COOKIES
    if opener.counts_cookies() and verdict.takes_cookies:
        cookies = parse_cookie(";".join(fields.getlist("Cookie")))
    return StreamRequest(
        connection.client,
        fields,
        read_arguments(head.query),
        cookies,
        subprotocols,
        fields.getlist("Sec-WebSocket-Extensions"),
    )


def _response(status: str, lines: Iterable[tuple[str, str]], date: HttpDate, *more: tuple[str, str]) -> bytes:
    """The head of a response, spelled as Hypercorn and h11 spell it."""
    fields = "".join([f"{name.lower()}: {value}\r\n" for name, value in lines])
    more_fields = "".join([f"{name}: {value}\r\n" for name, value in (("date", date.text()), *more)])
    return f"HTTP/1.1 {status}\r\n{fields}{more_fields}\r\n".encode("latin-1")
