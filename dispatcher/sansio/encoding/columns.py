"""Columns of bytes and how to interleave them: a few calls into C encode all records of a batch."""

from collections.abc import Sequence
from typing import cast

import orjson

Column = bytes | Sequence[bytes]
"""Either bytes for each record, or the same bytes for all records."""

_SEPARATOR = b"\x7f"
"""A single byte that JSON does not escape; splitting on a longer separator would cost more than everything else."""

_NULL = b"null"


def interleaved(number: int, *columns: Column) -> bytes:
    """Join the columns, record by record.

    Args:
        number: The length of each column.
        columns: The columns from left to right.
    """
    if number == 1:
        return b"".join([column if isinstance(column, bytes) else column[0] for column in columns])
    return b"".join(_pieces(number, columns)[0])


def each(number: int, *columns: Column) -> Sequence[bytes]:
    """Interleave the columns, but keep the records separate."""
    pieces, width = _pieces(number, columns)
    return [b"".join(pieces[start : start + width]) for start in range(0, len(pieces), width)]


def _pieces(number: int, columns: Sequence[Column]) -> tuple[Sequence[bytes], int]:
    """Return all pieces in order, and how many pieces make up a record."""
    merged: list[Column] = []
    for column in columns:
        if merged and isinstance(column, bytes) and isinstance(merged[-1], bytes):
            merged[-1] += column
        else:
            merged.append(column)
    width = len(merged)
    pieces = [b""] * (number * width)
    for index, column in enumerate(merged):
        pieces[index::width] = [column] * number if isinstance(column, bytes) else column
    return pieces, width


def json_numbers(numbers: Sequence[int | None]) -> Sequence[bytes]:
    """Return each number as JSON; there must be at least one."""
    return orjson.dumps(list(numbers))[1:-1].split(b",")


def json_strings(texts: Sequence[bytes | None]) -> Sequence[Column]:
    """Return each text as JSON, in columns side by side; there must be at least one.

    Raises:
        UnicodeDecodeError: a text is not UTF-8.
    """
    present = cast("Sequence[bytes]", texts if None not in texts else [text for text in texts if text is not None])
    if not present:
        return (_NULL,)
    strings: Sequence[bytes] = orjson.dumps(_SEPARATOR.join(present).decode())[1:-1].split(_SEPARATOR)
    if len(strings) != len(present):  # a text contains the separator
        strings = [orjson.dumps(text.decode())[1:-1] for text in present]
    if present is texts:
        return b'"', strings, b'"'
    found = iter(strings)
    return ([_NULL if text is None else b'"%b"' % next(found) for text in texts],)
