"""What stands before a site: it serves the site's own pages, and passes everything else on, to replicas or a case."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import trio

from testbed.balancer import RECEIVE_BYTES, Balancer
from testbed.clients import Addressed


@dataclass
class Elsewhere:
    """An address that is no replica's."""

    address: tuple[str, int]


class Edge(Balancer):
    """One origin for pages and streams; made by `open_edge`.

    Args:
        backends: What it stands in front of.
        files: Type and content of each page, by path.
        prefix: What comes before the path of everything that is passed on.
    """

    def __init__(self, backends: Sequence[Addressed], files: Mapping[str, tuple[str, bytes]], prefix: str = "") -> None:
        super().__init__(backends)
        self._files = files
        self._prefix = prefix

    async def handle(self, client: trio.SocketStream) -> None:
        """One request for each connection, so that each is seen."""
        with suppress(trio.BrokenResourceError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := bytes(await client.receive_some(RECEIVE_BYTES))):
                    return
                head += data
            method, target, rest = head.split(b" ", 2)
            if (file := self._files.get(target.decode().partition("?")[0])) is not None:
                await client.send_all(_answer(*file))
                await client.send_eof()
                return
            rest = rest.replace(b"Connection: keep-alive\r\n", b"Connection: close\r\n")
            await self.pass_on(client, b"%b %b%b %b" % (method, self._prefix.encode(), target, rest))


def _answer(content_type: str, content: bytes) -> bytes:
    fields = f"Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode() + content


@asynccontextmanager
async def open_edge(
    backends: Sequence[Addressed], files: Mapping[str, tuple[str, bytes]], prefix: str = ""
) -> AsyncIterator[Edge]:
    """An edge on a free port, within the ``async with`` block."""
    edge = Edge(backends, files, prefix)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, edge.handle, 0, host="127.0.0.1"))
        edge.address = listeners[0].socket.getsockname()[:2]
        yield edge
        nursery.cancel_scope.cancel()
