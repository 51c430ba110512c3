"""The check of origin and host as clients meet it: statuses, headers, and that nothing is done for what is refused."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx2
import orjson
import pytest
import structlog.testing
import trio
from websockets.sync.client import connect

from dispatcher.web.app import create_app
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from testbed.clients import open_sse, open_ws, sse_records, ws_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from testbed.tools import need
from tests.conftest import Kafka
from tests.hub.test_hub import ONE, Bench
from tests.web.test_bad_input import problem
from tests.web.test_page_in_browser import Told
from tests.web.test_transports import UPGRADE, House

STRANGER = "https://stranger.example"
APP = "https://app.example.org"


class Allowing(House):
    """A house with more settings, and with a status."""

    def __init__(self, **settings: Any) -> None:
        self.secure = False
        Bench.__init__(self, bind="127.0.0.1:0", topics=[ONE.topic], **settings)
        app = create_app(self.hub, self.settings, cast("Operations", Told()))
        self.server = Server(app, self.settings, direct=app.direct)

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx2.Response:
        """A request; underscores in names of headers are dashes."""
        host, port = self.server.addresses[0]
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx2.AsyncClient() as client:
            return await client.request(method, f"http://{host}:{port}{path}", headers=fields)

    async def raw(self, request: bytes) -> bytes:
        """What is answered until the connection ends."""
        async with self.connected() as stream:
            await stream.send_all(request)
            return b"".join([bytes(data) async for data in stream])


@pytest.mark.parametrize("path", ["/events", "/events?since=x", "/ws", "/status", "/metrics", "/nothing", "/a//b"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
async def test_a_page_of_another_origin_gets_403(path: str, method: str) -> None:
    """The response shows both sides and the setting, without CORS headers."""
    house = Allowing()
    async with house.serving():
        answer = await house.ask(path, method, Origin=STRANGER)
        detail = problem(answer, 403)
        assert STRANGER in detail
        assert f"127.0.0.1:{house.server.addresses[0][1]}" in detail
        assert "allowed_origins" in detail
        assert [name for name in answer.headers if name.startswith("access-control")] == []
        assert answer.headers["Cache-Control"] == "no-store"
        again = await house.ask(path, method, Sec_Fetch_Site="cross-site")
        assert "'cross-site'" in problem(again, 403)


async def test_another_host_gets_421() -> None:
    """The response names the host and the setting."""
    house = Allowing()
    async with house.serving():
        for path in ("/events", "/status", "/nothing"):
            detail = problem(await house.ask(path, Host="rebound.example:8000"), 421)
            assert "'rebound.example'" in detail
            assert "allowed_hosts" in detail
        for path in ("/", "/client.js", "/livez"):
            assert (await house.ask(path, Host="rebound.example:8000")).status_code == 200


@pytest.mark.parametrize(
    "host",
    [b"user@localhost", b"localhost, evil.example", b"local host", b"[::1", b"%6cocalhost", b"localhost/", b"\xff"],
)
async def test_a_host_that_is_none_gets_400(host: bytes) -> None:
    """This holds on any path, without a traceback in the log."""
    house = Allowing()
    async with house.serving():
        with structlog.testing.capture_logs() as logs:
            for path in (b"/events", b"/nothing"):
                request = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host)
                assert (await house.raw(request)).startswith(b"HTTP/1.1 400 "), host
        assert [line for line in logs if line["log_level"] == "error"] == []


@pytest.mark.parametrize("host", [b"x" * 64, b"a..b", b"." * 300, b"x" * 2000 + b":80"])
async def test_a_host_that_is_no_name_is_another_host(host: bytes) -> None:
    """DNS labels are not empty or above 63 bytes; such requests are refused and not logged as errors."""
    house = Allowing()
    async with house.serving():
        with structlog.testing.capture_logs() as logs:
            for path, status in ((b"/events", 421), (b"/nothing", 421), (b"/livez", 200)):
                request = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host)
                assert (await house.raw(request)).startswith(b"HTTP/1.1 %d " % status), path
            said = await house.raw(UPGRADE.replace(b"Host: localhost", b"Host: " + host))
            assert said.startswith(b"HTTP/1.1 421 ")
        assert [line for line in logs if line["log_level"] == "error"] == []


async def test_the_host_of_an_absolute_target_counts() -> None:
    """A proxy may send it, and the ``Host`` beside it is ignored (RFC 9112, section 3.2.2)."""
    house = Allowing()
    async with house.serving():
        for target, host, status in (
            (b"http://localhost/livez", b"rebound.example", 200),
            (b"HTTP://localhost:8000/status?x", b"rebound.example", 200),
            (b"http://localhost", b"rebound.example", 200),
            (b"http://rebound.example/events", b"localhost", 421),
            (b"http://rebound.example/ws", b"localhost", 421),
        ):
            request = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (target, host)
            assert (await house.raw(request)).startswith(b"HTTP/1.1 %d " % status), target
        assert house.hub.subscribers == 0


@pytest.mark.parametrize("target", [b"?topic=assets", b"http://[::1/events", b"http:///events", b"livez", b"mailto:a"])
@pytest.mark.parametrize("request_bytes", [b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n", UPGRADE])
async def test_a_target_that_is_none_gets_400(target: bytes, request_bytes: bytes) -> None:
    """Clients can send any number of them without a traceback in the log."""
    house = Allowing()
    async with house.serving():
        with structlog.testing.capture_logs() as logs:
            request = b"GET %b HTTP/1.1\r\n%b" % (target, request_bytes.partition(b"\r\n")[2])
            assert (await house.raw(request)).startswith(b"HTTP/1.1 400 ")
        assert [line for line in logs if line["log_level"] == "error"] == []


async def test_a_websocket_is_refused_before_the_upgrade() -> None:
    """It gets an HTTP response with the reason, and nobody has subscribed."""
    house = Allowing()
    async with house.serving():
        house.publish(ONE)
        for field, status in ((b"Origin: https://stranger.example", 403), (b"Sec-Fetch-Site: same-site", 403)):
            said = await house.raw(UPGRADE.replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % field))
            head, _, body = said.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"application/problem+json" in head
            assert b"allowed_origins" in body
        said = await house.raw(UPGRADE.replace(b"Host: localhost", b"Host: rebound.example"))
        assert said.startswith(b"HTTP/1.1 421 ")
        assert house.dispatched == []
        assert house.hub.statistics().subscribers == dict.fromkeys(house.hub.statistics().subscribers, 0)


async def test_a_refusal_leaves_the_connection_usable() -> None:
    """A proxy's connection carries requests of many pages."""
    house = Allowing()
    async with house.serving(), house.connected() as stream:
        for field, status in ((b"Origin: https://stranger.example\r\n", b"403"), (b"", b"200")):
            await stream.send_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % field)
            said = b""
            while b"}" not in said:
                said += await stream.receive_some(65536)
            assert said.startswith(b"HTTP/1.1 %b " % status)


async def test_an_allowed_origin_can_read_every_answer() -> None:
    """This includes errors, so that a page can tell what is wrong."""
    house = Allowing(allowed_origins=APP)
    async with house.serving():
        for path, method, status in (
            ("/status", "GET", 200),
            ("/events?since=x", "GET", 400),
            ("/nothing", "GET", 404),
            ("/events", "POST", 405),
            ("/events", "HEAD", 200),
        ):
            answer = await house.ask(path, method, Origin=APP, Sec_Fetch_Site="cross-site")
            assert answer.status_code == status
            assert answer.headers["Access-Control-Allow-Origin"] == APP
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert answer.headers["Vary"] == "Origin"
        assert (await house.ask("/status")).headers["Vary"] == "Origin"


async def test_a_preflight_is_answered() -> None:
    """It covers what client.js and EventSource polyfills send."""
    house = Allowing(allowed_origins=APP)
    async with house.serving():
        asks = {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "authorization,last-event-id"}
        answer = await house.ask("/events", "OPTIONS", Origin=APP, **asks)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert answer.headers["Access-Control-Allow-Headers"] == "Authorization, Last-Event-ID, Cache-Control"
        assert (await house.ask("/events", "OPTIONS", Origin=STRANGER, **asks)).status_code == 403


@pytest.mark.parametrize("path", ["/client.js", "/client.d.ts"])
async def test_client_js_can_be_imported_from_anywhere(path: str) -> None:
    """This includes pages with COEP, which embed nothing without permission."""
    house = Allowing()
    async with house.serving():
        answer = await house.ask(path, Origin=STRANGER, Sec_Fetch_Site="cross-site", Host="rebound.example")
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert "Access-Control-Allow-Origin" not in (await house.ask("/page.js")).headers


async def test_refusals_are_logged_at_a_bounded_rate() -> None:
    """One line says why, and a thousand attempts add no more."""
    house = Allowing()
    async with house.serving():
        with structlog.testing.capture_logs() as logs:
            for _ in range(20):
                await house.ask("/events", Origin=STRANGER)
        refused = [line for line in logs if line["event"] == "request refused"]
        assert len(refused) <= 2
        assert STRANGER in refused[0]["reason"]


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"bind": "127.0.0.1:0"}, False),
        ({"bind": "0.0.0.0:0"}, True),
        ({"bind": "0.0.0.0:0", "allowed_hosts": "stream.example.org"}, False),
        ({"bind": "0.0.0.0:0", "allowed_hosts": "*"}, False),
        ({"bind": "0.0.0.0:0", "allowed_origins": APP}, True),
    ],
)
def test_one_warning_where_every_name_is_answered(
    replicas: Callable[..., Replica], settings: dict[str, str], warns: bool
) -> None:
    """It is logged at the start, with the setting that ends it."""
    replica = replicas("127.0.0.1:9", "assets", settings=settings)
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 0
    lines = [line for line in replica.log.splitlines() if "allowed_hosts" in line]
    assert [orjson.loads(line)["level"] for line in lines] == ["warning"] * warns


GO = """package main

import ("bufio"; "fmt"; "net/http"; "os")

func main() {
	response, err := http.Get(os.Args[1])
	if err != nil { panic(err) }
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() { if lines.Text() == "data: 0" { fmt.Println(response.StatusCode); return } }
}
"""

NODE = """
const [url] = process.argv.slice(1);
const reader = (await fetch(`${url}/events`)).body.getReader();
let text = "";
while (!text.includes("data: 0")) text += new TextDecoder().decode((await reader.read()).value);
console.log(200); process.exit();
"""


async def test_clients_that_are_no_browsers_notice_nothing(
    kafka: Kafka, replicas: Callable[..., Replica], tmp_path: Path
) -> None:
    """curl, Go, Node, httpx and two WebSocket clients get records, by name and address."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 1, 1)
    (tmp_path / "main.go").write_text(GO)
    url = f"http://localhost:{replica.port}"
    commands = [
        ["bash", "-c", f"curl -sN '{url}/events?since=earliest' | grep -m1 -q 'data: 0' && echo 200"],
        [need("go"), "run", str(tmp_path / "main.go"), f"{url}/events?since=earliest"],
        [need("node"), "--input-type=module", "--eval", NODE.replace("/events", "/events?since=earliest"), url],
    ]
    need("curl")
    environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
    with trio.fail_after(seconds(150)):
        for command in commands:
            done = await trio.run_process(command, env=environment, capture_stdout=True, stdin=subprocess.DEVNULL)
            assert done.stdout == b"200\n"
        async with open_sse(replica, "?since=earliest", {"Host": f"127.0.0.1:{replica.port}"}) as stream:
            assert [event.data for event in await sse_records(stream, 1)] == ["0"]
        async with open_ws(replica, "?since=earliest") as websocket:
            assert [record["value"] for record in await ws_records(websocket, 1)] == ["0"]

        def over_websockets() -> str:
            with connect(f"ws://localhost:{replica.port}/ws?since=earliest", proxy=None) as client:
                while '"records"' not in (text := str(client.recv())):
                    pass
                return text

        assert '"value":"0"' in await trio.to_thread.run_sync(over_websockets)
