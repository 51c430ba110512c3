"""Both transports without I/O: bytes in, received items out; and bytes to send.

h11 and wsproto implement the protocols. trio-websocket is built on wsproto; without it a connection needs no separate
task, and both transports run in the same loop (docs/adr/0006).
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import h11
import wsproto
import wsproto.events
from wsproto.connection import ConnectionState
from wsproto.utilities import ProtocolError

from dispatcher.client.address import Address
from dispatcher.client.address import Transport as TransportName
from dispatcher.client.decoding import read_event, read_message
from dispatcher.client.errors import WrongServerError
from dispatcher.client.events import Dated, Fail, Opened, Received, Reconnect, Redirect
from dispatcher.client.outcomes import answered, closed, server_time_ms
from dispatcher.client.sse_parser import MAX_EVENT_BYTES, SseParser
from dispatcher.sansio.encoding.messages import SUBPROTOCOL

MAX_BODY_BYTES = 16 * 1024
"""How much of a response that is not a stream is read, to find the reason."""

_CUT = "the connection broke"


class Transport(Protocol):
    """One connection."""

    def begin(self) -> bytes:
        """The request."""

    def receive(self, data: bytes) -> list[Received]:
        """Take bytes, or none at the end of the connection; an outcome, if there is one, is the last item.

        Raises:
            WrongServerError: no dispatcher sends this.
        """

    def to_send(self) -> bytes:
        """Answers to received frames, such as pongs."""

    def message_bytes(self, text: str) -> bytes:
        """A message to the server while the stream runs; empty if the transport cannot send any."""

    def close_bytes(self) -> bytes:
        """The announcement that the client leaves; empty if the end of the connection says so."""


def make_transport(name: TransportName, address: Address, position: str, headers: Mapping[str, str]) -> Transport:
    """Make a transport that has not begun.

    Args:
        name: The transport's name.
        address: The address that it will connect to.
        position: The value of ``Last-Event-ID``; empty for none.
        headers: Additional headers.
    """
    fields = {"User-Agent": "dispatcher-client"}
    if address.authorization:
        fields["Authorization"] = address.authorization
    if position:
        fields["Last-Event-ID"] = position
    fields |= headers
    return (SseTransport if name == "sse" else WebSocketTransport)(address, list(fields.items()))


class SseTransport:
    """Server-sent events over HTTP/1.1."""

    def __init__(self, address: Address, headers: list[tuple[str, str]]) -> None:
        fixed = [("Host", address.authority), ("Accept", "text/event-stream"), ("Cache-Control", "no-store")]
        self._request = h11.Request(method="GET", target=address.target, headers=[*fixed, *headers])
        self._http = h11.Connection(h11.CLIENT)
        self._events = SseParser()
        self._answer: _Answer | None = None
        self._preface = _HttpCheck()
        self._opened = False

    def begin(self) -> bytes:
        """See `Transport`."""
        return (self._http.send(self._request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    def to_send(self) -> bytes:
        """See `Transport`: HTTP needs no answers."""
        return b""

    def message_bytes(self, text: str) -> bytes:  # noqa: ARG002 - server-sent events have no way back
        """See `Transport`."""
        return b""

    def close_bytes(self) -> bytes:
        """See `Transport`."""
        return b""

    def receive(self, data: bytes) -> list[Received]:
        """See `Transport`."""
        heard: list[Received] = []
        self._preface.check(data)
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
                if isinstance(event, h11.Response):
                    self._begin_answer(event, heard)
                elif isinstance(event, h11.Data) and self._answer is not None:
                    heard += self._answer.add(event.data)
                elif isinstance(event, h11.Data):
                    for block in self._events.feed(bytes(event.data)):
                        heard += read_event(block)
                elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                    heard.append(self._answer.end() if self._answer else Reconnect("the server ended the stream"))
                if heard and isinstance(heard[-1], (Reconnect, Fail, Redirect)):
                    break
        except h11.RemoteProtocolError as error:
            # The end of a connection within a message is also reported like this.
            heard.append(_broken(error, opened=self._opened, ended=not data))
        return heard

    def _begin_answer(self, response: h11.Response, heard: list[Received]) -> None:
        headers = _headers(response.headers)
        heard += _dated(headers)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code == 200 and kind == "text/event-stream":
            self._opened = True
            heard.append(Opened())
        else:
            self._answer = _Answer(response.status_code, headers)


class WebSocketTransport:
    """A WebSocket with the subprotocol ``dispatcher.v1.json``."""

    def __init__(self, address: Address, headers: list[tuple[str, str]]) -> None:
        self._request = wsproto.events.Request(
            host=address.authority,
            target=address.target,
            subprotocols=[SUBPROTOCOL],
            extra_headers=[(name.encode(), value.encode()) for name, value in headers],
        )
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._text: list[str] = []
        self._text_size = 0
        self._opened = False
        self._answer: _Answer | None = None
        self._replies = b""
        self._preface = _HttpCheck()

    def begin(self) -> bytes:
        """See `Transport`."""
        return self._ws.send(self._request)

    def to_send(self) -> bytes:
        """See `Transport`."""
        replies, self._replies = self._replies, b""
        return replies

    def message_bytes(self, text: str) -> bytes:
        """See `Transport`."""
        return self._ws.send(wsproto.events.TextMessage(text))

    def close_bytes(self) -> bytes:
        """See `Transport`."""
        return self._ws.send(wsproto.events.CloseConnection(1000))

    def receive(self, data: bytes) -> list[Received]:
        """See `Transport`."""
        heard: list[Received] = []
        self._preface.check(data)
        try:
            self._ws.receive_data(data or None)
            for event in self._ws.events():
                heard += self._hear(event)
                if heard and isinstance(heard[-1], (Reconnect, Fail, Redirect)):
                    return heard
        except ProtocolError as error:
            heard.append(_broken(error, opened=self._opened, ended=not data))
        if not data and not (heard and isinstance(heard[-1], (Reconnect, Fail, Redirect))):
            heard.append(self._answer.end() if self._answer else Reconnect(_CUT))
        return heard

    def _hear(self, event: wsproto.events.Event) -> list[Received]:
        heard: list[Received] = []
        if isinstance(event, wsproto.events.AcceptConnection):
            self._opened = True
            heard = [*_dated(_headers(event.extra_headers)), Opened()]
        elif isinstance(event, wsproto.events.TextMessage):
            heard = self._hear_text(event)
        elif isinstance(event, wsproto.events.Ping):
            self._replies += self._ws.send(event.response())
        elif isinstance(event, wsproto.events.CloseConnection):
            if self._ws.state is ConnectionState.REMOTE_CLOSING:
                self._replies += self._ws.send(event.response())
            heard = [Reconnect(_CUT) if event.code == 1006 else closed(int(event.code), event.reason or "")]
        elif isinstance(event, wsproto.events.RejectConnection):
            headers = _headers(event.headers)
            self._answer = _Answer(event.status_code, headers)
            heard = [*_dated(headers), *([] if event.has_body else [self._answer.end()])]
        elif isinstance(event, wsproto.events.RejectData) and self._answer is not None:
            heard = self._answer.add(event.data)
            if event.body_finished:
                heard = [self._answer.end()]
        return heard

    def _hear_text(self, part: wsproto.events.TextMessage) -> list[Received]:
        self._text.append(part.data)
        self._text_size += len(part.data)
        if self._text_size > MAX_EVENT_BYTES:
            raise WrongServerError(f"a message of more than {MAX_EVENT_BYTES // 2**20} MiB")
        if not part.message_finished:
            return []
        text, self._text, self._text_size = "".join(self._text), [], 0
        return read_message(text)


class _HttpCheck:
    """Checks how an HTTP response begins: other servers may send so little that h11 would wait for more."""

    def __init__(self) -> None:
        self._left = b"HTTP/1."

    def check(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            WrongServerError: the response does not begin as HTTP does.
        """
        if self._left:
            begin = data[: len(self._left)]
            if not self._left.startswith(begin):
                raise WrongServerError(f"the server does not speak HTTP/1.1: {data[:40]!a}")
            self._left = self._left[len(begin) :]


class _Answer:
    """A response that is not a stream."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        self._headers = headers
        self._body = b""

    def add(self, data: bytes | bytearray) -> list[Received]:
        """Take a part of its body; after enough of it, return the outcome."""
        self._body += data
        return [self.end()] if len(self._body) >= MAX_BODY_BYTES else []

    def end(self) -> Received:
        """The outcome of the response."""
        return answered(self._status, self._headers, self._body[:MAX_BODY_BYTES])


def _headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _dated(headers: Mapping[str, str]) -> list[Received]:
    server_ms = server_time_ms(headers)
    return [] if server_ms is None else [Dated(server_ms)]


def _broken(error: Exception, *, opened: bool, ended: bool) -> Reconnect | Fail:
    """The outcome of bytes that violate the protocol: damaged on the way, or from a server that speaks another one."""
    if ended or opened:
        return Reconnect(_CUT if ended else f"the stream broke: {error}")
    return Fail(WrongServerError(f"the server does not follow HTTP/1.1: {error}"))
