"""The settings of ``[auth]``: which tokens are accepted, and what they allow. docs/security.md has recipes.

In a file they may be in the table ``[auth]`` under their names without ``auth_``.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from dispatcher.errors import WrongValue, WrongValuesError
from dispatcher.setting_values import FilePath

TABLE = "auth"
"""Its name in a file."""

PREFIX = f"{TABLE}_"

SHARED_KEY_ALGORITHMS = ("HS256", "HS384", "HS512")
PUBLIC_KEY_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
DEFAULT_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")

ANY_TYPE = "*"

Action = Literal["subscribe", "observe", "admin"]
ACTIONS: tuple[Action, ...] = ("subscribe", "observe", "admin")

DEFAULT_ACTIONS: tuple[Action, ...] = ("subscribe", "observe")
"""The actions of a grant in the settings that names none."""

_PATTERN = re.compile(r"[a-zA-Z0-9._-]{1,249}|[a-zA-Z0-9._-]{0,248}\*")
_COOKIE = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TEMPLATE = re.compile(r"\$\{([^}]*)\}?")
_CLAIM = re.compile(r"claims\.([^{}$\x00-\x1f]+)")

TOPICS_REMEDY = "topics by name, or as a prefix with one final *, such as orders or audit.*"


class GrantRule(BaseModel, frozen=True):
    """One of ``[[auth.grants]]``: what tokens with certain claims allow."""

    require: dict[str, tuple[str, ...]]
    """Claims, and the values of which each must have one; all claims must match."""
    topics: tuple[str, ...]
    """Names, or prefixes with one final ``*``."""
    actions: tuple[Action, ...] = DEFAULT_ACTIONS
    filter: dict[str, Any] | None = None
    """Which records; ``${claims.NAME}`` in it stands for a claim."""


class AuthSettings(BaseModel):
    """Which tokens are accepted. Off while `auth_issuer` is empty."""

    auth_issuer: str = Field(
        default="",
        description="Issuer of the tokens (`iss`), such as `https://login.example.org/realms/main`. If it is set, "
        "every stream needs a token. Its keys are found by discovery (`/.well-known/openid-configuration`, RFC 8414) "
        "unless `auth_jwks_url`, `auth_keys_file` or `auth_secret_file` is set. Empty: no tokens. In a file, these "
        "settings may be in the table `[auth]`, without `auth_`.",
    )
    auth_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Audiences (`aud`), comma-separated; a token must be for one of them. Required with `auth_issuer`.",
    )
    auth_jwks_url: str = Field(default="", description="URL of the issuer's public keys (JWKS), instead of discovery.")
    auth_keys_file: FilePath = Field(
        default="", description="File with the issuer's public keys, as JWKS or PEM, so that nothing is fetched."
    )
    auth_secret_file: FilePath = Field(
        default="",
        description="File with the secret for HS256, HS384 or HS512, at least as long as the hash. Anybody who has it "
        "can issue tokens, so prefer public keys.",
    )
    auth_algorithms: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Accepted signature algorithms, comma-separated, out of "
        f"{', '.join(PUBLIC_KEY_ALGORITHMS + SHARED_KEY_ALGORITHMS)}. Empty: {', '.join(DEFAULT_ALGORITHMS)}; with "
        "`auth_secret_file`: HS256.",
    )
    auth_types: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("at+jwt",),
        description="Accepted token types (`typ`), comma-separated. `at+jwt` is the type of access tokens (RFC 9068). "
        "For providers that do not set it, use `JWT`; ID tokens have that type, too. `*`: any type, or none.",
    )
    auth_cookie: str = Field(
        default="__Host-dispatcher",
        description="Name of the cookie with the token. Another host cannot set a cookie whose name begins with "
        "`__Host-`. Empty: no cookie is read.",
    )
    auth_query_parameter: bool = Field(
        default=False,
        description="Whether a token in the query (`access_token=`) is accepted. Proxies and browser histories keep "
        "addresses, so use it only for clients that cannot send the token in another way.",
    )
    auth_refresh_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Time between fetches of the keys. A token with an unknown key causes one at once, at most every "
        "30 s.",
    )
    auth_grants: Annotated[tuple[GrantRule, ...], NoDecode] = Field(
        default=(),
        description="What tokens without their own grants allow, as `[[auth.grants]]` in a file, otherwise as JSON: "
        '`{"require": {"scope": "orders:read"}, "topics": ["orders", "audit.*"]}`, optionally with `actions` '
        "and `filter`. See docs/security.md.",
    )

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The accepted algorithms."""
        return self.auth_algorithms or (("HS256",) if self.auth_secret_file else DEFAULT_ALGORITHMS)

    @field_validator("auth_audience", "auth_algorithms", "auth_types", mode="before")
    @classmethod
    def _split_auth_list(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",")] if value else ()
        return value

    @field_validator("auth_audience", "auth_types")
    @classmethod
    def _check_texts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if "" in values:
            raise ValueError("leave out empty items")
        return values

    @field_validator("auth_issuer", "auth_jwks_url")
    @classmethod
    def _check_url(cls, url: str, info: ValidationInfo) -> str:
        if not url:
            return url
        example = "https://login.example.org/realms/main"
        try:
            parts = urlsplit(url)
            _port = parts.port
        except ValueError:
            raise ValueError(f"is not a URL: use one such as {example}") from None
        if "@" in parts.netloc:
            raise WrongValuesError([WrongValue(f"{info.field_name}", "", "leave out user and password")])
        no_query = info.field_name == "auth_issuer" and "?" in url
        if parts.scheme not in {"https", "http"} or not parts.hostname or "#" in url or no_query or not url.isascii():
            raise ValueError(f"is not the URL of an issuer or its keys: use one such as {example}")
        return url

    @field_validator("auth_algorithms")
    @classmethod
    def _check_algorithms(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        known = PUBLIC_KEY_ALGORITHMS + SHARED_KEY_ALGORITHMS
        for algorithm in algorithms:
            if algorithm not in known:
                raise ValueError(f"{algorithm!r} is not one of {', '.join(known)}")
        return algorithms

    @field_validator("auth_cookie")
    @classmethod
    def _check_cookie(cls, name: str) -> str:
        if name and not _COOKIE.fullmatch(name):
            raise ValueError("is not the name of a cookie (RFC 6265, section 4.1.1)")
        return name

    @field_validator("auth_grants", mode="before")
    @classmethod
    def _read_grants(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                value = orjson.loads(value) if value else []
            except orjson.JSONDecodeError as error:
                raise ValueError(f"is not JSON ({error})") from None
        if not isinstance(value, (list, tuple)):
            raise ValueError("use a list of tables, [[auth.grants]]")  # noqa: TRY004 - pydantic's way to an answer
        wrong: list[WrongValue] = []
        rules = [_read_rule(rule, f"auth_grants[{number}]", wrong) for number, rule in enumerate(value)]
        if wrong:
            raise WrongValuesError(wrong)
        return rules

    def misfits(self) -> list[WrongValue]:
        """Values that do not fit together, for the check of all settings."""
        if not self.auth_issuer:
            fields = AuthSettings.model_fields
            given = [name for name, field in fields.items() if getattr(self, name) not in (field.default, "")]
            remedy = "set auth_issuer as well: without it no token is required"
            return [WrongValue(name, _shown(name, getattr(self, name)), remedy, "auth_issuer") for name in given]
        wrong = []
        if not self.auth_audience:
            remedy = "name the audience (aud) of tokens for this dispatcher"
            wrong.append(WrongValue("auth_audience", "", remedy, "auth_issuer"))
        sources = [name for name in ("auth_jwks_url", "auth_keys_file", "auth_secret_file") if getattr(self, name)]
        wrong += [
            WrongValue(
                name, _shown(name, getattr(self, name)), f"set either this or {sources[0]}, not both", sources[0]
            )
            for name in sources[1:]
        ]
        for algorithm in self.auth_algorithms:
            if (algorithm in SHARED_KEY_ALGORITHMS) != bool(self.auth_secret_file):
                remedy = f"{algorithm} needs auth_secret_file" if algorithm in SHARED_KEY_ALGORITHMS else "use HS256"
                remedy += ", which is for HS256, HS384 and HS512 alone"
                wrong.append(WrongValue("auth_algorithms", self.auth_algorithms, remedy, "auth_secret_file"))
                break
        return wrong


def _shown(name: str, value: object) -> object:
    if name == "auth_grants":
        return "a table"
    return "********" if name == "auth_secret_file" else value


def _read_rule(rule: object, place: str, wrong: list[WrongValue]) -> GrantRule | object:
    """Read one grant; its faults are added to the list."""
    if isinstance(rule, GrantRule):
        return rule
    if not isinstance(rule, Mapping):
        wrong.append(WrongValue(place, rule, "use a table with require and topics"))
        return rule
    before = len(wrong)
    wrong += [
        WrongValue(f"{place}.{name}", rule[name], "no such member; use require, topics, actions, filter")
        for name in rule
        if name not in GrantRule.model_fields
    ]
    require = _read_require(rule.get("require"), place, wrong)
    topics = tuple(_texts(rule.get("topics"), f"{place}.topics", TOPICS_REMEDY, wrong))
    wrong += [WrongValue(f"{place}.topics", topic, TOPICS_REMEDY) for topic in topics if not is_pattern(topic)]
    actions = DEFAULT_ACTIONS
    remedy = f"use {', '.join(ACTIONS)}"
    if "actions" in rule:
        named = _texts(rule["actions"], f"{place}.actions", remedy, wrong)
        wrong += [WrongValue(f"{place}.actions", action, remedy) for action in named if action not in ACTIONS]
        actions = tuple(action for action in ACTIONS if action in named)
    record_filter = rule.get("filter")
    if record_filter is not None:
        if not isinstance(record_filter, Mapping):
            wrong.append(WrongValue(f"{place}.filter", record_filter, "use a table, as in docs/protocol.md"))
        else:
            wrong += [
                WrongValue(f"{place}.filter", text, "use ${claims.NAME} with the name of a claim")
                for text in wrong_templates(record_filter)
            ]
    if len(wrong) > before:
        return rule
    return GrantRule(require=require, topics=topics, actions=actions, filter=record_filter)


def _read_require(require: object, place: str, wrong: list[WrongValue]) -> dict[str, tuple[str, ...]]:
    remedy = 'use claims with their values, such as { scope = "orders:read" }; {} takes every token of the issuer'
    if not isinstance(require, Mapping):
        wrong.append(WrongValue(f"{place}.require", "" if require is None else require, remedy))
        return {}
    found = {}
    for claim, value in require.items():
        values = [value] if isinstance(value, str) else value
        found[str(claim)] = tuple(_texts(values, f"{place}.require.{claim}", remedy, wrong))
    return found


def _texts(values: object, place: str, remedy: str, wrong: list[WrongValue]) -> list[str]:
    if isinstance(values, (list, tuple)) and values and all(isinstance(value, str) and value for value in values):
        return list(values)
    wrong.append(WrongValue(place, "" if values is None else values, remedy))
    return []


def is_pattern(text: str) -> bool:
    """Whether a text is a topic's name, or a prefix with one final ``*``."""
    return _PATTERN.fullmatch(text) is not None


def claim_of(template: str) -> str | None:
    """The claim that the inside of a ``${…}`` names."""
    match = _CLAIM.fullmatch(template)
    return match[1] if match else None


def templates(text: str) -> Iterator[re.Match[str]]:
    """Every ``${…}`` in a text; its first group is the inside."""
    return _TEMPLATE.finditer(text)


def wrong_templates(value: object) -> Iterator[str]:
    """The texts anywhere in a filter that have a ``${`` which names no claim."""
    if isinstance(value, str):
        if any(not match[0].endswith("}") or claim_of(match[1]) is None for match in templates(value)):
            yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from wrong_templates(str(name))
            yield from wrong_templates(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from wrong_templates(inner)
