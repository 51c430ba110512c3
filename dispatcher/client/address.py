"""Turns a URL, as people write it, into a request."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv6Address
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urljoin, urlsplit

from dispatcher.client.errors import WrongAddressError
from dispatcher.errors import MalformedPositionError
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.records import TopicPartition

Transport = Literal["sse", "websocket"]

_PATHS: dict[Transport, str] = {"sse": "/events", "websocket": "/ws"}
_QUERY = "/%:@!$&'()*+,;=~-._?"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """An address to connect to, and the request to send there."""

    secure: bool
    host: str
    port: int
    target: str
    """Path and query."""
    authorization: str | None
    """From the user and password of the URL."""

    @property
    def origin(self) -> tuple[bool, str, int]:
        """The origin, to which credentials are bound."""
        return self.secure, self.host, self.port

    @property
    def authority(self) -> str:
        """The ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL as errors show it, without credentials."""
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.target}"

    def with_since(self, since_ms: int) -> "Address":
        """The same request, with this start time for partitions without a position, unless it already has one."""
        path, _, query = self.target.partition("?")
        parameters = parse_qsl(query, keep_blank_values=True)
        if ("since", "now") in parameters:
            parameters.remove(("since", "now"))  # "now" means the time of the first attempt, not of a later one
        if any(name in {"since", "last"} for name, _ in parameters):
            return self
        return replace(self, target=f"{path}?{urlencode([*parameters, ('since', since_ms)])}")

    def follow(self, location: str) -> "Address":
        """The target of a redirect; credentials are dropped if it leads to another origin.

        Raises:
            WrongAddressError: the target is not a URL, or the redirect leads from TLS to plain HTTP.
        """
        try:
            joined = urljoin(self.url, location)
        except ValueError as error:
            raise WrongAddressError(f"{location!a} is not a URL: {error}") from None
        there, _, _ = _split(joined)
        if self.secure and not there.secure:
            raise WrongAddressError(f"it leads from TLS to {there.url}")
        kept = self.authorization if there.origin == self.origin else there.authorization
        return Address(there.secure, there.host, there.port, there.target, kept)


@dataclass(frozen=True, slots=True)
class SubscriptionRequest:
    """A request, made from a URL and options."""

    address: Address
    transport: Transport
    position: dict[TopicPartition, int]
    """The offsets that were seen before."""


def read_address(
    url: str,
    *,
    transport: Literal["auto", "sse", "websocket"] = "auto",
    topics: Iterable[str] = (),
    since: str | int | datetime | None = None,
    last_event_id: str | None = None,
    scope: Literal["replica", "topic"] | None = None,
    observe: bool | None = None,
    last: int | None = None,
    decode: str | None = None,
    wanted: Iterable[tuple[str, str]] = (),
    window: int | None = None,
    window_bytes: int | None = None,
    acks: bool = False,
) -> SubscriptionRequest:
    """Combine the URL and the options into one request; options override the URL's query.

    Args:
        url: The URL, as people write it.
        transport: The transport.
        topics: The topics to read.
        since: Where to begin.
        last_event_id: Where to resume.
        scope: The scope of the partitions.
        observe: Whether to observe only.
        last: How many of the newest records to begin with.
        decode: The format that values are decoded to.
        wanted: The filter, as `filter_parameters` returns it.
        window: How many records may be outstanding, with `acks`.
        window_bytes: How many bytes may be outstanding, with `acks`.
        acks: Whether the client acknowledges.

    Raises:
        WrongAddressError: some part is wrong; the message says what would be right.
    """
    address, parts, parameters = _split(url)
    if transport == "auto":
        websocket = parts.scheme in {"ws", "wss"} or parts.path.rstrip("/").endswith("/ws")
        transport = "websocket" if websocket or acks else "sse"
    if acks and transport == "sse":
        raise WrongAddressError("server-sent events cannot be acknowledged: use transport websocket")
    path = parts.path.rstrip("/")
    for known in _PATHS.values():
        path = path.removesuffix(known)
    given = dict(parameters)
    last_event_id = last_event_id if last_event_id is not None else given.get("last_event_id")
    try:
        position = parse_position(last_event_id) if last_event_id else {}
    except MalformedPositionError as error:
        raise WrongAddressError(str(error)) from None
    named = list(_several(topics)) or [value for name, value in parameters if name == "topic"]
    query = [("topic", topic) for topic in named]
    if since is not None:
        query.append(("since", _time(since)))
    elif "since" in given:
        query.append(("since", given["since"]))
    # The position is sent in a header: in the address it would be the same for every attempt.
    replaced = {"topic", "since", "last_event_id", "format"}
    observed = None if observe is None else str(int(observe))
    asked = {"scope": scope, "observe": observed, "last": last, "decode": decode}
    if acks:
        asked |= {"ack": "client", "window": window, "window_bytes": window_bytes}
    query += [(name, str(value)) for name, value in asked.items() if value is not None]
    replaced |= {name for name, value in asked.items() if value is not None}
    query += (wanted := list(wanted))
    replaced |= {name for name, _ in wanted}
    query += [(name, value) for name, value in parameters if name not in replaced]
    if transport == "sse":
        query.append(("format", "envelope"))
    target = quote(path + _PATHS[transport], safe="/%:@!$&'()*+,;=~-._")
    target += f"?{urlencode(query)}" if query else ""
    whole = Address(address.secure, address.host, address.port, target, address.authorization)
    return SubscriptionRequest(whole, transport, position)


def filter_parameters(
    *,
    keys: str | Iterable[str] = (),
    record_headers: Mapping[str, str | Iterable[str]] | None = None,
    fields: Mapping[str, str | Iterable[str]] | None = None,
    record_filter: Mapping[str, Any] | Iterable[Any] | str | None = None,
) -> list[tuple[str, str]]:
    """The filter as query parameters (docs/filters.md). The server checks their meaning.

    Raises:
        WrongAddressError: a name cannot be written as a parameter, or the filter cannot be written as JSON.
    """
    found = [("key", key) for key in _several(keys)]
    for parameter, by_name in (("header", record_headers), ("field", fields)):
        for name, values in (by_name or {}).items():
            if ":" in name or not name:
                raise WrongAddressError(f"{parameter} {name!a}: use filter for a name that is empty or has a colon")
            found += [(parameter, f"{name}:{value}") for value in _several(values)]
    if record_filter is not None:
        try:
            text = record_filter if isinstance(record_filter, str) else json.dumps(record_filter, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise WrongAddressError(f"the filter is not JSON: {error}") from None
        found.append(("filter", text))
    return found


def _several(values: str | Iterable[str]) -> Iterable[str]:
    return [values] if isinstance(values, str) else values


def _split(url: str) -> tuple[Address, SplitResult, list[tuple[str, str]]]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WrongAddressError(f"{url!a} is not a URL: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise WrongAddressError(f"{url!a} is not a URL of a dispatcher: use http://HOST:PORT")
    host = _host(parts.hostname, url)
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(pair.encode()).decode()}"
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    target += f"?{quote(parts.query, safe=_QUERY)}" if parts.query else ""
    secure = parts.scheme in {"https", "wss"}
    address = Address(secure, host, port or _PORTS[parts.scheme], target, authorization)
    return address, parts, parse_qsl(parts.query, keep_blank_values=True)


def _host(name: str, url: str) -> str:
    """The host in the form that requests and name servers need: an address, or an ASCII name (RFC 3490)."""
    try:
        if ":" in name:
            IPv6Address(name)
            return name
        host = name.encode("idna").decode()
    except ValueError as error:
        raise WrongAddressError(f"{url!a} has no valid host name: {error}") from None
    if not _HOST.fullmatch(host):
        raise WrongAddressError(f"{url!a} has no valid host name")
    return host


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The same headers, if HTTP can carry them (RFC 9110, section 5.5).

    Raises:
        WrongAddressError: a name or a value has characters that no request may have.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise WrongAddressError(f"{name!a}: {value!a} is not a header: use printable ASCII")
    return dict(headers)


def checked_seconds(**named: float) -> None:
    """Check times to wait.

    Raises:
        WrongAddressError: a time is negative, or not a number.
    """
    for name, seconds in named.items():
        if not seconds >= 0:
            raise WrongAddressError(f"{name} is {seconds}: use a number of seconds")


def _time(since: str | int | datetime) -> str:
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise WrongAddressError(f"since {since.isoformat()} has no time zone")
        return since.astimezone(UTC).isoformat()  # RFC 3339 has no zones with seconds, which some old local times have
    return str(since)
