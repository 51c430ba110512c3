"""The two kinds of sockets under a connection: plain, or with TLS.

Both accept bytes in parts and report how many they accepted. While a socket is full, progress is what the peer
acknowledges (`liveness.Liveness`).
"""

import os
import select
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import trio

from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.settings import Settings
from dispatcher.web.liveness import Liveness

TLS_RECORD_BYTES = 16 * 1024
"""The maximum size of a TLS record (RFC 8446, section 5.1)."""


PIECE_BYTES = 64 * 1024

MAX_KEEP_ALIVE_SECONDS = 32_767
"""Linux refuses more (``MAX_TCP_KEEPIDLE``)."""

_HANGS_UP = getattr(select, "POLLRDHUP", select.POLLIN)
"""What is reported when the peer closes its side. Without POLLRDHUP (not Linux), a client that sends something after
its request counts as having left, too. Errors are always reported."""


class Socket(Protocol):
    """The interface of both. *Thread*: Trio's."""

    @property
    def name(self) -> str:
        """Its kind, for ``/status``."""

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket underneath."""

    @property
    def liveness(self) -> Liveness:
        """Watches what its peer acknowledges."""

    @property
    def descriptor(self) -> int | None:
        """The descriptor to which bytes may be written directly; None if they have to be encrypted for each peer."""

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """Receive what the peer has sent; empty once it has closed its side.

        *Cancellation*: safe.

        Raises:
            OSError, trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: the socket was closed.
        """

    async def send_some(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Send the beginning of some buffers; returns how many bytes were accepted, at least one.

        *Backpressure*: waits while the socket is full. *Cancellation*: a plain socket has then accepted nothing; with
        TLS the connection is unusable.

        Raises:
            SubscriberStalledError: see `Liveness.wait_writable`.
            OSError, trio.BrokenResourceError, trio.ClosedResourceError: the connection is broken or closed.
        """

    async def end(self) -> object:
        """Close our side of the connection."""


def has_left(sock: trio.socket.SocketType) -> bool:
    """Whether the peer has closed its side, or the connection is broken. Never waits."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, _HANGS_UP)
    return bool(poll.poll(0))


def discard_received(sock: trio.socket.SocketType, max_bytes: int) -> None:
    """Discard what the peer has sent, up to a number of bytes. Never waits.

    The kernel would reset a connection with unread bytes, and the peer might never read our last ones.
    """
    descriptor = sock.fileno()
    with suppress(OSError):
        while max_bytes > 0 and (data := os.read(descriptor, PIECE_BYTES)):
            max_bytes -= len(data)


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

        Waits first, then reads: most clients send nothing for a whole heartbeat. Trio's own method tries to read before
        it waits, and takes 1.5 KiB more per connection during the wait.
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
    """The stream under TLS: its waits depend on what the peer acknowledges, as those of a plain socket do."""

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
    """TLS over a socket, after the handshake."""

    name = "tls"
    descriptor = None

    def __init__(self, stream: "trio.SSLStream[PatientStream]") -> None:
        self._stream = stream
        self.socket = stream.transport_stream.socket
        self.liveness = stream.transport_stream.liveness
        self.receive_some = stream.receive_some
        self.end = stream.unwrap

    async def send_some(self, buffers: Sequence[bytes | memoryview]) -> int:
        """See `Socket`: sends about one TLS record."""
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
    """The server's side of TLS, None without a certificate. ALPN offers HTTP/1.1 only.

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
            f"{error}: name a PEM file with the certificate and its chain; the key must be in it or in tls_key's file",
        )
        raise SettingsError([problem]) from error
    return context


async def tls_handshake(stream: trio.SocketStream, context: ssl.SSLContext, stall_timeout_seconds: float) -> TlsSocket:
    """Do the handshake. *Cancellation*: safe, the caller closes the socket.

    Raises:
        trio.BrokenResourceError: the client did not speak TLS, or no accepted version; the cause says more.
        trio.ClosedResourceError: the socket was closed.
        SubscriberStalledError: see `Liveness.wait_writable`.
    """
    patient = PatientStream(stream, stall_timeout_seconds)
    secure = trio.SSLStream(patient, context, server_side=True, https_compatible=True)
    await secure.do_handshake()
    return TlsSocket(secure)


def keep_alive(sock: socket.socket | trio.socket.SocketType, seconds: float) -> None:
    """Let the kernel probe a peer that has been silent for this long, and reset the connection if it is gone.

    Connections inherit this from the socket that listens.

    ``TCP_USER_TIMEOUT`` is not used: it also cuts off peers that answer but have no room, as slow readers do (Linux,
    ``tcp_probe_timer``). `Liveness` ends those that acknowledge nothing.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with suppress(AttributeError):  # not Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, min(max(1, int(seconds)), MAX_KEEP_ALIVE_SECONDS))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, min(max(1, int(seconds / 3)), MAX_KEEP_ALIVE_SECONDS))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
