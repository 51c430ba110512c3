"""Decodes Avro with fastavro and the schema that the value was written with.

A value and its schema come from anybody who may write to the topic, so both are bounded before fastavro sees them:

* fastavro recurses in C. 50,000 bytes of a schema that contains itself end the process with a stack overflow. So such
  schemas, and schemas nested deeper than `MAX_DEPTH`, use fastavro's reader in Python, which raises instead. It gets
  its bytes from `_BoundedDecoder`, because its own decoder reads integers of any length, and each byte of one copies
  all bytes before it.
* A few bytes may stand for a huge value. `avro_costs` computes from the schema how huge, and refuses the worst; longer
  values of others are refused by their length, or their JSON is counted before it is written.
"""

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, cast

import fastavro
import orjson
from fastavro import _read_py as _slow
from fastavro.io.binary_decoder import BinaryDecoder

from dispatcher.schemas.avro_costs import MAX_SCALE, Measure
from dispatcher.schemas.avro_json import Content, Read, reader_of
from dispatcher.schemas.framing import UndecodableError
from dispatcher.schemas.values import (
    MAX_DECODED_BYTES,
    check_size,
    day,
    decimal,
    duration,
    json_of,
    time_of_day,
    timestamp,
)

MAX_DEPTH = 200
"""How deep types may be nested before fastavro must not recurse in C."""

MAX_VALUES = 4_000_000
"""How many values one Avro value may hold, judged by its length before it is read: a value takes 64 to 250 bytes of
memory."""

MAX_CHARACTERS_PER_BYTE = 6
"""How many characters of JSON one byte of text may become: ``\\u0000``."""

_MARKS = {"__fastavro_parsed", "__named_schemas"}

_WRAPPER = "DispatcherValue"
"""A record around a schema that is not one: fastavro keeps the types that a schema refers to only with records, and a
record adds no bytes to those of its fields. The wrapper has no namespace, because names inside it would inherit it."""

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")


class AvroDecoder:
    """Decodes the values of one schema.

    Args:
        text: The schema, as in the registry.
        references: The schemas that it refers to, each after those that it refers to itself.

    Raises:
        UndecodableError: the schema is wrong, or unsafe to decode with; the message says why.

    *Thread*: any but Trio's, because construction takes longer the larger the schema is.
    """

    kind = "AVRO"

    def __init__(self, text: str, references: tuple[str, ...] = ()) -> None:
        named: dict[str, Any] = {}
        try:
            for reference in references:
                fastavro.parse_schema(_loaded(reference), named)
            schema = _loaded(text)
            self._is_wrapped = not (isinstance(schema, dict) and schema.get("type") == "record")
            if self._is_wrapped:
                schema = {"type": "record", "name": _WRAPPER, "fields": [{"name": "value", "type": schema}]}
            schema = cast("dict[str, Any]", fastavro.parse_schema(schema, named))
            measured = Measure(named)
            measured.check(schema)
        except UndecodableError:
            raise
        except Exception as error:
            raise UndecodableError(f"its Avro schema is wrong: {type(error).__name__}: {error}") from error
        self._schema = schema
        self._named = named
        self._reader: Read | None = None
        self._reads_in_python = measured.is_recursive or measured.depth > MAX_DEPTH
        self._max_bytes = max(1024, int((MAX_VALUES - measured.values) / measured.values_per_byte))
        characters_per_byte = MAX_CHARACTERS_PER_BYTE + measured.characters_per_byte
        self._max_bytes_uncounted = int((MAX_DECODED_BYTES - measured.characters) / characters_per_byte)
        """The JSON of longer values may be too large, which has to be known before it is written."""
        top = schema["fields"][0]["type"] if self._is_wrapped else schema
        self.name = str(top["name"]) if isinstance(top, dict) and "name" in top else "avro"

    def decode(
        self,
        content: bytes,
        indexes: bytes = b"",  # noqa: ARG002 - of Protobuf
        *,
        int64_strings: bool = False,
        avro_json: bool = False,
    ) -> bytes:
        """Return the value as JSON.

        Raises:
            UndecodableError: the bytes do not fit the schema.
        """
        if len(content) > self._max_bytes:
            raise UndecodableError(f"{len(content)} bytes may hold more than {MAX_VALUES} values of its Avro schema")
        stream = Content(content) if avro_json or self._reads_in_python else BytesIO(content)
        try:
            if isinstance(stream, BytesIO):
                value: Any = fastavro.schemaless_reader(stream, self._schema, None)
            else:
                value = self._tagged(stream) if avro_json else self._read_in_python(stream)
        except UndecodableError:
            raise
        except Exception as error:
            raise UndecodableError(f"it does not fit its Avro schema: {type(error).__name__}: {error}") from error
        if stream.tell() != len(content):
            raise UndecodableError(f"{len(content) - stream.tell()} bytes are left over after its Avro value")
        if self._is_wrapped:
            value = value["value"]
        if len(content) > self._max_bytes_uncounted:
            check_size(value)
        return json_of(value, int64_strings=int64_strings)

    def _tagged(self, content: Content) -> Any:
        if self._reader is None:
            self._reader = reader_of(self._schema, self._named)
        return self._reader(content)

    def _read_in_python(self, content: Content) -> Any:
        return _read_data(_BoundedDecoder(content), self._schema, {"writer": self._named, "reader": {}}, None, {})


_read_data = cast("Callable[..., Any]", _slow.read_data)


class _BoundedDecoder(BinaryDecoder):
    """Reads with `Content`, which refuses integers of more than 64 bits, and lengths below zero.

    Args:
        content: The bytes of a value.
    """

    fo: Content

    def __init__(self, content: Content) -> None:
        self.fo = content

    def read_long(self) -> int:
        return self.fo.number()

    read_int = read_long

    def read_boolean(self) -> bool:
        return self.fo.take(1) != b"\x00"

    def read_float(self) -> float:
        return float(_FLOAT.unpack(self.fo.take(4))[0])

    def read_double(self) -> float:
        return float(_DOUBLE.unpack(self.fo.take(8))[0])

    def read_bytes(self) -> bytes:
        return self.fo.take(self.fo.number())

    def read_fixed(self, size: int) -> bytes:
        return self.fo.take(size)


def _loaded(text: str) -> Any:
    """Parse a schema, without the members by which it could claim that fastavro has checked it already."""
    return _unmarked(orjson.loads(text))


def _unmarked(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_unmarked(branch) for branch in schema]
    if isinstance(schema, dict):
        return {name: member for name, member in schema.items() if name not in _MARKS}
    return schema


def _timestamps(unit: str, *, local: bool) -> Callable[..., str]:
    return lambda count, *_: timestamp(count, unit, local=local)


def _decimal(data: bytes, schema: Mapping[str, Any], *_: object) -> str:
    scale = int(schema.get("scale", 0))
    if not -MAX_SCALE <= scale <= MAX_SCALE:
        raise UndecodableError(f"its Avro schema has decimals of {scale} places; at most {MAX_SCALE} are allowed")
    return decimal(int.from_bytes(data, "big", signed=True), scale)


_LOGICAL_TYPES: dict[str, Callable[..., Any]] = {
    "int-date": lambda days, *_: day(days),
    "int-time-millis": lambda count, *_: time_of_day(count, "millis"),
    "long-time-micros": lambda count, *_: time_of_day(count, "micros"),
    **{
        f"long-{kind}timestamp-{unit}": _timestamps(unit, local=bool(kind))
        for kind in ("", "local-")
        for unit in ("millis", "micros", "nanos")
    },
    "bytes-decimal": _decimal,
    "fixed-decimal": _decimal,
    "string-uuid": lambda text, *_: text,
    "fixed-duration": lambda data, *_: duration(*(int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8))),
}
"""Replaces fastavro's own readers: they make Python dates, which end with the year 9999, round decimals to the
context's precision, and know neither nanoseconds nor durations."""

for readers in (fastavro.read.LOGICAL_READERS, _slow.LOGICAL_READERS):  # type: ignore[attr-defined]
    readers.update(_LOGICAL_TYPES)
