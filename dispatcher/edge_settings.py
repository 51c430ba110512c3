"""Settings of the edge between clients and the dispatcher: ports, proxies, compression, and limits per client."""

import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, Field, field_validator
from pydantic_settings import NoDecode

from dispatcher.setting_values import GIB, FilePath, split_address

Rate = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class EdgeSettings(BaseModel):
    """A part of `settings.Settings`."""

    operations_bind: str = Field(
        default="",
        description="Separate address for operators, as `host:port`, with `/status`, `/metrics`, and `/livez` and "
        "`/readyz` with their reasons. `bind` then has no `/status` and no `/metrics`, and its `/readyz` says only yes "
        "or no. Always plain HTTP: bind it to loopback or to an internal network. Empty: everything is on `bind`.",
    )
    admin_token_file: FilePath = Field(
        default="",
        description="File with the token (at least 16 characters; read again on SIGHUP) that `/admin` on "
        "`operations_bind` takes as `Authorization: Bearer`. Tokens with a grant for the action `admin` count as well. "
        "Without either, `/admin` does not exist.",
    )
    access_log: bool = Field(
        default=True,
        description="Log one line when a stream ends: whose it was (address, subject of the token, user agent), what "
        "it read, how long it lasted, how much it was sent, and why it ended. At most 50 lines per second, and few "
        "about short streams from one address; an extra line counts those left out.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Networks of the proxies in front, comma-separated, such as `10.0.0.0/8`. Their statements about a "
        "client's address and host are trusted, so they must overwrite the client's own. Empty: a client's address is "
        "the peer of its connection.",
    )
    forwarded: Literal["x-forwarded-for", "forwarded", "proxy-protocol"] = Field(
        default="x-forwarded-for",
        description="How trusted proxies name the client: by `X-Forwarded-For` (and `X-Forwarded-Host`), by "
        "`Forwarded` (RFC 7239), or by the PROXY protocol (version 1 or 2), with which each of their connections must "
        "begin. Ignored without `trusted_proxies`.",
    )
    max_subscribers_per_address: int = Field(
        default=0,
        ge=0,
        description="Maximum number of subscribers from one address (IPv6: one /64 network); others get 4429. 0: no "
        "limit, but the last tenth of `max_subscribers` is reserved for addresses that have less than a hundredth of "
        "them. Set it only if addresses are the clients' own; behind a proxy, set `trusted_proxies` as well.",
    )
    max_subscribers_per_subject: int = Field(
        default=0,
        ge=0,
        description="Maximum number of subscribers with tokens of one subject; others get 4429. 0: no limit.",
    )
    connects_per_second_per_address: Rate = Field(
        default=0,
        description="New streams per second from one address in the long run, with bursts of ten times as many; others "
        "get 4429. 0: no limit.",
    )
    connects_per_second_per_subject: Rate = Field(
        default=0, description="The same for tokens of one subject. 0: no limit."
    )
    max_since_seconds: float = Field(
        default=0,
        ge=0,
        le=3_153_600_000,
        allow_inf_nan=False,
        description="How far back `since` may go; an earlier time, and `earliest`, is an invalid request, and so is "
        "`last` above 1,000. Event ids have no such limit. 0: as far back as Kafka has records.",
    )
    since_per_minute: Rate = Field(
        default=0,
        description="Streams with `since` (except `now`) or `last` that one address, or one subject, may start per "
        "minute, because each may be read from Kafka; others get 4429. 0: no limit, but addresses take turns.",
    )
    max_connections: int = Field(
        default=20_000,
        ge=16,
        description="Maximum number of open connections, including those without a request; the limit of file "
        "descriptors may lower it. When it is reached, a new connection replaces an idle one "
        "of the address that has the most idle ones.",
    )
    request_timeout_seconds: float = Field(
        default=10,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Maximum time for a request's headers to arrive, and for a TLS handshake or PROXY header.",
    )

    compression: Literal["off", "on"] = Field(
        default="off",
        description="Whether streams are compressed for clients that accept it: SSE with gzip, WebSocket with "
        "permessage-deflate. A write is compressed once for all subscribers of a feed. Do not use it where one stream "
        "carries both secrets and text that an attacker can choose: see docs/security.md.",
    )
    compression_level: int = Field(
        default=6,
        ge=1,
        le=9,
        description="Level of zlib, from 1 (fastest) to 9 (smallest). Writes above 64 KiB are compressed at level 1, "
        "because they would hold up others.",
    )
    compression_min_bytes: Annotated[ByteSize, Field(ge=0, le=GIB)] = Field(
        default=ByteSize(256), description="Smaller writes are sent uncompressed."
    )
    linger_ms: float = Field(
        default=0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="Minimum time between two writes of live records to a feed's subscribers: records that arrive "
        "meanwhile share a write, which costs less CPU and compresses better. The first record after a pause is sent "
        "at once. 0: no wait.",
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
    """One of `trusted_proxies`: a network, or a single address."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network: use 10.0.0.0/8, fd00::/8, or an address ({error})") from error
