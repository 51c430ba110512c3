"""Numbers are compared as they are written, however many digits they have."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dispatcher.sansio import number_texts
from dispatcher.sansio.filter_dialect import FilterError, read_filter, read_parameters
from dispatcher.sansio.filter_index import FilterIndex
from dispatcher.sansio.filters import Filter
from dispatcher.sansio.number_texts import with_numbers_as_text
from dispatcher.sansio.record_view import View
from dispatcher.sansio.records import Record, Records, TopicPartition

TP = TopicPartition("orders", 0)
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
ODD = ("1.10", "1.1", "1e3", "1E5", "-0", "0", "-0.0", "18446744073709551616", "123456789012345678.25", "0e1")

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(['"', "\\", '1"2', "-1,2"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
).filter(lambda document: isinstance(document, dict | list))


def requested(**parameters: str) -> Filter:
    """The filter of a request."""
    found = read_parameters({name: [value] for name, value in parameters.items()})
    assert found is not None
    return found


def wants(record_filter: Filter, value: bytes) -> bool:
    """Whether the predicate and the index want a record, which they must agree on."""
    records = Records.of([Record(0, 1, None, value, ())])
    wanted = record_filter.compile()(View(TP, records).at(0))
    index = FilterIndex[str]()
    index.add(record_filter, "owner")
    assert bool(index.match(TP, records)) is wanted
    return wanted


@given(number=NUMBERS, other=NUMBERS | st.sampled_from(ODD))
@example("100000000000000000001", "100000000000000000002")
@example("100000000000000000001", "1e20")
@example("1.10", "1.1")
@example("-0", "0")
@example("0", "-0")
@example("18446744073709551616", "18446744073709551615")
def test_a_number_matches_as_it_is_written_and_no_other(number: str, other: str) -> None:
    """It may be written in a parameter or in a filter, as a number or as a string."""
    record, another = (b'{"m":-0,"n":%b,"o":[1.50]}' % text.encode() for text in (number, other))
    for wanted in (
        requested(field=f"/n:{number}"),
        requested(filter=f'{{"exact":{{"/n":{number}}}}}'),
        requested(filter=f'{{"in":{{"/n":["{number}","x"]}}}}'),
        read_filter({"exact": {"/n": number}}),
    ):
        assert wants(wanted, record)
        assert wants(wanted, another) is (number == other)
    assert wants(requested(filter=f'{{"prefix":{{"/n":{number}}}}}'), record)
    assert wants(requested(filter=f'{{"suffix":{{"/n":{number}}}}}'), record)
    assert wants(requested(field="/o/0:1.50"), record)


@given(document=DOCUMENTS)
def test_everything_but_numbers_is_read_as_by_orjson(document: Any) -> None:
    """Either way of reading numbers gives the same document, strings with digits and quotes included."""
    data = json.dumps(document, ensure_ascii=False).encode()
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        assume(False)
    expected = json.loads(data, parse_float=str, parse_int=str)
    assert with_numbers_as_text(data) == expected
    assert orjson.loads(number_texts._NUMBER.sub(rb'\1"\2"', data + b"0")[:-3]) == expected


def test_what_the_two_parsers_treat_differently() -> None:
    """Nesting, repeated members, control characters and white space lead to the same text, without an error."""
    deep = 1000  # Python 3.11's own parser refuses it
    value = b'{"a":' * deep + b"1.50" + b"}" * deep
    view = View(TP, Records.of([Record(0, 1, None, value, ())])).at(0)
    assert view.text(("a",) * deep) == "1.50"
    for value, text in (
        (b'{"n":1.10,"n":1.20}', "1.20"),
        (b'{"n":"x","n":1.20}', "1.20"),
        (b' \t\r\n{"n":\n1.20 ,"o":"\\u0000\\ud83d\\ude00\x7f"}\n', "1.20"),
        (b'{"\\u006e":1.20}', "1.20"),
    ):
        assert View(TP, Records.of([Record(0, 1, None, value, ())])).at(0).text(("n",)) == text
    for value in (b'{"n":NaN}', b'{"n":1.20,"o":"\\ud800"}', b'{"n":01.20}', b'\xef\xbb\xbf{"n":1.20}'):
        assert View(TP, Records.of([Record(0, 1, None, value, ())])).at(0).text(("n",)) is None


def test_numbers_are_read_again_for_their_own_record_only() -> None:
    """The next record of the batch is parsed by itself."""
    view = View(TP, Records.of([Record(n, 1, None, b'{"n":%d.10,"m":{}}' % n, ()) for n in range(3)]))
    assert [view.at(n).text(("n",)) for n in (0, 1, 2, 0)] == ["0.10", "1.10", "2.10", "0.10"]
    assert view.text(("m",)) is None


def test_a_float_in_a_grant_is_refused() -> None:
    """Whoever parsed it has lost how it was written; a string says it."""
    for number in (5.5, 1e20):
        with pytest.raises(FilterError, match="as a string, because numbers are compared digit by digit"):
            read_filter({"not": {"in": {"/n": ["5.5", number]}}})
    assert wants(read_filter({"exact": {"/n": 10**20 + 1}}), b'{"n":100000000000000000001}')
