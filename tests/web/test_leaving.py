"""However a client ends its stream, it is noticed, forgotten, and sent nothing more; the next one gets what it left."""

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import orjson
import pytest
import trio
from wsproto.events import CloseConnection, TextMessage

from dispatcher.invariants import Invariant, invariants
from dispatcher.web.inbound import BUDGET_BYTES, FRAME_COST_BYTES, MAX_MESSAGE_BYTES
from testbed.clients import reset, sse_records
from tests.hub.test_hub import FEED, ONE, RecordingTransport
from tests.web.test_transports import UPGRADE, House, WsStream

EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n"
REQUESTS = {
    "plain": EVENTS + b"\r\n",
    "upgrade": EVENTS + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "body announced": EVENTS + b"Content-Length: 1\r\n\r\n",
    "half a body": EVENTS + b"Content-Length: 10\r\n\r\nhello",
    "endless chunks": EVENTS + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "expectation": EVENTS + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n",
    "http/1.0": b"GET /events HTTP/1.0\r\n\r\n",
    "websocket": UPGRADE,
}


async def half_close(stream: trio.SocketStream) -> None:
    """End the client's side only."""
    await stream.send_eof()


async def cut(stream: trio.SocketStream) -> None:
    """Reset the connection."""
    reset(stream)


async def say_more(stream: trio.SocketStream) -> None:
    """Send another request, which breaks RFC 6455 on a WebSocket."""
    await stream.send_all(REQUESTS["plain"])


LEAVING: dict[str, Callable[[trio.SocketStream], Awaitable[None]]] = {
    "half closed": half_close,
    "reset": cut,
    "more said": say_more,
}


@pytest.mark.parametrize("leaving", list(LEAVING))
@pytest.mark.parametrize("request_name", list(REQUESTS))
async def test_a_client_that_has_left_takes_nothing(request_name: str, leaving: str) -> None:
    """This is noticed at once, and later records go to the next subscriber."""
    house = House("socket")
    async with house.serving():
        stream = await trio.open_tcp_stream(*house.server.addresses[0])
        await stream.send_all(REQUESTS[request_name])
        said = b""
        while b'"state"' not in said:
            said += await stream.receive_some(65536)
        await house.live()
        await LEAVING[leaving](stream)
        await house.hub.wait_no_subscribers()
        house.publish(ONE)
        await house.hub.wait_settled()
        assert house.dispatched == []
        async with house.sse() as second:
            assert [record.data for record in await sse_records(second, 1)] == ["0"]
        stream.socket.close()


async def test_clients_that_leave_before_they_are_answered() -> None:
    """After 100 of each, none stays subscribed, and no connection remains."""
    before = invariants.statistics()[Invariant.SUBSCRIBERS_HAVE_CONNECTIONS]
    house = House("socket")
    async with house.serving(), house.sse() as witness:

        async def come_and_go(request: bytes, leave: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
            stream = await trio.open_tcp_stream(*house.server.addresses[0])
            await stream.send_all(request)
            await leave(stream)
            stream.socket.close()

        async with trio.open_nursery() as nursery:
            for request in REQUESTS.values():
                for leave in (half_close, cut):
                    for _ in range(100):
                        nursery.start_soon(come_and_go, request, leave)
        await house.until(lambda: house.hub.subscribers == 1 == house.server.connections)
        house.publish(ONE)
        assert [record.data for record in await sse_records(witness, 1)] == ["0"]
    assert invariants.statistics()[Invariant.SUBSCRIBERS_HAVE_CONNECTIONS] == before


@pytest.mark.parametrize("leaving", ["half closed", "reset"])
@pytest.mark.parametrize("request_name", list(REQUESTS))
async def test_a_client_that_left_before_it_was_answered_takes_nothing_that_waits(
    request_name: str, leaving: str
) -> None:
    """Its request and its end arrive together; the record goes to the next one."""
    house = House("socket")
    async with house.serving():
        house.publish(ONE)
        # In one step: the server has not accepted it before it has left.
        with socket.create_connection(house.server.addresses[0]) as gone:
            gone.sendall(REQUESTS[request_name])
            gone.shutdown(socket.SHUT_WR)
            if leaving == "reset":
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                gone.close()
            # Accepted after it, so that no connection means that both were answered.
            async with house.connected() as other:
                await other.send_all(b"GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                while await other.receive_some(65536):
                    pass
            await house.until(lambda: not house.server.connections)
        assert house.hub.subscribers == 0
        assert house.dispatched == []
        async with house.sse() as second:
            assert [record.data for record in await sse_records(second, 1)] == ["0"]


async def test_a_subscriber_without_a_connection_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every end of a connection checks this, and finds nothing when all is well."""
    violated: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr(invariants, "violated", lambda invariant, **more: violated.append((invariant, more)))
    house = House("socket")
    async with house.serving():
        async with house.sse():
            await house.live()
        await house.until(lambda: not house.server.connections)
        assert violated == []
        house.hub.subscribe(FEED, RecordingTransport())
        async with house.connected() as stream:
            await stream.send_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await house.until(lambda: house.server.connections == 1)
        await house.until(lambda: not house.server.connections)
    assert violated == [(Invariant.SUBSCRIBERS_HAVE_CONNECTIONS, {"subscribers": 1, "connections": 0})]


def masked(first: int, payload: bytes, length: int | None = None) -> bytes:
    """A frame as a client sends it, with a key of zeros; the length may lie."""
    length = len(payload) if length is None else length
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 65536:
        head = struct.pack("!BBH", first, 0xFE, length)
    else:
        head = struct.pack("!BBQ", first, 0xFF, length)
    return head + bytes(4) + payload


VIOLATIONS = {
    "no mask": (b"\x81\x00", 1002),
    "a reserved bit": (masked(0xC1, b""), 1002),
    "a reserved opcode": (masked(0x83, b""), 1002),
    "a continuation of nothing": (masked(0x80, b""), 1002),
    "a message within a message": (masked(0x01, b"") + masked(0x81, b""), 1002),
    "a ping in parts": (masked(0x09, b""), 1002),
    "a long ping": (masked(0x89, bytes(126)), 1002),
    "a length of 64 bits with the first one set": (b"\x81\xff" + b"\xff" * 8 + bytes(4), 1002),
    "a close of one byte": (masked(0x88, b"\x03"), 1002),
    "a close with a code that is reserved": (masked(0x88, struct.pack("!H", 1005)), 1002),
    "a close whose reason is no UTF-8": (masked(0x88, struct.pack("!H", 1000) + b"\xff"), 1007),
    "no UTF-8": (masked(0x81, b"\xff"), 1007),
    "half a character": (masked(0x81, b"\xe2\x82"), 1007),
    "a binary message": (masked(0x82, b""), 1003),
    "a long message": (masked(0x81, bytes(MAX_MESSAGE_BYTES + 1)), 1009),
    "a long message in parts": (masked(0x01, b"x" * 1000) + masked(0x00, b"x" * 1000) * 65, 1009),
    "a message of 10 MiB that goes on": (masked(0x81, bytes(100_000), 10 * 1024 * 1024), 1009),
    "too many tiny frames": (masked(0x81, b"") * (BUDGET_BYTES // FRAME_COST_BYTES), 1008),
    "too many pings": (masked(0x89, b"") * (BUDGET_BYTES // FRAME_COST_BYTES), 1008),
    "too many pongs": (masked(0x8A, b"") * (BUDGET_BYTES // FRAME_COST_BYTES), 1008),
    "too many short messages": (masked(0x81, b"x" * 4000) * (BUDGET_BYTES // 1000), 1008),
}


@pytest.mark.parametrize("violation", list(VIOLATIONS))
async def test_a_client_that_breaks_the_protocol_learns_why(transport: str, violation: str) -> None:
    """It gets `goodbye` and a close with the same code, and nothing counts afterwards."""
    said, code = VIOLATIONS[violation]
    house = House(transport)
    async with house.serving(), house.ws() as client:
        await house.live()

        async def say() -> None:
            # It may be closed before all of this was read.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await client.stream.send_all(said)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            heard = [await client.next_event()]
            while not isinstance(heard[-1], CloseConnection):
                heard.append(await client.next_event())
            nursery.cancel_scope.cancel()
        messages = [orjson.loads(event.data) for event in heard if isinstance(event, TextMessage)]
        assert (messages[-1]["type"], messages[-1]["code"]) == ("goodbye", code)
        assert heard[-1].code == code
        assert messages[-1]["reason"].startswith(heard[-1].reason or "")
        await house.hub.wait_no_subscribers()
        house.publish(ONE)
        await house.hub.wait_settled()
        assert house.dispatched == []


FLOODS = {
    # 64 MiB: its client has to get the chance to end it, and to read the close.
    "an endless message": (masked(0x81, b"", 2**40), bytes(65536), 64),
    "tiny frames": (b"", masked(0x81, b"") * 10_000, 8),
}


@pytest.mark.parametrize("flood", list(FLOODS))
async def test_what_comes_after_the_end_is_not_kept(flood: str) -> None:
    """Little more than the bound is read, even after the close; the rest stays in kernels."""
    begin, more, most_mib = FLOODS[flood]
    house = House("socket")
    async with house.serving(), house.ws() as client:
        await house.live()
        sent = 0
        with suppress(trio.BrokenResourceError), trio.move_on_after(10):
            await client.stream.send_all(begin)
            while sent < most_mib * 1024 * 1024:
                await client.stream.send_all(more)
                sent += len(more)
        await house.hub.wait_no_subscribers()
        assert sent < most_mib * 1024 * 1024


@pytest.mark.parametrize("code", [None, 1000, 1001, 3000, 4999])
async def test_a_client_that_closes_is_answered(transport: str, code: int | None) -> None:
    """The close has its own code (RFC 6455, section 5.5.1), without a goodbye."""
    house = House(transport)
    async with house.serving(), house.ws() as client:
        await house.live()
        await client.stream.send_all(masked(0x88, b"" if code is None else struct.pack("!H", code) + b"bye"))
        heard = [await client.next_event()]
        while not isinstance(heard[-1], CloseConnection):
            heard.append(await client.next_event())
        assert heard[-1].code == (1005 if code is None else code)
        assert [orjson.loads(event.data)["type"] for event in heard if isinstance(event, TextMessage)] == ["state"]
        await house.hub.wait_no_subscribers()


async def test_a_client_that_closes_and_reads_no_more_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A started write has a moment to finish; otherwise it was not dispatched."""
    monkeypatch.setattr("dispatcher.web.streams.LEAVE_SECONDS", 0.1)
    house = House("socket")
    async with house.serving(), house.ws(4096) as client:
        await house.live()
        house.publish_large()
        await house.until(lambda: any(subscriber.in_flight for subscriber in house.hub._registry.everybody.values()))
        await client.send(CloseConnection(1000))
        await house.hub.wait_no_subscribers()
        assert house.dispatched == []


async def test_frames_that_come_byte_by_byte(transport: str) -> None:
    """Messages are ignored and pings answered, in any fragments."""
    house = House(transport)
    async with house.serving(), house.ws() as client:
        await house.live()
        parts = masked(0x01, b"\xe2\x82") + masked(0x89, b"one") + masked(0x80, b"\xac") + masked(0x89, b"two")
        for byte in parts + masked(0x8A, b"") + masked(0x88, struct.pack("!H", 1000)):
            await client.stream.send_all(bytes([byte]))
        heard = [await client.next_event()]
        while not isinstance(heard[-1], CloseConnection):
            heard.append(await client.next_event())
        assert [bytes(event.payload) for event in heard if hasattr(event, "payload")][-1] == b"two"
        assert heard[-1].code == 1000


async def test_bytes_that_come_with_the_answer_to_the_handshake() -> None:
    """They are not lost, and read as the first frames."""
    house = House("socket")
    async with house.serving():
        stream = await trio.open_tcp_stream(*house.server.addresses[0])
        client = WsStream(stream)
        await client.open()
        await stream.send_all(masked(0x89, b"early"))
        heard = [await client.next_event()]
        while not hasattr(heard[-1], "payload"):
            heard.append(await client.next_event())
        assert bytes(heard[-1].payload) == b"early"
        stream.socket.close()
