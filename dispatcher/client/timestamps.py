"""Interprets the timestamps of records, so that any 64-bit number is shown as something sensible.

Kafka's timestamps are milliseconds, but brokers keep whatever number a producer writes. The rule is the same in
``dispatcher/web/page/times.js`` and described in docs/protocol.md, "Envelope".
"""

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

_NONE = -1
"""Kafka's value for no timestamp."""

_FIRST_MS, _LAST_MS = -62_135_510_400_000, 253_402_214_399_999
"""The years 1 to 9999, without the first and the last day: every time zone has a date for these."""

_Y2000_MS, _Y2100_MS = 946_684_800_000, 4_102_444_800_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(NamedTuple):
    """A time, and the unit in which it was written."""

    ms: int
    """Milliseconds since the epoch."""
    unit: Literal["ms", "µs", "ns"]

    @property
    def utc(self) -> datetime:
        """The same as an aware datetime."""
        return _EPOCH + timedelta(milliseconds=self.ms)


def read_timestamp(timestamp: int | None) -> Moment | None:
    """The time that a number means; None if there is no timestamp (null and -1), or if its unit is unknown.

    It is read as milliseconds if that gives a time in the years 1 to 9999; otherwise as microseconds or nanoseconds if
    that gives a time in this century.
    """
    if timestamp is None or timestamp == _NONE:
        return None
    if _FIRST_MS <= timestamp <= _LAST_MS:
        return Moment(timestamp, "ms")
    if _Y2000_MS <= timestamp // 1000 < _Y2100_MS:
        return Moment(timestamp // 1000, "µs")
    if _Y2000_MS <= timestamp // 1_000_000 < _Y2100_MS:
        return Moment(timestamp // 1_000_000, "ns")
    return None


def time_of_day(timestamp: int | None) -> str | None:
    """The local time, to the millisecond, and the unit if it is an unusual one.

    The plain number if its unit is unknown; None if there is no timestamp.
    """
    moment = read_timestamp(timestamp)
    if moment is None:
        return None if timestamp in {None, _NONE} else str(timestamp)
    text = moment.utc.astimezone().strftime("%H:%M:%S.%f")[:-3]
    return text if moment.unit == "ms" else f"{text} {moment.unit}"
