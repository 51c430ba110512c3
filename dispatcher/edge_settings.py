"""Settings of what stands between clients and the dispatcher: ports, proxies, and what one client may have."""

import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator
from pydantic_settings import NoDecode

from dispatcher.setting_values import split_address

Rate = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class EdgeSettings(BaseModel):
    """A part of `settings.Settings`."""

    operations_bind: str = Field(
        default="",
        description="A port of its own for operators, `host:port`: `/status`, `/metrics`, and `/livez` and `/readyz` "
        "with their reasons. Then `bind` has no `/status` and no `/metrics`, and its `/readyz` says only yes or no. "
        "Always plain HTTP: bind it to loopback or to an inner network. Empty: everything is on `bind`.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Networks of the proxies in front, comma-separated, such as `10.0.0.0/8`: what they say of a "
        "client's address and host is believed. Empty: a client's address is the other end of its connection.",
    )
    forwarded: Literal["x-forwarded-for", "forwarded", "proxy-protocol"] = Field(
        default="x-forwarded-for",
        description="How trusted proxies name the client: by `X-Forwarded-For` (and `X-Forwarded-Host`), by "
        "`Forwarded` (RFC 7239), or by the PROXY protocol (version 1 or 2), with which each of their connections must "
        "begin. Without `trusted_proxies` it means nothing.",
    )
    max_subscribers_per_address: int = Field(
        default=0,
        ge=0,
        description="Subscribers from one address (of IPv6: from one /64 network); more get 4429. 0: no bound, but the "
        "last tenth of `max_subscribers` is reserved for addresses that have less than a hundredth of them. Set it "
        "only where addresses are the clients' own: behind a proxy together with `trusted_proxies`.",
    )
    max_subscribers_per_subject: int = Field(
        default=0, ge=0, description="Subscribers with tokens of one subject; more get 4429. 0: no bound."
    )
    connects_per_second_per_address: Rate = Field(
        default=0,
        description="New streams per second from one address in the long run, and ten times as many at once; more get "
        "4429. 0: no bound.",
    )
    connects_per_second_per_subject: Rate = Field(
        default=0, description="The same for tokens of one subject. 0: no bound."
    )
    max_since_seconds: float = Field(
        default=0,
        ge=0,
        le=3_153_600_000,
        allow_inf_nan=False,
        description="How far back `since` may go; what is further back, `earliest` included, is a wrong request. Event "
        "ids have no such bound. 0: as far as Kafka has records.",
    )
    since_per_minute: Rate = Field(
        default=0,
        description="Streams with `since` that one address, and one subject, may begin per minute, because each may be "
        "read from Kafka; more get 4429. 0: no bound, but addresses take turns.",
    )
    max_connections: int = Field(
        default=20_000,
        ge=16,
        description="Open connections, those without a request included, and at most what the limit of descriptors "
        "leaves. When all places are taken, a new connection ends the one that has been idle for the longest time.",
    )
    request_timeout_seconds: float = Field(
        default=10,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="How long a request's head may take to arrive, and a TLS handshake or PROXY header before it.",
    )

    @field_validator("operations_bind")
    @classmethod
    def _check_operations_bind(cls, bind: str) -> str:
        if bind:
            split_address(bind)
        return bind

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: object) -> object:
        return [text.strip() for text in value.split(",") if text.strip()] if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_read_network(text) for text in networks))


def _read_network(text: str) -> str:
    """One of `trusted_proxies`: a network, or an address alone."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network: use 10.0.0.0/8, fd00::/8, or an address ({error})") from error
