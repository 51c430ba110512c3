"""What a connection reads from and writes to: a socket, or TLS over one.

Both take bytes in parts, and say how many they took: who writes can see progress, and give up when there is none.
"""

import os
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import trio

from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.settings import Settings

BUFFERS_PER_CALL = 1024
"""Most buffers in one ``sendmsg``: Linux takes no more."""

TLS_RECORD_BYTES = 16 * 1024
"""What TLS encrypts at once (RFC 8446, section 5.1)."""

HANDSHAKE_SECONDS = 10.0
"""How long a client may take for its part of the TLS handshake."""


class Socket(Protocol):
    """Either of the two below. *Thread*: Trio's."""

    @property
    def name(self) -> str:
        """What it is, for ``/status``."""

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket underneath."""

    @property
    def descriptor(self) -> int | None:
        """Where ready-made bytes may be written at once, None where they have to be encrypted for each peer."""

    async def receive_some(self, most_bytes: int) -> bytes | bytearray:
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
        """

    async def end(self) -> object:
        """Tell the peer that nothing more comes."""


class PlainSocket:
    """A socket as it is."""

    name = "socket"

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = stream.socket
        self.end = stream.send_eof

    @property
    def descriptor(self) -> int:
        """See `Socket`."""
        return self.socket.fileno()

    async def receive_some(self, most_bytes: int) -> bytes:
        """See `Socket`.

        Waits first, and asks the socket then: most clients say nothing for a whole heartbeat. Trio's own asks before it
        waits as well, and holds 1.5 KiB more of each connection meanwhile.
        """
        while True:
            if self.socket.fileno() < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self.socket)
            with suppress(BlockingIOError):
                return os.read(self.socket.fileno(), most_bytes)

    async def send_some(self, buffers: Sequence[bytes | memoryview]) -> int:
        """See `Socket`."""
        # As they are: views of some hundreds would cost more than sending them.
        return await self.socket.sendmsg(buffers[:BUFFERS_PER_CALL])


class TlsSocket:
    """TLS over a socket, its handshake done."""

    name = "tls"
    descriptor = None

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self.socket = stream.transport_stream.socket
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


async def secured(stream: trio.SocketStream, context: ssl.SSLContext) -> TlsSocket | None:
    """Do the handshake; None when the client does not do its part.

    *Cancellation*: safe, the caller closes the socket.
    """
    secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    with trio.move_on_after(HANDSHAKE_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await secure.do_handshake()
        return TlsSocket(secure)
    return None
