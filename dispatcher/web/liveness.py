"""Whether a peer makes progress, judged by what its kernel acknowledges.

The kernel makes room in a socket in large steps, so a reader of a few kB/s can make a writer wait for a minute although
it reads all the time.
"""

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto

import trio

from dispatcher.errors import SubscriberStalledError

BUFFERS_PER_CALL = 1024
"""Maximum number of buffers in one ``sendmsg``: the limit of Linux."""

_UNACKED_AT = 24
_BYTES_ACKED_AT = 120
_NOTSENT_BYTES_AT = 144
_TCP_INFO_BYTES = 148
"""Where Linux has these in its ``struct tcp_info`` (include/uapi/linux/tcp.h); fields are only added at its end."""


FINE_PIECE_BYTES = 1024
"""A receiver's kernel frees what was read in units that grow with the pieces in which it was sent: measured on loopback
with default buffers, acknowledgements come every 65 to 128 KiB for writes of 64 KiB, every 5 to 15 KiB for these."""

FINE_BYTES = 256 * 1024
"""This much of a connection is sent in fine pieces, and this much again after each long wait: twice what a kernel takes
by default for a client that has not begun to read. A client that took it without a long wait is a fast one."""

LONG_WAIT_SECONDS = 1.0
"""A client that makes a writer wait this long is a slow one."""

UNLIMITED = 2**30 - 1


class Progress(Enum):
    """What a peer's kernel does with what it is sent."""

    IDLE = auto()
    """Nothing waits for it, or the kernel cannot say."""
    MOVING = auto()
    """It acknowledged something, and more waits for it to make room."""
    RECEIVING = auto()
    """It acknowledged something, and the rest is on its way."""
    NONE = auto()
    """It has acknowledged nothing since the last look, although something waits for that."""


class Liveness:
    """Whether a peer's kernel still takes what it is sent, judged by what it acknowledges.

    Where the kernel cannot say (not Linux), the only progress is room in the socket.

    Args:
        sock: The socket.
        stall_timeout_seconds: How long the peer may acknowledge nothing while bytes wait for it.
    """

    __slots__ = ("_acknowledged_bytes", "_fine_bytes", "_slow", "_socket", "stall_timeout_seconds")

    def __init__(self, sock: trio.socket.SocketType, stall_timeout_seconds: float) -> None:
        self._socket = sock
        self.stall_timeout_seconds = stall_timeout_seconds
        self._acknowledged_bytes = 0
        self._fine_bytes = FINE_BYTES
        """What is still to be sent in fine pieces."""
        self._slow = False
        """Whether the last long wait is that recent."""

    @property
    def direct_bytes(self) -> int:
        """Most bytes that may go to the socket in one piece, past `send`."""
        if not self._fine_bytes:
            return UNLIMITED
        return 0 if self._slow else FINE_PIECE_BYTES

    def send(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Send a part from the beginning of some buffers; returns how many bytes were accepted, at least one.

        Raises:
            BlockingIOError: the socket is full.
            OSError: the connection is broken.
        """
        descriptor = self._socket.fileno()
        if not self._fine_bytes or descriptor < 0:
            # Verbatim: views of some hundreds would cost more than sending them.
            return os.writev(descriptor, buffers[:BUFFERS_PER_CALL])
        data = memoryview(b"".join(buffers))[: self._fine_bytes]
        sent = 0
        sock = socket.socket(self._socket.family, self._socket.type, self._socket.proto, descriptor)
        try:
            while sent < len(data):
                # The end of a record (of the transport's): the kernel joins nothing to this piece.
                sent += sock.send(data[sent : sent + FINE_PIECE_BYTES], socket.MSG_EOR | socket.MSG_DONTWAIT)
        except BlockingIOError:
            if not sent:
                raise
        finally:
            sock.detach()
        self._fine_bytes -= sent
        self._slow = self._slow and self._fine_bytes > 0
        return sent

    async def wait_writable(self) -> None:
        """Return when the socket has room. *Cancellation*: safe.

        Raises:
            SubscriberStalledError: the peer acknowledged nothing for `stall_timeout_seconds`.
            trio.ClosedResourceError: the socket was closed.
        """
        self.look()
        began = trio.current_time()
        while True:
            with trio.move_on_after(self.stall_timeout_seconds):
                await trio.lowlevel.wait_writable(self._socket)
                if trio.current_time() - began > LONG_WAIT_SECONDS:
                    self._slow, self._fine_bytes = True, FINE_BYTES
                return
            if self.look() in {Progress.NONE, Progress.IDLE}:
                raise SubscriberStalledError(f"the connection took no byte for {self.stall_timeout_seconds:g} s")

    def look(self) -> Progress:
        """What the peer has done since the last look. Costs one system call."""
        with suppress(OSError, AttributeError):
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            if len(info) == _TCP_INFO_BYTES:
                (unacknowledged,) = struct.unpack_from("=I", info, _UNACKED_AT)
                (acknowledged_bytes,) = struct.unpack_from("=Q", info, _BYTES_ACKED_AT)
                (unsent_bytes,) = struct.unpack_from("=I", info, _NOTSENT_BYTES_AT)
                before, self._acknowledged_bytes = self._acknowledged_bytes, acknowledged_bytes
                if not (unacknowledged or unsent_bytes):
                    return Progress.IDLE
                if acknowledged_bytes == before:
                    return Progress.NONE
                return Progress.MOVING if unsent_bytes else Progress.RECEIVING
        return Progress.IDLE

    def acknowledged_bytes(self) -> int:
        """What the peer has acknowledged since the connection began; what was known last once it is closed."""
        self.look()
        return self._acknowledged_bytes
