"""Identifies the client at the other end of a connection, or beyond the proxies in front, with `sansio.addresses`.

*Source*: RFC 7239; HAProxy, doc/proxy-protocol.txt.
"""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Protocol

import trio

from dispatcher.sansio.addresses import (
    Address,
    Network,
    client_behind,
    forwarded_for,
    forwarded_host,
    is_in,
    read_address,
    x_forwarded_for,
)
from dispatcher.sansio.proxy_protocol import MAX_V2_BYTES, ProxyHeaderError, read_header
from dispatcher.settings import Settings

NOBODY = ipaddress.IPv4Address(0)
"""Stands for an unknown address, such as that of a client that has already left."""


class Fields(Protocol):
    """The header fields of a request; names are case-insensitive."""

    def getlist(self, key: str, /) -> list[str]:
        """The values of all fields with this name, in order."""


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxies are trusted, and how they name their clients."""

    trusted: tuple[Network, ...] = ()
    form: str = "x-forwarded-for"

    @classmethod
    def of(cls, settings: Settings) -> "Proxies":
        """The proxies in the settings."""
        return cls(tuple(map(ipaddress.ip_network, settings.trusted_proxies)), settings.forwarded)

    def trusts(self, peer: Address) -> bool:
        """Whether this peer is trusted to name its clients."""
        return is_in(peer, self.trusted)

    def wants_header(self, peer: Address) -> bool:
        """Whether a connection from this peer has to begin with a PROXY header."""
        return self.form == "proxy-protocol" and self.trusts(peer)

    def client(self, peer: Address, fields: Fields) -> Address:
        """The client of a request.

        Args:
            peer: The other end of the connection, or the address in its PROXY header.
            fields: The request's header fields.
        """
        if self.form == "x-forwarded-for":
            return client_behind(peer, x_forwarded_for(fields.getlist("X-Forwarded-For")), self.trusted)
        if self.form == "forwarded":
            return client_behind(peer, forwarded_for(fields.getlist("Forwarded")), self.trusted)
        return peer

    def host(self, peer: Address, fields: Fields) -> str | None:
        """The ``Host`` that the client sent to a trusted proxy, as that proxy reports it; None if it does not."""
        if not self.trusts(peer) or self.form == "proxy-protocol":
            return None
        if self.form == "forwarded":
            return forwarded_host(fields.getlist("Forwarded"))
        hosts = fields.getlist("X-Forwarded-Host")
        return hosts[-1].rpartition(",")[2].strip() or None if hosts else None


def peer_address(sock: trio.socket.SocketType) -> Address:
    """The address of the other end of a connection; `NOBODY` if it has already left."""
    try:
        return read_address(str(sock.getpeername()[0]).partition("%")[0]) or NOBODY
    except OSError:
        return NOBODY


async def read_proxy_header(sock: trio.socket.SocketType) -> Address | None:
    """Read a connection's PROXY header, and not a byte more, because TLS may follow.

    *Cancellation*: safe, the caller closes the socket.

    Returns:
        The client's address; None if the connection is the proxy's own.

    Raises:
        ProxyHeaderError: the connection does not begin with a header, or it has ended.
        OSError: the connection is broken.
    """
    data = b""
    while True:
        peeked = await sock.recv(MAX_V2_BYTES, socket.MSG_PEEK)
        header = read_header(data + peeked)
        wanted = len(peeked) if header is None else header.size_bytes - len(data)
        data += await sock.recv(wanted) if wanted else b""
        if header is not None:
            return header.client
        if not peeked:
            raise ProxyHeaderError("the connection ended within its PROXY header")
