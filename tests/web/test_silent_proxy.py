"""Behind a proxy that holds event streams back: what the dispatcher sent into it meanwhile is not lost."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from dispatcher.client import subscribe
from testbed.balancer import RECEIVE_BYTES, Balancer
from testbed.browser import open_profile
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 3
LOT = 60
LIVE = "document.querySelector('#badge')?.dataset.state === 'live'"


class SilentProxy(Balancer):
    """Takes all that the backend says on ``/events``, and passes nothing of it on; the rest passes."""

    is_silent = True

    async def handle(self, client: trio.SocketStream) -> None:
        """One request for each connection, so that each is seen."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := bytes(await client.receive_some(RECEIVE_BYTES))):
                    return
                head += data
            head = head.replace(b"Connection: keep-alive\r\n", b"Connection: close\r\n")
            if self.is_silent and head.startswith(b"GET /events"):
                await self._swallow(client, head)
            else:
                await self.pass_on(client, head)

    async def _swallow(self, client: trio.SocketStream, head: bytes) -> None:
        """Until the client leaves."""
        async with client, await trio.open_tcp_stream(*self.backends[0].address) as backend:
            await backend.send_all(head)
            async with trio.open_nursery() as nursery:
                self._open.add(nursery.cancel_scope)
                nursery.start_soon(_drain, backend)
                await _drain(client)
                nursery.cancel_scope.cancel()


async def _drain(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(RECEIVE_BYTES):
            pass


@asynccontextmanager
async def silent_proxy(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> AsyncIterator[tuple[SilentProxy, Callable[[], None]]]:
    """The proxy in front of a replica, and what writes records and waits until the silent connection took them."""
    topic = kafka.create_topic(PARTITIONS)
    replica = await trio.to_thread.run_sync(replicas, kafka.bootstrap_servers, topic)
    await trio.to_thread.run_sync(replica.wait_until_ready)

    def write() -> None:
        replica.wait_for("a subscriber", lambda status: status["subscribers"]["total"] == 1)
        produce_numbered(kafka.bootstrap_servers, topic, LOT, PARTITIONS)
        replica.wait_for("all committed", lambda status: sum(p["committed"] or 0 for p in status["partitions"]) == LOT)

    proxy = SilentProxy([replica])
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, proxy.handle, 0, host="127.0.0.1"))
        proxy.address = listeners[0].socket.getsockname()[:2]
        yield proxy, write
        nursery.cancel_scope.cancel()


async def test_a_page_takes_a_websocket_and_loses_nothing(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """It has no id, and its silent stream's records were committed."""
    with trio.fail_after(seconds(150)):
        async with silent_proxy(kafka, replicas) as (proxy, write), open_profile() as browser:
            page = await browser.new_page()
            await page.open(f"{proxy.url}/?observe=0")
            await trio.to_thread.run_sync(write)
            assert await page.run("document.querySelectorAll('#records > li').length") == 0
            await page.until(LIVE, 60)
            assert (await page.run("document.querySelector('#replica').textContent")).endswith("over WebSocket")
            await page.until(f"document.querySelectorAll('#records > li').length >= {LOT}", 60)
            values = await page.run("[...document.querySelectorAll('#records .value')].map((e) => e.textContent)")
            assert sorted(map(int, values)) == list(range(LOT))


async def test_the_python_client_asks_again_and_loses_nothing(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """It succeeds once the proxy forwards streams."""
    with trio.fail_after(seconds(150)):
        async with (
            silent_proxy(kafka, replicas) as (proxy, write),
            subscribe(proxy.url, connect_timeout_seconds=60, first_wait_seconds=0.01) as stream,
        ):
            await trio.to_thread.run_sync(write)
            proxy.is_silent = False
            proxy.cut()
            values = [int((await anext(stream)).text) for _ in range(LOT)]
    assert sorted(values) == list(range(LOT))
