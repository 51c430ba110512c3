"""Records of topics that the server decodes, in the Python client and in ``dispatcher tail``."""

from typing import Any

import orjson
import pytest

from dispatcher.client import Record
from dispatcher.client.decoding import read_message
from dispatcher.client.errors import MalformedMessageError
from dispatcher.command.tail_output import pretty
from dispatcher.command.tail_text import as_json

SCHEMA = {"id": 4, "type": "AVRO", "name": "shop.Order"}


def received(**members: Any) -> Record:
    """Return what the client makes of a record with these members."""
    record = {"topic": "orders", "partition": 0, "offset": 7, "timestamp": None, "key": "k", "headers": [], **members}
    message = {"type": "records", "id": "orders:0=7", "records": [record]}
    (found,) = [one for one in read_message(orjson.dumps(message).decode()) if isinstance(one, Record)]
    return found


def test_a_decoded_value_is_json_and_no_tombstone() -> None:
    """A decoded null is no tombstone, and a decoded string key is its content."""
    record = received(value_json={"n": 2**53 + 1}, schema=SCHEMA, key_json="k1", key_schema=SCHEMA)
    assert (record.json(), record.schema, record.decode_error) == ({"n": 2**53 + 1}, SCHEMA, None)
    assert received(value_json=None, schema=SCHEMA).value == b"null"


@pytest.mark.parametrize(("key", "expected"), [("k1", b"k1"), (7, b"7"), ({"a": 1}, b'{"a":1}')])
def test_a_decoded_key_is_bytes(key: Any, expected: bytes) -> None:
    """A decoded string key is its content, and any other its JSON."""
    record = {
        "topic": "t",
        "partition": 0,
        "offset": 7,
        "timestamp": None,
        "headers": [],
        "value": "v",
        "key_json": key,
    }
    (found,) = read_message(orjson.dumps({"type": "records", "id": "t:0=7", "records": [record]}).decode())[:1]
    assert isinstance(found, Record)
    assert found.key == expected


def test_an_undecoded_value_says_why() -> None:
    """It has the bytes that Kafka delivered, and the reason."""
    record = received(value_base64="AAE=", schema={"id": 9}, decode_error="the registry has no schema 9")
    assert (record.value, record.schema, record.decode_error) == (
        b"\x00\x01",
        {"id": 9},
        "the registry has no schema 9",
    )
    assert "(the registry has no schema 9)" in pretty(record).plain
    line = orjson.loads(as_json(record))
    assert (line["value"], line["schema"], line["decode_error"]) == ("\x00\x01", {"id": 9}, record.decode_error)


def test_tail_shows_the_name_of_the_schema() -> None:
    """The name precedes the value on a terminal, and JSON lines have it as the protocol does."""
    record = received(value_json={"n": 1}, schema=SCHEMA)
    assert pretty(record).plain.endswith('shop.Order {"n":1}')
    line = orjson.loads(as_json(record))
    assert (line["value_json"], line["schema"]) == ({"n": 1}, SCHEMA)
    assert "value" not in line


@pytest.mark.parametrize("members", [{"schema": 1}, {"decode_error": {}}, {"schema": "x"}])
def test_members_of_another_kind_are_refused(members: dict[str, Any]) -> None:
    """Members about decoding are checked like all others."""
    with pytest.raises(MalformedMessageError):
        received(value="v", **members)
