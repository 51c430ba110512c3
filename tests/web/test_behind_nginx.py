"""nginx between the client and either transport, as it comes and as `docs/protocol.md` sets it up."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import orjson
import pytest
import trio
from wsproto.events import CloseConnection, TextMessage

from dispatcher.hub.goodbyes import Goodbye
from testbed.broker import leash
from testbed.clients import ClientStream, SseStream
from testbed.tools import need
from tests.hub.test_hub import ONE, TWO
from tests.web.test_transports import UPGRADE, House, WsStream, next_values

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
AS_IT_COMES = "location / { proxy_pass http://127.0.0.1:PORT; }"
CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream dispatcher {{ server {host}:{port}; }}
    server {{ listen unix:{folder}/socket; listen 127.0.0.1:{front} reuseport; {location} }}
}}
"""


class HouseBehindNginx(House):
    """Its clients are nginx's."""

    url = ""
    """Where clients that are programs find it."""

    def __init__(self, transport: str, folder: Path, location: str, **settings: object) -> None:
        super().__init__(transport, **settings)
        self._folder = folder
        self._location = location.replace("http://", "https://") if self.secure else location

    @asynccontextmanager
    async def serving(self, within_seconds: float = 20) -> AsyncIterator[None]:
        """And nginx in front of it."""
        async with super().serving(within_seconds):
            host, port = self.server.addresses[0]
            location = self._location.replace("PORT", str(port))
            with socket.socket() as reserved:
                # nginx shares the port with this socket, which never listens: until then nobody else can have it.
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                reserved.bind(("127.0.0.1", 0))
                front = reserved.getsockname()[1]
                self.url = f"http://127.0.0.1:{front}"
                text = CONFIGURATION.format(folder=self._folder, host=host, port=port, location=location, front=front)
                with nginx(self._folder, text):
                    # Not when the file is there: nginx binds before it listens, and refuses meanwhile.
                    await self.until(lambda: listens(self._folder / "socket"))
                    yield

    @asynccontextmanager
    async def connected(self, receive_buffer_bytes: int = 0) -> AsyncIterator[ClientStream]:
        """A client's stream, which ends at nginx."""
        del receive_buffer_bytes  # a local socket's is the sender's
        stream = await trio.open_unix_socket(str(self._folder / "socket"))
        try:
            yield stream
        finally:
            stream.socket.close()


def listens(path: Path) -> bool:
    """Whether somebody takes connections at a local socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def nginx(folder: Path, configuration: str) -> Iterator[None]:
    """It runs in the foreground until the block ends."""
    program = need("nginx")
    path = folder / "nginx.conf"
    path.write_text(configuration)
    command = [program, "-e", str(folder / "error.log"), "-c", str(path)]
    process = subprocess.Popen([sys.executable, leash.__file__, str(os.getpid()), *command])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def documented() -> str:
    """The location that the page says to write."""
    found = re.search(r"```nginx\n(.+?)```", PROTOCOL.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(params=["socket", "tls"])
def transport(request: pytest.FixtureRequest) -> str:
    """How nginx reaches the dispatcher."""
    return str(request.param)


async def test_sse_needs_no_configuration(transport: str, tmp_path: Path) -> None:
    """Each record arrives at once although nginx buffers by default; a goodbye ends the response."""
    house = HouseBehindNginx(transport, tmp_path, AS_IT_COMES)
    async with house.serving(), house.sse() as client:
        for number in range(3):
            house.publish(ONE)
            assert await next_values(client, 1) == [str(number)]
        house.hub.say_goodbye(lambda: Goodbye(1012, "the replica restarts", 1500))
        assert (await client.next_control("goodbye"))["code"] == 1012
        assert await client.next_event() is None


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_records_and_the_last_word_pass_through(transport: str, protocol: str, tmp_path: Path) -> None:
    """The backlog, live records and the reason for the end all pass through."""
    house = HouseBehindNginx(transport, tmp_path, documented())
    async with house.serving():
        house.publish(ONE, TWO)
        async with house.sse() if protocol == "sse" else house.ws() as client:
            assert await next_values(client, 2) == ["0", "1"]
            await house.live()
            for number in range(2, 5):
                house.publish(TWO)
                assert await next_values(client, 1) == [str(number)]
            house.hub.say_goodbye(lambda: Goodbye(1012, "the replica restarts", 1500))
            assert await last_word(client) == 1012
            await house.hub.wait_no_subscribers()


async def test_the_origin_is_compared_with_what_the_client_asked_for(transport: str, tmp_path: Path) -> None:
    """The proxy forwards Host with its port, so only pages of its origin may stream."""
    house = HouseBehindNginx(transport, tmp_path, documented())
    async with house.serving():
        for host, origin, status in (
            (b"localhost:8443", b"https://localhost:8443", b"101"),
            (b"localhost:8443", b"https://localhost", b"403"),
            (b"localhost", b"https://localhost", b"101"),
            (b"stream.example.org", b"https://stream.example.org", b"421"),
        ):
            async with house.connected() as stream:
                request = UPGRADE.replace(b"Host: localhost", b"Host: %b\r\nOrigin: %b" % (host, origin))
                await stream.send_all(request)
                assert (await stream.receive_some(9 + 3)).startswith(b"HTTP/1.1 %b" % status)


async def last_word(client: SseStream | WsStream) -> int:
    """The code with which the stream ends; WebSocket's close has it as well."""
    if isinstance(client, SseStream):
        code = int(str((await client.next_control("goodbye"))["code"]))
        assert await client.next_event() is None
        return code
    told = []
    while not isinstance(event := await client.next_event(), CloseConnection):
        if isinstance(event, TextMessage):
            told.append(orjson.loads(event.data))
    assert (told[-1]["type"], told[-1]["code"]) == ("goodbye", event.code)
    return int(event.code)


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_a_client_that_leaves_the_proxy_leaves_the_dispatcher(
    transport: str, protocol: str, tmp_path: Path
) -> None:
    """The proxy closes its side, which frees the place."""
    house = HouseBehindNginx(transport, tmp_path, documented())
    async with house.serving():
        async with house.sse() if protocol == "sse" else house.ws():
            await house.live()
        await house.hub.wait_no_subscribers()


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_a_client_that_does_not_read_holds_back_what_is_dispatched(
    transport: str, protocol: str, tmp_path: Path
) -> None:
    """The proxy takes only its buffer, so the record is dispatched when nearly all of it is read."""
    house = HouseBehindNginx(transport, tmp_path, documented())
    async with house.serving(), house.sse() if protocol == "sse" else house.ws() as client:
        await house.live()
        house.publish_large()
        await house.until(lambda: all(subscriber.in_flight for subscriber in house.hub._registry.everybody.values()))
        assert house.dispatched == []
        (value,) = await next_values(client, 1)
        assert set(value) == {"x"}
        await house.until(lambda: bool(house.dispatched))
