"""Avro: what fastavro writes is decoded to plain JSON, and what may harm is refused before it is read."""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.schemas import avro
from dispatcher.schemas.avro import AvroDecoder
from dispatcher.schemas.avro_costs import Measure
from dispatcher.schemas.avro_json import Content
from dispatcher.schemas.framing import UndecodableError
from tests.schemas.memory import peak_of_memory

LIST = {
    "type": "record",
    "name": "Node",
    "fields": [{"name": "next", "type": ["null", "Node"]}, {"name": "n", "type": "int"}],
}


def written(schema: Any, value: Any) -> bytes:
    """A value as a producer writes it."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return stream.getvalue()


def decoder(schema: Any) -> AvroDecoder:
    """Of a schema that needs no other."""
    return AvroDecoder(orjson.dumps(schema).decode())


def decoded(schema: Any, value: Any, *, int64_strings: bool = False) -> Any:
    """What a written value is decoded to."""
    return orjson.loads(decoder(schema).decode(written(schema, value), int64_strings=int64_strings))


def logical(kind: str, logical_type: str, **more: Any) -> dict[str, Any]:
    """A logical type."""
    return {"type": kind, "logicalType": logical_type, **more}


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (logical("int", "date"), date(2024, 2, 29), "2024-02-29"),
        (logical("int", "time-millis"), time(1, 2, 3, 4_000), "01:02:03.004"),
        (logical("long", "time-micros"), time(1, 2, 3, 4), "01:02:03.000004"),
        (logical("long", "timestamp-millis"), datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T00:00:00.000Z"),
        (logical("long", "timestamp-micros"), datetime(1, 1, 1, 0, 0, 0, 1, UTC), "0001-01-01T00:00:00.000001Z"),
        (logical("long", "timestamp-nanos"), 1_704_153_600_000_000_001, "2024-01-02T00:00:00.000000001Z"),
        (logical("long", "local-timestamp-millis"), datetime(2024, 1, 2, 3), "2024-01-02T03:00:00.000"),  # noqa: DTZ001
        (logical("long", "local-timestamp-micros"), datetime(2024, 1, 2), "2024-01-02T00:00:00.000000"),  # noqa: DTZ001
        (logical("bytes", "decimal", precision=40, scale=2), Decimal("-1234567890123456789012345678.91"), None),
        (logical("fixed", "decimal", name="F", size=8, precision=9, scale=3), Decimal("1.500"), "1.500"),
        (logical("string", "uuid"), UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (logical("fixed", "duration", name="D", size=12), struct.pack("<3I", 1, 2, 3_004), "P1M2DT3.004S"),
        (logical("long", "of-somebody"), 5, 5),
    ],
    ids=lambda part: part["logicalType"] if isinstance(part, dict) else "",
)
def test_logical_types(schema: Any, value: Any, expected: Any) -> None:
    """Each is written as the table in docs/schemas.md says."""
    assert decoded(schema, value) == (str(value) if expected is None else expected)


def test_primitives_unions_and_what_is_nested() -> None:
    """Unions are bare, bytes and fixed are base64, and enums are their symbols."""
    schema = {
        "type": "record",
        "name": "com.example.All",
        "fields": [
            {"name": "nothing", "type": "null"},
            {"name": "yes", "type": "boolean"},
            {"name": "f", "type": "float"},
            {"name": "nan", "type": "double"},
            {"name": "data", "type": "bytes"},
            {"name": "four", "type": {"type": "fixed", "name": "Four", "size": 4}},
            {"name": "suit", "type": {"type": "enum", "name": "Suit", "symbols": ["CLUBS", "HEARTS"]}},
            {"name": "either", "type": ["null", "string", {"type": "map", "values": "long"}]},
            {
                "name": "inner",
                "type": {
                    "type": "array",
                    "items": {"type": "record", "name": "Inner", "fields": [{"name": "ä", "type": ["int", "Suit"]}]},
                },
            },
        ],
    }
    value = {
        "nothing": None,
        "yes": True,
        "f": 0.5,
        "nan": float("nan"),
        "data": b"\x00\xff",
        "four": b"abcd",
        "suit": "HEARTS",
        "either": {"a": 2**53 + 1},
        "inner": [{"ä": 1}, {"ä": "CLUBS"}],
    }
    expected = value | {"nan": None, "data": "AP8=", "four": "YWJjZA=="}
    assert decoded(schema, value) == expected
    assert decoded(schema, value, int64_strings=True)["either"] == {"a": str(2**53 + 1)}
    assert (decoder(schema).name, decoder("long").name) == ("com.example.All", "avro")


def test_references_are_known_by_their_names() -> None:
    """Each schema follows those that it needs itself."""
    first = '{"type": "enum", "name": "a.Colour", "symbols": ["RED"]}'
    second = '{"type": "record", "name": "a.Car", "fields": [{"name": "colour", "type": "a.Colour"}]}'
    made = AvroDecoder('{"type": "array", "items": "a.Car"}', (first, second))
    assert made.decode(b"\x02\x00\x00") == b'[{"colour":"RED"}]'
    with pytest.raises(UndecodableError, match="its Avro schema is wrong"):
        AvroDecoder(second)


def test_what_refers_to_itself_is_read_in_python() -> None:
    """The library's reader in C would end the process with a stack overflow; this one raises."""
    value = {"next": {"next": None, "n": 2}, "n": 1}
    assert decoded(LIST, value) == value
    made = decoder(LIST)
    assert made._reads_in_python
    with pytest.raises(UndecodableError, match="does not fit its Avro schema"):
        made.decode(b"\x02" * 50_000)
    assert not decoder("int")._reads_in_python


def test_deep_schemas_are_read_in_python() -> None:
    """This holds for deep schemas without recursion, too."""
    schema: Any = "int"
    for _ in range(avro.MAX_DEPTH + 1):
        schema = {"type": "array", "items": schema}
    assert decoder(schema)._reads_in_python


EVERY_KIND = ("boolean", "int", "long", "float", "double", "bytes", "string", ["null", "long"])


def of_either_reader(fields: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Two schemas with the same bytes: the first is read in C, the second, which could contain itself, in Python."""
    record = {"type": "record", "name": "R", "fields": [*fields, {"name": "next", "type": ["null", "int"]}]}
    return record, {**record, "fields": [*fields, {"name": "next", "type": ["null", "R"]}]}


@settings(max_examples=60)
@given(st.data())
def test_both_readers_read_the_same(data: st.DataObject) -> None:
    """They may give different reasons for what they refuse."""
    kinds = [*EVERY_KIND, {"type": "fixed", "name": "F", "size": 3}, {"type": "enum", "name": "E", "symbols": ["A"]}]
    kinds += [{"type": "array", "items": "string"}, {"type": "map", "values": "bytes"}]
    fields = [{"name": f"f{n}", "type": kind} for n, kind in enumerate(kinds)]
    value = {
        "f0": data.draw(st.booleans()),
        "f1": data.draw(st.integers(-(2**31), 2**31 - 1)),
        "f2": data.draw(st.integers(-(2**63), 2**63 - 1)),
        "f3": data.draw(st.floats(width=32)),
        "f4": data.draw(st.floats()),
        "f5": data.draw(st.binary(max_size=5)),
        "f6": data.draw(st.text(max_size=5)),
        "f7": data.draw(st.none() | st.integers(0, 9)),
        "f8": data.draw(st.binary(min_size=3, max_size=3)),
        "f9": "A",
        "f10": data.draw(st.lists(st.text(max_size=3), max_size=3)),
        "f11": data.draw(st.dictionaries(st.text(max_size=3), st.binary(max_size=3), max_size=3)),
        "next": None,
    }
    in_c, in_python = map(decoder, of_either_reader(fields))
    assert in_python._reads_in_python
    assert not in_c._reads_in_python
    content = written(of_either_reader(fields)[0], value)
    assert in_python.decode(content) == in_c.decode(content)


@pytest.mark.parametrize(
    ("kind", "content", "most_bytes"),
    [
        ("long", b"\xff" * 250_000 + b"\x00\x00", 10),
        ("string", b"\xff" * 250_000 + b"\x00\x00", 10),
        ({"type": "array", "items": "int"}, b"\xff" * 250_000 + b"\x00\x00", 10),
        ({"type": "map", "values": "int"}, b"\x02" + b"\xff" * 250_000 + b"\x00\x00", 11),
        ("bytes", b"\x01" + b"a" * 1_000, 1),  # a length of -1
        ("string", b"\x01" + b"a" * 1_000, 1),
        ("bytes", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"a" * 1_000, 10),
        ({"type": "fixed", "name": "F", "size": 2**40}, b"a" * 1_000, 0),
        # An array of 2^62 items, and one of 2^63 in a block that gives its length: their bytes end.
        ({"type": "array", "items": "int"}, b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\x02" * 100, 109),
        ({"type": "array", "items": "int"}, b"\xff" * 9 + b"\x01\x02" + b"\x02" * 100, 111),
    ],
)
def test_impossible_numbers_end_the_reading_in_python(
    kind: Any, content: bytes, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long integer would be read with the square of its length, by a thread that does nothing else meanwhile."""
    read: list[Content] = []

    class Counted(Content):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            read.append(self)

    monkeypatch.setattr(avro, "Content", Counted)
    made = decoder(of_either_reader([{"name": "f", "type": kind}])[1])
    with pytest.raises(UndecodableError):
        made.decode(content)
    assert [one.tell() for one in read] == [most_bytes]


NULLS = {"type": "record", "name": "N", "fields": [{"name": f"f{n}", "type": "null"} for n in range(40)]}


NO_BOUND = {"type": "array", "items": "null"}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (NO_BOUND, "takes no bytes"),
        ({"type": "array", "items": NULLS}, "takes no bytes"),
        ({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, "takes no bytes"),
        ({"type": "map", "values": NULLS}, "bytes stand for"),
        ("nonsense", "its Avro schema is wrong"),
        ({"type": "record"}, "its Avro schema is wrong"),
        ({"type": "record", "name": "R", "fields": 7}, "its Avro schema is wrong"),
    ],
)
def test_schemas_that_may_harm_are_refused(schema: Any, reason: str) -> None:
    """A few bytes would stand for as many values as fit into memory."""
    with pytest.raises(UndecodableError, match=reason):
        decoder(schema)


def test_records_that_contain_themselves_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The content decides their number, and each holds all of its fields."""
    branches = [{"name": name, "type": ["null", "A"]} for name in "lr"]
    fields = [{"name": f"f{n}", "type": "null"} for n in range(90)]
    with pytest.raises(UndecodableError, match="a record that contains itself, in which 2 bytes stand for"):
        decoder({"type": "record", "name": "A", "fields": fields + branches})
    monkeypatch.setattr(avro, "MAX_VALUES", 8_000)
    made = decoder({"type": "record", "name": "A", "fields": fields[:10] + branches})
    content = b"\x02\x00" * 700 + b"\x00\x00"
    with pytest.raises(UndecodableError, match="may hold more than 8000 values"):
        made.decode(content)


LONG = "A" * 20_000


@pytest.mark.parametrize(
    ("items", "item", "avro_json"),
    [
        ({"type": "enum", "name": "E", "symbols": [LONG]}, b"\x00", False),
        ({"type": "record", "name": "R", "fields": [{"name": LONG, "type": "int"}]}, b"\x00", False),
        ({"type": "record", "name": "R", "fields": [{"name": LONG, "type": ["null", "R"]}]}, b"\x00", False),
        ({"type": "record", "name": "R", "fields": [{"name": LONG, "type": ["null", "R"]}]}, b"\x00", True),
        (["null", {"type": "record", "name": LONG, "fields": []}], b"\x02", True),
        (["null", {"type": "enum", "name": LONG, "symbols": ["A"]}], b"\x02\x00", True),
        (["null", {"type": "fixed", "name": LONG, "size": 1}], b"\x02\x00", True),
        (["null", {"type": "record", "name": "R", "namespace": LONG, "fields": []}], b"\x02", True),
    ],
)
def test_long_names_do_not_become_large_json(items: Any, item: bytes, avro_json: bool) -> None:
    """One byte would become 20,000 as JSON: that is counted before it is written."""
    made = decoder({"type": "array", "items": items})
    content = b"\xc0\xb8\x02" + item * 20_000 + b"\x00"
    with peak_of_memory() as peak, pytest.raises(UndecodableError, match="as JSON it has more than the 33554432 bytes"):
        made.decode(content, avro_json=avro_json)
    assert peak() < 16 * 2**20
    assert len(made.decode(b"\xc8\x01" + item * 100 + b"\x00", avro_json=avro_json)) > 100 * len(LONG)


def test_large_values_are_counted_exactly_enough() -> None:
    """What JSON can hold is decoded, whatever is counted of it first."""
    fields: list[dict[str, Any]] = [
        {"name": name, "type": kind} for name, kind in (('a\x01"', "int"), ("b", "string"), ("c", "bytes"))
    ]
    fields += [{"name": "d", "type": {"type": "map", "values": "double"}}]
    made = decoder({"type": "array", "items": {"type": "record", "name": "R", "fields": fields}})
    item = b"\x02\x04xy\x02\x00\x02\x02k" + struct.pack("<d", -1.5) + b"\x00"
    content = b"\xc0\x9a\x0c" + item * 100_000 + b"\x00"
    assert len(content) > made._max_bytes_uncounted
    values = orjson.loads(made.decode(content))
    assert (len(values), values[-1]) == (100_000, {'a\x01"': 1, "b": "xy", "c": "AA==", "d": {"k": -1.5}})


def test_decimal_places_count_as_values() -> None:
    """A decimal of no bytes has all of its places."""
    kind = logical("bytes", "decimal", precision=256, scale=256)
    plain, places = decoder({"type": "array", "items": "bytes"}), decoder({"type": "array", "items": kind})
    assert places._max_bytes < plain._max_bytes / 4
    assert places._max_bytes_uncounted < plain._max_bytes_uncounted / 4


def test_types_of_unions_count_as_values() -> None:
    """For each value the library compares all of them to a word."""
    with pytest.raises(UndecodableError, match="an array in which 1 bytes stand for 627 values"):
        decoder({"type": "array", "items": ["null"] * 10_000})
    with pytest.raises(UndecodableError, match="a record that contains itself, in which 1 bytes stand for"):
        decoder({"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null"] * 10_000 + ["R"]}]})
    assert decoder({"type": "array", "items": ["null"] * 200})._max_bytes < avro.MAX_VALUES / 10
    assert decoder(["null"] * 10_000).decode(b"\x04") == b"null"


def test_a_named_type_is_measured_once() -> None:
    """Otherwise a schema that names a long enum often would take the square of its length."""
    looks = 0

    class Symbols(list[str]):
        def __iter__(self) -> Iterator[str]:
            nonlocal looks
            looks += 1
            return super().__iter__()

    enum = {"type": "enum", "name": "E", "symbols": Symbols(["A", "B"])}
    fields = [{"name": f"f{n}", "type": "E"} for n in range(50)]
    Measure({"E": enum}).check({"type": "record", "name": "R", "fields": fields})
    assert looks == 1


@pytest.mark.parametrize("scale", [257, 2**40])
def test_decimals_with_very_many_places_are_refused(scale: int) -> None:
    """All of the places would be written."""
    with pytest.raises(UndecodableError, match=f"^its Avro schema has decimals of {scale} places"):
        decoder(logical("bytes", "decimal", precision=scale, scale=scale)).decode(b"\x02\x01")


@pytest.mark.parametrize("mark", ['"__fastavro_parsed"', r'"\u005f_fastavro_parsed"'])
def test_a_schema_cannot_say_that_it_was_checked(mark: str) -> None:
    """The library would believe it, and measure only one of two types with the same name."""
    types = [{"type": "record", "name": "N", "fields": [{"name": "f", "type": kind}]} for kind in ("int", NO_BOUND)]
    schema = {
        "type": "record",
        "name": "A",
        "fields": [{"name": f"f{n}", "type": kind} for n, kind in enumerate(types)],
    }
    text = orjson.dumps({**schema, "mark": True, "__named_schemas": {}}).decode().replace('"mark"', mark)
    with pytest.raises(UndecodableError, match="redefined named type: N"):
        AvroDecoder(text)
    with pytest.raises(UndecodableError, match="redefined named type: N"):
        AvroDecoder('"A"', (text,))
    with pytest.raises(UndecodableError, match="redefined named type: N"):
        AvroDecoder('"A"', (f"[[{text}]]",))


def test_a_schema_with_exponentially_many_values_is_refused() -> None:
    """Each record holds the previous one ten times."""
    schema: Any = {"type": "record", "name": "R0", "fields": [{"name": "a", "type": "null"}]}
    named = [schema]
    for n in range(1, 8):
        fields = [{"name": f"f{i}", "type": f"R{n - 1}"} for i in range(10)]
        named.append({"type": "record", "name": f"R{n}", "fields": fields})
    with pytest.raises(UndecodableError, match="too many to decode"):
        AvroDecoder('"R7"', tuple(orjson.dumps(one).decode() for one in named))


@pytest.mark.parametrize("text", ["", "{", "[" * 2_000 + "]" * 2_000, '{"type": ' * 3_000 + '"int"' + "}" * 3_000])
def test_texts_that_are_no_schemas_are_refused(text: str) -> None:
    """This includes texts that are nested too deep."""
    with pytest.raises(UndecodableError):
        AvroDecoder(text)


def test_values_that_may_be_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their length decides, before they are read."""
    schema = {"type": "array", "items": "int"}
    monkeypatch.setattr(avro, "MAX_VALUES", 3_000)
    made = decoder(schema)
    assert len(orjson.loads(made.decode(written(schema, [0] * 2_500)))) == 2_500
    with pytest.raises(UndecodableError, match="may hold more than 3000 values"):
        made.decode(written(schema, [0] * 3_100))


@pytest.mark.parametrize("content", [b"", b"\x02", b"\x02a\x00\x00", b"\xff" * 20, b"\x01"])
def test_bytes_of_another_schema_are_refused(content: bytes) -> None:
    """They are cut short, too long, or impossible."""
    with pytest.raises(UndecodableError, match=r"does not fit its Avro schema|left over"):
        decoder({"type": "record", "name": "R", "fields": [{"name": "s", "type": "string"}]}).decode(content)


FIELDS = st.recursive(
    st.sampled_from(["null", "boolean", "int", "long", "double", "bytes", "string"])
    | st.just(logical("long", "timestamp-nanos"))
    | st.just(logical("bytes", "decimal", precision=9, scale=2)),
    lambda inner: (
        inner.map(lambda kind: {"type": "array", "items": kind})
        | inner.map(lambda kind: {"type": "map", "values": kind})
        | inner.filter(lambda kind: kind != "null").map(lambda kind: ["null", kind])
    ),
    max_leaves=4,
)


@settings(max_examples=60)
@given(st.lists(FIELDS, max_size=4), st.binary(max_size=200))
def test_any_bytes_give_json_or_a_reason(kinds: list[Any], content: bytes) -> None:
    """For any schema, no other exception is raised."""
    fields = [{"name": f"f{number}", "type": kind} for number, kind in enumerate(kinds)]
    with suppress(UndecodableError):
        made = decoder({"type": "record", "name": "R", "fields": fields})
        orjson.loads(made.decode(content))
