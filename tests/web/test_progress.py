"""Progress is what a peer acknowledges: one that reads slowly stays, one that is gone without a word does not."""

import errno
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from unittest import mock

import pytest
import trio
import trio.testing

from dispatcher.errors import SubscriberStalledError
from dispatcher.web import liveness as liveness_module
from dispatcher.web.liveness import (
    FINE_BYTES,
    FINE_STEP_BYTES,
    PROVEN_BYTES,
    Liveness,
    Progress,
)
from testbed.clients import open_sse, open_ws
from testbed.namespace import Namespace, why_not
from testbed.patience import seconds
from testbed.replicas import Replica

NO_BROKER = "127.0.0.1:9"


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_a_client_that_vanishes_is_let_go(replicas: Callable[..., Replica], protocol: str) -> None:
    """Without FIN, reset or acknowledgement, it stays while alive and ends soon after its network is cut."""
    settings = {"heartbeat_seconds": 0.2, "stall_timeout_seconds": 1}
    with Namespace() as namespace:
        replica = replicas(
            NO_BROKER, "assets", host=namespace.replica_host, command=namespace.command, settings=settings
        )
        with trio.fail_after(seconds(60)):
            if protocol == "sse":
                async with open_sse(replica) as stream:
                    while stream.raw.count("\n:\n") < 10:
                        assert await stream.read_some()
                    namespace.cut_subscribers()
                    await until(lambda: replica.logged("subscriber vanished"))
            else:
                async with open_ws(replica) as websocket:
                    for kind in ("state", *["heartbeat"] * 10):
                        assert json.loads(await websocket.get_message())["type"] == kind
                    namespace.cut_subscribers()
                    await until(
                        lambda: (
                            replica.logged("subscriber vanished") or replica.logged("subscriber did not answer pings")
                        )
                    )


async def until(condition: Callable[[], object]) -> None:
    """Return when something holds."""
    while not condition():  # noqa: ASYNC110 - in another process, or in the kernel
        await trio.sleep(0.05)


async def pair(receive_buffer_bytes: int | None = 32768) -> tuple[trio.socket.SocketType, trio.SocketStream]:
    """A server's side, and its client's; None: with the kernel's default buffer."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = trio.socket.socket()
        if receive_buffer_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await client.connect(listener.getsockname())
        server, _ = await listener.accept()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
    return server, trio.SocketStream(client)


async def fill(server: trio.socket.SocketType) -> None:
    """Send until nothing fits."""
    with trio.move_on_after(0.2):
        while True:
            await server.send(bytes(65536))


async def test_what_a_look_finds() -> None:
    """Nothing waits, nothing moves, or something moves."""
    server, client = await pair()
    with server, client.socket:
        liveness = Liveness(server, 1)
        assert liveness.look() is Progress.IDLE
        await fill(server)
        assert liveness.look() is Progress.MOVING
        assert liveness.look() is Progress.NONE
        await client.receive_some(1024 * 1024)
        await until(lambda: liveness.look() is not Progress.NONE)
    assert liveness.look() is Progress.IDLE, "it cannot say of a socket that is closed"


async def test_fine_pieces_are_sent_in_short_steps() -> None:
    """All of them at once held the loop for half a millisecond, for each client that began to catch up."""
    server, client = await pair()
    with server, client.socket:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**31 - 1)
        liveness = Liveness(server, 1)
        assert liveness.send([bytes(FINE_BYTES)]) == FINE_STEP_BYTES < FINE_BYTES


@pytest.mark.parametrize("receive_buffer_bytes", [None, 32768, 131072, 400_000])
@pytest.mark.parametrize("reads", [True, False])
async def test_a_client_that_reads_is_sent_fine_pieces_for_a_moment_only(
    reads: bool, receive_buffer_bytes: int | None
) -> None:
    """A burst of records cost five times as much until each client had taken 256 KiB, and 5,000 were too many."""
    server, client = await pair(receive_buffer_bytes)
    with server, client.socket:
        liveness, sent = Liveness(server, 1), 0
        with suppress(BlockingIOError):
            while liveness.direct_bytes < 3000 and sent < FINE_BYTES - 3000:
                sent += liveness.send([bytes(3000)])
                if reads:
                    await client.receive_some(65536)
        assert (liveness.direct_bytes > 3000) == reads


@pytest.mark.parametrize("receive_buffer_bytes", [None, 32768, 131072])
async def test_a_client_whose_kernel_has_taken_everything_may_still_read_nothing(
    receive_buffer_bytes: int | None,
) -> None:
    """What it has acknowledged shows that there was room; its window shows that it has not read."""
    server, client = await pair(receive_buffer_bytes)
    with server, client.socket:
        liveness, sent = Liveness(server, 1), 0
        with suppress(BlockingIOError), trio.move_on_after(seconds(0.5)):  # for ever, once its window is full
            while sent < 60_000:
                sent += liveness.send([bytes(3000)])
                await until(lambda: liveness.look() is Progress.IDLE)
        assert liveness.direct_bytes < 3000


async def test_a_client_that_was_slow_has_to_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its window is as wide as ever once it has read what had filled the socket."""
    monkeypatch.setattr(liveness_module, "LONG_WAIT_SECONDS", 0.0)
    server, client = await pair()
    with server, client.socket:
        liveness = Liveness(server, 10)
        await fill(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(liveness.wait_writable)
            await trio.testing.wait_all_tasks_blocked()
            while liveness.look() is not Progress.IDLE:
                await client.receive_some(65536)
        for _ in range(PROVEN_BYTES // 1024 * 2):
            liveness.send([bytes(1024)])
            await client.receive_some(65536)
        assert liveness.direct_bytes == 0


async def test_an_error_after_some_pieces_is_reported_by_the_next_call() -> None:
    """Otherwise a direct writer would send the pieces again that were sent already."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        liveness, send = Liveness(ours, 1), socket.socket.send
        pieces = list[int]()

        def fail_later(sock: socket.socket, data: bytes, flags: int = 0) -> int:
            if pieces:
                raise OSError(errno.ENOBUFS, "put in on purpose")
            pieces.append(send(sock, data, flags))
            return pieces[0]

        with mock.patch.object(socket.socket, "send", fail_later):
            assert liveness.send([bytes(3000)]) == pieces[0] < 3000
            with pytest.raises(OSError, match="on purpose"):
                liveness.send([bytes(3000 - pieces[0])])


async def test_acknowledgements_are_progress_where_the_socket_makes_no_room(nursery: trio.Nursery) -> None:
    """The kernel wakes a writer late; a slow reader has not stalled."""
    server, client = await pair()
    with server, client.socket:
        await fill(server)
        # Room is made when next to nothing is unsent: a step that is too large for this reader.
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1)
        liveness = Liveness(server, 1)
        read_bytes = 0

        async def read(cancel: trio.CancelScope) -> None:
            nonlocal read_bytes
            with cancel:
                while True:
                    read_bytes += len(await client.receive_some(20_000))
                    await trio.sleep(0.2)

        reading = trio.CancelScope()
        nursery.start_soon(read, reading)
        with trio.move_on_after(3.5) as waiting:
            await liveness.wait_writable()
        assert waiting.cancelled_caught, "neither room nor a stall"
        assert read_bytes
        reading.cancel()
        with pytest.raises(SubscriberStalledError):
            await liveness.wait_writable()
