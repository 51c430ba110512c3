"""What a subscriber asks for: times above all, as RFC 3339 has them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import BadRequestError
from dispatcher.sansio.ranges import EARLIEST
from dispatcher.web.requests import read_query

NOON_MS = 1_769_860_800_000


def since(text: str) -> int | None:
    """Where a stream begins, in ms."""
    return read_query({"since": [text]}, None, ["assets"]).since_ms


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("earliest", EARLIEST),
        ("0", 0),
        ("1769860800000", NOON_MS),
        ("2026-01-31T12:00:00Z", NOON_MS),
        ("2026-01-31T12:00:00z", NOON_MS),
        ("2026-01-31t12:00:00z", NOON_MS),
        ("2026-01-31t12:00:00Z", NOON_MS),
        ("2026-01-31 12:00:00Z", NOON_MS),
        ("2026-01-31 12:00:00 00:00", NOON_MS),  # two pluses that nobody has encoded
        ("2026-01-31T12:00:00-00:00", NOON_MS),
        ("2026-01-31T13:30:00+01:30", NOON_MS),
        ("2026-01-31T13:30:00 01:30", NOON_MS),
        ("2026-01-30T12:01:00-23:59", NOON_MS),
        ("2026-01-31T12:00:00.5Z", NOON_MS + 500),
        ("2026-01-31T12:00:00.001Z", NOON_MS + 1),
        ("2026-01-31T12:00:00.0019999Z", NOON_MS + 1),
        ("2026-01-31T12:00:00.123456789012z", NOON_MS + 123),
        ("1970-01-01T00:00:00Z", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("2016-12-31T23:59:60.25Z", 1_483_228_800_250),
        ("1990-12-31T15:59:60-08:00", 662_688_000_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_a_time(text: str, expected_ms: int) -> None:
    """Every spelling that RFC 3339 has, to the millisecond."""
    assert since(text) == expected_ms


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "-1", "1e3", "1.5", "0x10", "9999999999999999", "١٢٣", "Earliest", "2026-01-31"),
        *("2026-01-31T12:00:00", "2026-01-31T12:00Z", "2026-01-31T12Z", "2026-01-31T12:00:00 Z", "20260131T120000Z"),
        *("2026-W05-6T12:00:00Z", "2026-031T12:00:00Z", "2026-01-31T12:00:00,5Z", "2026-01-31T12:00:00.Z"),
        *(
            "2026-01-31T12:00:00+01",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T12:00:00+01:00:30",
            "2026-01-31T12:00:00+24:00",
        ),
        *("2026-01-31T12:00:00+01:60", "2026-02-30T12:00:00Z", "2026-13-01T12:00:00Z", "2026-01-31T24:00:00Z"),
        *("2026-01-31T12:60:00Z", "2026-01-31T12:00:61Z", "2026-01-31T12:00:60Z", "2016-12-31T23:59:60+01:00"),
        *("2026-01-31_12:00:00Z", "2026-01-31T12:00:00Z ", "2026-01-31T12:00:00Z\n", "1969-12-31T23:59:59.999Z"),
        *("0000-01-01T00:00:00Z", "2026-01-31T12:00:00Zz", "२०२६-01-31T12:00:00Z", "+2026-01-31T12:00:00Z"),
    ],
)
def test_what_is_no_time(text: str) -> None:
    """The rest of ISO 8601 among it: it is refused with what would be right, and never taken for another time."""
    with pytest.raises(BadRequestError, match="is not a time: use earliest, 2026-01-31T12:00:00Z, or milliseconds"):
        since(text)


OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 29), timezones=OFFSETS))  # noqa: DTZ001 - bounds
def test_every_time_is_read_to_the_millisecond(time: datetime) -> None:
    """No float loses one: the same as by whole numbers."""
    expected = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert since(time.isoformat(timespec="microseconds")) == expected
    assert since(time.isoformat(" ", timespec="microseconds").lower()) == expected
    assert since(str(expected)) == expected


@given(st.text() | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.,Zz+ -]{1,20}", fullmatch=True))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    """Nothing else is raised."""
    try:
        since_ms = since(text)
    except BadRequestError:
        return
    assert since_ms == EARLIEST or (since_ms is not None and since_ms >= 0)
