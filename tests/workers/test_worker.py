"""What a worker does for its parent: it says how it is, and carries out orders."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import trio

from dispatcher.hub.hub import Hub
from dispatcher.settings import Settings
from dispatcher.web.admin_streams import OwnStreams
from dispatcher.web.draining import Drain
from dispatcher.web.operations import Operations
from dispatcher.web.visits import Visits
from dispatcher.workers.channel import Channel
from dispatcher.workers.orders import Orders
from dispatcher.workers.worker import ParentLink
from testbed.patience import seconds
from tests.hub.test_hub import ONE, Bench, RecordingTransport, settle

SUBSCRIBERS = 8


class Ready:
    """A replica that is ready."""

    has_been_ready = True

    def why_not_ready(self) -> list[str]:
        """Nothing."""
        return []

    def degraded(self) -> list[str]:
        """Nothing."""
        return []


async def reload() -> None:
    """Nothing changes."""


@asynccontextmanager
async def linked(hub: Hub) -> AsyncIterator[Channel]:
    """The parent's end of the channel of a worker with this hub."""
    ours, theirs = socket.socketpair()
    link = ParentLink(Orders("1", Settings(spread_seconds=0), (), theirs.detach()))
    parent = Channel(ours)
    streams = OwnStreams(Visits(writes_log=False), Drain(hub, lambda: None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent.run)
        serve = partial(link.serve, cast("Operations", Ready()), streams, hub, reload)
        nursery.start_soon(serve)  # noqa: ASYNC113 - the channel keeps what the parent posts before that
        yield parent
        nursery.cancel_scope.cancel()
    parent.close()
    link._channel.close()


async def test_it_says_how_late_it_was(nursery: trio.Nursery) -> None:
    """Each report has the time since the one before: the first one has all of it."""
    bench = Bench()
    transport = RecordingTransport()
    transport.gate.set()
    nursery.start_soon(bench.hub.run)
    await nursery.start(bench.serve, transport)
    await settle()
    bench.publish(ONE)
    await settle()
    with trio.fail_after(seconds(30)):
        async with linked(bench.hub) as parent:
            reports = [await parent.receive() for _ in range(2)]
    late_seconds = [report[0]["late_seconds"] for report in reports if report is not None]
    assert (late_seconds[0] > 0, late_seconds[1:]) == (True, [0])


async def test_as_many_subscribers_as_are_ordered_get_their_goodbye(nursery: trio.Nursery) -> None:
    """The others stay."""
    bench = Bench()
    transports = [RecordingTransport() for _ in range(SUBSCRIBERS)]
    nursery.start_soon(bench.hub.run)
    for transport in transports:
        transport.gate.set()
        await nursery.start(bench.serve, transport)
    numbers = [SUBSCRIBERS]
    with trio.fail_after(seconds(30)):
        async with linked(bench.hub) as parent:
            assert parent.post({"send_on": 3})
            while numbers[-1] > SUBSCRIBERS - 3:
                report = await parent.receive()
                assert report is not None
                numbers.append(report[0]["subscribers"])
            following = await parent.receive()
    assert following is not None
    assert following[0]["subscribers"] == bench.hub.subscribers == SUBSCRIBERS - 3
    assert [transport.events[-1][1] for transport in transports].count("goodbye") == 3
