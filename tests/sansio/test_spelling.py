"""How keys and values are written where a topic's settings say so, and the bytes do not decide."""

from base64 import b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.encoding.wire import SSE_ENVELOPE, SSE_VALUE, WEBSOCKET
from dispatcher.sansio.records import Batch, Records, TopicPartition
from dispatcher.sansio.spelling import Spelling, as_text
from tests.sansio.test_wire import EventSource

TEXT, BYTES = "hä\nzwei".encode(), b"\xff\x00"
VALUES = [TEXT, BYTES, None, b""]


def written(spelling: Spelling, decoded: Decoded | None = None) -> Batch:
    """Records whose keys are their values, as an encoder gets them."""
    number = len(VALUES)
    records = Records(range(number), [1] * number, VALUES, VALUES, ((),) * number, decoded=decoded)
    return Batch(TopicPartition("t", 0), records.spelled(spelling))


def envelopes(batch: Batch) -> list[dict[str, Any]]:
    """The envelopes of a WebSocket message, which are those of SSE."""
    found: list[dict[str, Any]] = orjson.loads(b"[%b]" % WEBSOCKET.encode_records(batch, None))
    source = EventSource()
    source.feed(SSE_ENVELOPE.encode_records(batch, ""))
    assert [orjson.loads(data) for _, _, data in source.events] == found
    return found


def events(batch: Batch) -> list[tuple[str, str]]:
    """Types and data of the events of ``format=value``."""
    source = EventSource()
    source.feed(SSE_VALUE.encode_records(batch, ""))
    return [(kind, data) for _, kind, data in source.events]


@pytest.mark.parametrize(
    ("spelling", "keys", "values", "data"),
    [
        (
            Spelling(),
            [{"key": TEXT.decode()}, {"key_base64": "/wA="}, {"key": None}, {"key": ""}],
            [{"value": TEXT.decode()}, {"value_base64": "/wA="}, {"value": None}, {"value": ""}],
            [("message", TEXT.decode()), ("binary", "/wA="), ("tombstone", ""), ("message", "")],
        ),
        (
            Spelling(value="text"),
            [{"key": TEXT.decode()}, {"key_base64": "/wA="}, {"key": None}, {"key": ""}],
            [{"value": TEXT.decode()}, {"value": "\ufffd\x00"}, {"value": None}, {"value": ""}],
            [("message", TEXT.decode()), ("message", "\ufffd\x00"), ("tombstone", ""), ("message", "")],
        ),
        (
            Spelling("text", "base64"),
            [{"key": TEXT.decode()}, {"key": "\ufffd\x00"}, {"key": None}, {"key": ""}],
            [
                {"value_base64": b64encode(TEXT).decode()},
                {"value_base64": "/wA="},
                {"value": None},
                {"value_base64": ""},
            ],
            [("binary", b64encode(TEXT).decode()), ("binary", "/wA="), ("tombstone", ""), ("binary", "")],
        ),
        (
            Spelling("base64", "auto"),
            [{"key_base64": b64encode(TEXT).decode()}, {"key_base64": "/wA="}, {"key": None}, {"key_base64": ""}],
            [{"value": TEXT.decode()}, {"value_base64": "/wA="}, {"value": None}, {"value": ""}],
            [("message", TEXT.decode()), ("binary", "/wA="), ("tombstone", ""), ("message", "")],
        ),
    ],
)
def test_each_spelling(
    spelling: Spelling, keys: list[dict[str, Any]], values: list[dict[str, Any]], data: list[tuple[str, str]]
) -> None:
    """In envelopes, messages and events the settings decide, and a tombstone stays one."""
    batch = written(spelling)
    found = envelopes(batch)
    assert [{name: one[name] for name in one if name.startswith("key")} for one in found] == keys
    assert [{name: one[name] for name in one if name.startswith("value")} for one in found] == values
    assert events(batch) == data


def test_what_was_decoded_stays_json() -> None:
    """Only values that were not decoded follow the settings."""
    decoded = Decoded([None] * 4, [b'{"n":1}', None, None, None], [b""] * 4, [b"", b',"decode_error":"x"', b"", b""])
    batch = written(Spelling("base64", "base64"), decoded)
    found = envelopes(batch)
    assert found[0]["value_json"] == {"n": 1}
    assert found[0]["key_base64"] == b64encode(TEXT).decode()
    assert (found[1]["value_base64"], found[1]["decode_error"]) == ("/wA=", "x")
    assert events(batch)[:3] == [("message", '{"n":1}'), ("binary", "/wA="), ("tombstone", "")]


def test_parts_of_records_keep_their_spelling() -> None:
    """This holds for slices, and for records picked for a filter."""
    records = written(Spelling(value="base64")).records
    assert records[1:].spelling == records.take([0]).spelling == Spelling(value="base64")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)))
def test_text_is_utf8(column: list[bytes | None]) -> None:
    """Any bytes become UTF-8, and valid UTF-8 is unchanged."""
    assert as_text(column) == [None if one is None else one.decode(errors="replace").encode() for one in column]
