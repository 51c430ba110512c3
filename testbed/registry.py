"""A schema registry on loopback, as Confluent's API serves one, that can be away, slow and wrong."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

import orjson
import trio


class RegistryServer:
    """What is served, and what was asked for.

    Args:
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.asked: Counter[str] = Counter()
        """How often each path was asked for."""
        self.heads: list[bytes] = []
        """The heads of all requests."""
        self.is_away = False
        """Whether connections are closed without an answer."""
        self.held = trio.Event()
        """Answers wait for it."""
        self.held.set()
        self.status = b"200 OK"
        self.body: bytes | None = None
        """What is answered in place of schemas."""
        self.bodies: dict[str, bytes] = {}
        """The same for some paths."""
        self.statuses: dict[str, bytes] = {}
        """What is answered to some paths in place of `status`."""
        self.withheld: set[str] = set()
        """Paths that are answered when `held` is set; if there are none, all are."""
        self.trickles = False
        """Whether answers come a byte every 20 ms, and never to their end."""
        self._schemas: dict[str, dict[str, Any]] = {}

    def add(self, key: object, text: str, kind: str = "AVRO", references: Sequence[tuple[str, str, int]] = ()) -> None:
        """Register a schema.

        Args:
            key: Its id, or its GUID.
            text: The schema.
            kind: ``AVRO``, ``PROTOBUF`` or ``JSON``.
            references: Each with name, subject and version.
        """
        self._schemas[f"/schemas/{'ids' if isinstance(key, int) else 'guids'}/{key}"] = _answer(text, kind, references)

    def add_version(
        self, subject: str, version: int, text: str, kind: str = "AVRO", references: Sequence[tuple[str, str, int]] = ()
    ) -> None:
        """Register what others refer to."""
        self._schemas[f"/subjects/{subject}/versions/{version}"] = _answer(text, kind, references)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, one answer."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (data := await stream.receive_some(65536)):
                        return
                    head += data
                path = unquote(head.split(b" ")[1].decode())
                self.asked[path] += 1
                self.heads.append(head)
                if self.is_away:
                    return
                if not self.withheld or path in self.withheld:
                    await self.held.wait()
                await self._respond(stream, path)

    async def _respond(self, stream: trio.SocketStream, path: str) -> None:
        found = self._schemas.get(path)
        chosen = self.statuses.get(path, self.status)
        status = chosen if found is not None or chosen != b"200 OK" else b"404 Not Found"
        body = self.bodies.get(path, orjson.dumps(found or {"error_code": 40403}) if self.body is None else self.body)
        length = len(body)
        if self.trickles:
            length = 1_000_000
        await stream.send_all(b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, length))
        while self.trickles:
            await stream.send_all(b" ")
            await trio.sleep(0.02)
        await stream.send_all(body)


def _answer(text: str, kind: str, references: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    named = [{"name": name, "subject": subject, "version": version} for name, subject, version in references]
    # As Confluent's does: Avro is left out.
    return (
        {"schema": text} | ({} if kind == "AVRO" else {"schemaType": kind}) | ({"references": named} if named else {})
    )


@asynccontextmanager
async def serve_registry() -> AsyncIterator[RegistryServer]:
    """A registry that serves until the block ends."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = RegistryServer(listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.serve, [listener])
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
