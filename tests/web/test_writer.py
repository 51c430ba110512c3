"""What is said to a peer that reads nothing: it waits, whole and in order, and costs no more for being much."""

import os
from contextlib import suppress

import trio

from dispatcher.web.liveness import FINE_BYTES, FINE_PIECE_BYTES
from dispatcher.web.sockets import PlainSocket
from dispatcher.web.writer import DIRECT_PIECES_BYTES, Writer


async def test_many_notices_wait_in_one_place_and_go_out_in_order() -> None:
    """Refusing a whole window causes as many answers, so none may copy the others."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        writer = Writer(PlainSocket(trio.SocketStream(ours), stall_timeout_seconds=60))
        writer.open_stream(None)
        filling = b""
        with suppress(BlockingIOError):
            while True:
                filling += b"x" * os.write(ours.fileno(), b"x" * 4096)
        assert writer.notify(b"<0>")
        waiting = writer._notices
        for number in range(1, 1000):
            assert writer.notify(b"<%d>" % number)
        assert writer._notices is waiting
        expected = filling + b"".join(b"<%d>" % number for number in range(1000))
        received = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.send_all, ())
            while len(received) < len(expected):
                received += await theirs.recv(65536)
        assert received == expected


async def test_nothing_passes_the_rest_of_a_write() -> None:
    """The rest goes first, even if the socket has room again."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        peer = PlainSocket(trio.SocketStream(ours), stall_timeout_seconds=60)
        peer.liveness._fine_bytes = 0  # it has read fast so far
        writer = Writer(peer)
        writer.open_stream(None)
        record = bytes(range(256)) * 16 * 1024
        sent = writer.try_send(record)
        assert 0 < sent < len(record)
        received = b""
        while len(received) < sent:
            received += await theirs.recv(65536)
        assert writer.try_send(b"<another record>") == 0
        assert writer.reply(b"<pong>")
        assert writer.notify(b"<notice>")
        expected = record + b"<next><notice><pong>"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.send_all, [b"<next>"])
            while len(received) < len(expected):
                received += await theirs.recv(65536)
        assert received == expected


async def test_a_small_record_goes_out_at_once_although_it_needs_several_pieces() -> None:
    """Otherwise a task has to wake for each of the first records, and a round takes ten times as long."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        peer = PlainSocket(trio.SocketStream(ours), stall_timeout_seconds=60)
        writer = Writer(peer)
        writer.open_stream(None)
        record = b"x" * DIRECT_PIECES_BYTES
        assert len(record) > FINE_PIECE_BYTES
        number = FINE_BYTES // len(record)
        for _ in range(number):
            assert writer.try_send(record) == len(record)
            assert await theirs.recv(2 * len(record)) == record
        assert peer.liveness.direct_bytes > len(record), "it has taken enough to be a fast one"
        peer.liveness._slow, peer.liveness._fine_bytes = True, FINE_BYTES
        writer.open_stream(None)
        assert writer.try_send(record) == 0, "a slow one has to wait for room"


async def test_a_large_record_is_left_to_the_task_while_pieces_are_small() -> None:
    """It would hold the loop for as long as a slice of subscribers."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        writer = Writer(PlainSocket(trio.SocketStream(ours), stall_timeout_seconds=60))
        writer.open_stream(None)
        assert writer.try_send(b"x" * (DIRECT_PIECES_BYTES + 1)) == 0
        assert not writer.reply(b"<pong>")
        assert await theirs.recv(100) == b"<pong>"


async def test_what_a_socket_takes_of_several_pieces_is_finished_later() -> None:
    """The rest goes first."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        writer = Writer(PlainSocket(trio.SocketStream(ours), stall_timeout_seconds=60))
        writer.open_stream(None)
        records: list[bytes] = []
        record, sent = b"", 0
        while sent == len(record):
            record = b"%04d" % len(records) * (DIRECT_PIECES_BYTES // 4)
            sent = writer.try_send(record)
            records += [record] if sent else []  # it may be refused as a whole
        expected, received = b"".join(records) + b"<next>", b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.send_all, [b"<next>"])
            while len(received) < len(expected):
                received += await theirs.recv(65536)
        assert received == expected
