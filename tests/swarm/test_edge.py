"""The edge of the Swarm stack: HAProxy with the stack's own configuration, in front of a replica and of none."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import httpx2
import trio

from testbed.broker import leash
from testbed.broker.cluster import _free_ports
from testbed.clients import open_sse, open_ws, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from testbed.tools import need
from tests.conftest import Kafka

CONFIGURATION = Path(__file__).parents[2] / "deploy/swarm/haproxy.cfg"
TEMPLATE = "server-template replica 30 dispatcher:8000"


@dataclass(frozen=True)
class Edge:
    """A running HAProxy."""

    port: int
    operations: int

    @property
    def address(self) -> tuple[str, int]:
        """Where subscribers connect."""
        return "127.0.0.1", self.port

    def get(self, path: str) -> httpx2.Response:
        """What a subscriber is answered."""
        return httpx2.get(f"http://127.0.0.1:{self.port}{path}")

    def metrics(self) -> str:
        """What operators are answered."""
        return httpx2.get(f"http://127.0.0.1:{self.operations}/metrics").text


@contextmanager
def edge(folder: Path, server: str = TEMPLATE) -> Iterator[Edge]:
    """HAProxy until the block ends; by itself it finds no replica, for there is no Docker to ask."""
    program = need("haproxy")
    port, operations = _free_ports(2)
    text = CONFIGURATION.read_text()
    assert TEMPLATE in text
    for ours, here in (
        (":8080", f"127.0.0.1:{port}"),
        (":8404", f"127.0.0.1:{operations}"),
        (TEMPLATE, server),
        ("maxconn 9000", "maxconn 100"),  # whatever the machine allows
    ):
        text = text.replace(ours, here)
    path = folder / "haproxy.cfg"
    path.write_text(text)
    process = subprocess.Popen(
        [sys.executable, leash.__file__, str(os.getpid()), program, "-q", "-db", "-f", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Edge(port, operations)
    finally:
        process.terminate()
        process.wait(10)


async def until(answers: Callable[[], bool]) -> None:
    """Return when it is so."""
    with trio.fail_after(seconds(20)):
        while True:
            try:
                if await trio.to_thread.run_sync(answers):
                    return
            except httpx2.HTTPError:
                pass  # it starts
            await trio.sleep(0.05)


async def test_an_event_source_outlives_a_time_without_replicas(tmp_path: Path) -> None:
    """It gets `retry:`, because an error would end it; everybody else gets an error."""
    with edge(tmp_path) as front:
        await until(lambda: front.get("/events").status_code == 200)
        events = front.get("/events?topic=a")
        assert (events.status_code, events.text) == (200, "retry: 2000\n\n")
        assert (events.headers["content-type"], events.headers["cache-control"]) == ("text/event-stream", "no-store")
        others = front.get("/ws")
        assert (others.status_code, others.headers["retry-after"]) == (503, "2")


async def test_operators_pages_are_refused_in_every_spelling(tmp_path: Path) -> None:
    """The edge decodes a path before it compares it; it answers itself, because there is no replica."""

    def status(target: str) -> int:
        connection = HTTPConnection("127.0.0.1", front.port, timeout=seconds(20))
        try:
            connection.request("GET", target)
            return connection.getresponse().status
        finally:
            connection.close()

    with edge(tmp_path) as front:
        await until(lambda: front.get("/").status_code == 503)
        for target in ("/status", "/status?x", "//status", "/%73tatus", "//%6Detrics", "/%2freadyz", "/%6civez"):
            assert (target, await trio.to_thread.run_sync(status, target)) == (target, 403)
        assert await trio.to_thread.run_sync(status, "/%65vents") == 503


async def test_streams_pass_and_operations_do_not(
    kafka: Kafka, replicas: Callable[..., Replica], tmp_path: Path
) -> None:
    """Records reach both kinds of subscribers; metrics and the like are not forwarded."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic)
    await trio.to_thread.run_sync(replica.wait_until_ready)
    host, port = replica.address
    with edge(tmp_path, f"server replica1 {host}:{port}") as front:
        await until(lambda: front.get("/").status_code == 200)
        async with open_sse(front) as sse, open_ws(front) as ws:
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 1, 1, 0, 7)
            (event,) = await sse_records(sse, 1)
            assert event.data == "7"
            while '"records"' not in (message := await ws.get_message()):
                pass
            assert '"value":"7"' in message
        for path in ("/metrics", "/status", "/readyz", "/livez"):
            assert (path, front.get(path).status_code) == (path, 403)
        assert 'haproxy_server_status{proxy="replicas",server="replica1",state="UP"} 1' in front.metrics()


async def test_replicas_see_the_address_of_the_client(
    kafka: Kafka, replicas: Callable[..., Replica], tmp_path: Path
) -> None:
    """Only the edge's header counts, not the client's, so limits by address hold, and so does the check of hosts."""
    settings = {"trusted_proxies": "127.0.0.1", "max_subscribers_per_address": 1, "allowed_hosts": "stream.example.org"}
    replica = replicas(kafka.bootstrap_servers, kafka.create_topic(1), settings=settings)
    replica.wait_until_ready()
    with edge(tmp_path, f"server replica 127.0.0.1:{replica.port}") as front:
        await until(lambda: front.get("/").status_code == 200)
        async with open_sse(front) as first:
            assert await first.next_control("state")
            async with open_sse(
                front, headers={"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1"}
            ) as second:
                assert (await second.next_control("goodbye"))["code"] == 4429
        rebound = {"Host": "rebound.example", "X-Forwarded-Host": "stream.example.org"}
        ask = partial(httpx2.get, f"http://127.0.0.1:{front.port}/ws", headers=rebound)
        answer = await trio.to_thread.run_sync(ask)
        assert answer.status_code == 421
