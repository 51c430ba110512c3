"""The access log: one line at the end of each stream, with whose it was, what, how long, how much, and why."""

import gc
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import structlog
import trio
from wsproto.events import CloseConnection

from dispatcher.hub.goodbyes import spread
from dispatcher.web import visits
from dispatcher.web.app import create_app
from dispatcher.web.limits import Limits
from dispatcher.web.operations import Operations
from dispatcher.web.requests import Query
from dispatcher.web.server import Server
from dispatcher.web.visits import LINES_PER_SECOND, SHORT_LINES, SHOWN_CHARACTERS, Ending, Visits, printable
from testbed.clients import SseStream
from testbed.patience import seconds
from tests.hub.test_hub import ONE, Bench
from tests.web import test_transports
from tests.web.test_transports import House, WsStream

BAD_FRAME = b"\x83\x80\x00\x00\x00\x00"
"""Opcode 3 is reserved (RFC 6455, section 5.2)."""

Lines = list[MutableMapping[str, Any]]


class Observed(House):
    """A house that lists its streams."""

    def __init__(self, **settings: Any) -> None:
        self.secure = False
        Bench.__init__(self, bind="127.0.0.1:0", topics=[ONE.topic], **settings)
        self.visits = Visits(writes_log=self.settings.access_log)
        app = create_app(
            self.hub, self.settings, cast("Operations", None), Limits(self.settings), None, visits=self.visits
        )
        self.server = Server(app, self.settings, lambda: self.hub.subscribers, direct=app.direct)

    @asynccontextmanager
    async def named(self, agent: str, receive_buffer_bytes: int = 0) -> AsyncIterator[SseStream]:
        """A subscriber that says what it is."""
        async with self.connected(receive_buffer_bytes) as stream:
            client = SseStream(stream)
            await client.open("/events", {"User-Agent": agent})
            yield client


@pytest.fixture
def lines() -> Any:
    """What is logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured


def ended(lines: Lines) -> Lines:
    """The access log."""
    return [line for line in lines if line["event"] == "stream ended"]


async def leave(_house: Observed, client: SseStream | WsStream) -> None:
    """End our side of the connection."""
    stream = client.stream
    assert isinstance(stream, trio.SocketStream)
    await stream.send_eof()


async def reset(_house: Observed, client: SseStream | WsStream) -> None:
    """Vanish with a reset."""
    assert isinstance(client, SseStream)
    client.reset()


async def close(_house: Observed, client: SseStream | WsStream) -> None:
    """Send a close frame with our own code."""
    assert isinstance(client, WsStream)
    await client.stream.send_all(client._ws.send(CloseConnection(code=4000, reason="lunch")))


async def break_protocol(_house: Observed, client: SseStream | WsStream) -> None:
    """Send what is no frame."""
    await client.stream.send_all(BAD_FRAME)


async def say_goodbye(house: Observed, _client: SseStream | WsStream) -> None:
    """Let the server end it."""
    for subscriber in house.hub.sample_subscribers(1):
        subscriber.end(spread())


async def stall(house: Observed, _client: SseStream | WsStream) -> None:
    """Read nothing of what is too much for every buffer."""
    for _ in range(2):
        house.publish_large()


async def stop_server(house: Observed, _client: SseStream | WsStream) -> None:
    """Close everything at once."""
    await house.server.stop(0)


ENDINGS: Mapping[str, tuple[str, Callable[..., Awaitable[None]], Mapping[str, object]]] = {
    "leaves": ("sse", leave, {"why": Ending.CLIENT_LEFT, "code": None}),
    "leaves a WebSocket": ("ws", leave, {"why": Ending.CLIENT_LEFT, "code": None}),
    "resets": ("sse", reset, {"why": Ending.CLIENT_LEFT}),
    "closes": ("ws", close, {"why": Ending.CLIENT_CLOSED, "code": 4000}),
    "breaks the protocol": ("ws", break_protocol, {"why": Ending.BROKE_PROTOCOL, "code": 1002}),
    "goodbye": ("sse", say_goodbye, {"why": Ending.GOODBYE, "code": 1013}),
    "goodbye on a WebSocket": ("ws", say_goodbye, {"why": Ending.GOODBYE, "code": 1013}),
    "stalls": ("sse", stall, {"why": Ending.STALLED}),
    "is cut": ("sse", stop_server, {"why": Ending.CUT}),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_each_end_is_one_line_that_says_why(ending: str, lines: Lines) -> None:
    """However a stream ends, its one line names the cause."""
    transport, end, expected = ENDINGS[ending]
    house = Observed(stall_timeout_seconds=0.5)
    async with house.serving(), house.sse(4096) if transport == "sse" else house.ws() as client:
        await house.live()
        await end(house, client)
        await house.until(lambda: not house.hub.subscribers)
        await house.until(lambda: bool(ended(lines)))
    assert len(ended(lines)) == 1
    line = ended(lines)[0]
    assert {name: line[name] for name in expected} == expected
    assert house.visits.open == {}


async def test_the_line_says_whose_stream_it_was_and_how_much_it_took(lines: Lines) -> None:
    """It has address, agent, topics, records, and acknowledged bytes."""
    house = Observed()
    async with house.serving(), house.named("teapot/1.0 \x7f" + "x" * 200) as client:
        await house.live()
        house.publish(ONE, ONE)
        while "data: 1" not in client.raw:
            await client.read_some()
        (visit,) = house.visits.open.values()
        await house.until(lambda: visit.acknowledged_bytes >= len(client.raw))
        await leave(house, client)
        await house.until(lambda: bool(ended(lines)))
    line = ended(lines)[0]
    assert (line["client"], line["subject"], line["topics"], line["scope"]) == (
        "127.0.0.1",
        None,
        ["assets"],
        "replica",
    )
    assert line["agent"].startswith(r"teapot/1.0 \x7fxxx")
    assert len(line["agent"]) < 2 * SHOWN_CHARACTERS
    assert line["records"] == 2
    assert line["bytes"] >= len(client.raw)
    assert 0 <= line["seconds"] < seconds(20)


@pytest.mark.parametrize("path", ["/events", "/ws"])
async def test_an_open_stream_does_not_keep_its_request(path: str) -> None:
    """An id of 23 characters names 8,192 partitions, which took more than a megabyte until the stream ended."""
    house = Observed()
    house.hub.expect({ONE.topic: 2})
    request = test_transports.UPGRADE if path == "/ws" else b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with house.serving(), house.connected() as stream:
        await trio.testing.wait_all_tasks_blocked()
        before = requests_in_memory()
        named = f"{path}?last_event_id=assets:~AQEA_z_pBwA".encode()
        await stream.send_all(request.replace(path.encode(), named, 1))
        await house.live()
        assert [visit.subscriber.feed.topics for visit in house.visits.open.values()] == [{ONE.topic}]
        assert requests_in_memory() == before


def requests_in_memory() -> int:
    """How many requests for streams are kept."""
    gc.collect()
    return sum(isinstance(one, Query) for one in gc.get_objects())


async def test_a_storm_of_ends_is_counted_not_written(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 50 lines per second are written, then one with the number left out."""
    monkeypatch.setattr(visits, "SHORT_SECONDS", 0)
    house = Observed(shutdown_seconds=60)
    number = LINES_PER_SECOND + 7
    async with house.serving(60), trio.open_nursery() as nursery:
        nursery.start_soon(house.visits.run)
        async with trio.open_nursery() as clients:

            async def visit() -> None:
                async with house.sse() as client:
                    while await client.read_some():
                        pass

            for _ in range(number):
                clients.start_soon(visit)
            await house.until(lambda: len(house.visits.open) == number)
            # All in one step of the loop: none of them can be late.
            for one in tuple(house.visits.open.values()):
                one.end(Ending.CUT)
            assert len(ended(lines)) == LINES_PER_SECOND
            assert house.visits.left_out == 7
            clients.cancel_scope.cancel()
        await house.until(lambda: any("left out" in line["event"] for line in lines))
        nursery.cancel_scope.cancel()
    (line,) = (line for line in lines if "left out" in line["event"])
    assert line["number"] == 7
    assert len(ended(lines)) == LINES_PER_SECOND


async def test_short_streams_of_one_address_do_not_fill_the_log(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an address gets a few lines, and the next one has its own."""
    monkeypatch.setattr(visits, "SHORT_LINES_PER_SECOND", 0)
    monkeypatch.setattr(visits, "SHORT_SECONDS", math.inf)
    house = Observed()
    async with house.serving(60):
        for _ in range(SHORT_LINES + 3):
            async with house.sse():
                await house.until(lambda: len(house.visits.open) == 1)
            await house.until(lambda: not house.visits.open)
        assert (len(ended(lines)), house.visits.left_out) == (SHORT_LINES, 3)
        async with house.sse():
            await house.until(lambda: len(house.visits.open) == 1)
            (visit,) = house.visits.open.values()
            visit.visitor = replace(visit.visitor, address="127.0.0.2")
        await house.until(lambda: not house.visits.open)
        assert (len(ended(lines)), house.visits.left_out) == (SHORT_LINES + 1, 3)


async def test_the_access_log_can_be_off(lines: Lines) -> None:
    """With `access_log = false`, ends are counted but not logged, because they hold personal data."""
    house = Observed(access_log=False)
    async with house.serving(), house.sse() as client:
        await leave(house, client)
        await house.until(lambda: house.visits.endings[Ending.CLIENT_LEFT] == 1)
    assert not ended(lines)


def test_what_a_client_says_of_itself_is_printable() -> None:
    """There are no escape sequences, line ends, or endless texts."""
    assert printable("a\x1b[0m\né\u202e") == r"a\x1b[0m\n\xe9\u202e"
    assert len(printable("x" * 10_000)) < SHOWN_CHARACTERS + 10
