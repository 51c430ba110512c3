"""Ordinary heads: what is read here, h11 reads in the same way, and everything else is left to it."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.plain_heads import read_list, read_plain_head

PATHS = frozenset({"/events", "/ws"})
MAX_BYTES = 4096
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LINES = [
    b"GET /events HTTP/1.1",
    b"GET /ws?topic=a&since=-10m HTTP/1.1",
    b"GET /events?%FF HTTP/1.1",
    b"GET /status HTTP/1.1",
    b"GET /events HTTP/1.0",
    b"GET  /events HTTP/1.1",
    b"HEAD /events HTTP/1.1",
    b"GET http://localhost/events HTTP/1.1",
    b"Host: localhost:8000",
    b"host:x",
    b"Accept: text/event-stream, \t */*",
    b"X-Empty:",
    b"X-Space :1",
    b" folded",
    b"\tfolded",
    b"X-Bytes: \xff",
    b"X-Nul: \x00",
    b"X-Return: a\rb",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Connection: Upgrade",
    b"Connection: close",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Protocol: a, b",
    b"",
]
heads = st.lists(st.one_of(st.sampled_from(LINES), st.binary(max_size=20)), max_size=12).flatmap(
    lambda lines: st.sampled_from([b"\r\n", b"\r\n", b"\n"]).map(lambda end: end.join([*lines, b"", b""]))
)
probable = st.lists(st.sampled_from(LINES[8:]), max_size=8).flatmap(
    lambda lines: st.sampled_from(LINES[:3]).map(lambda first: b"\r\n".join([first, *lines, b"", b""]))
)


@given(st.one_of(heads, probable, st.just(EVENTS), st.just(HANDSHAKE)))
def test_h11_reads_the_same(data: bytes) -> None:
    """Whatever is read as an ordinary request is one request for h11, with the same fields, and nothing follows it."""
    head = read_plain_head(data, PATHS, MAX_BYTES)
    if head is None:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.http_version) == (b"GET", b"1.1")
    assert request.target.decode() in {f"{head.path}?{head.query}", head.path if not head.query else None}
    names = {name.decode() for name, _ in request.headers}
    assert {name: head.fields.getlist(name.title()) for name in names} == {
        name: [value.decode() for other, value in request.headers if other.decode() == name] for name in names
    }
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    assert connection.trailing_data == (b"", False)
    assert not connection.they_are_waiting_for_100_continue


def test_an_ordinary_request() -> None:
    """Path, query and fields; names are case-insensitive, and the first value counts where one is wanted."""
    head = read_plain_head(
        b"GET /events?topic=a&x HTTP/1.1\r\nHOST: localhost\r\nLast-Event-ID:  a:1 \r\nlast-event-id: b:2\r\n\r\n",
        PATHS,
        MAX_BYTES,
    )
    assert head is not None
    assert (head.path, head.query, head.key) == ("/events", "topic=a&x", None)
    assert head.fields.getlist("Last-Event-Id") == ["a:1", "b:2"]
    assert head.fields.get("LAST-EVENT-ID") == "a:1"
    assert head.fields.get("Origin") is None


def test_an_ordinary_handshake() -> None:
    """It has a key."""
    head = read_plain_head(HANDSHAKE, PATHS, MAX_BYTES)
    assert head is not None
    assert (head.path, head.key) == ("/ws", "dGhlIHNhbXBsZSBub25jZQ==")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET", b"POST"),
        (b"GET /ws", b"GET /ws/"),
        (b"GET /ws", b"GET /%77s"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Host: localhost\r\n", b""),
        (b"Host: localhost", b"Host: localhost\r\nHost: localhost"),
        (b"Host: localhost", b"Host: localhost\r\nContent-Length: 0"),
        (b"Host: localhost", b"Host: localhost\r\nTransfer-Encoding: chunked"),
        (b"Host: localhost", b"Host: localhost\r\nExpect: 100-continue"),
        (b"Host: localhost", b"Host: localhost\r\n folded"),
        (b"Host: localhost", b"Host : localhost"),
        (b"Host: localhost", b"Host: \xe4"),
        (b"Host: localhost", b"Host: localhost\r\nX: " + MAX_BYTES * b"x"),
        (b"\r\n", b"\n"),
        (b"\r\n\r\n", b"\r\n\r\nmore"),
        (b"\r\n\r\n", b"\r\n"),
        (b"Upgrade: websocket", b"Upgrade: h2c"),
        (b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: websocket"),
        (b"Connection: keep-alive, Upgrade", b"Connection: keep-alive"),
        (b"Connection: keep-alive, Upgrade", b"Connection: keep-alive\r\nConnection: Upgrade"),
        (b"Connection: keep-alive, Upgrade\r\n", b""),
        (b"Version: 13", b"Version: 8"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        (b"Version: 13", b"Version: 13\r\nSec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b"),
    ],
)
def test_everything_else_is_left_to_h11(old: bytes, new: bytes) -> None:
    """One change makes a handshake unusual."""
    assert old in HANDSHAKE
    assert read_plain_head(HANDSHAKE.replace(old, new), PATHS, MAX_BYTES) is None


def test_lists() -> None:
    """Elements are separated by commas, and a field may be repeated (RFC 9110, section 5.6.1)."""
    assert read_list([]) == []
    assert read_list(["a, b", "c"]) == ["a", "b", "c"]
