"""Connections that have ended are freed at once: the cycle collector would hold the loop for tens of milliseconds."""

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from tests.hub.test_hub import ONE
from tests.web.test_tasks import FRAME, REQUESTS, connect
from tests.web.test_transports import House

OURS = {"dispatcher", "hypercorn", "h11", "wsproto", "quart", "quart_trio"}
HOST = b" HTTP/1.1\r\nHost: localhost\r\n"
WEBSOCKET = REQUESTS["websocket"]
SAID = {
    "nothing": b"",
    "half a head": b"GET /events" + HOST[:20],
    "a plain request": b"GET /nothing" + HOST + b"\r\n",
    "two plain requests": 2 * (b"GET /nothing" + HOST + b"\r\n"),
    "the last request": b"GET /nothing" + HOST + b"Connection: close\r\n\r\n",
    "a body": b"POST /nothing" + HOST + b"Content-Length: 3\r\n\r\nabc",
    "half a body": b"POST /nothing" + HOST + b"Content-Length: 3\r\n\r\na",
    "no HTTP": b"\x16\x03\x01",
    "a broken body": b"GET /events" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a broken upgrade": WEBSOCKET.replace(b"Sec-WebSocket-Key", b"No-Key"),
    "a refused stream": b"GET /events?since=never" + HOST + b"\r\n",
    "a refused WebSocket": WEBSOCKET.replace(b"/ws", b"/ws?since=never"),
    "a frame too early": WEBSOCKET + FRAME,
    "a stream": REQUESTS["sse"],
    "a replay": REQUESTS["sse"].replace(b"/events", b"/events?since=earliest"),
    "a filter": REQUESTS["sse"].replace(b"/events", b"/events?filter=%7B%22suffix%22%3A%7B%22key%22%3A%22.1%22%7D%7D"),
    "a WebSocket": WEBSOCKET,
    "acknowledgements": WEBSOCKET.replace(b"/ws", b"/ws?ack=client"),
}


@contextmanager
def collecting() -> Iterator[Counter[str]]:
    """What only the cycle collector frees within the ``with`` block, by type; filled in at its end."""
    found = Counter[str]()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("said", list(SAID.values()), ids=list(SAID))
async def test_a_connection_that_has_ended_is_freed_at_once(said: bytes) -> None:
    """300 clients that came and went made the collector hold the loop for 30 ms at a time, and memory grew."""
    house = House("socket")
    async with house.serving():
        for _ in range(2):  # the first one loads modules
            with collecting() as found:
                stream = connect(house, said)
                await trio.testing.wait_all_tasks_blocked(0.01)
                stream.socket.close()
                await house.until(lambda: not house.server.connections and not house.hub.subscribers)
                await trio.testing.wait_all_tasks_blocked(0.01)
                del stream
    assert not _ours(found)


async def test_subscribers_that_have_left_are_freed_at_once(transport: str) -> None:
    """Over TLS, too, and with records on their way."""
    house = House(transport)
    async with house.serving():
        for _ in range(2):
            with collecting() as found:
                async with house.sse(), house.ws():
                    await house.live(2)
                    house.publish(ONE)
                await house.until(lambda: not house.server.connections and not house.hub.subscribers)
                await trio.testing.wait_all_tasks_blocked(0.01)
    # Trio's TLS stream holds itself, and these.
    assert not _ours(found).keys() - {
        f"dispatcher.web.{name}" for name in ("sockets.PatientStream", "liveness.Liveness")
    }


def _ours(found: Counter[str]) -> dict[str, int]:
    """Those that matter: Werkzeug leaves eight small objects of each request."""
    return {name: number for name, number in found.items() if name.partition(".")[0] in OURS}
