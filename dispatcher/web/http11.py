"""Hypercorn's HTTP/1.1 protocol, up to the head of a stream's response.

Hypercorn parses requests, runs the app, and writes response heads, short bodies and WebSocket handshakes. When the
response turns out to be a stream, `Connection` continues without it. What this class changes:

* There is no HTTP/2, which Hypercorn buffers without a bound: prior knowledge is refused, ``Upgrade: h2c`` ignored.
* Hypercorn does not see that a client offers permessage-deflate: its own implementation takes 107 KiB per connection
and twice the CPU. The app sees the offer (`Connection.extensions`), and has an extension that compresses once for all
connections.
* Errors have a body that a person can read.
* Request targets reach the app in one form, and versions are 1.0 or 1.1: Quart fails on some of the others, and
  Hypercorn answers a handshake in HTTP/1.2 as if it were one in HTTP/2.
"""

import re
import sys
import traceback
from collections.abc import Sequence
from typing import cast

import h11
import structlog
from hypercorn.events import Closed
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.typing import H11SendableEvent

from dispatcher.web.problems import problem_body
from dispatcher.web.tasks import Tasks

log = structlog.get_logger(__name__)

STREAM_STATUSES = frozenset({101, 200})

MAX_HEAD_BYTES = 16 * 1024
"""Longest head of a request."""

_ABSOLUTE = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
"""A target in absolute form (RFC 9112, section 3.2.2), which clients send to proxies."""


class Http11(H11Protocol):
    """Hypercorn's HTTP/1.1 protocol without upgrades to HTTP/2, and without permessage-deflate."""

    _status = 0
    """The status of the last response head that was sent."""
    extensions: Sequence[str] = ()
    """What the last request offered in ``Sec-WebSocket-Extensions``."""

    @property
    def has_unread_bytes(self) -> bool:
        """Whether the client has sent more than its request."""
        return bool(self.connection.trailing_data[0])

    @property
    def is_paused(self) -> bool:
        """Whether Hypercorn waits for the end of the response, as it does after any ``Upgrade`` header."""
        http = self.connection
        return isinstance(http, h11.Connection) and http.their_state is h11.MIGHT_SWITCH_PROTOCOL  # type: ignore[attr-defined]  # not in its `__all__`

    @property
    def response_is_open(self) -> bool:
        """Whether a 200 or a 101 was sent and nothing has ended it.

        Hypercorn may have answered 400 before the app did, and the app does not learn of it: records written after such
        a response would count as dispatched.
        """
        http = self.connection
        if isinstance(http, H11WSConnection):
            http = http.h11_connection
        return self._status in STREAM_STATUSES and http.our_state in {h11.SEND_BODY, h11.SWITCHED_PROTOCOL}

    async def _check_protocol(self, event: h11.Request) -> None:
        """``Upgrade: h2c`` is ignored, as RFC 9110 (7.8) allows: the response is HTTP/1.1."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.method == b"PRI":
            await self._send_error_response(505)
            await self.send(Closed())
            return
        if status := _refusal(request):
            await self._send_error_response(status)
            await self.send(Closed())
            return
        headers, offers = [], []
        for name, value in request.headers:
            if name.lower() == b"sec-websocket-extensions":
                offers.append(value.decode("latin-1"))
            else:
                headers.append((name, value))
        self.extensions = offers
        target = request.target
        if absolute := _ABSOLUTE.fullmatch(target):
            # The host in the target replaces the `Host` (RFC 9112, section 3.2.2), so the check has to see that one.
            host, target = absolute.groups()
            target = target if target.startswith(b"/") else b"/" + target
            headers = [(b"host", host), *((name, value) for name, value in headers if name.lower() != b"host")]
        if not (target.startswith(b"/") or target == b"*"):
            await self._send_error_response(400)
            await self.send(Closed())
            return
        if self.has_unread_bytes and _is_handshake(request):
            # The client must send nothing before the handshake is answered (RFC 6455, section 4.1).
            await self._send_error_response(400)
            await self.send(Closed())
            return
        await super()._create_stream(
            h11.Request(
                method=request.method,
                headers=headers,
                target=target,
                http_version=min(request.http_version, b"1.1"),
                _parsed=True,
            )
        )
        if self.stream is not None and self.stream.closed:
            # Refused before the app saw it, for example an upgrade without a key: Hypercorn leaves closing to us.
            await self.send(Closed())

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if isinstance(event, h11.InformationalResponse | h11.Response):
            self._status = event.status_code
        try:
            await super()._send_h11_event(event)
        except h11.LocalProtocolError as error:
            # The client has made a response impossible, for example with frames before its handshake was answered.
            log.info("client broke the protocol", reason=str(error))
            await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        if (error := sys.exception()) is not None:
            # h11 changes the class of an error in the error's own method, so its traceback holds it.
            traceback.clear_frames(error.__traceback__)
        # If a body is broken from its beginning, its request's task is scheduled but has not begun: this is the answer,
        # and the app must not send another.
        cast("Tasks", self.task_group).drop_scheduled()
        body = problem_body(status_code)
        await self._send_h11_event(
            h11.Response(
                status_code=status_code,
                headers=[
                    (b"content-type", b"application/problem+json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"connection", b"close"),
                    *self.config.response_headers("h11"),
                ],
            )
        )
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


def _is_handshake(request: h11.Request) -> bool:
    """Whether Hypercorn will treat a request as a WebSocket handshake."""
    fields = {name.lower(): value.lower() for name, value in request.headers}
    return fields.get(b"upgrade", b"").strip() == b"websocket" and b"upgrade" in fields.get(b"connection", b"")


def _refusal(request: h11.Request) -> int | None:
    """The status for a request that must not be served, whatever it asks for.

    h11 bounds incomplete heads; one that arrives in a single segment may have any length. A request with both lengths
    is an attempt to smuggle another one past a proxy (RFC 9112, section 6.3).
    """
    size_bytes = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
    if size_bytes > MAX_HEAD_BYTES:
        return 431
    names = {name.lower() for name, _ in request.headers}
    # h11 requires a Host only in 1.1, and later versions are treated as 1.1.
    if request.http_version > b"1.0" and b"host" not in names:
        return 400
    return 400 if {b"content-length", b"transfer-encoding"} <= names else None
