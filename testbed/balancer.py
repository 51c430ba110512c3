"""A plain TCP balancer in front of replicas: each connection goes to the next backend that takes it."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from testbed.clients import Addressed

RECEIVE_BYTES = 64 * 1024


class Balancer:
    """Passes bytes on; made by `open_balancer`.

    Args:
        backends: What it stands in front of.
    """

    def __init__(self, backends: Sequence[Addressed]) -> None:
        self.backends = list(backends)
        self.address: tuple[str, int]
        self._turn = itertools.count()
        self._silence: set[trio.CancelScope] = set()
        """Around what passes the bytes of each connection on."""
        self._open: set[trio.CancelScope] = set()
        """Around each connection."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address[0]}:{self.address[1]}"

    def fall_silent(self) -> None:
        """Every connection that is open stays open, and nothing more passes through it; new ones are fine."""
        for scope in self._silence:
            scope.cancel()

    def cut(self) -> None:
        """Every connection that is open ends, wherever it is."""
        for scope in self._open:
            scope.cancel()

    async def handle(self, client: trio.SocketStream) -> None:
        """Serve one connection until one of both sides ends it."""
        await self.pass_on(client, b"")

    async def pass_on(self, client: trio.SocketStream, begun: bytes) -> None:
        """The same, where some bytes of the client's have been read."""
        backend = await self._connect()
        if backend is None:
            await trio.aclose_forcefully(client)
            return
        async with client, backend, trio.open_nursery() as nursery:
            self._open.add(nursery.cancel_scope)
            with trio.CancelScope() as scope:
                self._silence.add(scope)
                await backend.send_all(begun)
                async with trio.open_nursery() as both:
                    both.start_soon(_pass_on, client, backend, nursery.cancel_scope)
                    both.start_soon(_pass_on, backend, client, nursery.cancel_scope)
            self._silence.discard(scope)
            await trio.sleep_forever()

    async def _connect(self) -> trio.SocketStream | None:
        first = next(self._turn)
        for n in range(len(self.backends)):
            host, port = self.backends[(first + n) % len(self.backends)].address
            with suppress(OSError):
                return await trio.open_tcp_stream(host, port)
        return None


async def _pass_on(source: trio.SocketStream, target: trio.SocketStream, whole: trio.CancelScope) -> None:
    """Bytes of one direction; the end of one side is the end of both."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some(RECEIVE_BYTES):
            await target.send_all(data)
    whole.cancel()


@asynccontextmanager
async def open_balancer(backends: Sequence[Addressed]) -> AsyncIterator[Balancer]:
    """A balancer on a free port, within the ``async with`` block."""
    balancer = Balancer(backends)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, balancer.handle, 0, host="127.0.0.1"))
        balancer.address = listeners[0].socket.getsockname()[:2]
        yield balancer
        nursery.cancel_scope.cancel()
