"""The table of rules by which decoded values become JSON."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.schemas import values
from dispatcher.schemas.framing import UndecodableError
from dispatcher.schemas.values import (
    SAFE_INTEGER,
    day,
    decimal,
    duration,
    duration_of,
    json_of,
    time_of_day,
    timestamp,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001 - Hypothesis wants them naive
def test_timestamps_are_those_of_python_where_it_has_them(moment: datetime) -> None:
    """This covers the years 1 to 9999, to the microsecond."""
    micros = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    assert timestamp(micros, "micros") == moment.strftime("%Y").rjust(4, "0") + moment.strftime("-%m-%dT%H:%M:%S.%fZ")
    assert timestamp(micros, "micros", local=True) + "Z" == timestamp(micros, "micros")


@given(st.dates())
def test_dates_are_those_of_python_where_it_has_them(found: date) -> None:
    """Dates count from 1970."""
    assert day((found - date(1970, 1, 1)).days) == found.isoformat()


@pytest.mark.parametrize(
    ("count", "unit", "expected"),
    [
        (0, "millis", "1970-01-01T00:00:00.000Z"),
        (-1, "nanos", "1969-12-31T23:59:59.999999999Z"),
        (253_402_300_800, "seconds", "+010000-01-01T00:00:00Z"),
        (-62_167_219_201, "seconds", "-000001-12-31T23:59:59Z"),
        (2**63 - 1, "millis", "+292278994-08-17T07:12:55.807Z"),
        (-(2**63), "micros", "-290308-12-21T19:59:05.224192Z"),
    ],
)
def test_timestamps_far_away(count: int, unit: str, expected: str) -> None:
    """Years outside Python's range use ISO 8601's expanded form."""
    assert timestamp(count, unit) == expected


@pytest.mark.parametrize(
    ("count", "unit", "expected"),
    [(0, "millis", "00:00:00.000"), (86_399_999_999, "micros", "23:59:59.999999"), (86_400_000, "millis", "86400000")],
)
def test_times_of_day(count: int, unit: str, expected: str) -> None:
    """A count outside of a day stays a number."""
    assert time_of_day(count, unit) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [((1, 2, 3_004), "P1M2DT3.004S"), ((0, 0, 0), "PT0S"), ((0, 0, 5_000), "PT5S"), ((14, 0, 0), "P14M")],
)
def test_durations_of_avro(parts: tuple[int, int, int], expected: str) -> None:
    """Months, days and milliseconds do not convert into each other."""
    assert duration(*parts) == expected


@pytest.mark.parametrize(
    ("seconds", "nanos", "expected"),
    [(0, 0, "0s"), (3, 4_000_000, "3.004s"), (-1, -500_000_000, "-1.5s"), (0, -1, "-0.000000001s")],
)
def test_durations_of_protobuf(seconds: int, nanos: int, expected: str) -> None:
    """They follow ProtoJSON, without trailing zeros."""
    assert duration_of(seconds, nanos) == expected


@given(st.integers(-(10**40), 10**40), st.integers(0, 30))
def test_decimals_have_all_their_digits(unscaled: int, scale: int) -> None:
    """They also equal the number that they stand for."""
    written = decimal(unscaled, scale)
    sign, digits, exponent = Decimal(written).as_tuple()
    assert int("".join(map(str, digits))) * (-1 if sign else 1) == unscaled
    assert exponent == -scale
    assert "E" not in written


def test_a_negative_scale_is_written_out() -> None:
    """It becomes zeros."""
    assert (decimal(12, -3), decimal(0, -3)) == ("12000", "0")


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_are_exact_in_either_spelling(number: int) -> None:
    """They are numbers, or on request strings if JavaScript cannot hold them."""
    assert json_of({"n": [number]}, int64_strings=False) == b'{"n":[%d]}' % number
    is_string = abs(number) > SAFE_INTEGER
    assert orjson.loads(json_of({"n": [number]}, int64_strings=True)) == {"n": [str(number) if is_string else number]}


def test_bytes_are_base64_and_what_is_no_number_is_null() -> None:
    """This follows docs/schemas.md, and true is not an integer."""
    found = {"b": b"\x00\xff", "nan": float("nan"), "inf": float("-inf"), "yes": True}
    assert json_of(found, int64_strings=True) == b'{"b":"AP8=","nan":null,"inf":null,"yes":true}'


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, "\ud800", 2**64])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    """It is not written in a form that nobody can read back."""
    with pytest.raises(UndecodableError, match="cannot be written as JSON"):
        json_of(value, int64_strings=False)


def test_what_is_nested_too_deep_is_refused() -> None:
    """This holds whether or not integers are rewritten."""
    value: object = 1
    for _ in range(5_000):
        value = [value]
    for int64_strings in (False, True):
        with pytest.raises(UndecodableError, match="cannot be written as JSON"):
            json_of(value, int64_strings=int64_strings)


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small value can stand for large ones."""
    monkeypatch.setattr(values, "MAX_DECODED_BYTES", 10)
    assert json_of("12345678", int64_strings=False) == b'"12345678"'
    with pytest.raises(UndecodableError, match="as JSON it has 11 bytes"):
        json_of("123456789", int64_strings=False)
