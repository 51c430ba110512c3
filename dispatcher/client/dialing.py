"""Opens connections: TCP, with TLS if the address requires it."""

import ssl

import trio

from dispatcher.client.address import Address

ByteStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def dial(address: Address, context: ssl.SSLContext | None) -> ByteStream:
    """Connect; each further address of the host is tried a quarter of a second later (RFC 8305).

    *Cancellation*: safe, nothing stays open.

    Raises:
        OSError: nothing answers there, or the name is unknown.
        trio.BrokenResourceError: the TLS handshake failed; its cause is the ``ssl.SSLError``.
    """
    plain = await trio.open_tcp_stream(address.host, address.port)
    if not address.secure:
        return plain
    # Dispatchers, and proxies in front of them, may close without TLS's close_notify: the goodbye event says more.
    context = context or ssl.create_default_context()
    secure = trio.SSLStream(plain, context, server_hostname=address.host, https_compatible=True)
    try:
        await secure.do_handshake()
    except BaseException:
        hang_up(secure)
        raise
    return secure


def hang_up(stream: ByteStream) -> None:
    """Close at once, without a message: the server needs none."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    plain.socket.close()
