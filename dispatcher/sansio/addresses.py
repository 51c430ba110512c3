"""A client's address as proxies report it, and which addresses count as one client.

Rules of this module:

* Only what a trusted proxy added is believed: hop by hop from the right, as long as the previous hop is trusted. The
  first address that does not belong to a trusted proxy is the client's.
* An unreadable hop ends the walk: the client then counts as the last hop that was readable. Nothing is guessed.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_CLIENT_BITS = 64
"""The prefix of IPv6 networks that count as one client: a client has at least a network of this size (RFC 6177)."""

MAX_HOPS = 32
"""How many hops are looked at; no real chain of proxies is longer."""

_PORT = re.compile(r":[0-9]{1,5}")
_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s",;]*)\s*')


def read_address(text: str) -> Address | None:
    """Read an address, perhaps in brackets and with a port; None for anything else (``unknown``; RFC 7239, 6.2).

    An IPv4 address in IPv6 (``::ffff:192.0.2.1``) becomes IPv4: it is the same client on a dual-stack socket.
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
    """Whether an address belongs to any of these networks."""
    return address is not None and any(
        address.version == network.version and address in network for network in networks
    )


def client_key(address: Address) -> str:
    """Return the key for limits per client: an IPv4 address, or the /64 network of an IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_CLIENT_BITS), strict=False))


def client_behind(peer: Address, hops: Iterable[str], trusted: Sequence[Network]) -> Address:
    """Return the client's address.

    Args:
        peer: The other end of the connection.
        hops: The hops that proxies have recorded, the last one first.
        trusted: The networks of the trusted proxies.
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
    """Yield the hops of ``X-Forwarded-For`` fields, the last one first."""
    for field in reversed(fields):
        yield from reversed(field.split(","))


def forwarded_for(fields: Sequence[str]) -> Iterator[str]:
    """Yield the ``for`` of each hop of ``Forwarded`` fields (RFC 7239), the last first; empty if it is unreadable."""
    for element in _forwarded(fields):
        yield element.get("for", "")


def forwarded_host(fields: Sequence[str]) -> str | None:
    """Return the ``host`` that the last proxy wrote into ``Forwarded``; None if there is none."""
    return next(_forwarded(fields), {}).get("host")


def _forwarded(fields: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the pairs of each element, the last element first; an unreadable one is empty."""
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
