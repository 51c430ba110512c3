"""Clients that people use read compressed streams record by record; so does a client behind nginx."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from dispatcher.hub.goodbyes import Goodbye
from testbed.patience import seconds
from testbed.tools import EVENTSOURCE, need
from tests.hub.test_hub import ONE
from tests.web.test_behind_nginx import AS_IT_COMES, HouseBehindNginx, documented
from tests.web.test_client_js import flags_of_node
from tests.web.test_compression import GzipStream, deflate_client, gzip_client
from tests.web.test_transports import House, next_values

RECORDS = 3
PADDING = "so long that it is compressed " * 20

NODE_EVENTSOURCE = """
const [url] = process.argv.slice(1);
const { EventSource } = await import("eventsource");
const source = new EventSource(`${url}/events`, {
  fetch: async (...request) => {
    const response = await fetch(...request);
    console.log(response.headers.get("content-encoding"));
    return response;
  },
});
source.onmessage = ({ data }) => console.log(data);
source.addEventListener("goodbye", ({ data }) => { source.close(); console.log(`${data}\\nend`); });
"""

NODE_WEBSOCKET = """
const [url] = process.argv.slice(1);
const socket = new WebSocket(`${url.replace("http", "ws")}/ws`);
socket.onopen = () => console.log(socket.extensions);
socket.onmessage = ({ data }) => console.log(data);
socket.onclose = () => console.log("end");
"""

NODE = """
const [url] = process.argv.slice(1);
const response = await fetch(`${url}/events`);
console.log(response.headers.get("content-encoding"));
const decoder = new TextDecoder();
for await (const part of response.body) process.stdout.write(decoder.decode(part, { stream: true }));
console.log("end");
"""

HTTPX = """
import sys, httpx2
with httpx2.stream("GET", sys.argv[1] + "/events", headers={"Accept-Encoding": "gzip"}, timeout=None) as response:
    print(response.headers["content-encoding"], flush=True)
    for line in response.iter_lines():
        print(line, flush=True)
print("end", flush=True)
"""

WEBSOCKETS = """
import sys
from websockets.sync.client import connect
from websockets.exceptions import ConnectionClosed
with connect(sys.argv[1].replace("http", "ws", 1) + "/ws", proxy=None) as client:
    print(client.protocol.extensions[0].name, flush=True)
    try:
        while True:
            print(client.recv(), flush=True)
    except ConnectionClosed:
        print("end", flush=True)
"""

GO = """package main

import ("fmt"; "net/http"; "bufio"; "os")

func main() {
	response, err := http.Get(os.Args[1] + "/events")
	if err != nil { panic(err) }
	if response.Uncompressed { fmt.Println("gzip") }
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() { fmt.Println(lines.Text()) }
	fmt.Println("end")
}
"""


NODE_SCRIPTS = {"node": NODE, "node eventsource": NODE_EVENTSOURCE, "node WebSocket": NODE_WEBSOCKET}
WEBSOCKET_CLIENTS = ("websockets", "node WebSocket")


def command(client: str, folder: Path) -> Sequence[str]:
    """How a client is started; the address follows."""
    if client == "curl":
        script = 'curl -sN --compressed -D - "$0/events" && echo end'
        need("curl")
        return ["bash", "-c", script]
    if client.startswith("node"):
        return [need("node"), *node_flags(client, folder), "--input-type=module", "--eval", NODE_SCRIPTS[client]]
    if client == "go":
        (folder / "main.go").write_text(GO)
        return [need("go"), "run", str(folder / "main.go")]
    return [sys.executable, "-c", HTTPX if client == "httpx2" else WEBSOCKETS]


def node_flags(client: str, folder: Path) -> Sequence[str]:
    """What lets a script have what it needs."""
    if client == "node WebSocket":
        if not (flags := flags_of_node("--experimental-websocket")):
            pytest.skip("this version of Node has no WebSocket")
        return flags
    if client == "node eventsource":
        command = [need("npm"), "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), EVENTSOURCE]
        subprocess.run(command, check=True, timeout=seconds(60))
    return []


class Reading:
    """What a client prints."""

    def __init__(self, output: trio.abc.ReceiveStream) -> None:
        self.text = ""
        self._output = output

    async def until(self, words: str) -> None:
        """Return when it has printed them."""
        while words not in self.text:
            data = await self._output.receive_some(65536)
            assert data, f"the client ended without {words!r}:\n{self.text}"
            self.text += data.decode()


@asynccontextmanager
async def running(words: Sequence[str], folder: Path) -> AsyncIterator[Reading]:
    """A client that runs in a folder within the ``async with`` block."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
    process = await trio.lowlevel.open_process(
        list(words), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, cwd=folder
    )
    assert process.stdout is not None
    try:
        yield Reading(process.stdout)
        await process.wait()
    finally:
        process.kill()
        with trio.move_on_after(10, shield=True):
            await process.wait()


@pytest.mark.parametrize("way", ["directly", "nginx"])
@pytest.mark.parametrize("client", ["curl", *NODE_SCRIPTS, "httpx2", "websockets", "go"])
async def test_clients_read_record_by_record(client: str, way: str, tmp_path: Path) -> None:
    """Each record arrives before the next one is published, and the end is a regular one."""
    nginx = HouseBehindNginx("socket", tmp_path, documented(), compression="on") if way == "nginx" else None
    house = nginx or House("socket", compression="on")
    async with house.serving(within_seconds=60):
        url = nginx.url if nginx else "http://{}:{}".format(*house.server.addresses[0])
        async with running([*command(client, tmp_path), url], tmp_path) as reading:
            await reading.until("permessage-deflate" if client in WEBSOCKET_CLIENTS else "gzip")
            await house.live()
            for number in range(RECORDS):
                house.publish_text(f"record {number} {PADDING}")
                await reading.until(f"record {number} {PADDING}")
            house.hub.say_goodbye(lambda: Goodbye(1012, "the replica restarts", 1500))
            await reading.until("the replica restarts")
            await reading.until("\nend\n")
        statistics = house.hub.encoder.statistics().compression
        assert statistics is not None
        assert statistics.output_bytes < statistics.input_bytes / 2


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_through_nginx_as_documented(protocol: str, tmp_path: Path) -> None:
    """It forwards the client's offer and the dispatcher's bytes at once."""
    house = HouseBehindNginx("socket", tmp_path, documented(), compression="on")
    async with house.serving(), gzip_client(house) if protocol == "sse" else deflate_client(house) as client:
        await house.live()
        for number in range(RECORDS):
            house.publish_text(f"record {number} {PADDING}")
            assert await next_values(client, 1) == [f"record {number} {PADDING}"]
        house.hub.say_goodbye(lambda: Goodbye(1012, "the replica restarts", 1500))
        if isinstance(client, GzipStream):
            assert (await client.next_control("goodbye"))["code"] == 1012
            assert await client.next_event() is None
            assert client.ended


async def test_through_nginx_as_it_comes(tmp_path: Path) -> None:
    """With HTTP/1.0 to the dispatcher, streams are not compressed, and records still pass at once."""
    house = HouseBehindNginx("socket", tmp_path, AS_IT_COMES, compression="on")
    async with house.serving(), house.sse() as client:
        for number in range(RECORDS):
            house.publish(ONE)
            assert await next_values(client, 1) == [str(number)]
