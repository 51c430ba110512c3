"""Both ways to a subscriber, plain sockets and TLS, with real ones: what they take in parts arrives whole."""

import os
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import orjson
import psutil
import pytest
import trio
import trio.testing
from wsproto import ConnectionType
from wsproto.connection import Connection as WsConnection
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

from dispatcher.errors import SubscriberStalledError
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.invariants import invariants
from dispatcher.sansio.records import Batch, Record
from dispatcher.web import sockets
from dispatcher.web.app import create_app
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from dispatcher.web.sockets import PlainSocket, TlsSocket
from testbed.certificate import certificate
from testbed.clients import ClientStream, SseStream, reset, sse_records
from testbed.clients import Event as SseEvent
from testbed.patience import seconds
from tests.hub.test_hub import ONE, TWO, Bench

LARGE_BYTES = 4 * 1024 * 1024
"""More than both kernels hold for a client that does not read."""

HANDSHAKES = int(os.environ.get("ENDINGS", "100"))
"""How many of them are cut; 1,000 before a release."""

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class House(Bench):
    """A hub and the server in front of it, in this process and without Kafka."""

    def __init__(self, transport: str, **settings: object) -> None:
        self.secure = transport == "tls"
        tls = certificate().settings if self.secure else {}
        super().__init__(bind="127.0.0.1:0", topics=[ONE.topic], **tls, **settings)
        app = create_app(self.hub, self.settings, cast("Operations", None))
        pace = self.hub.catch_up_pace
        self.server = Server(app, self.settings, lambda: self.hub.subscribers, direct=app.direct, gives_way=pace)

    @asynccontextmanager
    async def serving(self, within_seconds: float = 20) -> AsyncIterator[None]:
        """Hub and server run within the ``async with`` block, which has this long on a quiet machine."""
        with trio.fail_after(seconds(within_seconds)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.hub.run)
                await nursery.start(self.server.serve)
                yield
                nursery.cancel_scope.cancel()

    def publish_large(self) -> None:
        """One record of 4 MiB."""
        self.hub.publish(Batch(ONE, (Record(self.number, None, None, b"x" * LARGE_BYTES, ()),)))
        self.number += 1

    def publish_text(self, text: str, times: int = 1) -> None:
        """Records with a text, in one batch."""
        records = tuple(Record(self.number + n, None, None, text.encode(), ()) for n in range(times))
        self.replays.log += [(ONE, record) for record in records]
        self.hub.publish(Batch(ONE, records))
        self.number += times

    @asynccontextmanager
    async def connected(self, receive_buffer_bytes: int = 0) -> AsyncIterator[ClientStream]:
        """A client's stream."""
        sock = trio.socket.socket()
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await sock.connect(self.server.addresses[0])
        stream = trio.SocketStream(sock)
        try:
            yield trio.SSLStream(stream, certificate().client, server_hostname="127.0.0.1") if self.secure else stream
        finally:
            sock.close()

    @asynccontextmanager
    async def sse(self, receive_buffer_bytes: int = 0) -> AsyncIterator[SseStream]:
        """A subscriber with server-sent events."""
        async with self.connected(receive_buffer_bytes) as stream:
            client = SseStream(stream)
            await client.open("/events")
            yield client

    @asynccontextmanager
    async def ws(self, receive_buffer_bytes: int = 0) -> AsyncIterator["WsStream"]:
        """A subscriber with a WebSocket."""
        async with self.connected(receive_buffer_bytes) as stream:
            client = WsStream(stream)
            await client.open()
            yield client

    async def live(self, number: int = 1) -> None:
        """Return when this many subscribers wait for new records, and the hub writes to them itself."""
        await self.until(
            lambda: sum(subscriber._parked for subscriber in self.hub._registry.everybody.values()) == number
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when something holds."""
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


class WsStream:
    """A WebSocket as wsproto reads it, byte for byte under the test's control."""

    def __init__(self, stream: ClientStream) -> None:
        self.stream = stream
        self._ws = WsConnection(ConnectionType.CLIENT)
        self._events: deque[Event] = deque()
        self._text = ""

    async def open(self) -> None:
        """Shake hands."""
        await self.stream.send_all(UPGRADE)
        head = b""
        while b"\r\n\r\n" not in head:
            head += await self.stream.receive_some(1)
        assert head.startswith(b"HTTP/1.1 101 ")

    async def send(self, event: Event) -> None:
        """Send a frame."""
        await self.stream.send_all(self._ws.send(event))

    async def next_event(self) -> Event:
        """What comes next, messages whole; protocol errors are raised."""
        while not self._events:
            self._ws.receive_data(bytes(await self.stream.receive_some(65536)) or None)
            for event in self._ws.events():
                if not isinstance(event, TextMessage):
                    self._events.append(event)
                    continue
                self._text += event.data
                if event.message_finished:
                    self._events.append(TextMessage(self._text))
                    self._text = ""
        return self._events.popleft()

    async def values(self, number: int) -> list[str]:
        """The values of the next records."""
        values: list[str] = []
        while len(values) < number:
            values += record_values(await self.next_event())
        return values


def record_values(event: Event) -> list[str]:
    """The values of the records in a message."""
    message = orjson.loads(event.data) if isinstance(event, TextMessage) else {}
    return [record["value"] for record in message.get("records", ())]


def sip(monkeypatch: pytest.MonkeyPatch, most_bytes: int) -> None:
    """Let every socket take no more than this at once, whatever it is offered."""
    write = os.write

    def sipping(send_some: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
        async def send_a_sip(self: sockets.Socket, buffers: Sequence[bytes | memoryview]) -> int:
            return await send_some(self, [b"".join(buffers)[:most_bytes]])

        return send_a_sip

    for kind in (PlainSocket, TlsSocket):
        monkeypatch.setattr(kind, "send_some", sipping(kind.send_some))
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:most_bytes]))


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_writes_that_are_taken_in_part_at_every_byte(transport: str, protocol: str) -> None:
    """Backlog and live records arrive whole and in order, wherever the socket cuts them."""
    house = House(transport)
    async with house.serving():
        for most_bytes in range(1, 90):
            with pytest.MonkeyPatch.context() as monkeypatch:
                sip(monkeypatch, most_bytes)
                first = house.number
                house.publish(ONE, TWO)
                async with house.sse() if protocol == "sse" else house.ws() as client:
                    values = await next_values(client, 2)
                    await house.live()
                    house.publish(TWO, ONE)
                    await house.hub.wait_settled()
                    house.publish(ONE)
                    values += await next_values(client, 3)
                    await house.until(lambda: len(house.dispatched) == house.number)
                await house.hub.wait_no_subscribers()
            assert values == [str(number) for number in range(first, first + 5)], most_bytes


async def next_values(client: SseStream | WsStream, number: int) -> list[str]:
    """The values of the next records."""
    if isinstance(client, WsStream):
        return await client.values(number)
    return [record.data for record in await sse_records(client, number)]


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_a_disconnect_in_the_middle_of_a_frame(transport: str, protocol: str) -> None:
    """The record was not dispatched, so the next subscriber gets it."""
    house = House(transport)
    async with house.serving():
        async with house.sse(4096) if protocol == "sse" else house.ws(4096) as client:
            await house.live()
            house.publish_large()
            await client.stream.receive_some(1000)
            reset(client.stream)
            await house.hub.wait_no_subscribers()
        assert house.dispatched == []
        async with house.sse() as second:
            (record,) = await sse_records(second, 1)
        assert len(record.data) == LARGE_BYTES
        await house.until(lambda: [batch.first_offset for batch in house.dispatched] == [0])


async def test_a_stream_that_ends_while_its_socket_is_full(transport: str) -> None:
    """The started write is completed, then the reason and the proper end follow."""
    house = House(transport)
    goodbye = Goodbye(1012, "the replica restarts", 1500)
    async with house.serving(), house.sse(4096) as sse, house.ws(4096) as ws:
        await house.live(2)
        house.publish_large()
        await house.until(lambda: all(subscriber.in_flight for subscriber in house.hub._registry.everybody.values()))
        house.hub.say_goodbye(lambda: goodbye)
        told: list[SseEvent] = []
        while (event := await sse.next_event()) is not None:
            told.append(event)
        assert [len(event.data) for event in told if event.type == "message"] == [LARGE_BYTES]
        assert (told[-1].type, orjson.loads(told[-1].data)["code"], sse.ended) == ("goodbye", 1012, True)
        heard = [await ws.next_event()]
        while not isinstance(heard[-1], CloseConnection):
            heard.append(await ws.next_event())
        messages = [orjson.loads(frame.data) for frame in heard if isinstance(frame, TextMessage)]
        assert [message["type"] for message in messages[-2:]] == ["records", "goodbye"]
        assert (heard[-1].code, heard[-1].reason) == (1012, "the replica restarts")


async def test_a_ping_while_data_waits(transport: str) -> None:
    """Hypercorn's pong is sent between two of our frames, never within one."""
    house = House(transport)
    async with house.serving(), house.ws(4096) as client:
        await house.live()
        house.publish_large()
        house.publish_large()
        await house.hub.wait_settled()
        await client.send(Ping(b"anyone?"))
        pongs: list[bytes] = []
        sizes: list[int] = []
        while not pongs or len(sizes) < 2:
            event = await client.next_event()
            if isinstance(event, Pong):
                pongs.append(bytes(event.payload))
            sizes += map(len, record_values(event))
        assert (pongs, sizes) == ([b"anyone?"], [LARGE_BYTES, LARGE_BYTES])


async def test_each_subscriber_reports_its_transport(transport: str) -> None:
    """`/status` shows it."""
    house = House(transport)
    async with house.serving(), house.sse(), house.ws():
        await house.live(2)
        assert [subscriber.transport for subscriber in house.hub.subscriber_statistics()] == [transport] * 2
        assert house.hub.statistics().transports == {transport: 2}


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b""], ids=["not TLS", "nothing"])
async def test_a_connection_without_a_handshake_is_closed(said: bytes) -> None:
    """It delays nobody."""
    house = House("tls", request_timeout_seconds=2)
    async with house.serving(), house.sse():
        stream = await trio.open_tcp_stream(*house.server.addresses[0])
        await stream.send_all(said)
        while await stream.receive_some(65536):
            pass
        await stream.aclose()
        await house.live()


async def test_the_kernel_holds_no_more_than_the_setting(transport: str) -> None:
    """`socket_unsent_bytes` is set per connection, because Trio sets another value."""
    house = House(transport, socket_unsent_bytes=54321)
    async with house.serving(), house.sse():
        (connection,) = house.server._connections
        assert connection.peer.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 54321


@pytest.mark.parametrize("leave", ["half closed", "reset"])
async def test_handshakes_that_are_cut(leave: str) -> None:
    """Cut at any byte of the first message, they leave no connection, descriptor or subscriber."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        certificate().client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    hello = outgoing.read()
    house = House("tls")
    async with house.serving(within_seconds=20 + HANDSHAKES / 20), house.sse():
        await house.live()
        descriptors = psutil.Process().num_fds()
        for number in range(HANDSHAKES):
            stream = await trio.open_tcp_stream(*house.server.addresses[0])
            await stream.send_all(hello[: 1 + number * len(hello) // HANDSHAKES])
            if leave == "reset":
                reset(stream)
            stream.socket.close()
        await house.until(lambda: psutil.Process().num_fds() <= descriptors)
        assert (house.server.connections, house.hub.subscribers) == (1, 1)


async def test_tls_speaks_http_1_1_only() -> None:
    """If h2 is offered as well, it chooses HTTP/1.1, which has backpressure (trap W7)."""
    house = House("tls")
    context = certificate().client
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with house.serving(), house.connected() as stream:
        assert isinstance(stream, trio.SSLStream)
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "http/1.1"
    context.set_alpn_protocols(["http/1.1"])


def lengthened(chain: str, folder: Path) -> str:
    """A file with a chain of certificates that no small window has room for."""
    path = folder / "chain.pem"
    path.write_text(Path(chain).read_text() * 20)
    return str(path)


async def test_a_handshake_that_stalls_ends_its_own_connection(tmp_path: Path) -> None:
    """A client that reads nothing for `stall_timeout_seconds` affects nobody else."""
    house = House("tls", stall_timeout_seconds=0.2, socket_unsent_bytes=1024)
    chain = lengthened(house.settings.tls_certificate, tmp_path)
    house.server._tls = sockets.tls_context(house.settings.model_copy(update={"tls_certificate": chain}))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        certificate().client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    async with house.serving():
        with trio.socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            descriptors = psutil.Process().num_fds()
            await stalled.connect(house.server.addresses[0])
            await stalled.send(outgoing.read())
            await house.until(lambda: psutil.Process().num_fds() > descriptors)
            await house.until(lambda: psutil.Process().num_fds() <= descriptors)
        async with house.ws() as stream:
            await stream.next_event()


async def test_a_last_word_that_stalls_ends_its_own_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops reading at the end of TLS is disconnected."""

    async def stall(_stream: object) -> None:
        await trio.lowlevel.checkpoint()
        raise SubscriberStalledError("took no byte")

    monkeypatch.setattr(trio.SSLStream, "unwrap", stall)
    house = House("tls")
    async with house.serving():
        for _ in range(2):
            async with house.sse():
                await house.live()
            await house.until(lambda: not house.server.connections)


@pytest.mark.parametrize("version", [b"1.2", b"2.0"])
async def test_a_later_version_is_answered_as_1_1(version: bytes) -> None:
    """Chunks and frames are those that the response's head announces (RFC 9110, section 2.5)."""
    for request, head, begin in (
        (b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 ", rb"[0-9a-f]+\r\nretry: "),
        (UPGRADE, b"HTTP/1.1 101 ", rb"\x81"),
    ):
        house = House("socket")
        async with house.serving(), house.connected() as stream:
            await stream.send_all(request.replace(b"HTTP/1.1", b"HTTP/" + version))
            said = b""
            while b"heartbeat_seconds" not in said:
                said += await stream.receive_some(65536)
        assert said.startswith(head)
        assert re.match(begin, said.partition(b"\r\n\r\n")[2])


async def test_an_aborted_connection_takes_nothing(transport: str) -> None:
    """This holds if only the rest of a write was left when it was aborted."""
    house = House(transport)
    async with house.serving(), house.sse():
        await house.live()
        (connection,) = house.server._connections
        (subscriber,) = house.hub._registry.everybody.values()
        before = invariants.statistics()
        subscriber.flush()
        connection.writer.abort()
        await house.until(lambda: not house.server.connections)
        assert invariants.statistics() == before
