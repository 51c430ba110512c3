"""The client's address as proxies report it."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.addresses import (
    client_behind,
    client_key,
    forwarded_for,
    forwarded_host,
    is_in,
    read_address,
    x_forwarded_for,
)

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("192.0.2.1:x", None),
        ("192.0.2.1:", None),
        ("192.0.2.256", None),
        ("[192.0.2.1]", None),
        ("[2001:db8::1", None),
        ("[2001:db8::1]x", None),
        ("2001:db8::1::", None),
        ("example.org", None),
    ],
)
def test_an_address(text: str, address: str | None) -> None:
    """Brackets and a port are accepted as proxies write them; anything else is no address."""
    assert read_address(text) == (None if address is None else ip_address(address))


@pytest.mark.parametrize(
    ("peer", "fields", "client"),
    [
        ("203.0.113.9", ["192.0.2.1"], "203.0.113.9"),  # nobody has reason to believe a stranger
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.1"], "192.0.2.1"),  # what the client itself wrote is further left
        ("10.0.0.1", ["6.6.6.6", "192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_the_right_most_untrusted_hop(peer: str, fields: list[str], client: str) -> None:
    """Only what trusted proxies added counts, and an unreadable hop ends the walk."""
    assert client_behind(ip_address(peer), x_forwarded_for(fields), TRUSTED) == ip_address(client)


@pytest.mark.parametrize(
    ("fields", "client", "host"),
    [
        (["for=192.0.2.1"], "192.0.2.1", None),
        (['for="[2001:db8::1]:4711";proto=https;host=a.example'], "2001:db8::1", "a.example"),
        (['For="192.0.2.1" ; Host="b.example:8000"'], "192.0.2.1", "b.example:8000"),
        (["for=6.6.6.6;host=evil", "for=192.0.2.1, for=10.0.0.2;host=c"], "192.0.2.1", "c"),
        (['for=192.0.2.1;ext="a,\\";b"'], "192.0.2.1", None),
        (["for=unknown"], "10.0.0.1", None),
        (["for=192.0.2.1;for=192.0.2.2"], "10.0.0.1", None),
        (["nonsense"], "10.0.0.1", None),
        (['for="192.0.2.1'], "10.0.0.1", None),
        ([], "10.0.0.1", None),
    ],
)
def test_forwarded(fields: list[str], client: str, host: str | None) -> None:
    """Fields follow RFC 7239 with quoted strings, and an unreadable element names nobody."""
    assert client_behind(ip_address("10.0.0.1"), forwarded_for(fields), TRUSTED) == ip_address(client)
    assert forwarded_host(fields) == host


def test_a_chain_without_end_is_not_walked() -> None:
    """A header of 16 KiB costs no more than 32 hops."""
    fields = [",".join(["10.0.0.2"] * 1000 + ["192.0.2.1"] + ["10.0.0.3"] * 40)]
    assert client_behind(ip_address("10.0.0.1"), x_forwarded_for(fields), TRUSTED) == ip_address("10.0.0.3")


def test_who_counts_as_one_client() -> None:
    """An IPv4 address, or the network of an IPv6 address, is one client."""
    assert client_key(ip_address("192.0.2.1")) == "192.0.2.1"
    assert (
        client_key(ip_address("2001:db8:1:2:3::1")) == client_key(ip_address("2001:db8:1:2::9")) == "2001:db8:1:2::/64"
    )


def test_networks() -> None:
    """IPv4 and IPv6 are never compared, and a missing address is in no network."""
    assert is_in(ip_address("10.1.2.3"), TRUSTED)
    assert not is_in(ip_address("::10.1.2.3"), TRUSTED)
    assert not is_in(None, TRUSTED)


@settings(max_examples=100)
@given(st.lists(st.text(alphabet='for=;," \\[]:.0123456789abx', max_size=60), max_size=4))
def test_nonsense_is_never_an_error(fields: list[str]) -> None:
    """Whatever a header contains, the answer is the peer or an address."""
    for hops in (x_forwarded_for(fields), forwarded_for(fields)):
        client_behind(ip_address("10.0.0.1"), hops, TRUSTED)
    forwarded_host(fields)
