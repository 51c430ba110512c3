"""Decides whether a peer makes progress, by what its kernel acknowledges.

The kernel makes room in a socket in large steps, so a client that reads a few kB/s without a pause can still make a
writer wait for a minute.
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

_TCP_INFO = struct.Struct("=24x I 92x Q 16x I")
"""``tcpi_unacked``, ``tcpi_bytes_acked`` and ``tcpi_notsent_bytes`` in Linux's ``struct tcp_info``
(include/uapi/linux/tcp.h); new fields are only added at its end."""

_TCP_INFO_WITH_WINDOW = struct.Struct("=120x Q 16x I 80x I")
"""The latter two, and ``tcpi_snd_wnd`` (since Linux 5.4), the peer's receive window: it shrinks while the peer's
application leaves bytes unread (measured on loopback: by 3 KiB at 18 kB, and 14 KiB at 36 kB)."""

FINE_PIECE_BYTES = 1024
"""A receiver's kernel frees read bytes in units that grow with the pieces in which they were sent: measured on loopback
with default buffers, it acknowledges every 65 to 128 KiB for writes of 64 KiB, and every 5 to 15 KiB for these."""

FINE_BYTES = 256 * 1024
"""How much is sent in fine pieces at the start of a connection, and after each long wait: twice what a kernel accepts
by default for a client that has not begun to read. A client that takes this much without a long wait is a fast one."""

PROVEN_BYTES = 24 * 1024
"""A client that has acknowledged this much, and 3/8 of its window, has read it if the window is as large as ever, or
nearly: then it needs no more fine pieces."""

FINE_STEP_BYTES = 64 * 1024
"""How much of that is sent per call: the pieces take 0.13 ms of CPU, and all of them at once would take 0.5 ms."""

LONG_WAIT_SECONDS = 1.0
"""A client that makes a writer wait this long counts as slow."""

UNLIMITED = 2**30 - 1


class Progress(Enum):
    """What a peer's kernel has done since the last look."""

    IDLE = auto()
    """No bytes are waiting for it, or our kernel cannot tell."""
    MOVING = auto()
    """It acknowledged something, and more is waiting for room."""
    RECEIVING = auto()
    """It acknowledged something, and the rest is on its way."""
    NONE = auto()
    """It has acknowledged nothing, although bytes are waiting for it."""


class Liveness:
    """Watches whether a peer's kernel still accepts bytes, by what it acknowledges.

    Where our kernel cannot tell (not Linux), only room in the socket counts as progress.

    Args:
        sock: The socket.
        stall_timeout_seconds: How long the peer may acknowledge nothing while bytes wait for it.
    """

    __slots__ = (
        "_acknowledged_bytes",
        "_fine_bytes",
        "_slow",
        "_socket",
        "_widest_bytes",
        "stall_timeout_seconds",
    )

    def __init__(self, sock: trio.socket.SocketType, stall_timeout_seconds: float) -> None:
        self._socket = sock
        self.stall_timeout_seconds = stall_timeout_seconds
        self._acknowledged_bytes = 0
        self._fine_bytes = FINE_BYTES
        """How much is still to be sent in fine pieces."""
        self._slow = False
        """Whether the last long wait was recent."""
        self._widest_bytes = 0
        """The largest window that the peer has had."""

    @property
    def direct_bytes(self) -> int:
        """Maximum number of bytes that may be written to the socket in one piece, bypassing `send`."""
        if not self._fine_bytes:
            return UNLIMITED
        return 0 if self._slow else FINE_PIECE_BYTES

    def send(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Send the beginning of some buffers; returns how many bytes were accepted, at least one.

        Raises:
            BlockingIOError: the socket is full.
            OSError: the connection is broken.
        """
        descriptor = self._socket.fileno()
        if self._fine_bytes and self._has_read():
            self._fine_bytes = 0
        if not self._fine_bytes or descriptor < 0:
            # Unchanged: making views of hundreds of buffers would cost more than sending them.
            return os.writev(descriptor, buffers[:BUFFERS_PER_CALL])
        data = memoryview(b"".join(buffers))[: min(self._fine_bytes, FINE_STEP_BYTES)]
        sent = 0
        sock = socket.socket(self._socket.family, self._socket.type, self._socket.proto, descriptor)
        try:
            while sent < len(data):
                # End of record, in the transport's sense: the kernel appends nothing to this piece.
                sent += sock.send(data[sent : sent + FINE_PIECE_BYTES], socket.MSG_EOR | socket.MSG_DONTWAIT)
        except OSError:
            if not sent:
                raise  # otherwise the next call does, and nobody sends these pieces twice
        finally:
            sock.detach()
        self._fine_bytes -= sent
        self._slow = self._slow and self._fine_bytes > 0
        return sent

    def _has_read(self) -> bool:
        """Whether the peer has read what it was sent, as far as its window tells. Costs one system call."""
        if self._slow:
            return False
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_WITH_WINDOW.size)
            acknowledged_bytes, unsent_bytes, window_bytes = _TCP_INFO_WITH_WINDOW.unpack(info)
        except (OSError, AttributeError, struct.error):
            return False
        self._widest_bytes = max(self._widest_bytes, window_bytes)
        enough_bytes = max(PROVEN_BYTES, self._widest_bytes * 3 // 8)
        return not unsent_bytes and acknowledged_bytes >= enough_bytes and 16 * window_bytes > 15 * self._widest_bytes

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
                raise SubscriberStalledError(f"the connection accepted no byte for {self.stall_timeout_seconds:g} s")

    def look(self) -> Progress:
        """Report what the peer has done since the last look. Costs one system call."""
        with suppress(OSError, AttributeError):
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            if len(info) == _TCP_INFO.size:
                unacknowledged, acknowledged_bytes, unsent_bytes = _TCP_INFO.unpack(info)
                before, self._acknowledged_bytes = self._acknowledged_bytes, acknowledged_bytes
                if not (unacknowledged or unsent_bytes):
                    return Progress.IDLE
                if acknowledged_bytes == before:
                    return Progress.NONE
                return Progress.MOVING if unsent_bytes else Progress.RECEIVING
        return Progress.IDLE

    def acknowledged_bytes(self) -> int:
        """How much the peer has acknowledged since the connection began; after a close, the last known figure."""
        self.look()
        return self._acknowledged_bytes
