"""What one client can take from others: places, descriptors, time. Clients have addresses in 127.0.0.0/8."""

import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import trio
from trio_websocket import open_websocket

from dispatcher.sansio.proxy_protocol import SIGNATURE
from dispatcher.web.listening import accept_for_ever
from testbed import requests
from testbed.certificate import certificate
from testbed.clients import SseStream
from testbed.patience import seconds
from testbed.replicas import Replica

NO_BROKER = "127.0.0.1:9"
TOPIC = "assets"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
WS = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")


@asynccontextmanager
async def raw(port: int, data: bytes = b"", source: str = "127.0.0.1") -> AsyncIterator[trio.SocketStream]:
    """A connection from an address, on which some bytes were sent."""
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=source)
    try:
        if data:
            await stream.send_all(data)
        yield stream
    finally:
        stream.socket.close()


async def answer(port: int, data: bytes, source: str = "127.0.0.1") -> bytes:
    """All that the server says to some bytes until it ends the connection."""
    said = b""
    with trio.fail_after(seconds(20)), suppress(trio.BrokenResourceError, OSError):
        async with raw(port, data, source) as stream:
            async for chunk in stream:
                said += chunk
    return said


@asynccontextmanager
async def sse(port: int, source: str = "127.0.0.1", *, query: str = "", **headers: str) -> AsyncIterator[SseStream]:
    """A subscriber from an address."""
    with trio.fail_after(seconds(20)):
        async with raw(port, source=source) as stream:
            client = SseStream(stream)
            await client.open(f"/events{query}", {name.replace("_", "-"): value for name, value in headers.items()})
            yield client


async def first_event(client: SseStream) -> tuple[str, dict[str, Any]]:
    """The type of a stream's first event, and what it holds."""
    event = await client.next_event()
    assert event is not None
    return event.type, httpx2.Response(200, content=event.data).json()


@pytest.fixture
def start(replicas: Callable[..., Replica]) -> Callable[..., Replica]:
    """Starts a replica without a broker, with some settings."""

    def start(**settings: object) -> Replica:
        command = FEW_DESCRIPTORS if settings.pop("few_descriptors", False) else ()
        return replicas(NO_BROKER, TOPIC, settings=settings, command=command)

    return start


@pytest.fixture(scope="module")
def with_operations_port() -> Iterator[Replica]:
    """One with `operations_bind`, for all of the tests of it."""
    replica = Replica(NO_BROKER, TOPIC, settings={"operations_bind": "127.0.0.1:0"})
    yield replica
    replica.end()


class TestOperationsPort:
    """`operations_bind`."""

    def test_the_public_port_says_nothing_about_the_inside(self, with_operations_port: Replica) -> None:
        """No status, no metrics, and no reason with an address in it."""
        replica = with_operations_port
        assert [replica.get(path).status_code for path in ("/status", "/metrics")] == [404, 404]
        answer = replica.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "has_been_ready": False})
        assert replica.get("/livez").json() == {"live": True}
        assert replica.get("/").status_code == 200

    def test_the_port_for_operators_says_all(self, with_operations_port: Replica) -> None:
        """Status, metrics, and why it is not ready; no page and no streams."""
        replica = with_operations_port
        assert replica.status()["replica"] == replica.client_id
        answers = {
            path: requests.get(replica.operations_url + path)
            for path in ("/metrics", "/livez", "/readyz", "/", "/events")
        }
        assert [answer.status_code for answer in answers.values()] == [200, 200, 503, 404, 404]
        assert "dispatcher_connections" in answers["/metrics"].text
        assert NO_BROKER in answers["/readyz"].json()["reasons"][0]

    def test_the_page_of_a_stranger_reads_no_status(self, with_operations_port: Replica) -> None:
        """The origin is checked there, too."""
        answer = requests.get(
            f"{with_operations_port.operations_url}/status", headers={"Origin": "https://evil.example"}
        )
        assert answer.status_code == 403


async def test_idle_connections_lock_nobody_out(start: Callable[..., Replica]) -> None:
    """With 300 of them and 256 descriptors, others are served, and the log is short."""
    replica = start(few_descriptors=True, request_timeout_seconds=600)
    async with AsyncExitStack() as idle:
        for _ in range(300):
            await idle.enter_async_context(raw(replica.port, LIVEZ[:20]))
        for source in ("127.0.0.1", "127.0.0.2"):
            assert b"200" in (await answer(replica.port, LIVEZ, source))[:20]
            async with sse(replica.port, source) as client:
                assert (await first_event(client))[0] == "state"
        metrics = (await trio.to_thread.run_sync(replica.get, "/metrics")).text
    evicted = next(line for line in metrics.splitlines() if line.startswith("dispatcher_evicted_connections_total "))
    assert float(evicted.split()[1]) > 50
    assert len(replica.log.splitlines()) < 20, replica.log


async def test_streams_of_one_address_leave_room(start: Callable[..., Replica]) -> None:
    """It cannot have the last tenth of connections and subscribers."""
    replica = start(max_subscribers=50, max_connections=500)
    async with trio.open_nursery() as nursery:
        live: list[str] = []

        async def subscribe() -> None:
            async with sse(replica.port, "127.0.0.7") as client:
                live.append((await first_event(client))[0])
                await trio.sleep_forever()

        for _ in range(60):
            nursery.start_soon(subscribe)
        with trio.fail_after(seconds(20)):
            while len(live) < 60:  # noqa: ASYNC110 - as good
                await trio.sleep(0.01)
        assert (live.count("state"), live.count("goodbye")) == (45, 15)
        async with sse(replica.port, "127.0.0.8") as other:
            assert (await first_event(other))[0] == "state"
        nursery.cancel_scope.cancel()


async def test_held_handshakes_lock_nobody_out(start: Callable[..., Replica]) -> None:
    """They count as connections, and make room like idle ones."""
    replica = start(max_connections=16, request_timeout_seconds=600, **certificate().settings)
    async with AsyncExitStack() as held:
        for _ in range(40):
            await held.enter_async_context(raw(replica.port, source="127.0.0.3"))
        with trio.fail_after(seconds(20)):
            async with raw(replica.port) as stream:
                secure: Any = trio.SSLStream(stream, certificate().client, server_hostname="127.0.0.1")
                await secure.send_all(LIVEZ)
                assert (await secure.receive_some()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("begun", [b"", LIVEZ[:-1]], ids=["silent", "slow"])
async def test_a_head_has_some_time(start: Callable[..., Replica], begun: bytes) -> None:
    """Silent clients, and those that send a byte now and then, are closed."""
    replica = start(request_timeout_seconds=0.5)
    async with raw(replica.port) as stream:
        with trio.fail_after(seconds(10)), suppress(trio.BrokenResourceError):
            for byte in begun:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.1)
            while await stream.receive_some(65536):
                pass


async def test_the_second_head_has_the_same_time(start: Callable[..., Replica]) -> None:
    """A kept connection may not send its next request more slowly."""
    replica = start(request_timeout_seconds=0.5)
    keep_alive = LIVEZ.replace(b"Connection: close\r\n", b"")
    async with raw(replica.port, keep_alive) as stream:
        with trio.fail_after(seconds(10)), suppress(trio.BrokenResourceError):
            assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")
            for byte in keep_alive:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.1)
            raise AssertionError("it went on reading")


async def test_subscribers_per_address(start: Callable[..., Replica]) -> None:
    """SSE is asked to return in a minute, WebSocket gets 4429, and other addresses are served."""
    replica = start(max_subscribers_per_address=1)
    async with sse(replica.port, "127.0.0.5") as first:
        assert (await first_event(first))[0] == "state"
        async with sse(replica.port, "127.0.0.5") as second:
            kind, goodbye = await first_event(second)
            assert (kind, goodbye["code"]) == ("goodbye", 4429)
            assert goodbye["retry_ms"] >= 60_000
            assert "max_subscribers_per_address" in goodbye["reason"]
            assert await second.next_event() is None
            assert second.ended
        said = await answer(replica.port, WS, "127.0.0.5")
        assert b'"type":"goodbye","code":4429' in said
        assert struct.pack("!H", 4429) in said
        async with sse(replica.port, "127.0.0.6") as other:
            assert (await first_event(other))[0] == "state"
        async with open_websocket("127.0.0.1", replica.port, "/ws", use_ssl=False) as websocket:
            assert '"state"' in await websocket.get_message()
    await trio.to_thread.run_sync(replica.wait_for, "nobody", lambda status: status["subscribers"]["total"] == 0)
    async with sse(replica.port, "127.0.0.5") as again:
        assert (await first_event(again))[0] == "state"


def suffix(text: str) -> str:
    """The query of a filter that no index finds."""
    return "?filter=" + quote(f'{{"suffix":{{"key":"{text}"}}}}')


async def test_filters_of_one_address_leave_room(start: Callable[..., Replica]) -> None:
    """An address that opens as many feeds as it can keeps no stream of another from beginning."""
    replica = start(max_feeds=20)
    async with AsyncExitStack() as stack:
        for number in range(18):
            stream = await stack.enter_async_context(sse(replica.port, "127.0.0.5", query=suffix(f"x{number}")))
            assert (await first_event(stream))[0] == "state"
        async with sse(replica.port, "127.0.0.5", query=suffix("more")) as refused:
            kind, goodbye = await first_event(refused)
            assert (kind, goodbye["code"], "max_feeds" in goodbye["reason"]) == ("goodbye", 4429, True)
        for query in ("?format=envelope", "?scope=topic", suffix("y")):
            other = await stack.enter_async_context(sse(replica.port, "127.0.0.6", query=query))
            assert (await first_event(other))[0] == "state"
        socket = await stack.enter_async_context(raw(replica.port, WS, "127.0.0.7"))
        said = b""
        with trio.fail_after(seconds(20)):
            while b'"type":' not in said:
                said += await socket.receive_some()
        assert b'"type":"state"' in said


async def test_connects_per_second(start: Callable[..., Replica]) -> None:
    """After ten seconds' worth at once, this address gets 4429, and takes no place."""
    replica = start(connects_per_second_per_address=0.01)
    codes = []
    for source in ("127.0.0.5", "127.0.0.5", "127.0.0.6"):
        async with sse(replica.port, source) as client:
            codes.append((await first_event(client))[0])
    assert codes == ["state", "goodbye", "state"]


async def test_how_often_and_how_far_back(start: Callable[..., Replica]) -> None:
    """`since` is bounded by number and by time; event ids are not."""
    replica = start(since_per_minute=1, max_since_seconds=3600)
    kinds = []
    for query in ("?since=9999999999999", "?since=9999999999999", "", "?last_event_id=assets:0=1"):
        async with sse(replica.port, query=query) as client:
            kinds.append((await first_event(client))[0])
    assert kinds == ["state", "goodbye", "state", "state"]
    for since in ("earliest", "1000", "2020-01-01T00:00:00Z"):
        refused = replica.get(f"/events?since={since}")
        assert refused.status_code == 400
        assert "3600 seconds here (max_since_seconds)" in refused.json()["detail"]
    assert "last may be at most 1000" in replica.get("/events?last=1001").json()["detail"]
    for query in ("?since=now", "?observe=1", "?since=now"):
        async with sse(replica.port, query=query) as client:
            assert (await first_event(client))[0] == "state"


class TestProxies:
    """Whose address counts."""

    async def test_the_client_of_a_trusted_proxy(self, start: Callable[..., Replica]) -> None:
        """Each client has its own share; what a stranger writes into the header counts for nothing."""
        replica = start(max_subscribers_per_address=1, trusted_proxies="127.0.0.2")
        async with sse(replica.port, "127.0.0.2", X_Forwarded_For="6.6.6.6, 192.0.2.1") as first:
            assert (await first_event(first))[0] == "state"
            async with sse(replica.port, "127.0.0.2", X_Forwarded_For="192.0.2.2") as second:
                assert (await first_event(second))[0] == "state"
            async with sse(replica.port, "127.0.0.2", X_Forwarded_For="7.7.7.7, 192.0.2.1") as third:
                assert (await first_event(third))[0] == "goodbye"
            async with sse(replica.port, "127.0.0.3", X_Forwarded_For="192.0.2.3") as stranger:
                assert (await first_event(stranger))[0] == "state"
                async with sse(replica.port, "127.0.0.3", X_Forwarded_For="192.0.2.4") as liar:
                    assert (await first_event(liar))[0] == "goodbye"

    async def test_forwarded(self, start: Callable[..., Replica]) -> None:
        """RFC 7239 in its place."""
        replica = start(max_subscribers_per_address=1, trusted_proxies="127.0.0.2", forwarded="forwarded")
        async with sse(replica.port, "127.0.0.2", Forwarded='for="[2001:db8::1]:4711"') as first:
            assert (await first_event(first))[0] == "state"
            async with sse(replica.port, "127.0.0.2", Forwarded='for="[2001:db8::2]"') as second:
                assert (await first_event(second))[0] == "goodbye"  # of the same /64 network

    async def test_the_host_of_a_trusted_proxy(self, start: Callable[..., Replica]) -> None:
        """A page's own origin is what its browser called the proxy; nobody else may say so."""
        replica = start(trusted_proxies="127.0.0.2", allowed_hosts="stream.example")
        request = (
            EVENTS % b"Origin: https://stream.example\r\nX-Forwarded-Host: stream.example\r\nConnection: close\r\n"
        )
        async with raw(replica.port, request, "127.0.0.2") as stream:
            assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")
        assert (await answer(replica.port, request, "127.0.0.3")).startswith(b"HTTP/1.1 403 ")

    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
    async def test_the_proxy_protocol(self, start: Callable[..., Replica], secure: bool) -> None:
        """Read before TLS, required from trusted peers, refused from others; LOCAL is the proxy's own check."""
        tls = certificate().settings if secure else {}
        replica = start(max_subscribers_per_address=1, trusted_proxies="127.0.0.2", forwarded="proxy-protocol", **tls)
        one = b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n"
        addresses = ip_address("192.0.2.1").packed + ip_address("198.51.100.1").packed + struct.pack("!HH", 4711, 443)
        again = SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses
        local = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)

        @asynccontextmanager
        async def subscribed(header: bytes, source: str = "127.0.0.2") -> AsyncIterator[str]:
            with trio.fail_after(seconds(20)):
                async with raw(replica.port, header, source) as stream:
                    inner: Any = stream
                    if secure:
                        inner = trio.SSLStream(stream, certificate().client, server_hostname="127.0.0.1")
                    client = SseStream(inner)
                    await client.open("/events")
                    yield (await first_event(client))[0]

        async with subscribed(one) as first, subscribed(again) as second, subscribed(local) as third:
            assert (first, second, third) == ("state", "goodbye", "state")
        async with subscribed(b"", "127.0.0.3") as direct:
            assert direct == "state"
        assert await answer(replica.port, EVENTS % b"", "127.0.0.2") == b""
        assert b" 200 " not in await answer(replica.port, one + EVENTS % b"", "127.0.0.3")
        lines = await trio.to_thread.run_sync(replica.wait_until_logged, "handshake failed")
        assert "does not begin with a PROXY header" in lines[0]["reason"]
        assert lines[0]["client"] == "127.0.0.2"

    async def test_a_header_in_pieces(self, start: Callable[..., Replica]) -> None:
        """However the network cuts it."""
        replica = start(trusted_proxies="127.0.0.2", forwarded="proxy-protocol")
        async with raw(replica.port, source="127.0.0.2") as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n":
                await stream.send_all(bytes([byte]))
            await stream.send_all(LIVEZ)
            with trio.fail_after(seconds(10)):
                assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")


async def test_tls_clients_that_leave_are_no_errors(start: Callable[..., Replica]) -> None:
    """Only what is not TLS is logged, in one line, and never as a traceback."""
    replica = start(heartbeat_seconds=0.05, **certificate().settings)
    for number in range(20):
        async with raw(replica.port) as stream:
            secure: Any = trio.SSLStream(stream, certificate().client, server_hostname="127.0.0.1")
            client = SseStream(secure)
            await client.open("/events")
            await first_event(client)
            if number % 2:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await answer(replica.port, LIVEZ)
    line, *_ = await trio.to_thread.run_sync(replica.wait_until_logged, "handshake failed")
    assert (line["level"], "http request" in line["reason"].lower()) == ("info", True)
    assert '"level": "error"' not in replica.log
    assert "Traceback" not in replica.log


async def test_accepting_rests_without_descriptors(autojump_clock: trio.testing.MockClock) -> None:
    """It resumes when there are some, logs once per minute, and idle connections make room."""
    errors = [OSError(24, "Too many open files")] * 1000 + [OSError(103, "aborted"), trio.ClosedResourceError()]
    rooms = []

    class Listener:
        async def accept(self) -> trio.SocketStream:
            await trio.lowlevel.checkpoint()
            raise errors.pop(0)

    from structlog.testing import capture_logs

    with capture_logs() as lines:
        await accept_for_ever(Listener(), lambda _: None, lambda: rooms.append(1))  # type: ignore[arg-type]
    assert len(rooms) == 1000
    assert [line["event"] for line in lines] == ["accepting paused: out of file descriptors"] * 2
    assert autojump_clock.current_time() >= 99


async def test_both_versions_of_ip(start: Callable[..., Replica]) -> None:
    """``[::]`` also accepts IPv4, and such a client has its IPv4 address."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    replica = start(bind="[::]:0", max_subscribers_per_address=1)
    assert (await answer(replica.port, LIVEZ)).startswith(b"HTTP/1.1 200 ")
    async with sse(replica.port, "127.0.0.5") as first, sse(replica.port, "127.0.0.5") as second:
        assert [(await first_event(client))[0] for client in (first, second)] == ["state", "goodbye"]


def test_the_limit_of_descriptors_is_known() -> None:
    """The bound of connections leaves a reserve below it."""
    from dispatcher.web.listening import RESERVED_DESCRIPTORS, connections_within_descriptors

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connections_within_descriptors(10**9) <= limit - RESERVED_DESCRIPTORS
    assert connections_within_descriptors(16) == 16
