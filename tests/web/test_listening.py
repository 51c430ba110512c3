"""How connections are accepted."""

import gc
import math
import socket
from collections import Counter
from contextlib import AsyncExitStack, ExitStack

import pytest
import trio
from structlog.testing import capture_logs

from dispatcher.web import listening
from dispatcher.web.listening import ACCEPTED_PER_TURN, accept_for_ever
from tests.web.test_transports import House


@pytest.mark.parametrize("burst", [ACCEPTED_PER_TURN, 1])
async def test_connections_are_accepted_in_bursts(burst: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn of the loop accepts a burst, because a flood is ahead of everybody; one that takes long ends early."""
    monkeypatch.setattr(listening, "ACCEPT_SECONDS", math.inf if burst > 1 else 0)
    turns, accepted_in = 0, list[int]()

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listener.socket.getsockname()
    number = 2 * ACCEPTED_PER_TURN
    clients = [socket.create_connection(address) for _ in range(number)]
    try:
        async with trio.open_nursery() as nursery:

            def take(stream: trio.SocketStream) -> None:
                accepted_in.append(turns)
                stream.socket.close()
                if len(accepted_in) == number:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(count_turns)
            nursery.start_soon(accept_for_ever, listener, take, lambda: None)
        if burst > 1:
            assert len(set(accepted_in)) <= number / 2
        else:
            assert max(Counter(accepted_in).values()) <= 2  # what counts as one turn here may be parts of two
        assert listener.socket.fileno() >= 0
    finally:
        listener.socket.close()
        for client in clients:
            client.close()


async def test_connections_that_make_room_before_their_first_turn_are_closed(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may replace the one before, and none stays uncounted."""
    monkeypatch.setattr(listening, "ACCEPT_SECONDS", math.inf)
    house = House(transport, max_connections=16)
    with capture_logs() as lines:
        async with house.serving(), AsyncExitStack() as streams:
            for _ in range(14):
                await streams.enter_async_context(house.sse())
            await house.live(14)
            with ExitStack() as opened:
                burst = [
                    opened.enter_context(socket.create_connection(house.server.addresses[0]))
                    for _ in range(3 * ACCEPTED_PER_TURN)
                ]
                await house.until(lambda: [_is_closed(client) for client in burst].count(True) >= len(burst) - 1)
                assert house.server.statistics().intake.evicted == len(burst) - 1
                assert house.server.connections <= 15
    assert not [line for line in lines if line["log_level"] == "error"]
    gc.collect()  # a socket that was left open is a warning of this test


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
