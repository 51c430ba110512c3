"""Checks tokens: RFC 9068 access tokens, which are JWTs (RFC 7519) with a signature (RFC 7515).

Rules of this module:

* Nothing is parsed before its length is checked, and no claim is trusted before the signature is.
* The module has no clock and does no I/O: `now` and the keys are arguments. A missing key is an outcome, too:
  `UnknownKey`.
* Reasons never contain anything of the token: they are sent to its bearer, and logged.
"""

import math
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from dispatcher.auth_settings import ANY_TYPE, AuthSettings

MAX_TOKEN_BYTES = 8192
"""Longer tokens are refused without being read; a request's head has 16 KiB."""

SKEW_SECONDS = 5.0
"""How far an issuer's clock may be ahead of ours, for ``nbf`` and ``iat``. ``exp`` is exact."""

RECENT_SECONDS = 24 * 60 * 60.0
"""A token that expired at most this long ago belongs to a client that only needs a new one."""

_FORBIDDEN_FIELDS = ("crit", "jku", "x5u", "jwk", "x5c", "b64", "zip", "enc")
"""Extensions that would have to be understood (RFC 7515, section 4.1.11), keys inside the token, and encryption."""


class SignatureKey(Protocol):
    """A key of the issuer."""

    @property
    def thumbprint(self) -> str:
        """The key's thumbprint (RFC 7638)."""

    def has_signed(self, token: bytes, algorithm: str) -> bool:
        """Whether the key has signed a token."""


class SignatureKeys(Protocol):
    """The keys of the issuer."""

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[SignatureKey]:
        """Return the keys that may have signed a token."""

    def knows(self, kid: str) -> bool:
        """Whether any key has this name."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which tokens are accepted."""

    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    types: frozenset[str]
    """Accepted media types, in lower case and without ``application/``."""

    @classmethod
    def of(cls, settings: AuthSettings) -> "Policy":
        """Return the policy that the settings describe."""
        return cls(
            settings.auth_issuer,
            frozenset(settings.auth_audience),
            frozenset(settings.algorithms),
            frozenset(map(_media_type, settings.auth_types)),
        )

    def accepts_audience(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token with these claims is meant for this dispatcher, whatever else it is meant for."""
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        return any(isinstance(one, str) and one in self.audiences for one in audiences)


@dataclass(frozen=True, slots=True)
class Valid:
    """The token is valid, at least until it expires."""

    claims: Mapping[str, Any]
    subject: str
    expires_at: float
    """When the token expires, in seconds since the epoch."""
    key: str
    """The thumbprint of the key that signed the token."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The token is valid except that it has expired, not long ago."""

    valid: Valid


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """The token may be valid: the issuer may have a new key."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The token is invalid, whatever the keys are."""

    reason: str


Outcome = Valid | Expired | UnknownKey | Refused


class _WrongError(Exception):
    """The message says what is wrong with a token."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """A token with a valid header."""

    data: bytes
    payload: bytes
    algorithm: str
    kid: str | None


def check(token: str, keys: SignatureKeys, policy: Policy, now: float) -> Outcome:
    """Check a token.

    Args:
        token: The token, as received.
        keys: The issuer's keys.
        policy: Which tokens are accepted.
        now: Seconds since the epoch.
    """
    try:
        signed = _read(token, policy)
        candidates = keys.candidates(signed.kid, signed.algorithm)
        signer = _find_signer(signed, candidates)
        if signer is None and (signed.kid is None or not keys.knows(signed.kid)):
            # This includes tokens without a `kid`: the issuer may have got another key since.
            return UnknownKey("its key is not one of the issuer's")
        if signer is None:
            raise _WrongError("its signature does not match" if candidates else "its key is for another algorithm")  # noqa: TRY301
        claims = _decode(signed.payload, "payload")
        subject, expires_at = _check_claims(claims, policy, now)
    except _WrongError as error:
        return Refused(str(error))
    valid = Valid(claims, subject, expires_at, signer.thumbprint)
    if now < expires_at:
        return valid
    if now - expires_at <= RECENT_SECONDS:
        return Expired(valid)
    return Refused("it expired more than a day ago")


def _read(token: str, policy: Policy) -> _Signed:
    if len(token) > MAX_TOKEN_BYTES:
        raise _WrongError(f"it is longer than {MAX_TOKEN_BYTES} bytes")
    data = token.encode("ascii", errors="replace")
    parts = data.split(b".")
    if len(parts) != 3:
        raise _WrongError("it does not have the three parts of a signed JWT")
    algorithm, kid = _check_header(_decode(parts[0], "header"), policy)
    return _Signed(data, parts[1], algorithm, kid)


def _find_signer(signed: _Signed, candidates: Sequence[SignatureKey]) -> SignatureKey | None:
    """Return the key that has signed a token, None if no key has."""
    if signed.kid is None and len(candidates) > 1:
        raise _WrongError(f"it does not name its key (kid), and the issuer has {len(candidates)} that it could be")
    return next((key for key in candidates if key.has_signed(signed.data, signed.algorithm)), None)


def _check_header(header: Mapping[str, Any], policy: Policy) -> tuple[str, str | None]:
    """Check the header; returns the algorithm and the name of the key."""
    for field in _FORBIDDEN_FIELDS:
        if field in header:
            raise _WrongError(f"its header has {field}, which is not accepted")
    kind = header.get("typ")
    if ANY_TYPE not in policy.types and not (isinstance(kind, str) and _media_type(kind) in policy.types):
        raise _WrongError(f"its type (typ) is not in auth_types ({', '.join(sorted(policy.types))})")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in policy.algorithms:
        raise _WrongError(f"its algorithm (alg) is not in auth_algorithms ({', '.join(sorted(policy.algorithms))})")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _WrongError("the name of its key (kid) is not a string")
    return algorithm, kid


def _check_claims(claims: Mapping[str, Any], policy: Policy, now: float) -> tuple[str, float]:
    """Check the claims; returns the subject, and when the token expires."""
    if claims.get("iss") != policy.issuer:
        raise _WrongError("its issuer (iss) is not auth_issuer")
    if not policy.accepts_audience(claims):
        raise _WrongError("it is not meant for this dispatcher: its audience (aud) is not in auth_audience")
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise _WrongError("it has no expiry (exp)")
    for name in ("nbf", "iat"):
        begins_at = _time(claims, name)
        if begins_at is not None and begins_at > now + SKEW_SECONDS:
            raise _WrongError(f"it is not valid yet ({name})")
    subject = claims.get("sub", claims.get("client_id"))
    if not isinstance(subject, str) or not subject:
        raise _WrongError("it has no subject (sub)")
    return subject, expires_at


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Read a NumericDate (RFC 7519, section 2)."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _WrongError(f"its {name} is not a time")
    return float(value)


def _decode(part: bytes, name: str) -> Mapping[str, Any]:
    if b"+" in part or b"/" in part or b"=" in part:
        raise _WrongError(f"its {name} is not base64url")
    try:
        found = orjson.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except ValueError:  # binascii.Error and orjson.JSONDecodeError are subclasses
        raise _WrongError(f"its {name} is not JSON in base64url") from None
    if not isinstance(found, dict):
        raise _WrongError(f"its {name} is not an object")
    return found


def _media_type(text: str) -> str:
    """Normalize a media type: ``application/`` may be left out, and case is ignored (RFC 7515, section 4.1.9)."""
    return text.lower().removeprefix("application/")
