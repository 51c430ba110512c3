"""JSON Schema: what is JSON already."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.schemas.framing import UndecodableError
from dispatcher.schemas.json_schema import JsonDecoder


def test_the_schema_has_a_name_if_it_has_a_title() -> None:
    """Schemas may be true or false, and titles anything."""
    assert [JsonDecoder(text).name for text in ('{"title": "Order"}', '{"title": 1}', "{}", "true")] == [
        "Order",
        "json",
        "json",
        "json",
    ]


@settings(max_examples=30)
@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists))
def test_values_stay_as_they_were_written(value: object) -> None:
    """They are put on one line, digits included."""
    content = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    decoded = JsonDecoder("{}").decode(content)
    assert orjson.loads(decoded) == value
    assert b"\n" not in decoded


def test_digits_are_not_touched() -> None:
    """Numbers are neither rounded nor rewritten."""
    assert JsonDecoder("{}").decode(b'{"n":\r\n1.00000000000000000001}') == b'{"n":  1.00000000000000000001}'


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"NaN", b"{}{}", b'"\n"', b"[" * 5000])
def test_other_bytes_are_refused(content: bytes) -> None:
    """The error has a reason."""
    with pytest.raises(UndecodableError, match="it is not JSON"):
        JsonDecoder("{}").decode(content)


def test_a_schema_that_is_no_json_is_refused() -> None:
    """Somebody may register one nevertheless."""
    with pytest.raises(UndecodableError, match="its JSON Schema is not JSON"):
        JsonDecoder("{")
