"""Decides which requests are answered, by their origin and host. docs/security.md has the reasons.

Rules of this module:

* A browser opens streams for any page that a person visits, and a stream consumes records. So a request that a page of
  another origin has made is refused, before any upgrade, stream or dispatch, unless `allowed_origins` has that origin.
* Attackers can point a name of theirs at this machine, which gives their page the same origin (DNS rebinding). So the
  ``Host`` is checked, too, and first.
* Clients other than browsers send neither ``Origin`` nor ``Sec-Fetch-Site``, and are not affected.
* Whatever is not known to be harmless is refused: only the paths in `FREE` are open to every page, and only with GET.
* A refusal names both sides of the comparison, and the setting that decides it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dispatcher.authorities import ANY, Authority, Origin, is_address, is_loopback, read_authority, read_origin
from dispatcher.setting_values import is_loopback_address
from dispatcher.settings import Settings

SITES = frozenset({"same-origin", "none"})
"""Values of ``Sec-Fetch-Site`` (W3C Fetch Metadata) for requests that no page of another origin has made."""

READ_ONLY = frozenset({"/status", "/metrics"})
"""Paths where a GET consumes nothing, and whose response no page of another origin can read."""

EVENT_STREAM = "text/event-stream"

ALLOWED_HEADERS = "Authorization, Last-Event-ID, Cache-Control"
ALLOWED_METHODS = "GET, HEAD"
PREFLIGHT_SECONDS = 600
"""How long a browser may remember the answer to a preflight."""

MAX_SHOWN = 80


class Fields(Protocol):
    """The header fields of a request; names are case-insensitive."""

    def getlist(self, key: str, /) -> list[str]:
        """The values of all fields with this name, in order."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings allow."""

    bind: str
    is_local: bool
    """Whether `bind` is loopback."""
    any_origin: bool
    origins: frozenset[str]
    """The origins that are listed by name, in the spelling of `Origin.text`."""
    any_host: bool
    hosts: frozenset[str]

    @classmethod
    def of(cls, settings: Settings, bind: str = "") -> "Policy":
        """The policy that the settings describe, for ``bind`` or for another address of this replica."""
        origins = frozenset(settings.allowed_origins) - {ANY}
        read = (read_origin(origin) for origin in origins)
        hosts = {origin.authority.host for origin in read if origin is not None and origin.authority is not None}
        hosts |= {authority.host for host in settings.allowed_hosts if (authority := read_authority(host))}
        bind = bind or settings.bind
        is_local = is_loopback_address(bind)
        return cls(
            bind=bind,
            is_local=is_local,
            any_origin=ANY in settings.allowed_origins,
            origins=origins,
            any_host=ANY in settings.allowed_hosts or not (is_local or settings.allowed_hosts),
            hosts=frozenset(hosts),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a request."""

    status: int | None = None
    """The status to answer with; None: the request is passed to its handler."""
    detail: str = ""
    """Why it is refused."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header fields for the response, whichever code sends it."""
    takes_cookies: bool = True
    """Whether cookies count: `*` allows pages only without credentials, but a WebSocket sends cookies anyway."""


def decide(
    policy: Policy,
    free: frozenset[str],
    method: str,
    path: str,
    fields: Fields,
    *,
    forwarded_host: str | None = None,
) -> Verdict:
    """Decide whether a request is served, before any work is done for it.

    Args:
        policy: What the settings allow.
        free: Paths that any page may GET: they consume nothing and reveal no secret.
        method: Such as ``GET``; it is also the method of a WebSocket's handshake.
        path: Decoded, without the query.
        fields: The header fields.
        forwarded_host: The ``Host`` that the client sent to a trusted proxy; it replaces the proxy's own.
    """
    is_read = method in {"GET", "HEAD"}
    if is_read and path in free:
        return Verdict()
    authority = None
    if hosts := [forwarded_host] if forwarded_host else _authority_fields(fields):
        authority = read_authority(hosts[0])
        if len(hosts) > 1 or authority is None:
            return _refusal(400, f"Host {_shown(', '.join(hosts))} is not a single host:port")
        if not _is_our_host(policy, authority.host):
            return _refusal(421, _wrong_host(policy, authority.host))
    origins = fields.getlist("Origin")
    origin = read_origin(origins[0]) if len(origins) == 1 else None
    by_name = origin is not None and origin.text in policy.origins
    by_star = origin is not None and origin.authority is not None and policy.any_origin
    if not (by_name or by_star):
        if sites := fields.getlist("Sec-Fetch-Site"):
            problem = _wrong_site(sites, origins)
        elif origins:
            problem = _wrong_origin(origins, origin, authority)
        else:
            problem = None if is_read and path in READ_ONLY else _silent_browser(fields)
        if problem is not None:
            return _refusal(403, problem)
    headers = {"Vary": "Origin"} if policy.origins or policy.any_origin else {}
    if by_name or by_star:
        headers |= _cors(origins[0], with_credentials=by_name)
        if method == "OPTIONS" and fields.getlist("Access-Control-Request-Method"):
            return Verdict(204, headers={**headers, **_PREFLIGHT})
    return Verdict(headers=headers, takes_cookies=by_name or not by_star)


def _authority_fields(fields: Fields) -> list[str]:
    """The values that name the host that the client wants; an empty ``Host`` names none."""
    return [host for host in fields.getlist("Host") if host]


def _is_our_host(policy: Policy, host: str) -> bool:
    return policy.any_host or host in policy.hosts or is_address(host) or is_loopback(host)


def _wrong_host(policy: Policy, host: str) -> str:
    always = f"loopback names and addresses are always accepted; bind is {policy.bind}"
    return f"Host {_shown(host)} is not in allowed_hosts ({always}): add it if clients should use this name"


def _wrong_site(sites: list[str], origins: list[str]) -> str | None:
    """Why a request with a foreign Origin is refused, according to the browser's ``Sec-Fetch-Site``."""
    if SITES.issuperset(site.lower() for site in sites):
        return None
    site = f"Sec-Fetch-Site is {_shown(', '.join(sites))}, not same-origin or none"
    if origins:
        return f"{site}, and Origin {_shown(', '.join(origins))} is not in allowed_origins: {_REMEDY}"
    return f"{site}, and no Origin was sent to compare with allowed_origins: a page of another site made this request"


def _wrong_origin(origins: list[str], origin: Origin | None, authority: Authority | None) -> str | None:
    """Why a request with a foreign Origin is refused, according to its own ``Host``."""
    own = "no Host"
    if authority is not None:
        if origin is not None and origin.authority == authority.with_default(origin.default_port):
            return None
        own = f"Host {_shown(authority.host if authority.port is None else f'{authority.host}:{authority.port}')}"
    return (
        f"Origin {_shown(', '.join(origins))} is neither this server's own ({own}) nor in allowed_origins: {_REMEDY}. "
        "A proxy in front must forward the client's Host with its port"
    )


_REMEDY = "add it if its pages may use this server"


def _silent_browser(fields: Fields) -> str | None:
    """Why to refuse a browser that sends nothing about the page that made the request.

    Over plain HTTP to a host name, a browser sends no ``Sec-Fetch-Site``, and an image, a form or a no-cors fetch of a
    foreign page has no ``Origin``. An `EventSource` of our own origin has none either, but accepts event streams.
    """
    is_browser = any(agent.startswith("Mozilla/") for agent in fields.getlist("User-Agent"))
    if not is_browser or _accepts_events(fields):
        return None
    accepts = _shown(", ".join(fields.getlist("Accept")))
    return (
        f"a browser that sends neither Sec-Fetch-Site nor Origin must name {EVENT_STREAM} in Accept, but Accept is "
        f"{accepts}: use EventSource, that Accept header, HTTPS, or an origin in allowed_origins"
    )


def _accepts_events(fields: Fields) -> bool:
    types = ",".join(fields.getlist("Accept")).lower().split(",")
    return any(media_type.partition(";")[0].strip() == EVENT_STREAM for media_type in types)


def _cors(origin: str, *, with_credentials: bool) -> dict[str, str]:
    """The fields of the CORS protocol (WHATWG Fetch, "CORS protocol") in every response to an allowed origin."""
    exposed = {"Access-Control-Expose-Headers": "Retry-After"}
    if with_credentials:
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true", **exposed}
    return {"Access-Control-Allow-Origin": ANY, **exposed}


_PREFLIGHT = {
    "Access-Control-Allow-Methods": ALLOWED_METHODS,
    "Access-Control-Allow-Headers": ALLOWED_HEADERS,
    "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
}


def _refusal(status: int, detail: str) -> Verdict:
    return Verdict(status, detail, {"Cache-Control": "no-store"})


def _shown(text: str) -> str:
    return ascii(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")
