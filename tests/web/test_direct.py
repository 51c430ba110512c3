"""Streams that begin directly: the same responses as through Quart and Hypercorn, and the same refusals."""

import re
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from quart import Quart

from dispatcher.hub import goodbyes
from dispatcher.web.app import create_app
from dispatcher.web.connection import Connection
from dispatcher.web.direct import read_arguments
from dispatcher.web.limits import Limits
from dispatcher.web.opening import StreamOpener
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from tests.hub.test_hub import ONE, Bench
from tests.web.test_transports import UPGRADE, House

DATE = re.compile(rb"date: [^\r]*")
ORIGIN = "https://app.example.org"
HOST = "Host: localhost"


class Either(House):
    """A house in which streams begin directly, or not."""

    def __init__(self, *, direct: bool, **settings: Any) -> None:
        self.secure = False
        Bench.__init__(self, bind="127.0.0.1:0", topics=[ONE.topic], **settings)
        self.limits = Limits(self.settings)
        self.app = create_app(self.hub, self.settings, cast("Operations", None), self.limits)
        self.server = Server(
            self.app, self.settings, lambda: self.hub.subscribers, direct=self.app.direct if direct else None
        )

    async def response(self, request: bytes, up_to: bytes = b'"features"', *, left: int = 0) -> bytes:
        """What is answered, up to the state's last field or another end, without the date.

        When it returns, only as many subscribers as were there before are left.
        """
        async with self.connected() as stream:
            await stream.send_all(request)
            data = b""
            while up_to not in data and (more := await stream.receive_some(65536)):
                data += bytes(more)
        await self.until(lambda: self.hub.subscribers == left)
        return DATE.sub(b"date", data)


def events(target: str = "/events", *fields: str) -> bytes:
    """A request for events."""
    return "\r\n".join([f"GET {target} HTTP/1.1", HOST, *fields, "", ""]).encode()


def handshake(target: str = "/ws", *fields: str) -> bytes:
    """A WebSocket's handshake."""
    lines = "".join(f"\r\n{field}" for field in fields).encode()
    return UPGRADE.replace(b"/ws", target.encode()).replace(b"\r\nUpgrade", lines + b"\r\nUpgrade")


STREAMS = {
    "events": events(),
    "a query": events("/events?topic=assets&format=envelope&observe=1"),
    "of the whole topic": events("/events?scope=topic"),
    "gzip": events("/events", "Accept-Encoding: gzip"),
    "an id": events("/events", "Last-Event-ID: assets:0=3"),
    "an origin": events("/events", f"Origin: {ORIGIN}"),
    "a WebSocket": handshake(),
    "a WebSocket with a query": handshake("/ws?scope=topic&ack=client"),
    "a subprotocol": handshake("/ws", "Sec-WebSocket-Protocol: other, dispatcher.v1.json"),
    "another subprotocol": handshake("/ws", "Sec-WebSocket-Protocol: other"),
    "deflate": handshake("/ws", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
    "a WebSocket of an origin": handshake("/ws", f"Origin: {ORIGIN}"),
}
OPEN: dict[str, Any] = {"compression": "on", "allowed_origins": [ORIGIN, "*"]}


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, OPEN) for name in STREAMS), *((name, {}) for name in STREAMS if "origin" not in name)],
)
async def test_a_stream_begins_with_the_same_bytes(name: str, settings: dict[str, Any]) -> None:
    """Head and first state, byte for byte but for the date."""
    found = []
    for direct in (False, True):
        house = Either(direct=direct, **settings)
        async with house.serving():
            # A compressed state is in the same write as the head.
            end = {"gzip": b"\r\n\x1f\x8b", "deflate": b"\r\n\r\n\xc1"}.get(name, b"") if settings else b""
            found.append(await house.response(STREAMS[name], end or b'"features"'))
    assert found[0] == found[1]
    assert found[0].startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 101 "))


REFUSED = {
    "a wrong query": events("/events?since=never"),
    "an unknown topic": handshake("/ws?topic=other"),
    "a stranger's page": events("/events", "Origin: https://stranger.example"),
    "a stranger's WebSocket": handshake("/ws", "Origin: https://stranger.example"),
    "another host": events().replace(b"localhost", b"rebound.example"),
    "acknowledgements over SSE": events("/events?ack=client"),
    "too far back": events("/events?since=-10d"),
    "no handshake": events("/ws"),
    "a handshake at another path": handshake("/events"),
    "a body": events("/events", "Content-Length: 0", "Connection: close"),
    "HTTP/1.0": events().replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_everything_else_is_answered_by_quart_and_hypercorn(name: str) -> None:
    """Refusals, and requests that are not ordinary, have the same answers either way."""
    found = []
    for direct in (False, True):
        house = Either(direct=direct, max_since_seconds=3600)
        async with house.serving():
            request = REFUSED[name].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            found.append(await house.response(REFUSED[name] if b"Upgrade" in request else request))
            assert house.limits.statistics().refused == 0
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("asked", "limit", "end"),
    [
        (events(), {"max_subscribers": 1}, b"0\r\n\r\n"),
        (events(), {"max_subscribers_per_address": 1}, b"0\r\n\r\n"),
        (events(), {"connects_per_second_per_address": 0.1}, b"0\r\n\r\n"),
        (handshake(), {"max_subscribers": 1}, b"}"),
        (handshake(), {"max_subscribers_per_address": 1}, b"\x88"),
        (handshake(), {"connects_per_second_per_address": 0.1}, b"\x88"),
    ],
)
async def test_what_is_refused_directly_is_refused_once(
    asked: bytes, limit: dict[str, Any], end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response of a full house is the same, and a limit counts one refusal, although two parties saw it."""
    monkeypatch.setattr(goodbyes, "RETRY_SPREAD_MS", (1000, 1000))
    found = []
    for direct in (False, True):
        house = Either(direct=direct, **limit)
        async with house.serving(), house.sse():
            await house.until(lambda house=house: house.hub.subscribers == 1)  # type: ignore[misc]
            found.append((await house.response(asked, end, left=1), house.limits.statistics().refused))
    assert found[0] == found[1]
    assert found[0][1] == (0 if "max_subscribers" in limit else 1)


async def test_ordinary_streams_do_without_the_app() -> None:
    """With an app that fails every request, they begin all the same."""
    house = Either(direct=True)

    class Broken(Quart):
        async def __call__(self, *_arguments: object) -> None:
            raise AssertionError("the app was asked")

    house.server._app = type(house.server._app)(Broken("broken"))
    async with house.serving():
        for request in (events(), handshake()):
            assert b'"streaming"' in await house.response(request)


@pytest.mark.parametrize("way", ["half-closed", "closed"])
async def test_a_client_that_has_left_gets_no_record(transport: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves while its request waits for its turn takes nothing, and nothing counts as dispatched."""
    house, may_begin, wait_for_turn = House(transport), trio.Event(), Connection._wait_for_turn

    async def wait_longer(connection: Connection, *cost: int) -> None:
        await wait_for_turn(connection, *cost)
        await may_begin.wait()

    monkeypatch.setattr(Connection, "_wait_for_turn", wait_longer)
    async with house.serving():
        house.publish(ONE)
        async with house.connected() as stream:
            await stream.send_all(events())
            await trio.testing.wait_all_tasks_blocked(0.01)
            if way == "closed":
                await stream.aclose()
            else:
                transport_stream = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
                await transport_stream.send_eof()
            may_begin.set()
            await house.until(lambda: not house.server.connections)
        assert house.dispatched == []


async def test_an_unexpected_error_is_answered_with_500(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is by the app."""

    def fail(*_arguments: object) -> None:
        raise RecursionError

    monkeypatch.setattr(StreamOpener, "_admit", fail)
    found = []
    for direct in (False, True):
        house = Either(direct=direct)
        async with house.serving():
            found.append([await house.response(asked, b"}") for asked in (events(), handshake())])
    assert found[0] == found[1]
    assert all(answer.startswith(b"HTTP/1.1 500 ") for answer in found[0])


@given(st.text(alphabet="ab=&%+;/?41fF \N{SNOWMAN}", max_size=30))
def test_queries_are_read_as_quart_reads_them(query: str) -> None:
    """Names without values, repeated ones, and bytes that are not UTF-8."""
    from werkzeug.sansio.request import Request

    quoted = query.replace(" ", "%20").replace("\N{SNOWMAN}", "%E2%98%83")
    request = Request("GET", "http", None, "", "/", quoted.encode(), cast("Any", {}), None)
    assert read_arguments(quoted) == request.args.to_dict(flat=False)
