"""Reads the heads of ordinary requests for streams, and of no others: bytes in, fields out.

Most subscribers send the same kind of head: one ``GET`` in HTTP/1.1 without a body, all of it in the first segment.
Such a head is read here in a few microseconds. This is not a second HTTP parser next to h11, which would have to refuse
everything that h11 refuses. It only ever says yes: whatever is unusual, broken or has two meanings is None, and h11
decides about it. What is read here, h11 reads in the same way (`tests/sansio/test_plain_heads.py`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:" + _TOKEN + rb":[\t -~]*\r\n)+)\r\n")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t -~]*)\r\n")

UNUSUAL = frozenset({"content-length", "transfer-encoding", "expect", "te", "trailer", "http2-settings"})
"""Fields with which a request has a body, or wants something other than a stream."""

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64 (RFC 6455, section 4.1)."""


class HeadFields:
    """The fields of a head; names are case-insensitive.

    Args:
        fields: Values by name in lower case, in order.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def getlist(self, key: str, /) -> list[str]:
        """The values of all fields with this name, in order."""
        return self._fields.get(key.lower(), [])

    def get(self, key: str, /) -> str | None:
        """The value of the first field with this name."""
        return next(iter(self.getlist(key)), None)


@dataclass(frozen=True, slots=True)
class PlainHead:
    """An ordinary request."""

    path: str
    query: str
    fields: HeadFields
    key: str | None = None
    """The key of a WebSocket's handshake; None: it is no handshake."""


def read_plain_head(data: bytes, paths: frozenset[str], max_bytes: int) -> PlainHead | None:
    """Read the head of an ordinary request; None if it is not one, or if anything follows it.

    Args:
        data: All that the client has sent.
        paths: The paths of streams. Others, and other spellings of these, are not ordinary.
        max_bytes: The maximum length of a head.
    """
    match = _HEAD.fullmatch(data) if len(data) <= max_bytes else None
    if match is None:
        return None
    path, _, query = match[1].decode().partition("?")
    if path not in paths:
        return None
    fields: dict[str, list[str]] = {}
    for name, value in _FIELD.findall(match[2]):
        fields.setdefault(name.decode().lower(), []).append(value.decode().strip(" \t"))
    if len(fields.get("host", ())) != 1 or not UNUSUAL.isdisjoint(fields):
        return None
    if "upgrade" not in fields:
        return PlainHead(path, query, HeadFields(fields))
    key = _handshake_key(fields)
    return None if key is None else PlainHead(path, query, HeadFields(fields), key)


def read_list(values: Sequence[str]) -> list[str]:
    """The elements of a field that is a list."""
    return [element.strip() for element in ",".join(values).split(",")] if values else []


def _handshake_key(fields: Mapping[str, list[str]]) -> str | None:
    """The key of an ordinary handshake of RFC 6455; None if it is not one."""
    connection, upgrade, version, keys = (
        fields.get(name, []) for name in ("connection", "upgrade", "sec-websocket-version", "sec-websocket-key")
    )
    if len(connection) != 1 or [value.lower() for value in upgrade] != ["websocket"] or version != ["13"]:
        return None
    if "upgrade" not in read_list([connection[0].lower()]) or len(fields.get("sec-websocket-protocol", ())) > 1:
        return None
    return keys[0] if len(keys) == 1 and _KEY.fullmatch(keys[0]) else None
