"""URLs as people write them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from dispatcher.client.address import filter_parameters, read_address
from dispatcher.client.errors import WrongAddressError
from dispatcher.sansio.position import parse_position


@pytest.mark.parametrize(
    ("url", "transport", "wire"),
    [
        ("http://h", "auto", "http://h/events?format=envelope"),
        ("http://h:8000/", "auto", "http://h:8000/events?format=envelope"),
        ("https://h/events", "auto", "https://h/events?format=envelope"),
        ("https://h:80/a%20b/é/events/", "auto", "https://h:80/a%20b/%C3%A9/events?format=envelope"),
        ("http://h/ws", "auto", "http://h/ws"),
        ("ws://h:1", "auto", "http://h:1/ws"),
        ("wss://h/behind/a/proxy", "auto", "https://h/behind/a/proxy/ws"),
        ("http://h/events", "websocket", "http://h/ws"),
        ("ws://h/ws", "sse", "http://h/events?format=envelope"),
        ("http://[::1]:8000", "websocket", "http://[::1]:8000/ws"),
        ("http://h?topic=a&topic=b&format=value", "auto", "http://h/events?topic=a&topic=b&format=envelope"),
        ("http://h?since=earliest&token=x", "websocket", "http://h/ws?since=earliest&token=x"),
    ],
)
def test_what_goes_on_the_wire(url: str, transport: Any, wire: str) -> None:
    """The request has the URL's path plus the transport's, envelopes for SSE, and everything else unchanged."""
    assert read_address(url, transport=transport).address.url == wire


def test_options_win_over_the_query() -> None:
    """An option overrides the parameter of the same name."""
    subscribed = read_address(
        "ws://h?topic=a&since=5&last_event_id=a:0=1", topics=["b"], since="earliest", last_event_id="b:0=2"
    )
    assert subscribed.address.target == "/ws?topic=b&since=earliest"
    assert subscribed.position == parse_position("b:0=2")


def test_what_is_wanted_goes_into_the_query() -> None:
    """Filters are repeated per value, and replace the URL's parameters of the same name."""
    wanted = filter_parameters(
        keys=["a", "b&c"],
        record_headers={"tenant": "t1"},
        fields={"/state": ("open", "neu: é")},
        record_filter={"not": {"exact": {"key": "x"}}},
    )
    subscribed = read_address("ws://h?key=x&key_prefix=p", wanted=wanted)
    assert subscribed.address.target == (
        "/ws?key=a&key=b%26c&header=tenant%3At1&field=%2Fstate%3Aopen&field=%2Fstate%3Aneu%3A+%C3%A9"
        "&filter=%7B%22not%22%3A+%7B%22exact%22%3A+%7B%22key%22%3A+%22x%22%7D%7D%7D&key_prefix=p"
    )
    assert filter_parameters(keys="a", record_filter='{"exact":{}}') == [("key", "a"), ("filter", '{"exact":{}}')]
    assert filter_parameters() == []


def test_what_values_are_decoded_to_goes_into_the_query() -> None:
    """The option replaces the URL's parameter, which otherwise stays."""
    assert read_address("ws://h?decode=avro-json", decode="json").address.target == "/ws?decode=json"
    assert read_address("ws://h?decode=json").address.target == "/ws?decode=json"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"record_headers": {"a:b": "c"}}, "a name that is empty or has a colon"),
        ({"fields": {"": "c"}}, "a name that is empty or has a colon"),
        ({"record_filter": {"exact": {"key": b"a"}}}, "not JSON"),
    ],
)
def test_what_no_parameter_can_say_is_wrong_at_once(wanted: dict[str, Any], reason: str) -> None:
    """It raises before anything is sent, because another filter would be another view."""
    with pytest.raises(WrongAddressError, match=reason):
        filter_parameters(**wanted)


def test_a_position_in_the_query_is_where_it_begins_once() -> None:
    """It is used once, and not in the address of each reconnect."""
    subscribed = read_address("http://h?last_event_id=a:0=1,1=5")
    assert subscribed.address.target == "/events?format=envelope"
    assert subscribed.position == parse_position("a:0=1,1=5")


@pytest.mark.parametrize(
    ("since", "query"),
    [
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00%3A00%3A00%2B00%3A00"),
        (datetime(2026, 1, 31, tzinfo=timezone(timedelta(seconds=75))), "2026-01-30T23%3A58%3A45%2B00%3A00"),
        (1795429533864, "1795429533864"),
    ],
)
def test_times(since: datetime | int, query: str) -> None:
    """Times are accepted as Python has them, and a plus arrives as a plus."""
    assert read_address("ws://h", since=since).address.target == f"/ws?since={query}"


def test_credentials() -> None:
    """Credentials in the URL are sent, and never shown."""
    address = read_address("http://user:pass%3Aword@h").address
    assert address.authorization == "Basic dXNlcjpwYXNzOndvcmQ="
    assert address.url == "http://h/events?format=envelope"


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("ws://h", "http://h/ws?since=5"),
        ("http://h?topic=a%26b&x=", "http://h/events?topic=a%26b&x=&format=envelope&since=5"),
        ("http://h?since=earliest", "http://h/events?since=earliest&format=envelope"),
    ],
)
def test_a_time_to_begin_at(url: str, asked: str) -> None:
    """A time that the caller has chosen is kept."""
    address = read_address(url).address
    assert address.with_since(5).url == asked
    assert address.with_since(5).with_since(6).url == asked


@pytest.mark.parametrize(
    ("location", "url", "kept"),
    [
        ("/other?x=1", "https://h/other?x=1", True),
        ("https://h/x", "https://h/x", True),
        ("https://h:444/x", "https://h:444/x", False),
        ("//else/x", "https://else/x", False),
        ("wss://h/x", "https://h/x", True),
    ],
)
def test_redirects(location: str, url: str, kept: bool) -> None:
    """Credentials are sent only to their own origin."""
    there = read_address("https://user:word@h/").address.follow(location)
    assert (there.url, there.authorization is not None) == (url, kept)


@pytest.mark.parametrize("location", ["http://h/x", "ftp://h/x", "https://h:x/"])
def test_redirects_that_are_not_followed(location: str) -> None:
    """A redirect from TLS to plain text is refused."""
    with pytest.raises(WrongAddressError):
        read_address("https://h/").address.follow(location)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("h:8000", {}),
        ("ftp://h", {}),
        ("http://", {}),
        ("http://h:x", {}),
        ("http://h:99999", {}),
        ("http://[h", {}),
        ("http://h", {"last_event_id": "photo-1"}),
        ("http://h?last_event_id=photo-1", {}),
        ("http://h", {"since": datetime(2026, 1, 31)}),  # noqa: DTZ001 - that it has no zone is the point
    ],
)
def test_what_cannot_be_right(url: str, options: dict[str, Any]) -> None:
    """A wrong address raises before anything is sent."""
    with pytest.raises(WrongAddressError):
        read_address(url, **options)
