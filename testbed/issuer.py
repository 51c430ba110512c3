"""An issuer of tokens on loopback: metadata and keys over HTTP, which can be rotated, counted, and away."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import trio
from joserfc.jwk import Key

from testbed.tokens import claims, jwks, sign, signing_key


class Issuer:
    """What is served, and what was asked for.

    Args:
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.keys: list[Key] = [signing_key()]
        self.asked: Counter[str] = Counter()
        """How often each path was asked for."""
        self.is_away = False
        """Whether connections are closed without an answer."""
        self.held = trio.Event()
        """Answers wait for it."""
        self.held.set()
        self.metadata: dict[str, Any] = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        self.answers: dict[str, bytes] = {}
        """Other answers, by path."""

    def token(self, key: Key | None = None, **changed: Any) -> str:
        """A right token of this issuer but for what is changed."""
        return sign(claims(**{"iss": self.url} | changed), key or self.keys[-1])

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, one answer."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (data := await stream.receive_some(65536)):
                        return
                    head += data
                path = head.split(b" ")[1].decode()
                self.asked[path] += 1
                if self.is_away:
                    return
                await self.held.wait()
                body = self._answer(path)
                status = b"404 Not Found" if body is None else b"200 OK"
                body = body or b""
                await stream.send_all(
                    b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body)
                )

    def _answer(self, path: str) -> bytes | None:
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            return orjson.dumps(self.metadata)
        return jwks(*self.keys) if path == "/jwks" else None


@asynccontextmanager
async def open_issuer() -> AsyncIterator[Issuer]:
    """An issuer within the ``async with`` block."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        issuer = Issuer(listener.socket.getsockname()[1])
        await nursery.start(trio.serve_listeners, issuer.serve, [listener])
        yield issuer
        nursery.cancel_scope.cancel()
