"""Parses and normalizes hosts and origins as clients write them. No I/O, no settings.

* A host is ``uri-host [":" port]`` of the ``Host`` field (RFC 9110, section 7.2). Only names that DNS can have, IPv4
  and IPv6 are read: no userinfo, no percent signs.
* An origin is a scheme, a host and a port, as the ``Origin`` field has it (RFC 6454, section 7; WHATWG HTML, "ASCII
  serialisation of an origin"): without a path, and without a port that its scheme has by default.
"""

import ipaddress
import re
from typing import NamedTuple

ANY = "*"
NULL = "null"
"""What a browser sends for a page without an origin: a sandboxed frame, a file, a data URL."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{0,5}))?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s,/?#@\\]*)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Authority(NamedTuple):
    """A host in lower case, and a port."""

    host: str
    """A name without its final dot, an IPv4 address, or an IPv6 address in brackets."""
    port: int | None
    """None if none is written."""

    def with_default(self, port: int | None) -> "Authority":
        """The same, with this port if none is written."""
        return self if self.port is not None else Authority(self.host, port)


class Origin(NamedTuple):
    """A parsed origin."""

    text: str
    """In one spelling: two origins are the same when their texts are."""
    authority: Authority | None
    """Host and port of http and https, the port filled in; None for every other scheme, and for ``null``."""
    default_port: int | None


def read_authority(text: str) -> Authority | None:
    """``host`` or ``host:port``; None when it is neither."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    host = match[1].lower().removesuffix(".")
    port = int(match[2]) if match[2] else None
    if not host or (port or 0) > 65535:
        return None
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    return Authority(host, port)


def read_origin(text: str) -> Origin | None:
    """One origin; None if the text is something else, such as a URL with a path, or several origins.

    Origins with schemes other than http and https stay unchanged: no rule says which of them are equal.
    """
    if text == NULL:
        return Origin(NULL, None, None)
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    scheme = match[1].lower()
    default_port = DEFAULT_PORTS.get(scheme)
    if default_port is None:
        return Origin(text, None, None)
    authority = read_authority(match[2])
    if authority is None:
        return None
    host, port = authority
    written = "" if port in {None, default_port} else f":{port}"
    return Origin(f"{scheme}://{host}{written}", authority.with_default(default_port), default_port)


def is_loopback(host: str) -> bool:
    """Whether a host, as `Authority` has it, always means this machine (RFC 6761, section 6.3)."""
    if not is_address(host):
        return host == "localhost" or host.endswith(".localhost")
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether a host, as `Authority` has it, is an address, not a name: nobody can point it elsewhere.

    Shortened IPv4 as in ``127.1`` is one, too: no name in DNS ends with a number, and browsers treat none as a name
    (WHATWG URL, "ends-in-a-number checker").
    """
    return host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None
