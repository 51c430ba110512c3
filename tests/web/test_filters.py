"""Filters in requests, over real sockets: what is sent, what the state says, and how wrong ones are answered."""

import json
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest
import trio
import trio.testing
from click.testing import CliRunner
from wsproto.events import CloseConnection, TextMessage

from dispatcher.client import subscribe
from dispatcher.command.main import main
from dispatcher.sansio.filter_dialect import read_filter
from testbed import commands
from testbed.clients import Event, SseStream
from tests.hub.test_filtered import KeyedBench
from tests.hub.test_hub import ONE
from tests.web.test_transports import UPGRADE, House, WsStream

WANTED = quote('{"any":[{"exact":{"key":"a"}},{"exact":{"/n":5}}]}')

WRONG = quote('{"all":[{"exact":{"colour":"red"}}]}')


class KeyedHouse(House, KeyedBench):
    """Publishes records with keys."""


class Asking(WsStream):
    """A WebSocket with a query."""

    async def open_with(self, query: str) -> None:
        """Shake hands."""
        await self.stream.send_all(UPGRADE.replace(b"GET /ws ", f"GET /ws?{query} ".encode()))
        head = b""
        while b"\r\n\r\n" not in head:
            head += await self.stream.receive_some(1)
        assert head.startswith(b"HTTP/1.1 101 ")

    async def first_state(self) -> Any:
        """The first message of the stream."""
        event = await self.next_event()
        assert isinstance(event, TextMessage)
        return json.loads(event.data)

    async def records(self, number: int) -> list[Any]:
        """The next records, however many a message holds."""
        found: list[Any] = []
        while len(found) < number:
            event = await self.next_event()
            if isinstance(event, TextMessage):
                found += json.loads(event.data).get("records", ())
        return found


async def events(stream: SseStream, kind: str, number: int) -> list[Event]:
    """The next events of one type."""
    found: list[Event] = []
    while len(found) < number:
        event = await stream.next_event()
        assert event is not None
        if event.type == kind:
            found.append(event)
    return found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("key=a", {"exact": {"key": "a"}}),
        ("key=a&key=x", {"in": {"key": ["a", "x"]}}),
        ("key_prefix=a&partition=0", {"all": [{"prefix": {"key": "a"}}, {"exact": {"partition": "0"}}]}),
        (f"filter={WANTED}", {"any": [{"exact": {"key": "a"}}, {"exact": {"/n": "5"}}]}),
    ],
)
async def test_a_request_is_sent_what_it_asks_for(query: str, expected: dict[str, object]) -> None:
    """On both protocols, live and from memory, beside others; the state echoes the filter."""
    house = KeyedHouse("plain")
    async with house.serving(), house.connected() as one, house.connected() as other:
        sse, socket = SseStream(one), Asking(other)
        await sse.open(f"/events?{query}")
        await socket.open_with(query)
        state = json.loads((await events(sse, "state", 1))[0].data)
        assert read_filter(state["filter"]) == read_filter(expected)
        assert (await socket.first_state())["filter"] == state["filter"]
        await house.live(2)
        house.publish_keys("n", "a", "n")
        house.publish_keys("n")
        house.publish_keys("a")
        found = await events(sse, "message", 2)
        assert [event.data for event in found] == ["1", "4"]
        assert [record["value"] for record in await socket.records(2)] == ["1", "4"]
        async with house.connected() as late:
            resumed = SseStream(late)
            await resumed.open(f"/events?{query}&last_event_id=assets:0=1")
            assert [(event.data, event.id) for event in await events(resumed, "message", 1)] == [("4", found[1].id)]
        await house.until(lambda: house.ranges == {ONE: set(range(5))})
        assert house.unmatched() == {"assets": 3}


async def test_the_python_client_and_tail_ask_for_what_they_want() -> None:
    """They get what matches, and a wrong filter is refused with its place."""
    house = KeyedHouse("plain")

    async def tail(url: str, arguments: list[str], code: int, said: str) -> None:
        options = ["--since", "earliest", "--observe", "--count", "1", "--format", "value", "--quiet"]
        done = await commands.run("tail", url, *options, *arguments)
        printed = " ".join((done.stdout + done.stderr).decode().split())
        assert (done.returncode, said in printed) == (code, True), printed

    async with house.serving(60), trio.open_nursery() as nursery:
        host, port = house.server.addresses[0]
        url = f"http://{host}:{port}"
        house.publish_keys("n", "a", "b")
        async with subscribe(url, keys=["a", "b"], filter={"exact": {"key": "b"}}) as stream:
            record = await anext(aiter(stream))
            assert (record.key, record.value) == (b"b", b"2")
        nursery.start_soon(tail, url, ["--key", "a", "--key", "x"], 0, "1")
        nursery.start_soon(tail, url, ["--field", "tenant:t1"], 3, "'tenant:t1' is not POINTER:VALUE")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--record-header", "tenant:t1", "--field", "tenant"], "'tenant' has no value"),
        (["--record-header", ":t1"], "empty or has a colon"),
    ],
)
def test_what_tail_cannot_ask_for_is_wrong_usage(arguments: list[str], reason: str) -> None:
    """Nothing is sent."""
    done = CliRunner().invoke(main, ["tail", "http://127.0.0.1:1", *arguments])
    assert (done.exit_code, reason in " ".join(done.output.split())) == (2, True), done.output


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("header=tenant", "header[0]: 'tenant' is not NAME:VALUE, such as tenant:t1"),
        (
            f"filter={WRONG}",
            "filter[0]/all/0/exact/colour: 'colour' is not a place",
        ),
        ("key=%ED%A0%80", None),
        (f"key={'k' * 2049}", "the filter has 2049 bytes; at most 2048 are allowed"),
    ],
)
async def test_a_wrong_filter_is_refused_with_its_place(query: str, reason: str | None) -> None:
    """The code is 400, or 4400 on WebSocket, and nothing is settled."""
    house = KeyedHouse("plain")
    async with house.serving(), house.connected() as one, house.connected() as other:
        house.publish_keys("a")
        if reason is None:
            # What is not UTF-8 is read with replacement characters, which no key has.
            sse = SseStream(one)
            await sse.open(f"/events?{query}")
            assert sse.response.status_code == 200
            return
        sse = SseStream(one)
        await sse.open(f"/events?{query}")
        assert sse.response.status_code == 400
        await sse.read_some()
        assert reason in json.loads(sse.raw)["detail"]
        socket = Asking(other)
        await socket.open_with(query)
        closed = await socket.next_event()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 4400
        assert reason[:60] in str(closed.reason)
        await trio.testing.wait_all_tasks_blocked()
        assert (house.ranges, house.unmatched()) == ({}, {})


async def test_one_feed_more_than_there_may_be_is_answered_with_4429() -> None:
    """A thousand feeds of one client stay within the history's bound."""
    house = KeyedHouse("plain", max_feeds=2, history_bytes=20_000, pause_above_bytes=10_000, resume_below_bytes=5_000)
    async with house.serving(), AsyncExitStack() as stack:
        for number in range(2):
            stream = SseStream(await stack.enter_async_context(house.connected()))
            query = quote(f'{{"suffix":{{"key":"{number}"}}}}')
            await stream.open(f"/events?filter={query}")
            assert len(await events(stream, "state", 1)) == 1
        async with house.connected() as one, house.connected() as other:
            refused, closed = SseStream(one), Asking(other)
            query = quote('{"suffix":{"key":"refused"}}')
            await refused.open(f"/events?filter={query}")
            goodbye = json.loads((await events(refused, "goodbye", 1))[0].data)
            assert (goodbye["code"], "max_feeds" in goodbye["reason"]) == (4429, True)
            await closed.open_with(f"filter={query}")
            while not isinstance(event := await closed.next_event(), CloseConnection):
                pass
            assert event.code == 4429
        for _ in range(100):
            house.publish_keys("0", "1", "refused")
        await house.until(lambda: house.ranges == {ONE: set(range(300))})
        assert house.hub.statistics().history.size_bytes <= 20_000
        # What an index finds costs no work for other records, so a thousand of them are not bounded.
        again = SseStream(await stack.enter_async_context(house.connected()))
        await again.open("/events?key=refused")
        assert len(await events(again, "state", 1)) == 1
