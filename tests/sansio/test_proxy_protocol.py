"""The PROXY protocol."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.proxy_protocol import SIGNATURE, ProxyHeader, ProxyHeaderError, read_header


def v2(command: int, family: int, payload: bytes) -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(payload)) + payload


def ports() -> bytes:
    """Two."""
    return struct.pack("!HH", 4711, 443)


V4 = ip_address("192.0.2.1").packed + ip_address("198.51.100.1").packed + ports()
V6 = ip_address("2001:db8::1").packed + ip_address("2001:db8::2").packed + ports()
MAPPED = ip_address("::ffff:192.0.2.1").packed + ip_address("::1").packed + ports()
HEADERS = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", "192.0.2.1"),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", "2001:db8::1"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n", "192.0.2.1"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (v2(0x21, 0x11, V4), "192.0.2.1"),
    (v2(0x21, 0x11, V4 + b"\x03\x00\x04abcd"), "192.0.2.1"),
    (v2(0x21, 0x21, V6), "2001:db8::1"),
    (v2(0x21, 0x21, MAPPED), "192.0.2.1"),
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0x11, V4), None),
    (v2(0x21, 0x00, b""), None),
    (v2(0x21, 0x12, V4), None),
    (v2(0x21, 0x31, b"x" * 216), None),
]


@pytest.mark.parametrize(("header", "client"), HEADERS)
def test_a_header(header: bytes, client: str | None) -> None:
    """It is read whole, whatever follows it, and never from a part."""
    expected = ProxyHeader(len(header), None if client is None else ip_address(client))
    assert read_header(header) == read_header(header + b"GET / HTTP/1.1\r\n") == expected
    assert [read_header(header[:end]) for end in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "does not begin"),
        (b"\x16\x03\x01", "does not begin"),
        (b"\r\n\r\nGET", "does not begin"),
        (b"PROXY TCP4 192.0.2.1\r\n", "cannot be read"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n", "cannot be read"),
        (b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n", "wrong address"),
        (b"PROXY TCP6 192.0.2.1 198.51.100.1 4711 443\r\n", "wrong address"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n", "wrong port"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 000443\r\n", "wrong port"),
        (b"PROXY UNKNOWN" + b" x" * 60, "at most 107"),
        (v2(0x11, 0x11, V4), "0x11"),
        (v2(0x22, 0x11, V4), "0x22"),
        (v2(0x21, 0x41, V4), "family"),
        (v2(0x21, 0x13, V4), "family"),
        (v2(0x21, 0x11, V4[:-1]), "too short"),
        (v2(0x21, 0x21, V4), "too short"),
        (v2(0x21, 0x31, V6), "too short"),
        (SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 65535), "are read"),
    ],
)
def test_what_is_no_header(data: bytes, reason: str) -> None:
    """It is refused, and never mistaken for something else."""
    with pytest.raises(ProxyHeaderError, match=reason):
        read_header(data)


@settings(max_examples=200)
@given(
    st.one_of(st.binary(max_size=80), st.binary(max_size=40).map(SIGNATURE.__add__), st.binary().map(b"PROXY ".__add__))
)
def test_nonsense_is_refused_or_needs_more(data: bytes) -> None:
    """No other exception is raised, and a header that is read is really there."""
    try:
        header = read_header(data)
    except ProxyHeaderError:
        return
    assert header is None or header.size_bytes <= len(data)
