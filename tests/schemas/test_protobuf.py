"""Protobuf: what the library writes is decoded to plain JSON, with descriptors that protoc makes of texts."""

from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf import descriptor_pb2, json_format, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.schemas import protobuf
from dispatcher.schemas.framing import UndecodableError
from dispatcher.schemas.protobuf import ProtobufDecoder
from tests.schemas.memory import peak_of_memory

REFERENCE = """
syntax = "proto3";
package common;
message Money { string currency = 1; int64 units = 2; }
"""

TEXT = """
syntax = "proto3";
package shop;
import "common/money.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/any.proto";
enum Kind { NONE = 0; GIFT = 1; }
message First { string a = 1; message Within { int32 b = 1; message Deeper { bool c = 1; } } }
message Order {
  int64 id = 1;
  uint64 large = 2;
  double ratio = 3;
  bytes data = 4;
  Kind kind = 5;
  repeated common.Money prices = 6;
  map<int32, common.Money> by_number = 7;
  map<bool, string> by_flag = 8;
  oneof payment { string card = 9; common.Money cash = 10; }
  optional string note = 11;
  google.protobuf.Timestamp at = 12;
  google.protobuf.Duration took = 13;
  google.protobuf.Int64Value maybe = 14;
  google.protobuf.Struct more = 15;
  google.protobuf.Any any = 16;
  Order parent = 17;
  repeated Kind kinds = 18;
  message AfterMaps { int32 d = 1; }
}
"""


@pytest.fixture(scope="module")
def shop() -> ProtobufDecoder:
    """The decoder of `TEXT`."""
    return ProtobufDecoder(TEXT, {"common/money.proto": REFERENCE})


def message(made: ProtobufDecoder, name: str, value: dict[str, Any]) -> bytes:
    """A message as a producer writes it, from ProtoJSON."""
    kind = message_factory.GetMessageClass(made._pool.FindMessageTypeByName(name))
    return json_format.ParseDict(value, kind(), descriptor_pool=made._pool).SerializeToString()


ORDER_INDEXES = b"\x02\x02"
"""One index: 1."""


def test_every_kind_of_field(shop: ProtobufDecoder) -> None:
    """Fields have the file's names, integers are numbers, and well-known types follow ProtoJSON."""
    value = {
        "id": str(2**53 + 1),
        "large": str(2**64 - 1),
        "ratio": 0.5,
        "data": "AP8=",
        "kind": "GIFT",
        "prices": [{"currency": "EUR", "units": "5"}],
        "byNumber": {"7": {"units": "1"}},
        "byFlag": {"true": "yes"},
        "cash": {"currency": "CHF"},
        "note": "",
        "at": "2024-01-02T03:04:05.000000006Z",
        "took": "3.004s",
        "maybe": "9",
        "more": {"a": [1, None, {"b": "c"}]},
        "any": {"@type": "type.googleapis.com/common.Money", "currency": "USD"},
        "parent": {"id": "1"},
        "kinds": ["NONE", "GIFT"],
    }
    content = message(shop, "shop.Order", value)
    decoded = orjson.loads(shop.decode(ORDER_INDEXES + content))
    parent = decoded.pop("parent")
    assert decoded == {
        "id": 2**53 + 1,
        "large": 2**64 - 1,
        "ratio": 0.5,
        "data": "AP8=",
        "kind": "GIFT",
        "prices": [{"currency": "EUR", "units": 5}],
        "by_number": {"7": {"currency": "", "units": 1}},
        "by_flag": {"true": "yes"},
        "cash": {"currency": "CHF", "units": 0},
        "note": "",
        "at": "2024-01-02T03:04:05.000000006Z",
        "took": "3.004s",
        "maybe": 9,
        "more": {"a": [1, None, {"b": "c"}]},
        "any": {"@type": "type.googleapis.com/common.Money", "currency": "USD"},
        "kinds": ["NONE", "GIFT"],
    }
    # Without presence: there with the default. With presence: only if it was set.
    assert parent == {
        "id": 1,
        "large": 0,
        "ratio": 0,
        "data": "",
        "kind": "NONE",
        "prices": [],
        "by_number": {},
        "by_flag": {},
        "kinds": [],
    }
    strings = orjson.loads(shop.decode(ORDER_INDEXES + content, int64_strings=True))
    assert (strings["id"], strings["large"], strings["maybe"]) == (str(2**53 + 1), str(2**64 - 1), 9)


@pytest.mark.parametrize(
    ("indexes", "content", "expected"),
    [
        (b"\x00", b"\x0a\x01x", {"a": "x"}),
        (b"\x02\x00", b"\x0a\x01x", {"a": "x"}),
        (b"\x04\x00\x00", b"\x08\x05", {"b": 5}),
        (b"\x06\x00\x00\x00", b"\x08\x01", {"c": True}),
        (b"\x04\x02\x00", b"\x08\x05", {"d": 5}),
    ],
)
def test_indexes_lead_to_the_message(
    shop: ProtobufDecoder, indexes: bytes, content: bytes, expected: dict[str, Any]
) -> None:
    """They may be in front or in a header, and lead to any depth."""
    assert orjson.loads(shop.decode(indexes + content)) == expected
    assert orjson.loads(shop.decode(content, indexes)) == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x02\x04", r"no message at \[2\]"),
        (b"\x02\x01", r"no message at \[-1\]"),
        (b"\x04\x02\x02", r"no message at \[1, 1\]"),
        (b"", "cut short"),
        (b"\x00\x0a\x7f", "does not fit its Protobuf message"),
        (b"\x00\x0a\x01\xff", "does not fit its Protobuf message"),
        (ORDER_INDEXES + b"\x82\x01\x07\x0a\x01x\x12\x02\x0a\x7f", "google.protobuf.Any cannot be written as JSON"),
    ],
)
def test_bytes_of_another_schema_are_refused(shop: ProtobufDecoder, data: bytes, reason: str) -> None:
    """The error has a reason."""
    with pytest.raises(UndecodableError, match=reason):
        shop.decode(data)


def test_messages_nested_too_deep_are_refused(shop: ProtobufDecoder) -> None:
    """Protobuf's own parser refuses them."""
    content = b""
    for _ in range(150):
        length = len(content)
        size = bytes([length]) if length < 128 else bytes([length & 0x7F | 0x80, length >> 7])
        content = b"\x8a\x01" + size + content
    with pytest.raises(UndecodableError):
        shop.decode(ORDER_INDEXES + content)


def test_a_message_with_too_many_values_is_refused(shop: ProtobufDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes can stand for a message with many fields."""
    monkeypatch.setattr(protobuf, "MAX_VALUES", 100)
    assert orjson.loads(shop.decode(ORDER_INDEXES + b"\x92\x01\x20" + b"\x01" * 32))["kinds"] == ["GIFT"] * 32
    with pytest.raises(UndecodableError, match="more than 100 values"):
        shop.decode(ORDER_INDEXES + b"\x92\x01\x64" + b"\x01" * 100)
    with pytest.raises(UndecodableError, match="more than 100 values"):
        shop.decode(ORDER_INDEXES + b"\x32\x00" * 50)


def field(number: int, content: bytes) -> bytes:
    """A field that has a length."""
    length, size = len(content), b""
    while length >= 128:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def packed(name: str, content: bytes) -> bytes:
    """An Any."""
    return field(1, b"x/" + name.encode()) + field(2, content)


LONG = "a" * 20_000
NAMES = f"""
    syntax = "proto3";
    import "google/protobuf/any.proto";
    import "google/protobuf/struct.proto";
    message R {{ repeated M m = 1; repeated E e = 2; map<int32, E> n = 3; google.protobuf.Any any = 4;
      repeated google.protobuf.Any anys = 5; google.protobuf.ListValue list = 6; }}
    message M {{ int32 {LONG} = 1; }}
    enum E {{ {LONG}s = 0; }}
"""


@pytest.fixture(scope="module")
def names() -> ProtobufDecoder:
    """The decoder of `NAMES`."""
    return ProtobufDecoder(NAMES)


MANY_NAMES: dict[str, Callable[[int], bytes]] = {
    "messages": lambda number: b"\x0a\x02\x08\x01" * number,
    "enums": lambda number: field(2, b"\x00" * number),
    "maps": lambda number: b"".join(
        field(3, b"\x08" + bytes([n & 0x7F | 0x80, n >> 7]) + b"\x10\x00") for n in range(128, 128 + number)
    ),
}


@pytest.mark.parametrize("kind", MANY_NAMES)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_long_names_do_not_become_large_json(kind: str, depth: int, names: ProtobufDecoder) -> None:
    """A byte would become 20,000 as JSON: they are counted while values are made, and before the library makes any."""

    def content(number: int) -> bytes:
        content = MANY_NAMES[kind](number)
        for level in range(depth):
            content = field(4 + level % 2, packed("R", content))
        return b"\x00" + content

    assert len(names.decode(content(100))) > 100 * len(LONG)
    with peak_of_memory() as peak, pytest.raises(UndecodableError, match="as JSON it has more than the 33554432 bytes"):
        names.decode(content(16_000))
    assert peak() < 48 * 2**20


def test_what_the_library_writes_is_counted(names: ProtobufDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on values includes those within Any, and what has no fixed fields."""
    monkeypatch.setattr(protobuf, "MAX_VALUES", 100)
    for content, few in ((field(1, b"\x32\x00"), 20), (field(1, b"\x20\x01"), 20)):
        assert len(orjson.loads(names.decode(b"\x00" + field(6, content * few)))["list"]) == few
        with pytest.raises(UndecodableError, match="more than 100 values"):
            names.decode(b"\x00" + field(6, content * 120))
    with pytest.raises(UndecodableError, match="more than 100 values"):
        names.decode(b"\x00" + field(4, packed("R", b"\x0a\x00" * 101)))
    with pytest.raises(UndecodableError, match="more than 100 values"):
        names.decode(b"\x00" + field(5, packed("R", b"")) * 101)


def test_messages_packed_into_each_other_are_bounded(names: ProtobufDecoder) -> None:
    """Each level holds a copy of all levels within it."""
    content = packed("R", field(2, b"\x00") + field(7, b"x" * 2**20))  # an unknown field

    def nested(levels: int) -> bytes:
        found = content
        for _ in range(levels):
            found = packed("google.protobuf.Any", found)
        return b"\x00" + field(4, found)

    assert b'"@type":"x/R"' in names.decode(nested(5))
    with pytest.raises(UndecodableError, match="as JSON it has more than"):
        names.decode(nested(60))
    with peak_of_memory() as peak, pytest.raises(UndecodableError, match="as JSON it has more than"):
        names.decode(nested(200))
    assert peak() < 80 * 2**20


@pytest.mark.parametrize(
    ("text", "references", "reason"),
    [
        ("nonsense", {}, "its Protobuf file is wrong: registry-schema.proto"),
        ('syntax = "proto3";', {}, "has no message"),
        ('syntax = "proto3"; import "gone.proto"; message A {}', {}, "its Protobuf file is wrong"),
        ("", {"../escape.proto": ""}, "is not a relative name"),
        ("", {"/etc/escape.proto": ""}, "is not a relative name"),
        ("", {"a": "", "a/b": ""}, "refers to 'a/b', which cannot be a file"),
        ("", {"x" * 300: ""}, "refers to 'xxx"),
        ("", {"a\0b": ""}, "which cannot be a file"),
    ],
)
def test_files_that_are_wrong_are_refused(text: str, references: dict[str, str], reason: str) -> None:
    """The error contains protoc's message, and nothing is written outside of its folder."""
    with pytest.raises(UndecodableError, match=reason):
        ProtobufDecoder(text, references)


@pytest.mark.parametrize("module", ["grpc_tools/__init__.py", "runpy.py", "importlib/resources.py"])
@pytest.mark.parametrize("python_path", ["", ":/nowhere"])
def test_names_of_files_are_no_modules(
    module: str, python_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only protoc reads a file that is also Python, whatever name a schema uses for it."""
    monkeypatch.setenv("PYTHONPATH", python_path)
    witness = tmp_path / "ran"
    both = f"syntax = \"proto3\" // exec(\"open('{witness}', 'w').close()\") \\\n;\n"
    text = f'syntax = "proto3"; import "{module}"; message A {{ int32 a = 1; }}'
    assert ProtobufDecoder(text, {module: both}).name == "A"
    assert not witness.exists()


def encoded(made: ProtobufDecoder, name: str) -> str:
    """A file as Confluent's serializer for Python registers it."""
    return b64encode(made._pool.FindFileByName(name).serialized_pb).decode()


def test_files_may_be_descriptors(shop: ProtobufDecoder) -> None:
    """Descriptors are base64, and may import descriptors, texts, and protoc's own files."""
    main, money = encoded(shop, "registry-schema.proto"), encoded(shop, "common/money.proto")
    content = message(shop, "shop.Order", {"id": 1, "prices": [{"units": 5}], "at": "2024-01-02T03:04:05Z"})
    expected = shop.decode(ORDER_INDEXES + content)
    for reference in (money, REFERENCE):
        made = ProtobufDecoder(main, {"common/money.proto": reference})
        assert (made.name, made.decode(ORDER_INDEXES + content)) == ("shop.First", expected)
    with pytest.raises(UndecodableError, match="refers to files that are not"):
        ProtobufDecoder(TEXT, {"common/money.proto": money})
    with pytest.raises(UndecodableError, match="its Protobuf file is wrong"):
        ProtobufDecoder(main)


@pytest.mark.parametrize("fields", [{"dependency": ["a.proto"]}, {"message_type": [{"name": "not a name"}]}])
def test_descriptors_that_are_wrong_are_refused(fields: dict[str, Any]) -> None:
    """This covers circular imports and impossible names."""
    main = descriptor_pb2.FileDescriptorProto(name="x", **fields)
    other = descriptor_pb2.FileDescriptorProto(name="a.proto", dependency=["a.proto"])
    texts = [b64encode(file.SerializeToString()).decode() for file in (main, other)]
    with pytest.raises(UndecodableError, match="its Protobuf file"):
        ProtobufDecoder(texts[0], {"a.proto": texts[1]})


def test_a_compiler_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds whatever a text does to it."""
    monkeypatch.setattr(protobuf, "COMPILE_SECONDS", 0.001)
    with pytest.raises(UndecodableError, match="protoc took more than"):
        ProtobufDecoder('syntax = "proto3"; message A {}')


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_give_json_or_a_reason(data: bytes) -> None:
    """No other exception is raised."""
    made = _made()
    for indexes in (b"", ORDER_INDEXES, b"\x00"):
        with suppress(UndecodableError):
            orjson.loads(made.decode(indexes + data))


def _made(known: list[ProtobufDecoder] = []) -> ProtobufDecoder:  # noqa: B006 - made once for all examples
    if not known:
        known.append(ProtobufDecoder(TEXT, {"common/money.proto": REFERENCE}))
    return known[0]
