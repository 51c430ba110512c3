"""Odd clients notice when a server breaks a protocol, and find nothing where it does not."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple

import pytest
import trio

from tests.chaos import abuse
from tests.chaos.abuse import BEHAVIOURS, ENDINGS, REQUESTS, Abuse

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
MESSAGE = b'\x81\x13{"type":"heartbeat"}'[:2] + b'{"type":"records1"}'


class Server(NamedTuple):
    """Says the same to everybody."""

    address: tuple[str, int]
    identity: str = "server/1"


@asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[Server]:
    """A server that answers with these bytes whatever it is asked, and closes."""

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # it may be reset at any time
            await stream.receive_some()
            await stream.send_all(answer)
            await stream.send_eof()
            while await stream.receive_some():
                pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1", handler_nursery=nursery))
        yield Server(listeners[0].socket.getsockname()[:2])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "bad"),
    [
        (SWITCHING + MESSAGE, False),
        (SWITCHING + MESSAGE + b"\x88\x02\x03\xf4", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (SWITCHING + b"\x88\x02\x03\xf4" + MESSAGE, True),
        (SWITCHING + MESSAGE[:9] + b"\x8a\x01x" + MESSAGE[9:] + MESSAGE, True),
        (SWITCHING + b"\x8a\x05never", True),
    ],
)
async def test_what_a_websocket_server_sends(monkeypatch: pytest.MonkeyPatch, answer: bytes, bad: bool) -> None:
    """Every client finds records after a Close frame, a pong within a message, and an unasked pong."""
    monkeypatch.setattr(abuse, "STAY_SECONDS", 0.2)
    clients = Abuse("t")
    async with serving(answer) as server:
        await clients.sockets(server, random.Random(1))  # noqa: S311 - it has to be repeatable
    assert clients.clients.total() == len(BEHAVIOURS)
    assert len(clients.faults) == (len(BEHAVIOURS) if bad else 0), clients.faults
    assert [good for _, _, good in clients.rows()] == [True, not bad]


@pytest.mark.parametrize(("answer", "bad"), [(b"HTTP/1.1 200 OK\r\n\r\n", False), (b"hello\r\n", True), (b"", False)])
async def test_what_a_server_answers_to_odd_requests(
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    bad: bool,
) -> None:
    """Only HTTP, or nothing, is an answer: closing without an answer breaks no protocol."""
    monkeypatch.setattr(abuse, "STAY_SECONDS", 0.2)
    clients = Abuse("t")
    async with serving(answer) as server:
        await clients.requests(server, random.Random(1))  # noqa: S311 - it has to be repeatable
    assert clients.clients.total() == len(REQUESTS) * len(ENDINGS)
    assert bool(clients.faults) == bad
