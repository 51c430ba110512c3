"""Hosts and origins as clients write them: what is read, and what is equal."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.authorities import Authority, is_address, is_loopback, read_authority, read_origin


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("Stream.Example.ORG", Authority("stream.example.org", None)),
        ("stream.example.org.", Authority("stream.example.org", None)),
        ("stream.example.org:8000", Authority("stream.example.org", 8000)),
        ("stream.example.org:", Authority("stream.example.org", None)),
        ("my_service:80", Authority("my_service", 80)),
        ("127.0.0.1:8000", Authority("127.0.0.1", 8000)),
        ("[::1]:8000", Authority("[::1]", 8000)),
        ("[0:0:0:0:0:0:0:1]", Authority("[::1]", None)),
        ("[2001:DB8::A]", Authority("[2001:db8::a]", None)),
        ("[::ffff:127.0.0.1]", Authority(f"[{ipaddress.IPv6Address('::ffff:127.0.0.1')}]", None)),
    ],
)
def test_an_authority(text: str, authority: Authority) -> None:
    """A host has one spelling, and perhaps a port."""
    assert read_authority(text) == authority


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            ":80",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:-1",
            "a b",
            "a,b",
            "user@localhost",
            "localhost@evil.example",
        ),
        *(
            "localhost/",
            "localhost#",
            "http://localhost",
            "::1",
            "[::1",
            "[::1]x",
            "[]",
            "[fe80::1%25eth0]",
            "[1.2.3.4]",
        ),
        *("lo%63alhost", "löcalhost", "localhost\x00", " localhost", "localhost ", "localhost\n", "a:٨٠"),
    ],
)
def test_what_is_no_authority(text: str) -> None:
    """Userinfo, paths, percent signs, spaces and broken addresses are refused."""
    assert read_authority(text) is None


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("https://App.Example.org", "https://app.example.org"),
        ("HTTPS://app.example.org:443", "https://app.example.org"),
        ("http://app.example.org:80", "http://app.example.org"),
        ("http://app.example.org:443", "http://app.example.org:443"),
        ("https://app.example.org:8443", "https://app.example.org:8443"),
        ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ("null", "null"),
        ("file://", "file://"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcDEF", "chrome-extension://abcDEF"),
    ],
)
def test_an_origin(text: str, spelling: str) -> None:
    """An origin has one spelling, and other schemes are unchanged."""
    origin = read_origin(text)
    assert origin is not None
    assert origin.text == spelling


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "Null", "app.example.org", "https://", "https:///", "https://app.example.org/", "//app.example.org"),
        *(
            "https://app.example.org/path",
            "https://a.example, https://b.example",
            "https://a.example https://b.example",
        ),
        *(
            "https://user@app.example.org",
            "https://*.example.org",
            "https://app.example.org:x",
            "https:app.example.org",
        ),
        *(
            "https://app.example.org?x",
            "https://app.example.org#x",
            "https://a.example\\b.example",
            "file:///",
            "data:x",
        ),
    ],
)
def test_what_is_no_origin(text: str) -> None:
    """URLs with more than scheme, host and port, several origins, and patterns are refused."""
    assert read_origin(text) is None


@pytest.mark.parametrize(
    ("host", "loopback", "address"),
    [
        ("localhost", True, False),
        ("app.localhost", True, False),
        ("notlocalhost", False, False),
        ("localhost.example", False, False),
        ("127.0.0.1", True, True),
        ("127.9.9.9", True, True),
        ("127.1", False, True),
        ("2130706433", False, True),
        ("0x7f.1", False, True),
        ("10.0.0.7", False, True),
        ("0.0.0.0", False, True),  # noqa: S104 - it is one to read
        ("[::1]", True, True),
        ("[2001:db8::1]", False, True),
        ("10.0.0.7.nip.io", False, False),
        ("127.0.0.1.example", False, False),
        ("a.0xg", False, False),
    ],
)
def test_loopback_and_addresses(host: str, loopback: bool, address: bool) -> None:
    """Names that look like addresses are not."""
    assert (is_loopback(host), is_address(host)) == (loopback, address)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing raises, and a result is read again as the same."""
    authority = read_authority(text)
    if authority is not None:
        host, port = authority
        assert read_authority(host if port is None else f"{host}:{port}") == authority
    origin = read_origin(text)
    if origin is not None:
        assert read_origin(origin.text) == origin


@given(st.ip_addresses())
def test_every_address_is_one(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """This holds for all of its spellings."""
    for text in {str(address), address.exploded}:
        authority = read_authority(text if address.version == 4 else f"[{text}]")
        assert authority is not None
        assert is_address(authority.host)
        assert is_loopback(authority.host) == address.is_loopback
