"""Columns of bytes are interleaved record by record, and what is JSON in them is each text's own."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.encoding.columns import each, interleaved, json_numbers, json_strings

NEAR_THE_SEPARATOR = st.text(alphabet='\x7f\x1f"\\,u07f\u2028é', max_size=6)


@given(st.lists(st.none() | st.text(max_size=5) | NEAR_THE_SEPARATOR, min_size=1, max_size=6))
def test_strings_are_each_texts_own(texts: list[str | None]) -> None:
    """This holds for null, and for texts with the separating byte."""
    columns = json_strings([None if text is None else text.encode() for text in texts])
    assert json.loads(b"[%b]" % interleaved(len(texts), b",", *columns)[1:]) == texts


def test_strings_are_utf_8() -> None:
    """Each text is checked separately: two halves of a character are both refused."""
    with pytest.raises(UnicodeDecodeError):
        json_strings([b"\xe2", b"\x98\x83"])
    with pytest.raises(UnicodeDecodeError):
        json_strings([None, b"\xff"])


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6))
def test_numbers_are_json(numbers: list[int | None]) -> None:
    """Every number of Kafka, 64 bits with a sign, becomes JSON."""
    assert json.loads(b"[%b]" % b",".join(json_numbers(numbers))) == numbers


def test_a_range_is_numbers() -> None:
    """Consecutive offsets are given as a range."""
    assert json_numbers(range(9, 12)) == [b"9", b"10", b"11"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_columns_are_woven_record_by_record(number: int) -> None:
    """Columns go from left to right, and constant ones are repeated for each record."""
    names = [b"a", b"b", b"c"][:number]
    assert interleaved(number, b"<", b"i", names, b"", names, b">") == b"".join(
        b"<i%b%b>" % (name, name) for name in names
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_record_by_itself_has_the_same_bytes(number: int) -> None:
    """So a filter can pick any of them."""
    names = [b"a", b"b", b"c"][:number]
    assert each(number, b"<", b"i", names, b">") == [b"<i%b>" % name for name in names]
