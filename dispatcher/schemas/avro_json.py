"""Avro's own JSON: unions with the names of their types, bytes as characters, logical types as their underlying types.

For consumers that read values back with a schema. fastavro does not say with which branch of a union a value was
written, so this module reads the bytes itself, with functions that are made once per schema. That takes a third longer.
Values that are too deep hit Python's recursion limit, which raises. `avro` bounds the cost of a value when it measures
the schema.

Source: Apache Avro 1.12 Specification, "Binary Encoding" and "JSON Encoding".
"""

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

from dispatcher.schemas.framing import UndecodableError

_SHORT = "it is cut short"
MAX_VARINT_BITS = 63


class Content:
    """Bytes, and a read position.

    Args:
        data: The bytes of a value.
    """

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self.at

    def take(self, number: int) -> bytes:
        """Read this many bytes."""
        end = self.at + number
        if number < 0 or end > len(self.data):
            raise UndecodableError(_SHORT)
        found = self.data[self.at : end]
        self.at = end
        return found

    def number(self) -> int:
        """Read an integer."""
        value = shift = 0
        while True:
            if self.at >= len(self.data):
                raise UndecodableError(_SHORT)
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > MAX_VARINT_BITS:
                raise UndecodableError("it has an integer of more than 64 bits")


Read = Callable[[Content], Any]


def reader_of(schema: Any, named: Mapping[str, Any]) -> Read:
    """Make a reader for a schema that fastavro has parsed.

    Args:
        schema: The schema.
        named: All named types.
    """
    return _Readers(named).of(schema)


def tag_of(branch: Any) -> str | None:
    """Return the name that a union's branch has in JSON; None if its values are written without a name.

    Args:
        branch: A type of a schema that fastavro has parsed.
    """
    if isinstance(branch, str):
        return None if branch == "null" else branch
    kind = branch["type"]
    if isinstance(kind, dict):
        return tag_of(kind)
    if kind in {"record", "error", "enum", "fixed"}:
        return str(branch["name"])
    return tag_of(kind)


class _Readers:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, Read] = {}
        self._begun: set[str] = set()

    def of(self, kind: Any) -> Read:
        if isinstance(kind, list):
            return _union([(tag_of(branch), self.of(branch)) for branch in kind])
        if isinstance(kind, str):
            return _PRIMITIVES.get(kind) or self._of_named(kind)
        name = kind["type"]
        if name == "array":
            return _array(self.of(kind["items"]))
        if name == "map":
            return _map(self.of(kind["values"]))
        if name in {"record", "error", "enum", "fixed"}:
            return self._of_named(kind["name"], kind)
        return self.of(name)

    def _of_named(self, name: str, kind: Any = None) -> Read:
        made = self._made
        if name not in self._begun:
            self._begun.add(name)
            kind = kind or self._named[name]
            if kind["type"] == "enum":
                made[name] = _enum(kind["symbols"])
            elif kind["type"] == "fixed":
                made[name] = _fixed(int(kind["size"]))
            else:
                made[name] = _record([(field["name"], self.of(field["type"])) for field in kind["fields"]])
        # A type may contain itself, so its reader may not exist yet.
        if name in made:
            return made[name]

        def read(content: Content) -> Any:
            return made[name](content)

        return read


def _union(branches: list[tuple[str | None, Read]]) -> Read:
    def read(content: Content) -> Any:
        number = content.number()
        if not 0 <= number < len(branches):
            raise UndecodableError(f"its union has no type {number}")
        tag, branch = branches[number]
        return branch(content) if tag is None else {tag: branch(content)}

    return read


def _record(fields: list[tuple[str, Read]]) -> Read:
    return lambda content: {name: read(content) for name, read in fields}


def _enum(symbols: list[str]) -> Read:
    def read(content: Content) -> str:
        number = content.number()
        if not 0 <= number < len(symbols):
            raise UndecodableError(f"its enum has no symbol {number}")
        return symbols[number]

    return read


def _fixed(size: int) -> Read:
    return lambda content: content.take(size).decode("latin-1")


def _block(content: Content) -> int:
    """Read how many items follow; 0 means the end."""
    number = content.number()
    if number < 0:
        content.number()  # the length of the block in bytes
    return abs(number)


def _array(item: Read) -> Read:
    def read(content: Content) -> list[Any]:
        found: list[Any] = []
        while number := _block(content):
            for _ in range(number):
                found.append(item(content))  # noqa: PERF401 - the count may be anything, and an error ends the loop
        return found

    return read


def _map(item: Read) -> Read:
    def read(content: Content) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while number := _block(content):
            for _ in range(number):
                name = _text(content)
                found[name] = item(content)
        return found

    return read


def _text(content: Content) -> str:
    return content.take(content.number()).decode()


def _bytes(content: Content) -> str:
    return content.take(content.number()).decode("latin-1")


def _boolean(content: Content) -> bool:
    return content.take(1) != b"\x00"


def _float(form: str, size: int) -> Read:
    unpack = struct.Struct(form).unpack

    def read(content: Content) -> float | str:
        (value,) = unpack(content.take(size))
        if math.isfinite(value):
            return float(value)
        # JSON cannot express these numbers; Avro's own encoder in Java writes these strings.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

    return read


_PRIMITIVES: Mapping[str, Read] = {
    "null": lambda _: None,
    "boolean": _boolean,
    "int": Content.number,
    "long": Content.number,
    "float": _float("<f", 4),
    "double": _float("<d", 8),
    "bytes": _bytes,
    "string": _text,
}
