"""What the parent and a worker send each other, over a pair of connected sockets.

A message is a JSON object on one line. If it has the member ``bytes``, that many bytes follow it, such as a page of
metrics.
"""

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
import trio

MAX_LINE_BYTES = 16 * 1024 * 1024
RECEIVE_BYTES = 256 * 1024
MAX_QUEUED = 64
"""Messages that wait for the other end to read."""


class Channel:
    """One end. *Thread*: Trio's.

    Args:
        sock: Connected with the other end; the channel owns it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._received = bytearray()
        self._queue, self._queued = trio.open_memory_channel[bytes](MAX_QUEUED)

    async def run(self) -> None:
        """Send what is queued, until the other end is gone. *Cancellation*: nothing can be sent after it."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in self._queued:
                await self._stream.send_all(data)
        # Nobody waits for room that never comes.
        self._queued.close()

    def post(self, message: Mapping[str, Any]) -> bool:
        """Queue a message; returns False where the other end is gone, or has read nothing for long."""
        try:
            self._queue.send_nowait(_encode(message))
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def send(self, message: Mapping[str, Any], payload: bytes = b"") -> None:
        """Queue a message of any length. *Backpressure*: waits for room in the queue. *Cancellation*: safe.

        Raises:
            trio.BrokenResourceError: the other end is gone.
        """
        await self._queue.send(_encode(message, payload))

    async def receive(self) -> tuple[Mapping[str, Any], bytes] | None:
        """The next message and its payload; None when the other end is gone. *Cancellation*: safe."""
        line = await self._take_line()
        if line is None:
            return None
        message = orjson.loads(line)
        payload = await self._take(message.get("bytes", 0))
        return None if payload is None else (message, payload)

    def close(self) -> None:
        """Close this end."""
        self._stream.socket.close()
        self._queue.close()
        self._queued.close()

    async def _take_line(self) -> bytes | None:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > MAX_LINE_BYTES or not await self._receive_some():
                return None
        return await self._take(end + 1)

    async def _take(self, number: int) -> bytes | None:
        while len(self._received) < number:
            if not await self._receive_some():
                return None
        taken = bytes(self._received[:number])
        del self._received[:number]
        return taken

    async def _receive_some(self) -> bool:
        try:
            received = await self._stream.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        self._received += received
        return bool(received)


def _encode(message: Mapping[str, Any], payload: bytes = b"") -> bytes:
    return orjson.dumps({**message, "bytes": len(payload)}) + b"\n" + payload
