"""What a connection reads from and writes to: a socket, or TLS over one.

Both take bytes in parts and say how many they took. While a socket is full, progress is what the peer acknowledges
(`Liveness`): the kernel makes room in large steps, so a reader of a few kB/s lets a writer wait for a minute although
it reads all the time.
"""

import os
import socket
import ssl
import struct
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Protocol

import trio

from dispatcher.errors import SettingsError, SettingsProblem, SubscriberStalledError
from dispatcher.settings import Settings

BUFFERS_PER_CALL = 1024
"""Maximum number of buffers in one ``sendmsg``: the limit of Linux."""

TLS_RECORD_BYTES = 16 * 1024
"""What TLS encrypts at once (RFC 8446, section 5.1)."""


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
        stall_timeout_seconds: How long nothing may be acknowledged while something waits to be.
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


class Socket(Protocol):
    """Either of the two below. *Thread*: Trio's."""

    @property
    def name(self) -> str:
        """What it is, for ``/status``."""

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket underneath."""

    @property
    def liveness(self) -> Liveness:
        """What its peer acknowledges."""

    @property
    def descriptor(self) -> int | None:
        """Where ready-made bytes may be written at once, None where they have to be encrypted for each peer."""

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """What the peer has sent, empty when it has ended its side.

        *Cancellation*: safe.

        Raises:
            OSError, trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: the socket was closed.
        """

    async def send_some(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Send a part from the beginning of some buffers; returns how many bytes were accepted, at least one.

        *Backpressure*: waits while the socket is full. *Cancellation*: a plain socket has accepted nothing then; TLS
        cannot be used any more.

        Raises:
            SubscriberStalledError: see `Liveness.wait_writable`.
            OSError, trio.BrokenResourceError, trio.ClosedResourceError: the connection is broken or closed.
        """

    async def end(self) -> object:
        """Tell the peer that nothing more comes."""


class PlainSocket:
    """A plain socket."""

    name = "socket"

    def __init__(self, stream: trio.SocketStream, stall_timeout_seconds: float) -> None:
        self.socket = stream.socket
        self.end = stream.send_eof
        self.liveness = Liveness(self.socket, stall_timeout_seconds)

    @property
    def descriptor(self) -> int:
        """See `Socket`."""
        return self.socket.fileno()

    async def receive_some(self, max_bytes: int) -> bytes:
        """See `Socket`.

        Waits first, and asks the socket then: most clients say nothing for a whole heartbeat. Trio's own asks before it
        waits as well, and holds 1.5 KiB more of each connection meanwhile.
        """
        while True:
            if self.socket.fileno() < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self.socket)
            with suppress(BlockingIOError):
                return os.read(self.socket.fileno(), max_bytes)

    async def send_some(self, buffers: Sequence[bytes | memoryview]) -> int:
        """See `Socket`."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.liveness.send(buffers)
            except BlockingIOError:
                await self.liveness.wait_writable()


class PatientStream(trio.abc.Stream):
    """What TLS writes to: waits by what the peer acknowledges, as a plain socket does."""

    def __init__(self, stream: trio.SocketStream, stall_timeout_seconds: float) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.liveness = Liveness(stream.socket, stall_timeout_seconds)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`."""
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`; *Cancellation* and an error leave it broken.

        Raises:
            SubscriberStalledError: see `Liveness.wait_writable`.
        """
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while left:
            try:
                left = left[self.liveness.send([left]) :]
            except BlockingIOError:
                await self.liveness.wait_writable()
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error


class TlsSocket:
    """TLS over a socket, its handshake done."""

    name = "tls"
    descriptor = None

    def __init__(self, stream: "trio.SSLStream[PatientStream]") -> None:
        self._stream = stream
        self.socket = stream.transport_stream.socket
        self.liveness = stream.transport_stream.liveness
        self.receive_some = stream.receive_some
        self.end = stream.unwrap

    async def send_some(self, buffers: Sequence[bytes | memoryview]) -> int:
        """See `Socket`: about one record of TLS."""
        part: list[bytes | memoryview] = []
        size_bytes = 0
        for buffer in buffers:
            part.append(buffer[: TLS_RECORD_BYTES - size_bytes])
            size_bytes += len(part[-1])
            if size_bytes == TLS_RECORD_BYTES:
                break
        await self._stream.send_all(b"".join(part))
        return size_bytes


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The server's side of TLS, None without a certificate. HTTP/1.1 only, also by ALPN.

    Raises:
        SettingsError: the files cannot be read, or do not hold a certificate and its key.
    """
    if not settings.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key or None)
    except OSError as error:  # ssl.SSLError is one too
        problem = SettingsProblem(
            "tls_certificate",
            settings.tls_certificate,
            f"{error}: name a PEM file with the certificate and its chain, and in tls_key the one with its key",
        )
        raise SettingsError([problem]) from error
    return context


async def tls_handshake(stream: trio.SocketStream, context: ssl.SSLContext, stall_timeout_seconds: float) -> TlsSocket:
    """Do the handshake. *Cancellation*: safe, the caller closes the socket.

    Raises:
        trio.BrokenResourceError: the client spoke no TLS, or none that is allowed; the cause says more.
        trio.ClosedResourceError: the socket was closed.
        SubscriberStalledError: see `Liveness.wait_writable`.
    """
    patient = PatientStream(stream, stall_timeout_seconds)
    secure = trio.SSLStream(patient, context, server_side=True, https_compatible=True)
    await secure.do_handshake()
    return TlsSocket(secure)


def keep_alive(stream: trio.SocketStream, seconds: float) -> None:
    """Let the kernel ask a peer that is silent for this long whether it is still there, and reset when it is not.

    There is no ``TCP_USER_TIMEOUT``: it also cuts peers that answer and have no room, which slow readers are
    (Linux, ``tcp_probe_timer``). `Liveness` ends those that acknowledge nothing.

    Raises:
        OSError: the connection has gone already.
    """
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with suppress(AttributeError):  # not Linux
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(seconds)))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(seconds / 3)))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
