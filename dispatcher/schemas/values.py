"""How decoded values are written as plain JSON: one table of rules for Avro and Protobuf.

| value | JSON |
|---|---|
| integers | numbers; as strings above 2^53 in size where ``int64=string`` |
| floats | numbers; NaN and the infinities are null, because JSON has none |
| decimals | strings, with all their digits |
| bytes, fixed | base64 |
| dates, times, timestamps | ISO 8601; timestamps with an offset of ``Z``, local ones without |
| durations | of Avro ISO 8601, such as ``P1M2DT3.004S``; of Protobuf seconds, such as ``3.004s`` (ProtoJSON) |
| UUIDs, enums | strings |
| unions | the value alone, without the name of its type |
| maps, records, messages | objects |
"""

from base64 import b64encode
from datetime import date
from functools import lru_cache
from typing import Any

import orjson

from dispatcher.schemas.framing import UndecodableError

SAFE_INTEGER = 2**53
"""The largest integer up to which JavaScript's numbers are exact (ECMA-262, Number.MAX_SAFE_INTEGER, plus one)."""

MAX_DECODED_BYTES = 32 * 1024 * 1024
"""The largest JSON of one value: a small value can stand for a huge one, and is then not decoded."""

_DIGITS = {"seconds": 0, "millis": 3, "micros": 6, "nanos": 9}


def json_of(value: object, *, int64_strings: bool) -> bytes:
    """Write a decoded value as JSON.

    Raises:
        UndecodableError: JSON cannot express the value, or it is too large.
    """
    try:
        data = _with_int64_strings(value) if int64_strings else orjson.dumps(value, default=_other)
    except (TypeError, RecursionError) as error:
        raise UndecodableError(f"what it holds cannot be written as JSON: {error}") from error
    if len(data) > MAX_DECODED_BYTES:
        raise UndecodableError(f"as JSON it has {len(data)} bytes; at most {MAX_DECODED_BYTES} are allowed")
    return data


def check_size(value: object) -> None:
    """Count the JSON of a value without writing it.

    A name is one object in memory, but is written with each value that has it.

    Raises:
        UndecodableError: the JSON would have more than `MAX_DECODED_BYTES`.
    """
    room = MAX_DECODED_BYTES
    names: dict[str, int] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            for name in one:
                if (length := names.get(name)) is None:
                    length = names[name] = len(orjson.dumps(name)) + 2
                room -= length
            waiting.extend(one.values())
        elif isinstance(one, list):
            room -= len(one)
            waiting.extend(one)
        elif isinstance(one, str):
            room -= len(one) + 2
        elif isinstance(one, bytes):
            room -= len(one)
        if room < 0:
            raise too_large()


def too_large() -> UndecodableError:
    """Make the error for a value whose JSON would be too large."""
    return UndecodableError(f"as JSON it has more than the {MAX_DECODED_BYTES} bytes that are allowed")


def _with_int64_strings(value: object) -> bytes:
    try:
        # Most values contain no such integer, and this finds out at no cost.
        return orjson.dumps(value, default=_other, option=orjson.OPT_STRICT_INTEGER)
    except TypeError:
        return orjson.dumps(with_int64_strings(value), default=_other)


def with_int64_strings(value: Any) -> Any:
    """Return the value with integers that a JavaScript number cannot hold as strings."""
    if isinstance(value, dict):
        return {name: with_int64_strings(member) for name, member in value.items()}
    if isinstance(value, list):
        return [with_int64_strings(item) for item in value]
    if type(value) is int and not -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return str(value)
    return value


def timestamp(count: int, unit: str, *, local: bool = False) -> str:
    """Write a moment as ISO 8601, at any distance from 1970: years outside 0001 to 9999 have six digits.

    Args:
        count: Units since the epoch.
        unit: ``seconds``, ``millis``, ``micros`` or ``nanos``.
        local: A local time, without a time zone.
    """
    digits = _DIGITS[unit]
    seconds, fraction = divmod(count, 10**digits)
    subsecond = f".{fraction:0{digits}}" if digits else ""
    return f"{_moment(seconds)}{subsecond}{'' if local else 'Z'}"


@lru_cache(4096)
def _moment(seconds: int) -> str:
    """Write a second since 1970 as ISO 8601; cached, because neighbouring records share it."""
    days, second_of_day = divmod(seconds, 86_400)
    return f"{day(days)}T{second_of_day // 3600:02}:{second_of_day // 60 % 60:02}:{second_of_day % 60:02}"


@lru_cache(4096)
def day(days: int) -> str:
    """Write a date as ISO 8601, from days since 1970-01-01."""
    # The Gregorian calendar repeats every 400 years, which are 146,097 days.
    cycles, rest = divmod(days + 719_162, 146_097)
    found = date.fromordinal(rest + 1)
    year = found.year + 400 * cycles
    written = f"{year:04}" if 0 <= year <= 9999 else f"{year:+07}"
    return f"{written}-{found.month:02}-{found.day:02}"


def time_of_day(count: int, unit: str) -> str:
    """Write a time of day as ISO 8601; a count outside of a day stays a number."""
    digits = _DIGITS[unit]
    seconds, fraction = divmod(count, 10**digits)
    if not 0 <= seconds < 86_400:
        return str(count)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:0{digits}}"


def duration(months: int, days: int, millis: int) -> str:
    """Write Avro's duration as ISO 8601; its three parts do not convert into each other."""
    text = "P" + (f"{months}M" if months else "") + (f"{days}D" if days else "")
    if millis:
        seconds, rest = divmod(millis, 1000)
        text += f"T{seconds}" + (f".{rest:03}" if rest else "") + "S"
    return text if len(text) > 1 else "PT0S"


def duration_of(seconds: int, nanos: int) -> str:
    """Write Protobuf's duration as ProtoJSON does, such as ``1.5s``."""
    total = seconds * 10**9 + nanos
    whole, fraction = divmod(abs(total), 10**9)
    digits = f".{fraction:09}".rstrip("0") if fraction else ""
    return f"{'-' if total < 0 else ''}{whole}{digits}s"


def decimal(unscaled: int, scale: int) -> str:
    """Write a decimal number with all its digits: ``unscaled`` times ten to the power of ``-scale``."""
    sign, digits = "-" if unscaled < 0 else "", str(abs(unscaled))
    if scale <= 0:
        return sign + digits + "0" * (-scale if unscaled else 0)
    digits = digits.rjust(scale + 1, "0")
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"


def _other(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode()
    if isinstance(value, int):
        return str(value)  # more than 64 bits
    raise TypeError(f"{type(value).__name__} has no rule")
