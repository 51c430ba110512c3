"""Records are decoded in order, once, and a bad one costs only itself."""

import time
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.decoded import KEY_HEADER
from dispatcher.sansio.records import Record, Records
from dispatcher.schemas import decoding
from dispatcher.schemas.avro import AvroDecoder
from dispatcher.schemas.decoding import RecordDecoder
from dispatcher.schemas.framing import VALUE_HEADER, SchemaKey
from dispatcher.schemas.json_schema import JsonDecoder
from dispatcher.schemas.protobuf import ProtobufDecoder
from dispatcher.schemas.registry import Registry
from dispatcher.schemas.rules import Rules
from dispatcher.schemas.schemas import Decoder, Missing, Schemas

LONG, TEXT, PROTO, JSON, UNKNOWN, ON_ITS_WAY, AWAY = 1, 2, 3, 4, 5, 6, 7
GUID = "0190a3a47bd17e6a9d2b1c2d3e4f5a6b"
PROTO_DECODER = ProtobufDecoder('syntax = "proto3"; package a; message M { int64 n = 1; }')


class Known(Schemas):
    """Schemas of which it is settled what is known: nothing is fetched."""

    def __init__(self) -> None:
        super().__init__(Registry("http://127.0.0.1:1"))
        self.known: dict[SchemaKey, Decoder] = {
            LONG: AvroDecoder('{"type": "record", "name": "a.L", "fields": [{"name": "n", "type": "long"}]}'),
            TEXT: AvroDecoder('"string"'),
            PROTO: PROTO_DECODER,
            JSON: JsonDecoder('{"title": "J"}'),
        }
        self.missing: dict[SchemaKey, Missing] = {
            UNKNOWN: Missing("the registry has no schema 5", 0, None),
            AWAY: Missing("away", 0, time.monotonic() - 10),
        }
        self.asked: list[SchemaKey] = []

    def decoder(self, key: SchemaKey) -> Decoder | None:
        return self.known.get(key)

    def look_up(self, key: SchemaKey) -> Missing | None:
        self.asked.append(key)
        return None if key == ON_ITS_WAY else self.missing.get(key, self.missing[UNKNOWN])


def framed(schema: int, content: bytes) -> bytes:
    """In the wire format."""
    return b"\x00" + schema.to_bytes(4, "big") + content


def records(*values: bytes | None, keys: Sequence[bytes | None] = (), headers: Any = ()) -> Records:
    """Records with these values."""
    return Records.of(
        Record(10 + n, 1_000, keys[n] if keys else None, value, headers) for n, value in enumerate(values)
    )


def decoder(known: Schemas | None = None, *, strings: bool = False, wait_seconds: float = 5) -> RecordDecoder:
    """Of the topic ``orders``."""
    return RecordDecoder(known or Known(), {"orders": Rules(int64_strings=strings)}, wait_seconds)


def members(found: Records) -> list[dict[str, Any]]:
    """What envelopes say of the values and keys."""
    assert found.decoded is not None
    shown = []
    for key, value, key_note, note in zip(*found.decoded, strict=True):
        member = {} if key is None else {"key_json": orjson.loads(key)}
        member |= {} if value is None else {"value_json": orjson.loads(value)}
        shown.append(member | orjson.loads(b'{"_":0%b%b}' % (key_note, note)))
        del shown[-1]["_"]
    return shown


LARGE = 2**53 + 1
ENCODED_LARGE = bytes([0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20])


def test_each_value_is_decoded_with_its_own_schema() -> None:
    """A topic may have several schemas, and a tombstone has nothing to decode."""
    known = Known()
    made = decoder(known)
    found = made.decode(
        "orders",
        records(framed(LONG, b"\x54"), framed(PROTO, b"\x00\x08\x05"), framed(JSON, b'{"a":\n1}'), None),
    )
    assert members(found) == [
        {"value_json": {"n": 42}, "schema": {"id": LONG, "type": "AVRO", "name": "a.L"}},
        {"value_json": {"n": 5}, "schema": {"id": PROTO, "type": "PROTOBUF", "name": "a.M"}},
        {"value_json": {"a": 1}, "schema": {"id": JSON, "type": "JSON", "name": "J"}},
        {},
    ]
    assert list(found.offsets) == [10, 11, 12, 13]
    assert found.values[0] == framed(LONG, b"\x54"), "what Kafka delivered stays"
    assert found.size_bytes > records(*found.values).size_bytes
    assert known.asked == []
    assert (made.statistics().decoded, made.statistics().undecoded) == ({"orders": 3}, {"orders": 0})


def test_long_names_of_schemas_are_cut() -> None:
    """Each record repeats the name."""
    known = Known()
    known.known[JSON] = JsonDecoder('{"title": "%s"}' % ("J" * 1_000_000))
    (found,) = members(decoder(known).decode("orders", records(framed(JSON, b"1"))))
    assert found["schema"]["name"] == "J" * 300


def test_large_integers_are_strings_where_the_topic_says_so() -> None:
    """Only integers beyond 2^53 are."""
    value = framed(LONG, ENCODED_LARGE)
    assert [members(decoder(strings=strings).decode("orders", records(value)))[0] for strings in (False, True)] == [
        {"value_json": {"n": n}, "schema": {"id": 1, "type": "AVRO", "name": "a.L"}} for n in (LARGE, str(LARGE))
    ]


def test_keys_are_decoded_if_they_are_in_the_wire_format() -> None:
    """Other keys stay: text, numbers that begin with zero bytes, and missing ones."""
    keys = [framed(TEXT, b"\x02k"), b"plain", (5).to_bytes(8, "big"), None, framed(UNKNOWN, b"k"), b""]
    found = members(decoder().decode("orders", records(*[None] * 6, keys=keys)))
    assert found == [
        {"key_json": "k", "key_schema": {"id": TEXT, "type": "AVRO", "name": "avro"}},
        {},
        {},
        {},
        {"key_schema": {"id": UNKNOWN}, "key_decode_error": "the registry has no schema 5"},
        {},
    ]


def test_headers_name_schemas_too() -> None:
    """Keys and values have separate headers."""
    known = Known()
    headers = (
        (VALUE_HEADER, b"\x01" + bytes.fromhex(GUID) + b"\x00"),
        (KEY_HEADER, b"\x01" + bytes.fromhex(GUID)),
    )
    (found,) = members(decoder(known).decode("orders", records(b"\x08\x05", keys=[b"k"], headers=headers)))
    guid = str(known.asked[0])
    assert guid.replace("-", "") == GUID
    assert (found["schema"], found["key_schema"]) == ({"id": guid}, {"id": guid})


@pytest.mark.parametrize(
    ("value", "schema", "reason"),
    [
        (b'{"a": 1}', None, "neither a schema id"),
        (framed(LONG, b""), {"id": 1, "type": "AVRO", "name": "a.L"}, "does not fit its Avro schema"),
        (framed(LONG, b"\x02\x02"), {"id": 1, "type": "AVRO", "name": "a.L"}, "1 bytes are left over"),
        (framed(PROTO, b"\x04"), {"id": 3, "type": "PROTOBUF", "name": "a.M"}, "cut short"),
        (framed(JSON, b"\xff\x00"), {"id": 4, "type": "JSON", "name": "J"}, "it is not JSON"),
        (framed(UNKNOWN, b"x"), {"id": 5}, "the registry has no schema 5"),
        (framed(AWAY, b"x"), {"id": 7}, "away"),
    ],
)
def test_what_cannot_be_decoded_is_handed_on_with_the_reason(value: bytes, schema: Any, reason: str) -> None:
    """The records around it are decoded."""
    good = framed(LONG, b"\x02")
    made = decoder()
    first, bad, last = members(made.decode("orders", records(good, value, good)))
    assert first == last == {"value_json": {"n": 1}, "schema": {"id": 1, "type": "AVRO", "name": "a.L"}}
    assert bad.get("schema") == schema
    assert reason in bad["decode_error"]
    assert "value_json" not in bad
    assert (made.statistics().decoded, made.statistics().undecoded) == ({"orders": 2}, {"orders": 1})


@pytest.mark.parametrize("part", ["key", "value"])
def test_a_schema_on_its_way_ends_what_is_handed_on(part: str) -> None:
    """Nothing overtakes the record, whether its key or its value has to wait."""
    known = Known()
    made = decoder(known)
    waiting = framed(ON_ITS_WAY, b"\x06")
    wanted = records(
        *[framed(LONG, b"\x02"), waiting if part == "value" else None, framed(LONG, b"\x04")],
        keys=[None, waiting if part == "key" else None, None],
    )
    assert list(made.decode("orders", wanted).offsets) == [10]
    assert len(made.decode("orders", wanted[1:])) == 0
    known.known[ON_ITS_WAY] = known.known[LONG]
    assert list(made.decode("orders", wanted[1:]).offsets) == [11, 12]


def test_a_registry_that_is_away_is_waited_for_and_no_longer() -> None:
    """The wait is counted from the beginning of the outage."""
    value = records(framed(AWAY, b"x"))
    assert len(decoder(wait_seconds=1e9).decode("orders", value)) == 0
    (found,) = members(decoder(wait_seconds=5).decode("orders", value))
    assert found == {"schema": {"id": AWAY}, "decode_error": "away"}


def test_a_schema_that_comes_during_the_look_up_is_used() -> None:
    """This holds whatever the look-up has answered."""

    class Late(Known):
        def look_up(self, key: SchemaKey) -> Missing | None:
            answer = super().look_up(key)
            self.known[key] = self.known[LONG]
            return answer

    for key in (UNKNOWN, ON_ITS_WAY):
        (found,) = members(decoder(Late()).decode("orders", records(framed(key, b"\x02"))))
        assert found["value_json"] == {"n": 1}


def test_a_step_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and bytes are bounded so that the poller can poll, but at least one record is decoded."""
    wanted = records(*[framed(LONG, b"\x02")] * 5)
    monkeypatch.setattr(decoding, "STEP_BYTES", 10)
    assert len(decoder().decode("orders", wanted)) == 2
    monkeypatch.setattr(decoding, "STEP_BYTES", 1_000)
    monkeypatch.setattr(decoding, "STEP_SECONDS", 0)
    assert len(decoder().decode("orders", wanted)) == 1


def test_what_is_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding it would occupy the interpreter for long."""
    monkeypatch.setattr(decoding, "MAX_CONTENT_BYTES", 10)
    found = members(decoder().decode("orders", records(framed(TEXT, b"\x14" + b"x" * 10), framed(TEXT, b"\x02x"))))
    assert "it has 11 bytes; at most 10 are allowed" in found[0]["decode_error"]
    assert found[1]["value_json"] == "x"


def test_an_error_of_a_library_costs_its_record_only() -> None:
    """Any exception becomes a bounded reason in text."""

    class Ill(JsonDecoder):
        def decode(self, content: bytes, indexes: bytes = b"", **rules: bool) -> bytes:  # noqa: ARG002
            raise MemoryError("\ud800" + "x" * 10_000)

    known = Known()
    known.known[JSON] = Ill("{}")
    bad, good = members(decoder(known).decode("orders", records(framed(JSON, b"{}"), framed(LONG, b"\x02"))))
    assert bad["decode_error"].startswith("MemoryError: ?xxx")
    assert len(bad["decode_error"]) == decoding.MAX_REASON_CHARACTERS
    assert good["value_json"] == {"n": 1}


def test_notes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are right even after they were dropped."""
    monkeypatch.setattr(decoding, "MAX_NOTES", 1)
    made = decoder()
    wanted = records(*[framed(LONG, b"\x02"), framed(TEXT, b"\x02x")] * 3)
    assert [one["schema"]["id"] for one in members(made.decode("orders", wanted))] == [LONG, TEXT] * 3
    assert len(made._notes) == 1


GOOD = framed(LONG, b"\x02")
POISON = (
    st.binary(max_size=60)
    | st.builds(
        framed,
        st.sampled_from([LONG, TEXT, PROTO, JSON, UNKNOWN, AWAY]) | st.integers(0, 2**32 - 1),
        st.binary(max_size=60),
    )
).filter(lambda value: not value.startswith(framed(ON_ITS_WAY, b"")))  # That one waits, with all that follow it.


@settings(max_examples=200)
@given(st.lists(POISON, max_size=4), POISON)
def test_a_poisoned_record_costs_itself(poison: list[bytes], key: bytes) -> None:
    """For any bytes, every record is passed on in order, and good ones are decoded."""
    made = decoder(KNOWN)
    values = [GOOD, *(value for one in poison for value in (one, GOOD))]
    found = made.decode("orders", records(*values, keys=[key] * len(values)))
    shown = members(found)
    assert len(shown) == len(values)
    for number, (one, value) in enumerate(zip(shown, values, strict=True)):
        if number % 2 == 0:
            assert one["value_json"] == {"n": 1}
        elif value != GOOD:
            assert ("value_json" in one) != ("decode_error" in one)


KNOWN = Known()


def test_a_decoder_that_was_let_go_is_not_used_from_elsewhere() -> None:
    """It would use memory outside of the bound."""
    known = Known()
    decoding = decoder(known)
    assert members(decoding.decode("orders", records(framed(LONG, b"\x02"))))[0]["value_json"] == {"n": 1}
    known.missing[LONG] = Missing("let go", 0, None)
    del known.known[LONG]
    known.evictions += 1
    assert members(decoding.decode("orders", records(framed(LONG, b"\x02"))))[0]["decode_error"] == "let go"


def test_decoders_are_kept_beside_the_schemas_also_after_some_were_let_go() -> None:
    """Otherwise each value would be looked up again for ever."""
    known = Known()
    decoding = decoder(known)
    for evictions in (1, 2):
        known.evictions = evictions
        decoding.decode("orders", records(framed(LONG, b"\x02")))
        schema = known.known.pop(LONG)
        assert members(decoding.decode("orders", records(framed(LONG, b"\x02"))))[0]["value_json"] == {"n": 1}
        known.known[LONG] = schema
