"""The clients of tests say how a connection has ended."""

from types import SimpleNamespace

import pytest
import trio
from trio_websocket import HandshakeError

from testbed import clients
from testbed.clients import SseStream, open_ws


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 20"])
async def test_a_connection_that_ends_before_its_response_is_broken(sent: bytes) -> None:
    """A replica may be killed after it has accepted; a living one does not violate HTTP."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(sent)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        async with await trio.open_tcp_stream(*listeners[0].socket.getsockname()) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await SseStream(stream).open("/events")
        nursery.cancel_scope.cancel()


async def test_a_websocket_that_ends_before_its_handshake_is_no_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener of a worker that was killed would never come back: chaos missed the records of its partitions."""
    monkeypatch.setattr(clients, "HANDSHAKE_SECONDS", 0.1)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def leave(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, leave, listeners)
        with pytest.RaisesGroup(HandshakeError):
            async with open_ws(SimpleNamespace(address=listeners[0].socket.getsockname())):
                raise AssertionError
        nursery.cancel_scope.cancel()
