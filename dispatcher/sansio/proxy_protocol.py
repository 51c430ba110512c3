"""The PROXY protocol, versions 1 and 2: what a proxy says about its client before the client's first byte.

*Source*: HAProxy, doc/proxy-protocol.txt (2.1 for version 1, 2.2 for version 2).

The header is required where it is expected and never looked for elsewhere, as the specification demands (section 2).
"""

import ipaddress
import re
import struct
from dataclasses import dataclass

from dispatcher.sansio.addresses import Address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""The first bytes of version 2."""

MAX_V1_BYTES = 107
MAX_V2_BYTES = 4096
"""The longest header of version 2 that is read: addresses take 52 bytes, and the rest are TLVs, which are skipped."""

_V1 = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|(TCP4|TCP6) ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) ([0-9]+) ([0-9]+))\r\n"
)
_FIXED_BYTES = 16
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESS_BYTES = {0x1: 12, 0x2: 36}
"""The size of two addresses and two ports, for IPv4 and IPv6."""
_UNIX_BYTES = 216


class ProxyHeaderError(Exception):
    """The bytes are not a PROXY header, or break its rules."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A complete header."""

    size_bytes: int
    client: Address | None
    """The client's address; None if the proxy speaks for itself, as in health checks (LOCAL, UNKNOWN)."""


def read_header(data: bytes) -> ProxyHeader | None:
    """Read the header at the beginning of a connection's bytes; returns None while part of it is missing.

    Raises:
        ProxyHeaderError: no further bytes could make it a header.
    """
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _read_v2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _read_v1(data)
    raise ProxyHeaderError("the connection does not begin with a PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:MAX_V1_BYTES].partition(b"\n")
    if not end:
        if len(data) >= MAX_V1_BYTES:
            raise ProxyHeaderError(f"a PROXY header of version 1 has at most {MAX_V1_BYTES} bytes")
        return None
    match = _V1.fullmatch(line + end)
    if match is None:
        raise ProxyHeaderError("a PROXY header of version 1 that cannot be read")
    family, source, destination, *ports = match.groups()
    if family is None:
        return ProxyHeader(len(line) + 1, None)
    kind = ipaddress.IPv4Address if family == b"TCP4" else ipaddress.IPv6Address
    try:
        client, _ = kind(source.decode()), kind(destination.decode())
    except ValueError as error:
        raise ProxyHeaderError(f"a PROXY header of version 1 with a wrong address: {error}") from error
    if any(len(port) > 5 or int(port) > 65535 for port in ports):
        raise ProxyHeaderError("a PROXY header of version 1 with a wrong port")
    return ProxyHeader(len(line) + 1, _plain(client))


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED_BYTES:
        return None
    command, family, length = struct.unpack_from("!BBH", data, len(SIGNATURE))
    size_bytes = _FIXED_BYTES + length
    if command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError(f"a PROXY header with version and command 0x{command:02x}")
    if size_bytes > MAX_V2_BYTES:
        raise ProxyHeaderError(f"a PROXY header of {size_bytes} bytes; {MAX_V2_BYTES} are read")
    kind, transport = family >> 4, family & 0xF
    if kind > 3 or transport > 2:
        raise ProxyHeaderError(f"a PROXY header with address family 0x{family:02x}")
    if command == _PROXY and length < (_UNIX_BYTES if kind == 3 else _ADDRESS_BYTES.get(kind, 0)):
        raise ProxyHeaderError("a PROXY header that is too short for its addresses")
    if len(data) < size_bytes:
        return None
    if command == _LOCAL or transport != 1 or kind not in _ADDRESS_BYTES:
        return ProxyHeader(size_bytes, None)
    width = 4 if kind == 1 else 16
    return ProxyHeader(size_bytes, _plain(ipaddress.ip_address(data[_FIXED_BYTES : _FIXED_BYTES + width])))


def _plain(address: Address) -> Address:
    """Return IPv4 in IPv6 as IPv4."""
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
