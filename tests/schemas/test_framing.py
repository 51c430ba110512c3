"""Confluent's wire format."""

from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.decoded import KEY_HEADER
from dispatcher.schemas.framing import (
    MAX_MESSAGE_INDEXES,
    VALUE_HEADER,
    Framed,
    UndecodableError,
    message_indexes,
    unframe,
)

GUID = UUID("0190a3a4-7bd1-7e6a-9d2b-1c2d3e4f5a6b")


def varint(number: int) -> bytes:
    """Zigzag and base 128, as Avro and Protobuf write it."""
    number = number << 1 if number >= 0 else (-number << 1) - 1
    data = b""
    while number > 0x7F:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def test_the_id_is_in_front() -> None:
    """A zero byte and four bytes of the id precede the content."""
    assert unframe(b"\x00\x00\x00\x01\x02rest", (), VALUE_HEADER) == Framed(258, b"rest", b"")


def test_a_header_names_the_guid() -> None:
    """The content is then complete, and message indexes follow the GUID."""
    headers = (("other", b"x"), (VALUE_HEADER, b"\x01" + GUID.bytes + b"\x02\x04"))
    assert unframe(b"\x00content", headers, VALUE_HEADER) == Framed(GUID, b"\x00content", b"\x02\x04")
    with pytest.raises(UndecodableError):
        unframe(b"content", headers, KEY_HEADER)


@pytest.mark.parametrize("header", [None, b"", b"\x01short", b"\x00" + GUID.bytes])
def test_a_header_that_is_none_is_passed_over(header: bytes | None) -> None:
    """The bytes in front of the content count then."""
    assert unframe(b"\x00\x00\x00\x00\x07", ((VALUE_HEADER, header),), VALUE_HEADER).schema == 7


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x01", b"{}", b"\x01\x00\x00\x00\x01x"])
def test_other_bytes_are_not_in_the_wire_format(data: bytes) -> None:
    """They are too short, or lack the zero byte."""
    with pytest.raises(UndecodableError, match="neither a schema id in front nor a header"):
        unframe(data, (), VALUE_HEADER)


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=MAX_MESSAGE_INDEXES), st.binary(max_size=8))
def test_message_indexes_are_read_as_they_were_written(indexes: list[int], rest: bytes) -> None:
    """This holds for any number of indexes, whatever follows."""
    data = varint(len(indexes)) + b"".join(map(varint, indexes))
    assert message_indexes(data + rest) == (tuple(indexes), len(data))


def test_one_zero_is_the_first_message() -> None:
    """A zero is the short form of one index, 0."""
    assert message_indexes(b"\x00content") == ((0,), 1)


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x80", b"\xff" * 12, varint(-1), varint(MAX_MESSAGE_INDEXES + 1)])
def test_indexes_that_are_none_are_refused(data: bytes) -> None:
    """They are cut short, too large, too many, or negative in number."""
    with pytest.raises(UndecodableError):
        message_indexes(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No other exception is raised."""
    for read in (message_indexes, lambda data: unframe(data, (), VALUE_HEADER)):
        with suppress(UndecodableError):
            read(data)
