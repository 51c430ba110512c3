"""Which requests are answered: each row is a request, with the settings under which it is decided."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from dispatcher.settings import Settings
from dispatcher.web.origin_check import FREE
from dispatcher.web.origins import Policy, Verdict, decide

ANYWHERE = "0.0.0.0:8000"
CHROMIUM = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
APP = "https://app.example.org"

Fields = Sequence[tuple[str, str]]


def verdict(
    *fields: tuple[str, str], method: str = "GET", path: str = "/events", host: str | None = None, **settings: Any
) -> Verdict:
    """What is decided about a request to localhost:8000, unless the fields name another host."""
    if host is None and not any(name.lower() == "host" for name, _ in fields):
        host = "localhost:8000"
    headers = Headers(list(fields))
    if host is not None:
        headers.add("Host", host)
    return decide(Policy.of(Settings(**settings)), FREE, method, path, headers)


def origin(text: str) -> tuple[str, str]:
    """The field."""
    return ("Origin", text)


def site(text: str) -> tuple[str, str]:
    """The field."""
    return ("Sec-Fetch-Site", text)


AGENT = ("User-Agent", CHROMIUM)
EVENTS = ("Accept", "text/event-stream")

PASS: dict[str, tuple[Fields, dict[str, Any]]] = {
    "curl": ([("User-Agent", "curl/8.5.0"), ("Accept", "*/*")], {}),
    "Go": ([("User-Agent", "Go-http-client/1.1")], {}),
    "nothing at all": ([], {}),
    "a page of ours over HTTPS or on localhost": ([AGENT, site("same-origin")], {}),
    "an address that was typed": ([AGENT, site("none")], {}),
    "the browser's word counts, whatever a proxy made of Host": (
        [site("same-origin"), origin("https://stream.example.org"), ("Host", "dispatcher")],
        {"allowed_hosts": "dispatcher"},
    ),
    "Sec-Fetch-Site in another case": ([site("Same-Origin")], {}),
    "own origin": ([AGENT, origin("http://localhost:8000")], {}),
    "own origin in another case": ([origin("HTTP://LocalHost:8000")], {}),
    "own origin, final dot": ([origin("http://localhost:8000"), ("Host", "localhost.:8000")], {}),
    "default port of http left out of Origin": ([origin("http://localhost"), ("Host", "localhost:80")], {}),
    "default port left out of Host": ([origin("http://localhost:80"), ("Host", "localhost")], {}),
    "TLS ends at a proxy": ([origin("https://localhost"), ("Host", "localhost")], {}),
    "TLS ends at a proxy, with its port": ([origin("https://localhost"), ("Host", "localhost:443")], {}),
    "IPv6": ([origin("http://[::1]:8000"), ("Host", "[0:0:0:0:0:0:0:1]:8000")], {}),
    "EventSource over plain HTTP to a name": ([AGENT, EVENTS], {}),
    "Accept with more than one type": ([AGENT, ("Accept", "text/html, Text/Event-Stream;q=0.9, */*")], {}),
    "Accept in two fields": ([AGENT, ("Accept", "*/*"), EVENTS], {}),
    "allowed": ([AGENT, site("cross-site"), origin(APP)], {"allowed_origins": APP}),
    "allowed, port written out": ([origin(f"{APP}:443")], {"allowed_origins": APP}),
    "allowed, without Sec-Fetch-Site": ([origin(APP)], {"allowed_origins": f"https://other.example, {APP}"}),
    "null by name": ([site("cross-site"), origin("null")], {"allowed_origins": "null"}),
    "file by name": ([origin("file://")], {"allowed_origins": "file://"}),
    "an app by name": ([origin("capacitor://localhost")], {"allowed_origins": "capacitor://localhost"}),
    "star": ([site("cross-site"), origin("https://any.example:8443")], {"allowed_origins": "*"}),
    "no Host, as in HTTP/1.0": ([("Host", "")], {}),
    "a loopback name": ([("Host", "app.localhost:8000")], {}),
    "an address": ([("Host", "10.0.0.7:8000")], {}),
    "an IPv6 address": ([("Host", "[2001:db8::1]:8000")], {}),
    "a short address": ([("Host", "127.1:8000")], {}),
    "any name where bind is not loopback": ([("Host", "stream.example.org")], {"bind": ANYWHERE}),
    "a name that is allowed": ([("Host", "Stream.Example.org.:80")], {"allowed_hosts": "stream.example.org"}),
    "any name that is allowed": ([("Host", "stream.example.org")], {"allowed_hosts": "*"}),
    "the host of an allowed origin": ([("Host", "app.example.org")], {"allowed_origins": APP}),
    "an address beside allowed_hosts": ([("Host", "10.0.0.7")], {"allowed_hosts": "a.example", "bind": ANYWHERE}),
}

REFUSED: dict[str, tuple[int, Fields, dict[str, Any], tuple[str, ...]]] = {
    "cross-site, no Origin": (403, [site("cross-site")], {}, ("'cross-site'", "no Origin", "allowed_origins")),
    "same-site": (403, [site("same-site"), origin("http://localhost:3000")], {}, ("'same-site'", "localhost:3000")),
    "cross-site, although Origin is ours": (403, [site("cross-site"), origin("http://localhost:8000")], {}, ()),
    "one good Sec-Fetch-Site and a bad one": (403, [site("none"), site("cross-site")], {}, ("'none, cross-site'",)),
    "an empty Sec-Fetch-Site": (403, [site("")], {}, ()),
    "an unknown Sec-Fetch-Site": (403, [site("same-origin, none")], {}, ()),
    "another origin": (403, [origin(APP)], {}, (repr(APP), "'localhost:8000'", "allowed_origins")),
    "another port": (403, [origin("http://localhost:3000")], {}, ("'http://localhost:3000'", "'localhost:8000'")),
    "another scheme's default port": (403, [origin("http://localhost"), ("Host", "localhost:443")], {}, ()),
    "an origin that ends as ours does": (403, [origin("http://evil-localhost:8000")], {}, ()),
    "userinfo in Origin": (403, [origin("http://localhost:8000@evil.example")], {}, ()),
    "a path in Origin": (403, [origin("http://localhost:8000/")], {}, ()),
    "an empty Origin": (403, [origin("")], {}, ("''",)),
    "null": (403, [origin("null")], {}, ("'null'",)),
    "null, allowed to all but null": (403, [origin("null")], {"allowed_origins": "*"}, ()),
    "a file, allowed to all but files": (403, [origin("file://")], {"allowed_origins": "*"}, ()),
    "an app in another case": (
        403,
        [origin("Capacitor://localhost")],
        {"allowed_origins": "capacitor://localhost"},
        (),
    ),
    "two Origins, both allowed": (403, [origin(APP), origin(APP)], {"allowed_origins": APP}, (f"{APP}, {APP}",)),
    "two Origins in one field": (403, [origin(f"{APP}, {APP}")], {"allowed_origins": APP}, ()),
    "a subdomain of an allowed one": (403, [origin("https://x.app.example.org")], {"allowed_origins": APP}, ()),
    "an allowed one over http": (403, [origin("http://app.example.org")], {"allowed_origins": APP}, ()),
    "cross-site without Origin, star": (403, [site("cross-site")], {"allowed_origins": "*"}, ()),
    "Origin but no Host": (403, [origin("http://localhost"), ("Host", "")], {}, ("no Host",)),
    "a browser that says nothing": (403, [AGENT, ("Accept", "*/*")], {}, ("'*/*'", "text/event-stream")),
    "a browser without Accept": (403, [AGENT], {}, ("Accept is ''",)),
    "a longer type": (403, [AGENT, ("Accept", "text/event-streams, image/*")], {}, ()),
    "another name on loopback": (421, [("Host", "rebound.example:8000")], {}, ("'rebound.example'", "allowed_hosts")),
    "another name on a loopback name": (421, [("Host", "rebound.example")], {"bind": "localhost:1"}, ()),
    "another name on IPv6 loopback": (421, [("Host", "rebound.example")], {"bind": "[::1]:1"}, ()),
    "a name that begins as an address": (421, [("Host", "127.0.0.1.rebound.example")], {}, ()),
    "another name than the allowed one": (
        421,
        [("Host", "rebound.example")],
        {"bind": ANYWHERE, "allowed_hosts": "stream.example.org"},
        ("'rebound.example'", "allowed_hosts"),
    ),
    "the same origin under another name": (
        421,
        [site("same-origin"), origin("http://rebound.example"), ("Host", "rebound.example")],
        {},
        (),
    ),
    "userinfo in Host": (400, [("Host", "localhost@rebound.example")], {}, ("'localhost@rebound.example'",)),
    "two Hosts": (400, [("Host", "localhost"), ("Host", "rebound.example")], {}, ("localhost, rebound.example",)),
    "no host in Host": (400, [("Host", ":8000")], {"bind": ANYWHERE}, ()),
}


@pytest.mark.parametrize("name", PASS)
def test_requests_that_are_answered(name: str) -> None:
    """Non-browsers, our own pages, and whatever the settings allow are answered."""
    fields, settings = PASS[name]
    assert verdict(*fields, **settings).status is None


@pytest.mark.parametrize("name", REFUSED)
def test_requests_that_are_refused(name: str) -> None:
    """The reason has the status, both sides of the comparison, and the setting."""
    status, fields, settings, words = REFUSED[name]
    decided = verdict(*fields, **settings)
    assert (decided.status, decided.headers) == (status, {"Cache-Control": "no-store"})
    assert [word for word in words if word not in decided.detail] == []


@pytest.mark.parametrize("path", sorted(FREE))
def test_what_every_page_may_get(path: str) -> None:
    """GET of the page, its files, client.js and liveness is allowed, and nothing else."""
    bad = (site("cross-site"), origin("https://stranger.example"), ("Host", "rebound.example"))
    assert verdict(*bad, path=path) == verdict(*bad, path=path, method="HEAD") == Verdict()
    for method in ("POST", "OPTIONS", "PUT", "DELETE", "get"):
        assert verdict(*bad, path=path, method=method).status == 421


@pytest.mark.parametrize(
    "path", ["/status", "/metrics", "/ws", "/admin/drain", "/nothing", "/client.js/", "//", "*", ""]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PROPFIND"])
def test_everything_else_is_checked(path: str, method: str) -> None:
    """This includes unknown paths, which a later version may serve."""
    assert verdict(site("cross-site"), path=path, method=method).status == 403
    assert verdict(origin("https://stranger.example"), path=path, method=method).status == 403
    assert verdict(("Host", "rebound.example"), path=path, method=method).status == 421
    assert verdict(path=path, method=method).status is None


@pytest.mark.parametrize("path", ["/status", "/metrics"])
def test_a_person_may_look_at_figures(path: str) -> None:
    """Over plain HTTP browsers send no proof, but these consume nothing and no page can read them."""
    assert verdict(AGENT, path=path).status is None
    assert verdict(AGENT, path=path, method="POST").status == 403


def test_the_headers_of_an_allowed_origin() -> None:
    """The origin is echoed with credentials, and `Vary` names it."""
    assert verdict(origin(APP), allowed_origins=APP).headers == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": "Retry-After",
    }
    assert verdict(allowed_origins=APP).headers == {"Vary": "Origin"}
    assert verdict().headers == {}


def test_a_star_has_no_credentials() -> None:
    """Credentials are allowed only if the origin is listed by name, too."""
    headers = verdict(origin("https://any.example"), allowed_origins=f"*,{APP}").headers
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in headers
    assert verdict(origin(APP), allowed_origins=f"*,{APP}").headers["Access-Control-Allow-Credentials"] == "true"


def test_a_preflight() -> None:
    """It is answered at once on any path; other OPTIONS reach their handler."""
    asks = ("Access-Control-Request-Method", "GET")
    decided = verdict(origin(APP), asks, method="OPTIONS", allowed_origins=APP)
    assert (decided.status, decided.detail) == (204, "")
    assert decided.headers["Access-Control-Allow-Headers"] == "Authorization, Last-Event-ID, Cache-Control"
    assert decided.headers["Access-Control-Allow-Origin"] == APP
    assert verdict(origin(APP), method="OPTIONS", allowed_origins=APP).status is None
    assert verdict(asks, method="OPTIONS", allowed_origins=APP).status is None
    assert verdict(origin(APP), asks, method="OPTIONS").status == 403


def test_a_long_value_is_cut_in_the_reason() -> None:
    """A client cannot have long text of its own echoed."""
    assert len(verdict(origin("x" * 10_000)).detail) < 1000


NAMES = ("Host", "Origin", "Sec-Fetch-Site", "User-Agent", "Accept", "Access-Control-Request-Method")
VALUES = (
    *("", "null", "file://", "localhost", "localhost:8000", "http://localhost:8000", APP, "https://evil.example"),
    *("evil.example", "same-origin", "same-site", "cross-site", "none", CHROMIUM, "text/event-stream", "*/*", "@", ","),
)
any_text = st.sampled_from(VALUES) | st.text(st.characters(exclude_characters="\r\n"), max_size=20)
any_fields = st.lists(st.tuples(st.sampled_from(NAMES), any_text), max_size=8)
any_method = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"])
any_settings = st.fixed_dictionaries(
    {"bind": st.sampled_from(["127.0.0.1:1", ANYWHERE]), "allowed_origins": st.sampled_from(["", APP, "*", "null"])}
)


@given(any_fields, any_method, any_settings)
def test_no_page_of_a_stranger_passes(fields: Fields, method: str, settings: dict[str, str]) -> None:
    """Whatever else a request has, browsers' signs of such a page count, and nothing raises."""
    others = [(name, value) for name, value in fields if name not in {"Origin", "Host"}]
    stranger = "https://stranger.example"
    for more in ([site("cross-site"), *others], [*others, site("same-site")]):
        assert verdict(*more, method=method, **settings).status == 403
    if settings["allowed_origins"] != "*":
        without_site = [(name, value) for name, value in others if name != "Sec-Fetch-Site"]
        assert verdict(origin(stranger), *without_site, method=method, **settings).status == 403
        assert verdict(site("cross-site"), origin(stranger), *others, method=method, **settings).status == 403


@given(any_fields, any_method, any_settings)
def test_credentials_are_for_one_listed_origin(fields: Fields, method: str, settings: dict[str, str]) -> None:
    """No request gets them for another origin, and a refusal allows nothing."""
    decided = verdict(*fields, method=method, **settings)
    if decided.status in {400, 403, 421}:
        assert decided.detail
        assert decided.headers == {"Cache-Control": "no-store"}
    if "Access-Control-Allow-Credentials" in decided.headers:
        assert [value for name, value in fields if name == "Origin"] == [settings["allowed_origins"]]
        assert decided.headers["Access-Control-Allow-Origin"] == settings["allowed_origins"]
