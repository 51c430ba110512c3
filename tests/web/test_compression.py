"""Compressed streams with real sockets: who gets them, what comes out of them, and what clients may send compressed."""

import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import h11
import pytest
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection as WsConnection
from wsproto.events import CloseConnection, Message, Ping
from wsproto.extensions import PerMessageDeflate

from dispatcher.hub.goodbyes import Goodbye
from dispatcher.sansio.encoding.compression import GZIP_HEAD
from dispatcher.sansio.encoding.frames import ping_frame
from dispatcher.web.inbound import MAX_MESSAGE_BYTES
from testbed.clients import SseStream
from testbed.replicas import Replica
from tests.hub.test_hub import ONE, TWO
from tests.web.test_transports import UPGRADE, House, WsStream, next_values

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
GZIP = {"Accept-Encoding": "gzip, deflate, br"}
NO_BROKER = "127.0.0.1:9"


class GzipStream(SseStream):
    """A client that offers gzip, and reads what it gets as far as it has come."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self.inflater = zlib.decompressobj(31)
        self.received_bytes = 0

    async def read_some(self) -> bool:
        """Inflate what has come."""
        event = await self._next()
        if isinstance(event, h11.Data):
            self.received_bytes += len(event.data)
            self.raw += self.decoder.decode(self.inflater.decompress(bytes(event.data)))
            return True
        self.ended = isinstance(event, h11.EndOfMessage)
        return False


class DeflateStream(WsStream):
    """A client that offers permessage-deflate."""

    head = b""

    async def open(self, target: str = "/ws") -> None:
        """Shake hands."""
        await self.stream.send_all(UPGRADE.replace(b"/ws", target.encode()).removesuffix(b"\r\n") + OFFER)
        while b"\r\n\r\n" not in self.head:
            self.head += await self.stream.receive_some(1)
        assert self.head.startswith(b"HTTP/1.1 101 ")
        extension = PerMessageDeflate()
        (line,) = [line for line in self.head.lower().split(b"\r\n") if line.startswith(b"sec-websocket-extensions:")]
        extension.finalize(line.partition(b":")[2].strip().decode())
        self._ws = WsConnection(ConnectionType.CLIENT, [extension])


@asynccontextmanager
async def gzip_client(house: House, target: str = "/events") -> AsyncIterator[GzipStream]:
    """A subscriber whose stream is compressed."""
    async with house.connected() as stream:
        client = GzipStream(stream)  # type: ignore[arg-type]
        await client.open(target, dict(GZIP))
        assert dict(client.response.headers)[b"content-encoding"] == b"gzip"
        yield client


@asynccontextmanager
async def deflate_client(house: House, target: str = "/ws") -> AsyncIterator[DeflateStream]:
    """The same over WebSocket."""
    async with house.connected() as stream:
        client = DeflateStream(stream)
        await client.open(target)
        yield client


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_everything_comes_out_record_by_record(transport: str, protocol: str) -> None:
    """Backlog, live records, heartbeats and goodbye arrive when sent, and the end is regular."""
    house = House(transport, compression="on", heartbeat_seconds=0.5)
    async with house.serving():
        house.publish(ONE, TWO)
        async with gzip_client(house) if protocol == "sse" else deflate_client(house) as client:
            assert await next_values(client, 2) == ["0", "1"]
            await house.live()
            for number in range(2, 5):
                house.publish(TWO)
                assert await next_values(client, 1) == [str(number)]
            house.publish_text("long " * 1000, 3)
            assert await next_values(client, 3) == ["long " * 1000] * 3
            if isinstance(client, GzipStream):
                assert client.received_bytes < 3000
                while "\n\nid: " not in f"\n\n{client.raw}":
                    assert await client.read_some()
            else:
                while not isinstance(await client.next_event(), Ping):
                    pass
            house.hub.say_goodbye(lambda: Goodbye(1012, "the replica restarts", 1500))
            if isinstance(client, GzipStream):
                assert (await client.next_control("goodbye"))["code"] == 1012
                assert await client.next_event() is None
                assert client.ended
            else:
                while not isinstance(event := await client.next_event(), CloseConnection):
                    pass
                assert event.code == 1012


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_a_replay_comes_out_whole(protocol: str) -> None:
    """Records that are no longer in memory take the same path."""
    house = House("socket", compression="on", history_bytes=2000, pause_above_bytes=2000, resume_below_bytes=1000)
    async with house.serving():
        async with gzip_client(house) as first:
            await house.live()
            for number in range(20):
                house.publish_text(f"{number} " * 200)
                assert len(await next_values(first, 1)) == 1
        since, is_sse = "?since=earliest", protocol == "sse"
        async with gzip_client(house, f"/events{since}") if is_sse else deflate_client(house, f"/ws{since}") as client:
            assert await next_values(client, 20) == [f"{number} " * 200 for number in range(20)]
        assert house.hub.encoder.statistics().replayed


@pytest.mark.parametrize(
    ("compression", "accepted"),
    [("on", ""), ("on", "br, deflate"), ("on", "gzip;q=0"), ("off", "gzip")],
)
async def test_others_get_plain_events(compression: str, accepted: str) -> None:
    """These are clients without gzip, and all clients if compression is off."""
    house = House("socket", compression=compression)
    async with house.serving(), house.connected() as stream:
        house.publish(ONE)
        client = SseStream(stream)
        await client.open("/events", {"Accept-Encoding": accepted})
        headers = dict(client.response.headers)
        assert b"content-encoding" not in headers
        assert headers.get(b"vary") == (b"Accept-Encoding" if compression == "on" else None)
        assert await next_values(client, 1) == ["0"]


@pytest.mark.parametrize("compression", ["on", "off"])
async def test_others_get_plain_messages(compression: str) -> None:
    """Without an acceptable offer there is no extension and no reserved bit."""
    house = House("socket", compression=compression)
    small_window = OFFER.replace(b"client_max_window_bits", b"server_max_window_bits=9")
    offers = [b"\r\n", OFFER if compression == "off" else small_window]
    async with house.serving():
        for offer in offers:
            house.publish_text("long " * 1000)
            async with house.connected() as stream:
                await stream.send_all(UPGRADE.removesuffix(b"\r\n") + offer)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive_some(1)
                assert b"extensions" not in head.lower()
                client = WsStream(stream)
                assert await next_values(client, 1) == ["long " * 1000]


async def test_http_1_0_is_not_compressed() -> None:
    """Without chunks, nothing shows that a body without a checksum is complete."""
    house = House("socket", compression="on")
    async with house.serving(), house.connected() as stream:
        await stream.send_all(b"GET /events HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n")
        said = b""
        while b"event: state" not in said:
            said += await stream.receive_some(4096)
        assert b"content-encoding" not in said.lower()
        assert b"vary: accept-encoding" in said.lower()


async def test_head_names_the_coding() -> None:
    """It answers as GET would, without a subscriber."""
    house = House("socket", compression="on")
    async with house.serving(), house.connected() as stream:
        for accepted, coded in ((b"gzip", True), (b"br", False)):
            await stream.send_all(b"HEAD /events HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: %b\r\n\r\n" % accepted)
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some(1)
            assert (b"content-encoding: gzip" in head.lower()) is coded
            assert b"vary: accept-encoding" in head.lower()
        assert house.hub.subscribers == 0


async def test_a_write_is_compressed_once_for_all() -> None:
    """Three subscribers of a feed share it; one without compression has its own encoding."""
    house = House("socket", compression="on")
    async with house.serving(), AsyncExitStack() as stack:
        one, two, three = [await stack.enter_async_context(gzip_client(house)) for _ in range(3)]
        four = await stack.enter_async_context(house.sse())
        await house.live(4)
        before, entries = house.hub.encoder.statistics(), house.hub.encoder.statistics().entries
        assert before.compression is not None
        house.publish_text("long " * 100)
        for client in (one, two, three, four):
            assert await next_values(client, 1) == ["long " * 100]
        after = house.hub.encoder.statistics()
        assert after.compression is not None
        event_bytes = after.compression.input_bytes - before.compression.input_bytes
        assert 500 < event_bytes < 600
        assert after.compression.output_bytes - before.compression.output_bytes < 100
        assert after.entries == entries + 1


def metrics(replica: Replica) -> dict[str, float]:
    """The metrics of compression that there are."""
    lines = [line.split() for line in replica.get("/metrics").text.splitlines() if line.startswith("dispatcher_compr")]
    return {name: float(value) for name, value in lines}


async def test_bytes_before_and_after_are_metrics(replicas: Callable[..., Replica]) -> None:
    """A stream's state is long enough to count; without compression nothing does."""
    on = {"compression": "on", "compression_min_bytes": 10}
    replica, off = replicas(NO_BROKER, "assets", settings=on), replicas(NO_BROKER, "assets")
    stream = await trio.open_tcp_stream(*replica.address)
    with stream.socket:
        client = GzipStream(stream)
        await client.open("/events", dict(GZIP))
        assert (await client.next_control("state"))["state"] == "broker-down"
    found = await trio.to_thread.run_sync(metrics, replica)
    before, after = found.values()
    assert list(found) == ["dispatcher_compression_input_bytes_total", "dispatcher_compression_output_bytes_total"]
    assert 100 < after < before
    assert await trio.to_thread.run_sync(metrics, off) == {}


def compressed(text: bytes, *, window_bits: int = 15) -> bytes:
    """A text as a message's payload."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -window_bits)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def frame(first: int, payload: bytes) -> bytes:
    """A masked frame; its mask is nought."""
    length = len(payload)
    head = bytes([first, 0x80 | (min(126, length))]) + (b"" if length < 126 else length.to_bytes(2, "big"))
    return head + bytes(4) + payload


TEXT, COMPRESSED_TEXT, CONTINUED, PING = 0x81, 0xC1, 0x80, 0x89
BOMB = compressed(bytes(MAX_MESSAGE_BYTES + 1))

SAID: Mapping[str, tuple[bytes, int | None]] = {
    "compressed": (frame(COMPRESSED_TEXT, compressed(b"hello")), None),
    "empty": (frame(COMPRESSED_TEXT, b"\x00"), None),
    "not compressed": (frame(TEXT, b"hello"), None),
    "in fragments, with a ping between them": (
        frame(0x41, compressed(b"hello")[:3]) + frame(PING, b"") + frame(CONTINUED, compressed(b"hello")[3:]),
        None,
    ),
    "with a small window": (frame(COMPRESSED_TEXT, compressed(b"hello" * 500, window_bits=9)), None),
    "as long as it may be": (frame(COMPRESSED_TEXT, compressed(b"x" * MAX_MESSAGE_BYTES)), None),
    "a byte too long": (frame(COMPRESSED_TEXT, BOMB), 1009),
    "a bomb in fragments": (frame(0x41, BOMB[:50]) + frame(CONTINUED, BOMB[50:]), 1009),
    "a bomb of 10 MiB": (frame(COMPRESSED_TEXT, compressed(bytes(10 * 1024 * 1024))), 1009),
    "a last block": (frame(COMPRESSED_TEXT, zlib.compress(b"hello", wbits=-15) + b"\0"), None),
    "a last block, and more after it": (
        frame(0x41, zlib.compress(b"{}", wbits=-15)) + frame(0x00, b"x" * 100) * 2,
        1007,
    ),
    "not deflate": (frame(COMPRESSED_TEXT, b"\xff\xff\xff\xff"), 1007),
    "not UTF-8": (frame(COMPRESSED_TEXT, compressed(b"\xff\xfe")), 1007),
    "binary": (frame(0xC2, compressed(b"hello")), 1003),
    "a compressed ping": (frame(0xC9, b""), 1002),
    "a compressed continuation": (frame(0x41, b"") + frame(0xC0, compressed(b"hello")), 1002),
    "the second reserved bit": (frame(0xA1, b"hello"), 1002),
    "many that become long": (
        frame(COMPRESSED_TEXT, compressed(b"x" * MAX_MESSAGE_BYTES)) * 40,
        1008,
    ),
}


@pytest.mark.parametrize("said", SAID)
async def test_what_a_client_sends_compressed(said: str) -> None:
    """It is inflated up to a bound, or refused with a fitting code, and other streams continue."""
    data, code = SAID[said]
    house = House("socket", compression="on")
    async with house.serving(), deflate_client(house) as client:
        await house.live()
        await client.stream.send_all(data + frame(PING, b"done"))
        if code is None:
            while client_pong(await client.next_event()) != b"done":
                pass
            house.publish(ONE)
            assert await next_values(client, 1) == ["0"]
            return
        while not isinstance(event := await client.next_event(), CloseConnection):
            assert isinstance(event, Message)
        assert event.code == code
        await house.hub.wait_no_subscribers()


def client_pong(event: object) -> bytes:
    """What a pong carries."""
    return bytes(getattr(event, "payload", b""))


async def test_without_the_extension_a_compressed_message_is_an_error(transport: str) -> None:
    """Nothing was negotiated."""
    house = House(transport, compression="on")
    async with house.serving(), house.ws() as client:
        await client.stream.send_all(frame(COMPRESSED_TEXT, compressed(b"hello")))
        while not isinstance(event := await client.next_event(), CloseConnection):
            pass
        assert event.code == 1002


async def test_the_head_of_the_coding_is_sent_once_and_first() -> None:
    """It precedes every event, and a WebSocket ping is unchanged."""
    house = House("socket", compression="on", compression_min_bytes=1_000_000)
    async with house.serving(), house.connected() as stream:
        await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n")
        said = b""
        while b"event: state" not in said:
            said += await stream.receive_some(4096)
        body = said.partition(b"\r\n\r\n")[2]
        assert body.startswith(b"a\r\n" + GZIP_HEAD + b"\r\n")
        assert body.count(GZIP_HEAD) == 1
        compression = house.hub.encoder.compression
        assert compression is not None
        assert compression.websocket.heartbeat("").startswith(ping_frame())
