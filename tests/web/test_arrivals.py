"""Connections before their first request: no task of their own, whatever they send, until a head is complete."""

import socket
from contextlib import ExitStack, suppress

import pytest
import trio
import trio.testing

from dispatcher.web import arrivals
from dispatcher.web.arrivals import Arrivals
from tests.web.test_tasks import Spawned, connect, read_to_end
from tests.web.test_transports import House
from tests.web.test_turns import Turns, say_at_once

MANY = 60
HALF = b"GET /nothing HTTP/1.1\r\nHost: loc"
REST = b"alhost\r\nConnection: close\r\n\r\n"
HEADS = {
    "CRLF": HALF + REST,
    "LF": (HALF + REST).replace(b"\r\n", b"\n"),
    "both": HALF + REST.replace(b"\r\n\r\n", b"\n\r\n"),
    "two": HALF + REST.replace(b"Connection: close\r\n", b"") + HALF + REST,
}


async def test_half_a_head_takes_no_task() -> None:
    """An address that opened 3,000 connections per second, each with half a head, made records of others 29 ms late."""
    house, spawned = House("socket"), Spawned()
    async with house.serving():
        await trio.testing.wait_all_tasks_blocked()
        with ExitStack() as opened:
            trio.lowlevel.add_instrument(spawned)
            streams = [connect(house, HALF) for _ in range(MANY)]
            for stream in streams:
                opened.callback(stream.socket.close)
            await house.until(lambda: house.server.connections == MANY)
            await trio.testing.wait_all_tasks_blocked(0.01)
            trio.lowlevel.remove_instrument(spawned)
            assert (spawned.tasks, house.server.statistics().intake.idle) == (0, MANY)
            say_at_once(streams, REST)
            for stream in streams:
                assert (await read_to_end(stream)).startswith(b"HTTP/1.1 404 ")
        await house.until(lambda: not house.server.connections)
        assert not house.server.statistics().intake.connections.taken


@pytest.mark.parametrize("head", list(HEADS.values()), ids=list(HEADS))
async def test_a_head_may_be_cut_anywhere(head: bytes) -> None:
    """Each part is read before the next is sent, and nothing is lost or read twice."""
    house = House("socket")
    async with house.serving():
        for at in range(1, len(head)):
            stream = connect(house, head[:at])
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(head[at:])
            assert (await read_to_end(stream)).count(b"HTTP/1.1 404 ") == head.count(b"GET ")
        stream = connect(house)
        for byte in head:
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(bytes([byte]))
        assert (await read_to_end(stream)).count(b"HTTP/1.1 404 ") == head.count(b"GET ")


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((b"\x16\x03\x01",), 400),
        ((b"\r\n",), 400),
        ((b"", b" GET"), 400),
        ((HALF, b"x" * 9_000, b"x" * 9_000), 431),
        ((HALF + b"x" * 20_000,), 431),
    ],
    ids=["TLS", "an empty line", "a space", "a long head in parts", "a long head"],
)
async def test_what_cannot_be_a_head_is_refused_at_once(parts: tuple[bytes, ...], status: int) -> None:
    """The parser's answer does not wait until the time for a head is over."""
    house = House("socket", request_timeout_seconds=600)
    async with house.serving():
        stream = connect(house, parts[0])
        for part in parts[1:]:
            await trio.testing.wait_all_tasks_blocked(0.01)
            await stream.send_all(part)
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("said", [b"", HALF], ids=["silent", "half a head"])
@pytest.mark.parametrize("leaves", ["at once", "later", "with a reset"])
async def test_clients_that_leave_free_their_places(said: bytes, leaves: str) -> None:
    """Whether they leave before they were read from, or after that."""
    house = House("socket", request_timeout_seconds=600)
    async with house.serving():
        with ExitStack() as opened:
            for _ in range(MANY):
                stream = connect(house, said, ends=leaves == "at once")
                opened.callback(stream.socket.close)
                if leaves == "with a reset":
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if leaves != "at once":
                await house.until(lambda: house.server.connections == MANY)
                opened.close()
            await house.until(lambda: not house.server.connections)
            taken = house.server.statistics().intake
            assert (taken.connections.taken, taken.idle) == (0, 0)


async def test_the_time_for_a_head_counts_from_the_accept() -> None:
    """Those that go on sending bytes are closed, too, and without an answer."""
    house = House("socket", request_timeout_seconds=0.2)
    async with house.serving():
        first, second = connect(house), connect(house, HALF)
        assert await read_to_end(first) == b""
        with suppress(trio.BrokenResourceError):
            await second.send_all(b"a")
            assert await read_to_end(second) == b""
        await house.until(lambda: not house.server.connections)
        later = connect(house, HALF)  # the first one after none
        assert await read_to_end(later) == b""
        assert not house.server.statistics().intake.connections.taken


async def test_a_stop_closes_them_at_once() -> None:
    """They have no request that could be answered."""
    house = House("socket", request_timeout_seconds=600)
    async with house.serving():
        stream = connect(house, HALF)
        await house.until(lambda: house.server.connections == 1)
        await house.server.stop(600)
        assert await read_to_end(stream) == b""
        assert (house.server.connections, house.server.statistics().intake.connections.taken) == (0, 0)


async def test_a_connection_that_is_accepted_after_the_end_is_closed() -> None:
    """The accept may have happened in the step of the stop."""
    house = House("socket")
    async with house.serving():
        server = house.server
        await server.stop(0)
        await trio.testing.wait_all_tasks_blocked()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname(), timeout=10)
            accepted, _ = listening.accept()
        with client:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            server._take(lambda _: pytest.fail("it was served"), stream)
            assert client.recv(1) == b""
        assert not server.statistics().intake.connections.taken


async def test_a_flood_of_bytes_is_read_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the loop reads from some of the connections, not from all that have sent something."""
    turns, read_in = Turns(), list[int]()
    needs_more = Arrivals._needs_more

    def noted(among: Arrivals, arrival: arrivals.Arrival) -> bool:
        read_in.append(turns.number)
        return needs_more(among, arrival)

    house = House("socket", request_timeout_seconds=600)
    async with house.serving():
        with ExitStack() as opened:
            streams = [connect(house, HALF) for _ in range(10 * arrivals.READS_PER_TURN)]
            for stream in streams:
                opened.callback(stream.socket.close)
            await house.until(lambda: house.server.connections == len(streams))
            monkeypatch.setattr(Arrivals, "_needs_more", noted)
            say_at_once(streams, b"a")
            await turns.count_until(lambda: len(read_in) >= len(streams))
    # What counts as one turn here may be parts of two.
    assert max(map(read_in.count, read_in)) <= 2 * arrivals.READS_PER_TURN


async def test_without_epoll_each_connection_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems than Linux have none."""
    monkeypatch.delattr("select.epoll")
    house = House("socket")
    async with house.serving():
        stream = connect(house, HALF)
        await house.until(lambda: len(house.server._connections) == 1)
        await stream.send_all(REST)
        assert (await read_to_end(stream)).startswith(b"HTTP/1.1 404 ")
        await house.server.stop(0)
