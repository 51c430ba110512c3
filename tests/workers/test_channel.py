"""Messages between parent and worker, and what a worker is given at its start."""

import os
import socket

import pytest
import trio

from dispatcher.settings import Settings
from dispatcher.workers.channel import MAX_QUEUED, Channel
from dispatcher.workers.orders import STOP, Orders, decode_settings, encode_settings, read_lines


async def test_messages_and_pages_arrive_whole_and_in_order() -> None:
    """This holds for any length, in both directions."""
    one, other = (Channel(sock) for sock in socket.socketpair())
    page = os.urandom(3_000_000)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            nursery.start_soon(other.run)
            assert one.post({"first": 1})
            nursery.start_soon(one.send, {"second": "ä\n"}, page)
            assert other.post({"back": True})
            assert await other.receive() == ({"first": 1, "bytes": 0}, b"")
            assert await other.receive() == ({"second": "ä\n", "bytes": len(page)}, page)
            assert await one.receive() == ({"back": True, "bytes": 0}, b"")
            nursery.cancel_scope.cancel()
    one.close()
    other.close()


async def test_an_end_that_reads_nothing_holds_nobody_up() -> None:
    """When its queue is full, posted messages are dropped."""
    one, other = (Channel(sock) for sock in socket.socketpair())
    assert [one.post({"number": number}) for number in range(MAX_QUEUED + 2)].count(False) == 2
    one.close()
    other.close()


async def test_an_end_that_is_gone_is_noticed() -> None:
    """Readers, and senders that wait for room, notice it."""
    one, other = (Channel(sock) for sock in socket.socketpair())
    other.close()
    with trio.fail_after(60):
        assert await one.receive() is None
        one.post({"to": "nobody"})
        await one.run()
        assert not one.post({"to": "nobody"})
        with pytest.raises(trio.BrokenResourceError):
            await one.send({"to": "nobody"})
    one.close()


def test_orders_and_settings_arrive_as_they_were() -> None:
    """They are on one line, and include secrets."""
    settings = Settings(kafka={"sasl.password": "hunter2\n"}, poll_records=7)
    orders = Orders("1", settings, (5, 6), 7, is_embedded=True)
    line = orders.encode()
    assert line.count(b"\n") == 1
    assert Orders.decode(line) == orders
    assert decode_settings(encode_settings(settings)) == settings


def test_lines_end_with_the_pipe() -> None:
    """They may be cut anywhere, and an unfinished line is ignored."""
    reading, writing = os.pipe()
    os.write(writing, b"orders\nst")
    lines = read_lines(reading)
    assert next(lines) == b"orders\n"
    os.write(writing, b"op\nsto")
    os.close(writing)
    assert list(lines) == [STOP]
    os.close(reading)
