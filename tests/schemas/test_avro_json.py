"""Avro's own JSON: what fastavro's reader of it gives back is what fastavro reads from the bytes."""

from io import BytesIO, StringIO
from typing import Any

import fastavro
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.schemas.avro import AvroDecoder
from dispatcher.schemas.framing import UndecodableError
from tests.fuzz.schemas import SchemaGenerator

EVERYTHING: dict[str, Any] = {
    "type": "record",
    "name": "shop.Everything",
    "fields": [
        {"name": "either", "type": ["null", "long", "string", {"type": "enum", "name": "Suit", "symbols": ["CLUBS"]}]},
        {"name": "more", "type": {"type": "array", "items": ["int", {"type": "map", "values": "bytes"}, "Suit"]}},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "md5", "type": ["null", {"type": "fixed", "name": "other.Md5", "size": 2}]},
        {"name": "next", "type": ["null", "Everything"]},
    ],
}


def written(schema: Any, value: Any) -> bytes:
    """As a producer writes it."""
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(orjson.loads(orjson.dumps(schema))), value)
    return stream.getvalue()


def decoded(schema: Any, content: bytes, *, int64_strings: bool = False) -> Any:
    """The value in Avro's own JSON."""
    return orjson.loads(
        AvroDecoder(orjson.dumps(schema).decode()).decode(content, avro_json=True, int64_strings=int64_strings)
    )


def test_unions_have_tags_and_bytes_are_characters() -> None:
    """Named types use their full names, null stays bare, and logical types are numbers."""
    value = {
        "either": ("shop.Suit", "CLUBS"),
        "more": [1, {"a": b"\x00\xff"}, ("shop.Suit", "CLUBS")],
        "at": 5,
        "md5": b"\xe9a",
        "next": None,
    }
    expected = {
        "either": {"shop.Suit": "CLUBS"},
        "more": [{"int": 1}, {"map": {"a": "\x00ÿ"}}, {"shop.Suit": "CLUBS"}],
        "at": {"long": 5},
        "md5": {"other.Md5": "éa"},
        "next": None,
    }
    assert decoded(EVERYTHING, written(EVERYTHING, value)) == expected
    inner: dict[str, Any] = {"either": None, "more": [], "at": None, "md5": None, "next": None}
    outer = {**inner, "either": 2**53 + 1, "next": inner}
    nested = {**inner, "either": {"long": 2**53 + 1}, "next": {"shop.Everything": inner}}
    assert decoded(EVERYTHING, written(EVERYTHING, outer)) == nested
    strings = {**nested, "either": {"long": str(2**53 + 1)}}
    assert decoded(EVERYTHING, written(EVERYTHING, outer), int64_strings=True) == strings


@pytest.mark.parametrize(
    ("value", "expected"), [(float("nan"), "NaN"), (float("inf"), "Infinity"), (-float("inf"), "-Infinity"), (1.5, 1.5)]
)
@pytest.mark.parametrize("kind", ["float", "double"])
def test_numbers_that_json_does_not_have(kind: str, value: float, expected: object) -> None:
    """They are written as Avro's encoder in Java writes them."""
    assert decoded(kind, written(kind, value)) == expected


def nests_records_in_a_map(schema: Any, records: int | None = None) -> bool:
    """Whether a record holds another one within a map: fastavro's reader of JSON raises KeyError('k0') for those.

    Args:
        schema: Any part of a schema.
        records: How many records are around it within the innermost map; None outside of maps.
    """
    if isinstance(schema, list):
        return any(nests_records_in_a_map(one, records) for one in schema)
    if not isinstance(schema, dict):
        return False
    if schema["type"] == "map":
        return nests_records_in_a_map(schema["values"], 0)
    if schema["type"] == "array":
        return nests_records_in_a_map(schema["items"], records)
    if schema["type"] != "record":
        return False
    inner = None if records is None else records + 1
    return inner == 2 or any(nests_records_in_a_map(field["type"], inner) for field in schema["fields"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_fastavro_reads_it_back(seed: int) -> None:
    """For any schema, the result equals what it reads from the bytes."""
    generator = SchemaGenerator(seed)
    schema = {"type": "record", "name": "Outer", "fields": [{"name": "value", "type": generator.avro()}]}
    content = generator.avro_value(schema)
    json = AvroDecoder(orjson.dumps(schema).decode()).decode(content, avro_json=True)
    if b'"NaN"' in json or b'"Infinity"' in json or nests_records_in_a_map(schema):
        return
    parsed = fastavro.parse_schema(orjson.loads(orjson.dumps(schema)))
    (back,) = fastavro.json_reader(StringIO(json.decode()), parsed)
    assert back == fastavro.schemaless_reader(BytesIO(content), parsed, None)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_bytes_give_json_or_a_reason(data: bytes, seed: int) -> None:
    """No other exception is raised, and no bytes are left over."""
    for schema in (EVERYTHING, SchemaGenerator(seed).avro()):
        try:
            decoder = AvroDecoder(orjson.dumps(schema).decode())
        except UndecodableError:
            continue
        try:
            json = decoder.decode(data, avro_json=True)
        except UndecodableError:
            continue
        orjson.loads(json)
        assert b"\n" not in json


def test_deep_values_are_refused() -> None:
    """Python's own recursion limit raises."""
    chain = {"type": "record", "name": "Chain", "fields": [{"name": "next", "type": ["null", "Chain"]}]}
    with pytest.raises(UndecodableError, match="RecursionError"):
        decoded(chain, b"\x02" * 50_000 + b"\x00")
    assert decoded(chain, b"\x02\x00") == {"next": {"Chain": {"next": None}}}
