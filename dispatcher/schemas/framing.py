"""Confluent's wire format: names the schema of a key or value, and where its content begins.

There are two forms, both in use: a magic byte 0 and the schema's id (four bytes, big-endian) precede the content; or a
header of the record holds a magic byte 1 and the schema's GUID, and nothing precedes the content. With Protobuf, the
indexes of the message within its file follow the id or the GUID.

Source: Confluent's documentation of Schema Registry, "Wire format", and its clients' ``HeaderSchemaIdSerializer``.
"""

from typing import NamedTuple
from uuid import UUID

from dispatcher.errors import DispatcherError
from dispatcher.sansio.records import Headers

SchemaKey = int | UUID
"""What a registry knows a schema by: its id or its GUID. Neither ever changes its meaning."""

VALUE_HEADER = "__value_schema_id"

_ID_MAGIC = 0
_GUID_MAGIC = 1
ID_BYTES = 5
"""The length of a magic byte and an id."""
_GUID_BYTES = 17

MAX_MESSAGE_INDEXES = 64
"""The most indexes: Protobuf's own parsers allow 100 levels, and files nest a handful."""


MAX_REASON_CHARACTERS = 1000
"""Longer reasons are cut: they repeat names from schemas and records, and are kept and logged."""


class UndecodableError(DispatcherError):
    """A key or value cannot be decoded with its schema, now or ever.

    Args:
        reason: Why; at most `MAX_REASON_CHARACTERS` of it are kept.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason[:MAX_REASON_CHARACTERS])


class Framed(NamedTuple):
    """A key or value in Confluent's wire format."""

    schema: SchemaKey
    content: bytes
    """What follows the schema's id; with Protobuf it begins with the message's indexes."""
    indexes: bytes
    """The message's indexes, if a header names the schema: they follow the GUID."""


def unframe(data: bytes, headers: Headers, header: str) -> Framed:
    """Find the schema of a key or value.

    Args:
        data: The key or value.
        headers: The record's headers.
        header: `KEY_HEADER` or `VALUE_HEADER`.

    Raises:
        UndecodableError: it is not in the wire format.
    """
    for name, content in headers:
        if name == header and content is not None and len(content) >= _GUID_BYTES and content[0] == _GUID_MAGIC:
            return Framed(UUID(bytes=content[1:_GUID_BYTES]), data, content[_GUID_BYTES:])
    if len(data) < ID_BYTES or data[0] != _ID_MAGIC:
        raise UndecodableError("it has neither a schema id in front nor a header with one")
    return Framed(int.from_bytes(data[1:ID_BYTES], "big"), data[ID_BYTES:], b"")


def message_indexes(data: bytes) -> tuple[tuple[int, ...], int]:
    """Read the path to a Protobuf message within its file.

    Returns:
        The indexes, outermost first, and how many bytes they take.

    Raises:
        UndecodableError: the bytes hold no indexes.
    """
    number, at = _zigzag(data, 0)
    if number == 0:  # the short form for the first message of the file
        return (0,), at
    if not 0 < number <= MAX_MESSAGE_INDEXES:
        raise UndecodableError(f"it names a Protobuf message by {number} indexes")
    indexes = []
    for _ in range(number):
        index, at = _zigzag(data, at)
        indexes.append(index)
    return tuple(indexes), at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 28:
            raise UndecodableError("the indexes of its Protobuf message are cut short or too large")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
