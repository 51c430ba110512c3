"""What a Trio program can rely on: cancellation, errors, backpressure, TLS, and where headers go."""

import math
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
import pytest
import trio
import trio.testing

from dispatcher.client import (
    Gap,
    Record,
    RefusedError,
    State,
    UnreachableError,
    WrongAddressError,
    WrongServerError,
    subscribe,
)
from dispatcher.client.address import read_address
from dispatcher.client.decoding import read_message
from dispatcher.client.events import StateReceived
from dispatcher.client.resume_position import ResumePosition
from dispatcher.errors import DispatcherError
from dispatcher.sansio.compact_position import spell_compact
from dispatcher.sansio.position import parse_position
from testbed.certificate import certificate
from testbed.patience import seconds
from tests.client_cases.encoding import own_pair, payload
from tests.client_cases.server import case_server

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
QUICK: dict[str, Any] = {"first_wait_seconds": 0.01}

Handler = Callable[[trio.abc.Stream, bytes], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, tls: bool = False) -> AsyncIterator[str]:
    """A server that hands every connection to the handler, with the head of its request; gives its host and port."""

    async def serve(stream: trio.abc.Stream) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                part = bytes(await stream.receive_some(65536))
                if not part:
                    return
                head += part
            await handler(stream, head)
            await stream.aclose()
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        start: Any = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        if tls:
            start = partial(trio.serve_ssl_over_tcp, serve, 0, certificate().server, host="127.0.0.1")
        listeners = await nursery.start(start)
        plain = listeners[0].transport_listener if tls else listeners[0]
        yield f"127.0.0.1:{plain.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def records(*ids: str) -> bytes:
    """Return records as a stream has them."""
    return payload({"records": list(ids)}, "envelope", 15.0)


async def test_cancelling_a_wait_loses_no_record() -> None:
    """It may be cancelled while it connects, within an event, or between records."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server, subscribe(f"{server.url}/byte-by-byte/run/ws", **QUICK) as stream:
            came: list[str] = []
            cancelled = 0
            while len(came) < 4:
                async with trio.open_nursery() as nursery:

                    async def take(scope: trio.CancelScope = nursery.cancel_scope) -> None:
                        came.append(own_pair((await anext(stream)).id))
                        scope.cancel()

                    nursery.start_soon(take)
                    for _ in range(cancelled % 7):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
                    cancelled += 1
    assert came == ["assets:0=0", "assets:0=1", "assets:1=0", "assets:0=2"]
    assert cancelled > 4


async def test_it_connects_though_nobody_waits_for_long() -> None:
    """A caller that repeatedly waits for only a moment gets connected as well."""

    async def answer(stream: trio.abc.Stream, _: bytes) -> None:
        await trio.sleep(0.2)
        await stream.send_all(HEAD + records("assets:0=0"))
        await trio.sleep_forever()

    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, subscribe(f"http://{host}") as stream:
            record = None
            while record is None:
                with trio.move_on_after(0.01):
                    record = await anext(stream)
    assert record.id == "assets:0=0"


async def test_an_exception_of_the_block_arrives_as_it_is() -> None:
    """It is not wrapped in a group, although there is a nursery."""
    with pytest.raises(ZeroDivisionError):
        async with subscribe("http://127.0.0.1:1"):
            raise ZeroDivisionError


async def test_a_wrong_argument_raises_at_once() -> None:
    """It raises before anything is sent, and is also a `ValueError`."""
    with pytest.raises(WrongAddressError, match="use http://HOST:PORT"):
        async with subscribe("127.0.0.1:8000"):
            raise AssertionError
    assert issubclass(WrongAddressError, ValueError)


async def test_after_the_block_there_is_nothing_to_take() -> None:
    """Nothing can be taken after the block, even if something had arrived."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server:
            async with subscribe(f"{server.url}/plain/run") as stream:
                await anext(stream)
            with pytest.raises(trio.ClosedResourceError):
                await anext(stream)
    assert parse_position(stream.position) == parse_position("assets:0=0")


async def test_what_ended_it_is_raised_each_time() -> None:
    """The error is raised after everything that arrived before it, and on every further call."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server, subscribe(f"{server.url}/goodbye-4401/run") as stream:
            assert (await anext(stream)).id == "assets:0=0"
            for _ in range(2):
                with pytest.raises(RefusedError, match="code 4401: the token has expired"):
                    await anext(stream)
            assert stream.state == State("closed", "code 4401: the token has expired")


async def test_gaps_are_logged_where_nobody_takes_them(caplog: pytest.LogCaptureFixture) -> None:
    """A hole is never silent."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server, subscribe(f"{server.url}/gap-expired/run", **QUICK) as stream:
            assert [(await anext(stream)).offset for _ in range(2)] == [2, 10]
    assert [record.getMessage() for record in caplog.records] == ["gap: assets:0 has no offsets 3 to 9 (expired)"]


async def test_a_caller_that_takes_nothing_slows_the_server_down() -> None:
    """One chunk waits and one is in hand; the rest stays with the server."""
    sent = 0

    async def flood(stream: trio.abc.Stream, _: bytes) -> None:
        nonlocal sent
        await stream.send_all(HEAD)
        while True:
            data = records(f"assets:0={sent}") + b":" + b"x" * 100_000 + b"\n\n"
            await stream.send_all(data)
            sent += 1

    with trio.fail_after(seconds(60)):
        async with serving(flood) as host, subscribe(f"http://{host}") as stream:
            assert (await anext(stream)).offset == 0
            before = -1
            while before != sent:
                before = sent
                await trio.testing.wait_all_tasks_blocked(0.1)
            assert (await anext(stream)).offset == 1
            assert stream._receive.statistics().current_buffer_used <= 1
            stopped_at = sent
            for offset in range(2, stopped_at + 5):
                assert (await anext(stream)).offset == offset


async def test_the_position_is_of_what_was_taken() -> None:
    """Records that were only read ahead are not in the position."""

    async def answer(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(HEAD + records("a:0=0", "a:0=1", "a:0=2") + b"id: a:0=2,1=-1\n\n" + records("a:1=0,0=2"))
        await trio.sleep_forever()

    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, subscribe(f"http://{host}", last_event_id="b:7=7") as stream:
            positions = [stream.position]
            for _ in range(4):
                await anext(stream)
                positions.append(stream.position)
    expected = ["b:7=7", "a:0=0;b:7=7", "a:0=1;b:7=7", "a:0=2;b:7=7", "a:0=2,1=0;b:7=7"]
    assert positions == expected


async def test_the_position_of_the_first_state_is_there_with_the_state() -> None:
    """A caller without a record can store it; later states do not move it."""
    state = payload({"state": "streaming", "id": "a:0=41,1=-1"}, "envelope", 15.0)

    async def answer(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(HEAD + state + payload({"state": "waiting"}, "envelope", 15.0))
        await trio.sleep_forever()

    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, subscribe(f"http://{host}") as stream:
            told: list[tuple[str, str]] = []
            events = stream.events()
            while len(told) < 3:
                event = await anext(events)
                assert isinstance(event, State)
                told.append((event.name, stream.position))
    assert told == [("connecting", ""), ("live", "a:0=41,1=-1"), ("waiting", "a:0=41,1=-1")]


@pytest.mark.parametrize("scheme", ["https", "wss"])
async def test_tls(scheme: str) -> None:
    """It connects if the certificate is trusted, and otherwise gives up with the reason."""

    async def refuse(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with trio.fail_after(seconds(60)):
        async with serving(refuse, tls=True) as host:
            async with subscribe(f"{scheme}://{host}", ssl_context=certificate().client) as stream:
                with pytest.raises(RefusedError, match="HTTP 404"):
                    await anext(stream)
            async with subscribe(f"{scheme}://{host}") as stream:
                with pytest.raises(WrongServerError, match="certificate is not trusted: unable to get"):
                    await anext(stream)


async def test_no_tls_where_it_was_expected() -> None:
    """It may be there the next time, so it is retried as often as allowed."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example.org\r\n")

    with trio.fail_after(seconds(60)):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            async with subscribe(f"https://127.0.0.1:{port}", max_failures=1, **QUICK) as stream:
                with pytest.raises(
                    UnreachableError, match="2 attempts in a row failed; the last: the server does not speak TLS"
                ):
                    await anext(stream)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_headers_and_credentials_stay_with_their_origin(scheme: str) -> None:
    """A redirect to another origin gets the position, but no secret."""
    heads: list[bytes] = []

    async def refuse(stream: trio.abc.Stream, head: bytes) -> None:
        heads.append(head)
        await stream.send_all(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")

    async def redirect(stream: trio.abc.Stream, head: bytes) -> None:
        heads.append(head)
        location = f"http://{other}/events" if b"/moved" in head else "/moved"
        await stream.send_all(f"HTTP/1.1 308 Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    with trio.fail_after(seconds(60)):
        async with serving(refuse) as other, serving(redirect) as host:
            options: dict[str, Any] = {"headers": {"X-Key": "secret"}, "last_event_id": "a:0=1"}
            async with subscribe(f"{scheme}://me:word@{host}", **options) as stream:
                with pytest.raises(RefusedError, match="HTTP 410: Gone"):
                    await anext(stream)
    assert [b"X-Key: secret" in head for head in heads] == [True, True, False]
    assert [b"Authorization: Basic" in head for head in heads] == [True, True, False]
    assert [b"Last-Event-ID: a:0=1" in head for head in heads] == [True, True, True]


class SlowNames(trio.abc.HostnameResolver):
    """A name server that does not answer the first time."""

    def __init__(self) -> None:
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:  # noqa: ARG002 - it is any
        """One address, in the end."""
        self.asked += 1
        if self.asked == 1:
            await trio.sleep_forever()
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Nobody asks."""
        raise NotImplementedError


async def test_a_slow_name_server() -> None:
    """The name look-up counts towards the connection timeout."""
    names = SlowNames()
    trio.socket.set_custom_hostname_resolver(names)
    with trio.fail_after(seconds(60)):
        async with case_server() as server:
            url = server.url.replace("127.0.0.1", "slow.example.org")
            async with subscribe(f"{url}/plain/run", connect_timeout_seconds=0.2, **QUICK) as stream:
                events = stream.events()
                told = [await anext(events) for _ in range(3)]
    assert told[0] == State("connecting")
    assert isinstance(told[1], State)
    assert (told[1].name, told[1].reason) == ("reconnecting", "no answer within 0.2 s")
    assert isinstance(told[2], State)
    assert (told[2].name, told[2].assigned) == ("live", {"assets": (0, 1)})
    assert names.asked == 2


async def test_a_caller_that_leaves_while_there_is_something_to_take() -> None:
    """Whatever waits to be handed out is dropped without an error."""
    with trio.fail_after(seconds(30)):
        async with subscribe("http://127.0.0.1:9", **QUICK) as stream:
            while not stream._send.statistics().tasks_waiting_send:  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.01)
            assert stream.state.name == "reconnecting"


@pytest.mark.parametrize(
    "said",
    [
        b"event: state\ndata: [1]\n\n",
        b"event: state\ndata: {\n\n",
        b'event: state\ndata: {"state":"streaming","assigned":5,"replica":""}\n\n',
        b'event: gap\ndata: {"topic":"t"}\n\n',
        b"data: hello\n\n",
        b'id: a:0=1\ndata: {"topic":"a","partition":0,"offset":1}\n\n',
        records("a:0=1").replace(b"id: a:0=1\n", b"id: a:0=2\n"),
        b"id: yesterday\n\n",
        b'event: goodbye\ndata: {"code":"soon"}\n\n',
    ],
)
async def test_what_no_dispatcher_says(said: bytes) -> None:
    """It is retried with growing delays and never handed out; the last attempt's error contains it."""

    async def answer(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(HEAD + said)
        await trio.sleep_forever()

    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, subscribe(f"http://{host}", max_failures=0) as stream:
            with pytest.raises(UnreachableError, match=r"message of a dispatcher|event id|does not begin with|lacks"):
                await anext(stream)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "records", "records": [1]},
        {"type": "records", "records": 1},
        {"type": "records"},
        {"type": "records", "records": [{"topic": "a", "partition": 0, "offset": 1, "timestamp": "noon"}]},
        {"type": "state", "state": "streaming", "replica": "", "assigned": [1]},
        {"type": "state", "state": "streaming", "replica": "", "assigned": {}, "id": [1]},
    ],
)
def test_a_message_that_no_dispatcher_sends(message: dict[str, Any]) -> None:
    """Whatever it contains, the error belongs to the client's error tree."""

    def hear() -> None:
        for heard in read_message(orjson.dumps(message).decode()):
            assert isinstance(heard, StateReceived)
            parse_position(heard.id)

    with pytest.raises(DispatcherError):
        hear()


@pytest.mark.parametrize(
    "message", [{}, {"type": None}, {"type": []}, {"type": {}}, {"type": "weather", "records": [1]}]
)
def test_a_message_of_a_later_version_is_ignored(message: dict[str, Any]) -> None:
    """Messages of an unknown type are ignored."""
    assert read_message(orjson.dumps(message).decode()) == []


@pytest.mark.parametrize("said", [b"-ERR unknown command 'GET'\r\n", b"HTTP/1.1 fine\r\n\r\n"])
@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_what_does_not_speak_http(scheme: str, said: bytes) -> None:
    """The client gives up, because another attempt would find the same."""

    async def answer(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(said)

    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, subscribe(f"{scheme}://{host}") as stream:
            with pytest.raises(WrongServerError, match=r"HTTP/1\.1"):
                await anext(stream)


async def test_states_and_gaps_come_in_order_with_the_records() -> None:
    """Each of them arrives where it happened."""
    with trio.fail_after(seconds(60)):
        async with case_server() as server, subscribe(f"{server.url}/gap-recreated/run/ws", **QUICK) as stream:
            told: list[str] = []
            async for event in stream.events():
                told.append(event.name if isinstance(event, State) else type(event).__name__)
                assert not isinstance(event, Gap) or event.reason == "recreated"
                if told.count("Record") == 5:
                    break
    assert told == [
        *("connecting", "live", "Record", "Record", "Gap", "Record", "Record", "reconnecting", "live", "Record")
    ]
    assert stream.repeats == 1


@pytest.mark.parametrize(
    "location",
    ["http://[bad", "http://a..b/", "gopher://x/", "http://host:99999/", "http://ho st/", "", "http://\u2100.example/"],
)
async def test_a_redirect_to_nowhere(location: str) -> None:
    """The client raises its own error, which contains the address."""

    async def answer(stream: trio.abc.Stream, _: bytes) -> None:
        head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        await stream.send_all(head.encode())

    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, subscribe(f"http://{host}") as stream:
            with pytest.raises(WrongServerError, match=r"redirect|Location"):
                await anext(stream)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://a..b", {}),
        ("http://[::zz]", {}),
        (f"http://{'a' * 64}.example", {}),
        ("http://127.0.0.1", {"headers": {"X": "\u00e9"}}),
        ("http://127.0.0.1", {"headers": {"X": "a\r\nY: b"}}),
        ("http://127.0.0.1", {"headers": {"X Y": "a"}}),
        ("http://127.0.0.1", {"connect_timeout_seconds": math.nan}),
        ("http://127.0.0.1", {"first_wait_seconds": -1.0}),
        ("http://127.0.0.1", {"last_event_id": "t:0=1;t:0=1"}),
    ],
)
async def test_what_cannot_be_asked_is_an_error_at_once(url: str, options: dict[str, Any]) -> None:
    """It raises before anything is sent, as a single error and not in a group."""
    with pytest.raises(WrongAddressError):
        async with subscribe(url, **options):
            pass  # pragma: no cover


def test_an_international_name_is_asked_for_in_ascii() -> None:
    """Name servers and the Host header use the ASCII form (RFC 3490)."""
    address = read_address("http://b\u00fccher.example:81/?topic=\u00fc").address
    assert (address.host, address.authority) == ("xn--bcher-kva.example", "xn--bcher-kva.example:81")
    assert address.target.isascii()


async def test_records_before_a_wrong_id_are_handed_out_once() -> None:
    """They arrived in the same bytes, so the next connection asks for what follows them."""
    asked: list[bytes] = []

    async def answer(stream: trio.abc.Stream, request: bytes) -> None:
        asked.append(request)
        said = records("a:0=1") + b"id: a:0=~\n\n" if len(asked) == 1 else records("a:0=2")
        await stream.send_all(HEAD + said)
        await trio.sleep_forever()

    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, subscribe(f"http://{host}", **QUICK) as stream:
            assert [(await anext(stream)).offset for _ in range(2)] == [1, 2]
            assert stream.statistics().attempts == 2
            assert (stream.statistics().records, stream.statistics().partitions) == (2, 1)
    assert b"Last-Event-ID: a:0=1\r\n" in asked[1]


async def test_other_tasks_have_their_turns_while_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty bytes can name 8,192 partitions, and a chunk can hold thousands of such ids."""
    monkeypatch.setattr("dispatcher.client.subscription.BUSY_SECONDS", 0.0)
    number = 500
    wide = f"id: t:{spell_compact([*range(100)], [1] * 100)}\n\n".encode()
    in_turn = most = total = 0
    move_to = ResumePosition.move_to

    def counted(position: ResumePosition, event_id: str) -> None:
        nonlocal in_turn, most, total
        in_turn, total = in_turn + 1, total + 1
        most = max(most, in_turn)
        move_to(position, event_id)

    async def take_turns() -> None:
        nonlocal in_turn
        while True:
            await trio.lowlevel.checkpoint()
            in_turn = 0

    async def answer(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(HEAD + wide * number + records("assets:0=0"))
        await trio.sleep_forever()

    monkeypatch.setattr(ResumePosition, "move_to", counted)
    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            async with subscribe(f"http://{host}") as stream:
                await anext(stream)
            nursery.cancel_scope.cancel()
    assert total == 2 * number
    assert most < number / 10


async def test_a_generator_around_it_may_be_closed() -> None:
    """GeneratorExit is no error, and leaves the block as itself, not in a group."""
    async with case_server() as server:

        async def generate() -> AsyncGenerator[Record, None]:
            async with subscribe(f"{server.url}/plain/generator/events") as stream:
                async for record in stream:
                    yield record  # noqa: ASYNC119 - what an application may well do

        with trio.fail_after(seconds(60)):
            generator = generate()
            assert (await anext(generator)).offset == 0
            await generator.aclose()
