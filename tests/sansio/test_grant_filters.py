"""Grants allow only what is certain: a field of a value that cannot be read has no say in their favour."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.decoded import KEY_HEADER, Decoded
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.filter_index import FilterIndex
from dispatcher.sansio.grant_filters import certain, granted
from dispatcher.sansio.record_view import View
from dispatcher.sansio.records import Record, Records
from tests.sansio.test_filter_index import DOCUMENTS, TP, naive

AVRO = b"\x00\x00\x00\x00\x01\x0csecret"
"""One text, after the id of its schema."""

NO_SECRET = {"not": {"exact": {"/tenant": "secret"}}}

KEYS = st.none() | st.sampled_from([b"a", b"ab", b"\xff", b"\x00\x00\x00\x00\x01\x02a", b"\x02a"])
VALUES = st.none() | st.sampled_from(
    [AVRO, b"a", b"", b"{", b"1", b"null", b'"a"', b'{"a":"ab","b":[1]}', b'{"a":{"b":"a"}}', b'{"a":1}', b"[1]"]
)
HEADERS = st.sampled_from([(), (("h", b"a"), ("g", None)), ((KEY_HEADER, b"\x01"), ("h", b"1"))])
RECORDS = st.lists(st.tuples(KEYS, VALUES, HEADERS), min_size=1, max_size=5)


def allows(document: Any, records: Records) -> list[int]:
    """The records that a grant with a filter allows, by its predicate and by the index alike."""
    allowed = granted({TP.topic: [read_filter(document)]})
    assert allowed is not None
    predicate, view, index = allowed.compile(), View(TP, records), FilterIndex[str]()
    index.add(certain(read_filter(document)), "owner")
    found = [number for number in range(len(records)) if predicate(view.at(number))]
    assert [indexes for _, indexes in index.match(TP, records)] == ([found] if found else [])
    return found


def judged(document: Any, record: Record, *, key_is_known: bool, fields_are_known: bool) -> bool | None:
    """Evaluate a filter with three values; None is unknown."""
    ((operator, operand),) = document.items()
    if operator in {"all", "any", "not"}:
        inner = [
            judged(part, record, key_is_known=key_is_known, fields_are_known=fields_are_known)
            for part in ([operand] if operator == "not" else operand)
        ]
        if operator == "not":
            return None if inner[0] is None else not inner[0]
        decides = operator == "any"
        return decides if decides in inner else None if None in inner else not decides
    ((place, _),) = operand.items()
    if (place[0] == "/" and not fields_are_known) or (place == "key" and operator != "exists" and not key_is_known):
        return None
    return naive(document, record)


@given(document=DOCUMENTS, rows=RECORDS)
def test_what_a_grant_allows_is_what_is_certain(document: Any, rows: list[tuple[Any, Any, Any]]) -> None:
    """This holds for any filter, with a field of what is not JSON, or a key that needs a schema, as unknown."""
    records = [Record(offset, 1, *row) for offset, row in enumerate(rows)]
    expected = []
    for record in records:
        key_is_known = record.key is None or not (record.key.startswith(b"\x00") or KEY_HEADER in dict(record.headers))
        is_object = record.value is not None and record.value[:1] in {b"{", b"["} and record.value != b"{"
        outcome = judged(
            document, record, key_is_known=key_is_known, fields_are_known=record.value is None or is_object
        )
        expected += [record.offset] if outcome is True else []
    assert allows(document, Records.of(records)) == expected


@pytest.mark.parametrize(
    "document",
    [
        NO_SECRET,
        {"exists": {"/tenant": False}},
        {"not": {"any": [{"exact": {"/tenant": "secret"}}, {"prefix": {"/tenant": "s"}}]}},
        {"not": {"all": [{"exact": {"/tenant": "secret"}}, {"exists": {"key": True}}]}},
        {"not": {"not": {"not": {"suffix": {"/tenant": "secret"}}}}},
        {"any": [NO_SECRET, {"exact": {"key": "public"}}]},
    ],
    ids=str,
)
def test_a_value_that_is_not_decoded_is_not_allowed_by_what_it_does_not_say(document: Any) -> None:
    """It may belong to the tenant: with and without decoding, and if decoding failed."""
    rows = [
        Record(0, 1, b"k", AVRO, ()),
        Record(1, 1, b"k", b"secret", ()),
        Record(2, 1, b"k", b" 1234567890123456", ()),
        Record(3, 1, b"k", b'{"tenant":"secret"}', ()),
        Record(4, 1, b"k", b'{"other":"x"}', ()),
        Record(5, 1, b"k", None, ()),
    ]
    raw = Records.of(rows)
    assert allows(document, raw) == [4, 5]
    nothing, empty = (None,) * 6, (b"",) * 6
    undecoded = Decoded(nothing, nothing, empty, (b',"decode_error":"the registry is away"',) * 6)
    assert allows(document, raw.with_decoded(undecoded)) == [5], "JSON that was not decoded is shown to no filter"
    values = (b'{"tenant":"secret"}', b'{"id":"a"}', None, None, b"{}", None)
    assert allows(document, raw.with_decoded(Decoded(nothing, values, empty, empty))) == [1, 4, 5]


def test_a_key_that_is_not_decoded_is_not_allowed_by_what_it_does_not_say() -> None:
    """A schema makes a key unknown until it is decoded, and other bytes are what they are."""
    keys = (b"\x00\x00\x00\x00\x01\x0csecret", b"\x0csecret", b"\xff", b"other", None)
    rows = [Record(n, 1, key, b"{}", ((KEY_HEADER, b"\x01"),) if n == 1 else ()) for n, key in enumerate(keys)]
    raw, empty = Records.of(rows), (b"",) * 5
    decoded = raw.with_decoded(Decoded((b'"secret"', b'"public"', None, None, None), (b"{}",) * 5, empty, empty))
    for document, expected, after in (
        ({"not": {"exact": {"key": "secret"}}}, [2, 3, 4], [1, 2, 3, 4]),
        ({"not": {"suffix": {"key": "secret"}}}, [2, 3, 4], [1, 2, 3, 4]),
        ({"suffix": {"key": "secret"}}, [], [0]),
        ({"exists": {"key": False}}, [4], [4]),
        ({"exists": {"key": True}}, [0, 1, 2, 3], [0, 1, 2, 3]),
    ):
        assert (allows(document, raw), allows(document, decoded)) == (expected, after), document


def test_a_grant_that_says_only_what_a_record_must_have_stays_as_it_is() -> None:
    """So its index is as good as that of a client's filter."""
    for document in ({"exact": {"/tenant": "a"}}, {"all": [{"prefix": {"key": "a"}}, {"exists": {"/b": True}}]}):
        assert certain(read_filter(document)) == read_filter(document)
    assert granted({"orders": [], "audit": []}) is None
    twice = read_filter({"not": {"not": {"exact": {"/tenant": "a"}}}})
    assert certain(twice) == read_filter({"exact": {"/tenant": "a"}})
    assert orjson.dumps(certain(read_filter(NO_SECRET)).dialect()), "it can be shown"
