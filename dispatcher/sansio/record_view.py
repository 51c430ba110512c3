"""What filters see of a record: its key, its headers, and what JSON pointers find in its value, as text."""

from collections.abc import Sequence
from typing import Any

import orjson

from dispatcher.sansio.decoded import KEY_HEADER
from dispatcher.sansio.number_texts import with_numbers_as_text
from dispatcher.sansio.records import Records, TopicPartition

MISSING = object()
"""The result of a JSON pointer that finds nothing."""

_UNPARSED = object()


class View:
    """Shows filters one record of a batch at a time; its JSON is parsed once, and only if a filter needs it.

    It is parsed again if a filter compares a number such as ``1.10``, whose digits a float does not keep.

    For decoded topics it shows the decoded record: in a value that was not decoded, pointers find nothing, and are not
    known.

    Args:
        partition: The batch's partition.
        records: The batch's records.
    """

    __slots__ = (
        "_headers",
        "_index",
        "_json",
        "_keys",
        "_records",
        "_values",
        "headers",
        "key",
        "partition",
        "topic",
        "value",
    )

    def __init__(self, partition: TopicPartition, records: Records) -> None:
        self.topic = partition.topic
        self.partition = str(partition.partition)
        decoded = records.decoded
        self._keys = records.keys if decoded is None else list(map(_key_text, records.keys, decoded.keys))
        self._values = records.values if decoded is None else decoded.values
        self._headers = records.headers
        self._records = records
        self._index = 0
        self._json: Any = MISSING
        self.key: bytes | None = None
        self.value: bytes | None = None
        self.headers: Sequence[tuple[str, bytes | None]] = ()

    def at(self, index: int) -> "View":
        """Move to a record; returns this object."""
        self._index = index
        self.key, self.value, self.headers = self._keys[index], self._values[index], self._headers[index]
        self._json = None if self.value is None else _UNPARSED
        return self

    def find(self, tokens: Sequence[str]) -> Any:
        """Return what a JSON pointer finds in the record's value, or `MISSING` (RFC 6901, section 4)."""
        found = self._json
        if found is _UNPARSED:
            try:
                found = orjson.loads(self.value or b"")
            except orjson.JSONDecodeError:
                found = MISSING
            self._json = found
        if self.value is None:
            return MISSING
        for token in tokens:
            if isinstance(found, dict):
                found = found.get(token, MISSING)
            elif isinstance(found, list) and _is_index(token) and int(token) < len(found):
                found = found[int(token)]
            else:
                return MISSING
        return found

    def text(self, tokens: Sequence[str]) -> str | None:
        """Return the text of what a JSON pointer finds; None for an array, an object, or nothing."""
        found = self.find(tokens)
        kind = type(found)
        if kind is str:
            return found  # type: ignore[no-any-return] # it is
        if kind is int and found:
            return str(found)
        # Floats and zero can be written in several ways.
        if kind is float or (kind is int and b"-0" in (self.value or b"")):
            self._json = with_numbers_as_text(self.value or b"")
            found = self.find(tokens)
        return text_of(found)

    @property
    def knows_fields(self) -> bool:
        """Whether it is known which fields the record has: its value is a JSON object or list, or a tombstone."""
        return self._records.values[self._index] is None or isinstance(self.find(()), (dict, list))

    @property
    def knows_key(self) -> bool:
        """Whether the record's key is not in the wire format of a schema registry, or was decoded, or is missing."""
        key, decoded = self._records.keys[self._index], self._records.decoded
        if key is None or (decoded is not None and decoded.keys[self._index] is not None):
            return True
        return key[:1] != b"\x00" and all(name != KEY_HEADER for name, _ in self.headers)


def pointer_tokens(pointer: str) -> tuple[str, ...]:
    """Return the reference tokens of a JSON pointer (RFC 6901, sections 3 and 4)."""
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])


def text_of(value: Any) -> str | None:
    """Return the text of a JSON value; None for an array, an object, or a missing value."""
    if isinstance(value, str):
        return value
    if value is MISSING or isinstance(value, (dict, list)):
        return None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else orjson.dumps(value).decode()


def _key_text(key: bytes | None, found: bytes | None) -> bytes | None:
    """Return a decoded key as it is compared: the content of a string, or otherwise its JSON."""
    if found is None:
        return key
    text: Any = orjson.loads(found) if found.startswith(b'"') else None
    return found if text is None else text.encode()


def _is_index(token: str) -> bool:
    """Whether a reference token is an array index: digits without a leading zero (RFC 6901, section 4)."""
    return token.isascii() and token.isdecimal() and (len(token) == 1 or not token.startswith("0")) and len(token) < 10
