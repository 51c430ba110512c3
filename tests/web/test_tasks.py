"""What it takes to begin a stream: tasks and writes; and what is noticed of a client that nobody reads meanwhile."""

import socket
from collections.abc import Sequence

import pytest
import trio
import trio.abc

from dispatcher.web.liveness import Liveness
from tests.hub.test_hub import ONE
from tests.web.test_transports import House

REQUESTS = {
    "sse": b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "sse with an upgrade": b"GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "websocket": b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n",
}
FRAME = b"\x81\x80\0\0\0\0"


class Spawned(trio.abc.Instrument):
    """Counts the tasks that begin."""

    tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - whichever
        """One more."""
        self.tasks += 1


def connect(house: House, *parts: bytes, ends: bool = False) -> trio.SocketStream:
    """Connect, send, and perhaps end this side, all before the server learns of any of it."""
    sock = socket.create_connection(house.server.addresses[0])
    sock.sendall(b"".join(parts))
    if ends:
        sock.shutdown(socket.SHUT_WR)
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """Everything that the server sends."""
    try:
        return b"".join([bytes(data) async for data in stream])
    finally:
        stream.socket.close()


@pytest.mark.parametrize("request_name", list(REQUESTS))
async def test_a_stream_takes_two_tasks_and_its_head_goes_out_with_its_first_state(
    request_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One task is the connection's, one listens, and one write suffices."""
    writes: list[bytes] = []
    send = Liveness.send

    def counted(liveness: Liveness, buffers: Sequence[bytes | memoryview]) -> int:
        writes.append(b"".join(buffers))
        return send(liveness, buffers)

    monkeypatch.setattr(Liveness, "send", counted)
    house = House("socket")
    async with house.serving():
        spawned = Spawned()
        trio.lowlevel.add_instrument(spawned)
        stream = connect(house, REQUESTS[request_name])
        await house.live()
        trio.lowlevel.remove_instrument(spawned)
        assert spawned.tasks == 2
        assert len(writes) == 1
        assert writes[0].startswith(b"HTTP/1.1 ")
        assert b'"state":' in writes[0]
        stream.socket.close()


@pytest.mark.parametrize("request_name", list(REQUESTS))
async def test_a_client_that_ended_its_side_with_its_request_takes_nothing(request_name: str) -> None:
    """A waiting record is not dispatched to it."""
    house = House("socket")
    async with house.serving():
        house.publish(ONE)
        said = await read_to_end(connect(house, REQUESTS[request_name], ends=True))
        assert b"data: 0" not in said
        await house.hub.wait_no_subscribers()
        assert house.dispatched == []


async def test_a_frame_right_after_a_handshake_is_refused() -> None:
    """Before the handshake's response this is 400, without a subscriber."""
    house = House("socket")
    async with house.serving():
        house.publish(ONE)
        said = await read_to_end(connect(house, REQUESTS["websocket"], FRAME))
        assert said.startswith(b"HTTP/1.1 400 ")
        assert said.count(b"HTTP/1.1 ") == 1
        assert house.dispatched == []


async def test_a_request_is_answered_although_its_body_never_ends() -> None:
    """Requests with a body have a separate task, which need not wait for it."""
    house = House("socket")
    async with house.serving():
        stream = connect(house, b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1234")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 405 ")
        stream.socket.close()


async def test_requests_in_one_segment_are_answered_one_after_the_other() -> None:
    """The connection stays open until the last one asks to close it."""
    house = House("socket")
    async with house.serving():
        plain = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
        last = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        said = await read_to_end(connect(house, plain, plain, last))
        assert said.count(b"HTTP/1.1 404 ") == 3
