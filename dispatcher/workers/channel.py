"""The channel between the parent and a worker: JSON messages over a pair of connected sockets.

Each message is a JSON object on one line. Its member ``bytes``, if present, announces a payload of that length after
the line, such as a page of metrics.
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
"""How many messages may wait for the other end to read them."""


class Channel:
    """One end of the channel. *Thread*: Trio's.

    Args:
        sock: Connected to the other end; the channel owns it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._received = bytearray()
        self._queue, self._queued = trio.open_memory_channel[bytes](MAX_QUEUED)

    async def run(self) -> None:
        """Send queued messages until the other end is closed. *Cancellation*: nothing can be sent afterwards."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in self._queued:
                await self._stream.send_all(data)
        # Fail senders that wait for room: there will be none.
        self._queued.close()

    def post(self, message: Mapping[str, Any]) -> bool:
        """Queue a message; returns False if the other end is closed or has stopped reading."""
        try:
            self._queue.send_nowait(_encode(message))
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def send(self, message: Mapping[str, Any], payload: bytes = b"") -> None:
        """Queue a message of any length. *Backpressure*: waits for room in the queue. *Cancellation*: safe.

        Raises:
            trio.BrokenResourceError: the other end is closed.
        """
        await self._queue.send(_encode(message, payload))

    async def receive(self) -> tuple[Mapping[str, Any], bytes] | None:
        """Wait for the next message and its payload; None once the other end is closed. *Cancellation*: safe."""
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
