"""Streams that outlive their request: what happens when the app in front of them fails."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

from dispatcher.errors import UnavailableError
from dispatcher.settings import Settings
from dispatcher.web.connection import Connection
from dispatcher.web.events import Silence
from dispatcher.web.limits import Limits
from dispatcher.web.requests import read_query
from dispatcher.web.server import Server
from dispatcher.web.streams import SubscriberStream
from tests.hub.test_hub import FEED, Bench, RecordingTransport

Attach = Callable[[Scope, ASGISendCallable], None]


class RecordedStream:
    """Keeps what is done to it."""

    was_flooded = False

    def __init__(self) -> None:
        self.done: list[str] = []
        self.connection: Connection

    async def run(self) -> None:
        """Send one word, and end the answer."""
        self.done.append("run")
        await self.connection.writer.end(b"8\r\nstreamed\r\n0\r\n\r\n")

    def close(self) -> None:
        """Unsubscribe."""
        self.done.append("close")


@asynccontextmanager
async def serving(app: ASGIFramework) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server with this app, within the ``async with`` block."""
    server = Server(app, Settings(bind="127.0.0.1:0"))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        host, port = server.addresses[0]
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client:
            yield client
        nursery.cancel_scope.cancel()


async def test_a_stream_goes_on_when_the_app_is_done() -> None:
    """The end of the app's response is held back until the stream has run."""
    stream = RecordedStream()

    async def app(scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        stream.connection = scope["state"]["connection"]
        stream.connection.stream = stream
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"opened, ", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with serving(app) as client:
        assert (await client.get("/")).text == "opened, streamed"
    assert stream.done == ["run", "close"]


@pytest.mark.parametrize("leaves_stream", [False, True])
async def test_an_app_that_fails_is_answered_for(leaves_stream: bool) -> None:
    """The response is 500, its stream is closed without running, and the server continues."""
    stream = RecordedStream()

    async def app(scope: Scope, _receive: ASGIReceiveCallable, _send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        if leaves_stream:
            scope["state"]["connection"].stream = stream
        raise ZeroDivisionError("on purpose")

    async with serving(app) as client:
        for _ in range(2):
            assert (await client.get("/")).status_code == 500
    assert stream.done == (["close"] * 2 if leaves_stream else [])


class BrokenSession:
    """A session that cannot be opened."""

    def open(self, _end: object) -> None:
        """Fail after the subscriber was taken."""
        raise RuntimeError("no session")

    def begin(self, _notify: object) -> None:
        """Never called."""

    def close(self) -> None:
        """Nothing was opened."""


def open_stream(bench: Bench, limits: Limits, session: BrokenSession | None = None) -> SubscriberStream:
    """Subscribe, with a place of its own."""
    connection = RecordedStream()
    connection.writer = RecordingTransport()  # type: ignore[attr-defined] # all that is used of it
    return SubscriberStream(
        bench.hub,
        FEED,
        read_query({}, None, ["assets"]),
        connection,  # type: ignore[arg-type] # the same
        Silence(chunked=True),
        admission=limits.admit("192.0.2.1", None, 0.0),
        session=session,
    )


async def test_a_stream_whose_session_cannot_be_opened_holds_nothing() -> None:
    """Neither a subscriber nor a place is left, which nobody would close."""
    bench, limits = Bench(), Limits(Settings())
    before = limits.statistics()
    with pytest.raises(RuntimeError, match="no session"):
        open_stream(bench, limits, BrokenSession())
    assert bench.hub.subscribers == 0
    assert limits.statistics() == before


async def test_a_stream_that_the_hub_refuses_holds_no_place() -> None:
    """Otherwise each attempt would cost its address a place for good."""
    bench, limits = Bench(max_subscribers=1), Limits(Settings())
    open_stream(bench, limits)
    before = limits.statistics()
    with pytest.raises(UnavailableError):
        open_stream(bench, limits)
    assert bench.hub.subscribers == 1
    assert limits.statistics() == before
