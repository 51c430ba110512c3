"""Bad input and hostile clients, each with a clear answer, on a replica without a broker and on one with records."""

import json
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import psutil
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection
from websockets.sync.client import connect

from testbed import requests
from testbed.clients import open_sse, open_ws, sse_records, ws_close_code, ws_records
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka

NO_BROKER = "127.0.0.1:9"
TOPIC = "assets"
UPGRADE = (
    b"GET /ws%b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n"
)
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def replica() -> Iterator[Replica]:
    """A replica that all of these tests share: none may do it harm."""
    settings = {"heartbeat_seconds": 0.3, "stall_timeout_seconds": 0.7}
    replica = Replica(NO_BROKER, TOPIC, settings=settings)
    yield replica
    replica.end()


@asynccontextmanager
async def raw(replica: Replica, request: bytes) -> AsyncIterator[trio.SocketStream]:
    """A plain socket on which a request was sent."""
    stream = await trio.open_tcp_stream("127.0.0.1", replica.port)
    try:
        await stream.send_all(request)
        yield stream
    finally:
        stream.socket.close()


async def answer(stream: trio.SocketStream) -> bytes:
    """All that the server says until it ends the connection, however it ends it."""
    data = b""
    with trio.fail_after(seconds(20)):
        with suppress(trio.BrokenResourceError):
            async for chunk in stream:
                data += chunk
    return data


async def read_until(stream: trio.SocketStream, text: bytes) -> bytes:
    """What the server says until this text has come."""
    data = b""
    with trio.fail_after(seconds(10)):
        while text not in data:
            chunk = await stream.receive_some(65536)
            assert chunk, data
            data += chunk
    return data


def problem(response: httpx2.Response, status: int) -> str:
    """The detail of an RFC 9457 answer."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    return str(body["detail"])


@pytest.mark.parametrize(
    ("query", "headers", "reason"),
    [
        ("", {"Last-Event-ID": "nonsense"}, "'nonsense' lacks the ':'"),
        ("", {"Last-Event-ID": "assets:0=x"}, "'x' is not an offset"),
        ("?last_event_id=assets:0=1,0=2", {}, "named twice"),
        ("?topic=nonsense", {}, "unknown topic 'nonsense'; this dispatcher serves assets"),
        ("?topic=assets&topic=more", {}, "unknown topic 'more'"),
        ("?sicne=now", {}, "unknown query parameter 'sicne': did you mean since?"),
        ("?format=xml", {}, "unknown format 'xml'; use value, envelope"),
        (
            "?since=yesterday",
            {},
            "since 'yesterday' is not a time: use earliest, now, -10m (or s, h, d), 2026-01-31T12:00:00Z, ",
        ),
        ("?since=2026-01-31T12:00:00", {}, "is not a time"),
        ("?since=-1", {}, "is not a time"),
        ("?since=1e3", {}, "is not a time"),
        ("?since=", {}, "is not a time"),
        ("?since=9999999999999999", {}, "is not a time"),
        ("?since=1&since=2", {}, "since is given 2 times"),
        ("?format=value&format=envelope", {}, "format is given 2 times"),
        ("?topic=%3Cscript%3E", {}, "unknown topic '<script>'"),
    ],
)
def test_a_wrong_request_for_events(replica: Replica, query: str, headers: dict[str, str], reason: str) -> None:
    """The response is 400 with the remedy, before any stream begins."""
    assert reason in problem(requests.get(f"{replica.url}/events{query}", headers=headers), 400)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?last_event_id=nonsense", "lacks the ':'"),
        ("?topic=no", "unknown topic"),
        ("?Observe=1", "did you mean"),
    ],
)
async def test_a_wrong_request_for_a_websocket(replica: Replica, query: str, reason: str) -> None:
    """The upgrade succeeds and the close code says why, because browsers hide failed upgrades."""
    async with open_ws(replica, query) as websocket:
        with trio.fail_after(seconds(10)):
            assert await ws_close_code(websocket) == 4400
        assert websocket.closed is not None
        assert reason in str(websocket.closed.reason)


def test_wrong_method_and_wrong_path(replica: Replica) -> None:
    """405 says what is allowed, and 404 where to look."""
    response = httpx2.post(f"{replica.url}/events", content=b"x" * 100_000)
    assert "Allow header" in problem(response, 405)
    assert "GET" in response.headers["allow"]
    assert "Nothing is served at this path" in problem(replica.get("/nothing"), 404)


async def test_a_header_of_100_kib(replica: Replica) -> None:
    """The response is 431, readable although the client keeps sending."""
    async with raw(replica, EVENTS[:-2] + b"X: " + b"x" * 100 * 1024 + b"\r\n\r\n") as stream:
        said = await answer(stream)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert b"16 KiB" in said


@pytest.mark.parametrize("size_bytes", [17_000, 40_000, 60_000])
async def test_a_long_head_in_one_segment(replica: Replica, size_bytes: int) -> None:
    """The response is 431 as well: the bound is for heads, not for segments."""
    async with raw(replica, EVENTS[:-2] + b"X: " + b"x" * size_bytes + b"\r\n\r\n") as stream:
        assert (await answer(stream)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("version", [b"1.1", b"1.2", b"1.9"])
async def test_no_host(replica: Replica, version: bytes) -> None:
    """Each version that requires it gets 400, and the log has no error."""
    async with raw(replica, b"GET /livez HTTP/%b\r\n\r\n" % version) as stream:
        assert (await answer(stream)).startswith(b"HTTP/1.1 400 ")
    assert '"level": "error"' not in replica.log


async def test_two_lengths(replica: Replica) -> None:
    """The response is 400, and nothing after it is read as another request (RFC 9112, section 6.3)."""
    smuggled = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    both = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with raw(replica, both + smuggled) as stream:
        said = await answer(stream)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1


def test_no_answer_is_guessed_at(replica: Replica) -> None:
    """On every path, browsers must use the declared content type."""
    for path in ("/livez", "/readyz", "/status", "/metrics", "/", "/client.js", "/nothing"):
        assert replica.get(path).headers["x-content-type-options"] == "nosniff"
    assert httpx2.head(f"{replica.url}/events").headers["x-content-type-options"] == "nosniff"


async def test_what_is_not_http(replica: Replica) -> None:
    """The response is 400."""
    async with raw(replica, b"\x16\x03\x01 hello\r\n\r\n") as stream:
        assert (await answer(stream)).startswith(b"HTTP/1.1 400 ")


async def test_http_2_by_prior_knowledge(replica: Replica) -> None:
    """The response is 505 with a reason, and the connection ends (trap W7)."""
    async with raw(replica, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") as stream:
        said = await answer(stream)
    assert said.startswith(b"HTTP/1.1 505 ")
    assert b"put a proxy in front" in said


async def test_http_2_by_upgrade(replica: Replica) -> None:
    """The upgrade is ignored, and the response is HTTP/1.1 (trap W7)."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    async with raw(replica, EVENTS[:-2] + upgrade) as stream:
        said = await read_until(stream, b"broker-down")
    assert said.startswith(b"HTTP/1.1 200 ")


def test_permessage_deflate_is_not_negotiated(replica: Replica) -> None:
    """The client offers it and works without it."""
    with connect(f"ws://127.0.0.1:{replica.port}/ws", compression="deflate", proxy=None) as websocket:
        assert json.loads(websocket.recv())["state"] == "broker-down"
        assert websocket.protocol.extensions == []


async def test_head_is_headers_only(replica: Replica) -> None:
    """It creates no subscriber (trap W9)."""
    await wait_for(replica, subscribers=0)
    response = await trio.to_thread.run_sync(httpx2.head, f"{replica.url}/events")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert replica.status()["subscribers"]["total"] == 0


async def test_binary_and_long_messages(replica: Replica) -> None:
    """The codes 1003 and 1009 tell the client what it did."""
    async with open_ws(replica) as websocket:
        await websocket.send_message(b"\x00binary")
        with trio.fail_after(seconds(10)):
            assert await ws_close_code(websocket) == 1003
    async with open_ws(replica) as websocket, trio.open_nursery() as nursery:
        nursery.start_soon(send_long, websocket)
        with trio.fail_after(seconds(10)):
            assert await ws_close_code(websocket) == 1009
        nursery.cancel_scope.cancel()


async def send_long(websocket: WebSocketConnection) -> None:
    """10 MiB in one message; the server closes before it has come."""
    with suppress(ConnectionClosed):
        await websocket.send_message("x" * 10 * 1024 * 1024)


async def test_messages_that_nobody_asked_for(replica: Replica) -> None:
    """100 of them are ignored, and the disconnect is noticed (trap W4)."""
    async with open_ws(replica) as websocket:
        for n in range(100):
            await websocket.send_message(f"message {n}")
        assert json.loads(await websocket.get_message())["type"] == "state"
        await wait_for(replica, subscribers=1)
    await wait_for(replica, subscribers=0)


async def test_a_message_that_looks_like_a_pong_in_the_middle(replicas: Callable[..., Replica]) -> None:
    """Pongs are skipped only at the start of a frame, so this binary message gets 1003."""
    # The stall timeout of the shared one is shorter than three requests on a busy machine.
    replica = replicas(NO_BROKER, TOPIC)
    pong = b"\x8a\x80\0\0\0\0"
    async with raw(replica, UPGRADE % (b"", b"")) as stream:
        await read_until(stream, b"broker-down")
        for part in (pong, pong + b"\x82\x86\0\0\0\0", pong):
            await stream.send_all(part)
            # Answered after what was sent before: so each part is read by itself.
            await trio.to_thread.run_sync(httpx2.get, f"{replica.url}/livez")
        assert b"\x03\xeb" in await read_until(stream, b"\x03\xeb"), "1003"


async def test_pings_that_are_never_answered(replica: Replica) -> None:
    """The connection is closed after a heartbeat and `stall_timeout_seconds` of silence."""
    async with raw(replica, UPGRADE % (b"", b"")) as stream:
        said = await answer(stream)
    assert b"101" in said.split(b"\r\n")[0]
    assert b"\x89\x00" in said, "a ping"
    await wait_for(replica, subscribers=0)


async def test_pipelined_bytes_after_a_stream_request(replica: Replica) -> None:
    """Sent with the request they are refused; later they end the connection (trap W8)."""
    async with raw(replica, EVENTS + EVENTS) as stream:
        assert b"nothing may follow" in await read_until(stream, b"nothing may follow")
    async with raw(replica, EVENTS) as stream:
        await read_until(stream, b"broker-down")
        await stream.send_all(EVENTS)
        await answer(stream)
    await wait_for(replica, subscribers=0)


async def test_half_closed_clients(replica: Replica) -> None:
    """A client that ends its side has left."""
    for request in (EVENTS, UPGRADE % (b"", b"")):
        async with raw(replica, request) as stream:
            await read_until(stream, b"broker-down")
            await stream.send_eof()
            await answer(stream)
    await wait_for(replica, subscribers=0)


async def test_finished_connections_go_away(replica: Replica) -> None:
    """They end at once with `Connection: close`; kept alive, the next request is answered (trap W1)."""
    for path in (b"/livez", b"/status", b"/nothing"):
        async with raw(replica, b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path) as stream:
            assert (await answer(stream)).startswith(b"HTTP/1.1 ")
    async with httpx2.AsyncClient(base_url=replica.url) as client:
        for _ in range(3):
            assert (await client.get("/livez")).status_code == 200


async def test_http_1_0_gets_the_stream_without_chunks(replica: Replica) -> None:
    """The end of the connection ends the stream."""
    async with raw(replica, b"GET /events HTTP/1.0\r\n\r\n") as stream:
        said = await read_until(stream, b"broker-down")
    head, body = said.split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in head.lower()
    assert body.startswith(b"retry: 1000\nevent: state\n")


async def test_a_stream_outlives_quarts_response_timeout(replicas: Callable[..., Replica]) -> None:
    """Quart would end a response after a time as if it were complete (trap P4)."""
    code = "from dispatcher.web.app import App\nApp.default_config = {**App.default_config, 'RESPONSE_TIMEOUT': 0.2}"
    replica = replicas(NO_BROKER, TOPIC, settings={"heartbeat_seconds": 0.3}, code=code)
    async with raw(replica, EVENTS) as stream:
        said = await read_until(stream, b"3\r\n:\n\n\r\n" * 2)
        assert b"0\r\n\r\n" not in said


HANDSHAKE = UPGRADE % (b"", b"")
DEFLATE = UPGRADE % (b"", b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
EMPTY_TEXT = b"\x81\x80\x00\x00\x00\x00"
BINARY = b"\x82\x80\x00\x00\x00\x00"
TEXT_OF_10_MIB = b"\x81\xff" + (10 * 1024 * 1024).to_bytes(8, "big") + bytes(4) + bytes(70_000)

ENDINGS: dict[str, tuple[bytes, bytes]] = {
    "HEAD": (b"HEAD /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b""),
    "malformed id": (EVENTS[:-2] + b"Last-Event-ID: x\r\nConnection: close\r\n\r\n", b""),
    "POST": (b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b""),
    "h2 by prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    "h2c by upgrade, reset": (EVENTS[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b""),
    "not http": (b"\x00\x01\r\n\r\n", b""),
    "header of 100 KiB": (EVENTS[:-2] + b"X: " + b"x" * 100 * 1024 + b"\r\n\r\n", b""),
    "pipelined at once": (EVENTS[:-2] + b"Connection: close\r\n\r\n" + EVENTS, b""),
    "stream, pipelined later": (EVENTS, EVENTS),
    "stream, half closed": (EVENTS, b""),
    "stream, reset": (EVENTS, b""),
    "websocket, half closed": (HANDSHAKE, b""),
    "websocket, reset": (HANDSHAKE, b""),
    "websocket, 4400": (UPGRADE % (b"?x=1", b""), b""),
    "websocket, deflate, 100 messages, reset": (DEFLATE, EMPTY_TEXT * 100),
    "websocket, binary": (HANDSHAKE, BINARY),
    "websocket, 10 MiB": (HANDSHAKE, TEXT_OF_10_MIB),
    "websocket, no pong": (HANDSHAKE, b""),
    "websocket, frames before the handshake": (HANDSHAKE + EMPTY_TEXT, b""),
    "upgrade without a key": (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"",
    ),
    "body announced, half closed": (EVENTS[:-2] + b"Content-Length: 1\r\n\r\n", b""),
    "body announced, reset": (EVENTS[:-2] + b"Content-Length: 1\r\n\r\n", b""),
    "stream, body announced, half closed": (EVENTS[:-2] + b"Content-Length: 1\r\n\r\n", b""),
    "stream, body in parts": (EVENTS[:-2] + b"Content-Length: 9\r\n\r\n", b"body"),
    "stream, upgrade, half closed": (EVENTS[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b""),
    "upgrade, half closed": (EVENTS[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b""),
    "reset in the handshake": (HANDSHAKE, b""),
    "websocket, 1002": (HANDSHAKE, b"\x81\x00"),
    "websocket, 1007": (HANDSHAKE, b"\x81\x81\x00\x00\x00\x00\xff"),
    "websocket, 1008": (HANDSHAKE, EMPTY_TEXT * 5000),
    "websocket, close": (HANDSHAKE, b"\x88\x80\x00\x00\x00\x00"),
    "nothing at all, half closed": (b"", b""),
    "half a request, half closed": (b"GET /events HT", b""),
}
"""What is sent first, and what when the first answer has come."""

NUMBER = int(os.environ.get("ENDINGS", "100"))
"""How many of each; 1,000 before a release."""


_at_a_time = trio.CapacityLimiter(100)


async def come_and_go(replica: Replica, ending: str) -> None:
    """Be a client that ends in one of these ways; at most a hundred are there at a time."""
    first, later = ENDINGS[ending]
    async with _at_a_time, raw(replica, first) as stream:
        if ending.startswith(("stream", "websocket")):
            await stream.receive_some(65536)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(later)
            if "half closed" in ending:
                await stream.send_eof()
        if "reset" not in ending:
            await answer(stream)


@pytest.mark.parametrize("ending", list(ENDINGS))
async def test_after_many_of_each_nothing_is_left(replica: Replica, ending: str) -> None:
    """No descriptor, task or subscriber remains, and the replica answers as before."""
    process = psutil.Process(replica.process.pid)
    before = await wait_for(replica, subscribers=0, connections=1)
    log = len(replica.log)
    descriptors = process.num_fds()
    with trio.fail_after(seconds(50)):
        async with trio.open_nursery() as nursery:
            for _ in range(NUMBER):
                nursery.start_soon(come_and_go, replica, ending)
        # A task that was just cancelled may live for a moment more.
        await wait_for(replica, subscribers=0, connections=1, tasks=before["tasks"])
        # The Kafka clients open and close some now and then while they look for their broker.
        while process.num_fds() > descriptors + 2:  # noqa: ASYNC110 - another process's
            await trio.sleep(0.05)
    assert '"level": "error"' not in replica.log[log:]


async def wait_for(
    replica: Replica, *, subscribers: int, connections: int | None = None, tasks: float = math.inf
) -> dict[str, Any]:
    """Return the status when it has come to these numbers; the request for it is a connection too."""
    return await trio.to_thread.run_sync(
        lambda: replica.wait_for(
            f"{subscribers} subscribers, {connections} connections, at most {tasks} tasks",
            lambda s: (
                s["subscribers"]["total"] == subscribers
                and connections in {None, s["connections"]}
                and s["tasks"] <= tasks
            ),
        )
    )


async def test_too_many_subscribers_and_a_full_replica(replicas: Callable[..., Replica]) -> None:
    """SSE gets 200, retry and goodbye; WebSocket gets 503 with Retry-After before the upgrade."""
    replica = replicas(NO_BROKER, TOPIC, settings={"max_subscribers": 1})
    async with open_sse(replica) as first:
        await first.next_control("state")
        async with open_sse(replica) as second:
            goodbye = await second.next_control("goodbye")
            assert goodbye["code"] == 1013
            assert "1 subscribers" in str(goodbye["reason"])
            assert await second.next_event() is None
            assert second.ended
        with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True) as rejected:
            async with open_ws(replica):
                pass
        (rejection,) = rejected.value.exceptions
        assert isinstance(rejection, ConnectionRejected)
        assert rejection.status_code == 503
        assert any(name.lower() == b"retry-after" for name, _ in rejection.headers or ())


AWKWARD = [None, b"\xff\xfe", b"", b"a\rb", b"a\nb", b"a\r\nb", b"a\x00b", "é\u2028☃".encode(), b"x" * 1024 * 1024]


async def test_awkward_records(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Null, invalid UTF-8, empty, line ends, NUL and 1 MiB, as value, key and header, in every format."""
    from confluent_kafka import Producer

    topic = kafka.create_topic(1, {"max.message.bytes": str(8 * 1024 * 1024)})
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.max.bytes": 8 * 1024 * 1024})
    for value in AWKWARD:
        producer.produce(topic, value=value, key=value, headers=[("h", value), ("h", b"again")], partition=0)
    assert producer.flush(10) == 0
    replica = replicas(kafka.bootstrap_servers, topic)
    replica.wait_until_ready()
    # Those that come later than the first would begin after what that one was sent meanwhile.
    earliest = "?since=earliest"
    async with (
        open_sse(replica, earliest) as values,
        open_sse(replica, f"{earliest}&format=envelope") as envelopes,
        open_ws(replica, earliest) as ws,
    ):
        with trio.fail_after(seconds(30)):
            events = await sse_records(values, len(AWKWARD))
            assert [event.type for event in events] == ["tombstone", "binary"] + ["message"] * 7
            assert events[1].data == "//4="
            assert [event.data for event in events[2:8]] == ["", "a\nb", "a\nb", "a\nb", "a\x00b", "é\u2028☃"]
            assert len(events[8].data) == 1024 * 1024
            for found in (
                [json.loads(event.data) for event in await sse_records(envelopes, len(AWKWARD))],
                await ws_records(ws, len(AWKWARD)),
            ):
                for n, (value, record) in enumerate(zip(AWKWARD, found, strict=True)):
                    assert n == record["offset"]
                    if value == b"\xff\xfe":
                        assert (record["key_base64"], record["value_base64"]) == ("//4=", "//4=")
                        assert record["headers"][0] == {"key": "h", "value_base64": "//4="}
                    else:
                        text = None if value is None else value.decode()
                        assert (text, text) == (record["key"], record["value"])
                        assert [{"key": "h", "value": text}, {"key": "h", "value": "again"}] == record["headers"]
    replica.wait_for("all committed", lambda s: s["partitions"][0]["lag"] == 0)
