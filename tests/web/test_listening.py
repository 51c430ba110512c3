"""How connections are accepted."""

import socket

import trio

from dispatcher.web.listening import ACCEPTED_PER_TURN, accept_for_ever


async def test_connections_are_accepted_in_bursts() -> None:
    """Those that wait already take a turn of the loop per burst, and not one each: a flood is in front of everybody."""
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
        assert len(set(accepted_in)) <= number / 2
        assert listener.socket.fileno() >= 0
    finally:
        listener.socket.close()
        for client in clients:
            client.close()
