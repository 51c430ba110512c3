"""The address of a client as proxies report it, and who counts as one client.

Rules of this module:

* Only what a trusted proxy has added is believed: from the right, hop by hop, for as long as the hop before is trusted.
  The first address that is not one of the trusted proxies is the client's.
* What cannot be read ends the walk: the client then counts as the last hop that could be read. Nothing is guessed.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_CLIENT_BITS = 64
"""A client of IPv6 has a whole network of this prefix at least (RFC 6177), so that is what is counted."""

MAX_HOPS = 32
"""Hops that are looked at; no chain of proxies is that long."""

_PORT = re.compile(r":[0-9]{1,5}")
_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s",;]*)\s*')


def read_address(text: str) -> Address | None:
    """An address, perhaps in brackets and with a port; None when it is none, such as ``unknown`` (RFC 7239, 6.2).

    IPv4 in IPv6 (``::ffff:192.0.2.1``) is IPv4: the same client comes over a dual-stack socket.
    """
    text = text.strip()
    if text.startswith("["):
        inside, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _PORT.fullmatch(port)) or ":" not in inside:
            return None
        text = inside
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _PORT.fullmatch(f":{port}"):
            return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def is_in(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of some networks."""
    return address is not None and any(
        address.version == network.version and address in network for network in networks
    )


def client_key(address: Address) -> str:
    """Who this is, for what is counted by client: an IPv4 address, or the /64 network of an IPv6 one."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_CLIENT_BITS), strict=False))


def client_behind(peer: Address, hops: Iterable[str], trusted: Sequence[Network]) -> Address:
    """The client's address.

    Args:
        peer: The other end of the connection.
        hops: What proxies have written down, the last one first.
        trusted: Networks of the trusted proxies.
    """
    client = peer
    for hop, _ in zip(hops, range(MAX_HOPS), strict=False):
        if not is_in(client, trusted):
            break
        address = read_address(hop)
        if address is None:
            break
        client = address
    return client


def x_forwarded_for(fields: Sequence[str]) -> Iterator[str]:
    """The hops of ``X-Forwarded-For`` fields, the last one first."""
    for field in reversed(fields):
        yield from reversed(field.split(","))


def forwarded_for(fields: Sequence[str]) -> Iterator[str]:
    """The ``for`` of each hop of ``Forwarded`` fields (RFC 7239), the last first; empty where it cannot be read."""
    for element in _forwarded(fields):
        yield element.get("for", "")


def forwarded_host(fields: Sequence[str]) -> str | None:
    """The ``host`` that the last proxy has written into ``Forwarded``; None where there is none."""
    return next(_forwarded(fields), {}).get("host")


def _forwarded(fields: Sequence[str]) -> Iterator[dict[str, str]]:
    """The elements, the last one first, each as its pairs; one that cannot be read is empty."""
    for field in reversed(fields):
        for element in reversed(_split_quoted(field, ",")):
            yield _pairs(element)


def _pairs(element: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in _split_quoted(element, ";"):
        match = _PAIR.fullmatch(part)
        if match is None or match[1].lower() in pairs:
            return {}
        value = match[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        pairs[match[1].lower()] = value
    return pairs


def _split_quoted(text: str, separator: str) -> list[str]:
    """Split at separators outside of quoted strings."""
    parts, begin, quoted, at = [], 0, False, 0
    while at < len(text):
        character = text[at]
        if quoted and character == "\\":
            at += 1
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[begin:at])
            begin = at + 1
        at += 1
    return [*parts, text[begin:]]
