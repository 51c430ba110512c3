"""Whether a token is right: RFC 9068 access tokens, which are JWTs (RFC 7519) with a signature (RFC 7515).

Rules of this module:

* Nothing is parsed before its length is checked, no claim is believed before the signature is.
* It has no clock and does no I/O: `now` and the keys are arguments. What is missing is an answer, too: `UnknownKey`.
* Reasons never hold anything of the token: they go to whoever sent it, and into the log.
"""

import math
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from dispatcher.auth_settings import ANY_TYPE, AuthSettings

MAX_TOKEN_BYTES = 8192
"""A longer token is refused unread; a request's head has 16 KiB."""

SKEW_SECONDS = 5.0
"""By how much an issuer's clock may be ahead of ours, for ``nbf`` and ``iat``. ``exp`` is exact."""

RECENT_SECONDS = 24 * 60 * 60.0
"""A token that ended at most this long ago was one of a client that only needs a new one."""

_FORBIDDEN_FIELDS = ("crit", "jku", "x5u", "jwk", "x5c", "b64", "zip", "enc")
"""Extensions that have to be understood (RFC 7515, section 4.1.11), keys that a token brings along, and encryption."""


class SignatureKey(Protocol):
    """A key of the issuer."""

    @property
    def thumbprint(self) -> str:
        """RFC 7638."""

    def has_signed(self, token: bytes, algorithm: str) -> bool:
        """Whether a token is signed by it."""


class SignatureKeys(Protocol):
    """The keys of the issuer."""

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[SignatureKey]:
        """The keys that may have signed a token."""

    def knows(self, kid: str) -> bool:
        """Whether there is a key of that name."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which tokens are taken."""

    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    types: frozenset[str]
    """In lower case, without ``application/``."""

    @classmethod
    def of(cls, settings: AuthSettings) -> "Policy":
        """The policy of some settings."""
        return cls(
            settings.auth_issuer,
            frozenset(settings.auth_audience),
            frozenset(settings.algorithms),
            frozenset(map(_media_type, settings.auth_types)),
        )


@dataclass(frozen=True, slots=True)
class Valid:
    """The token is right, at least until it ends."""

    claims: Mapping[str, Any]
    subject: str
    expires_at: float
    """In seconds since the epoch."""
    key: str
    """Thumbprint of the key that signed it."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The token is right but for its end, which was not long ago."""

    valid: Valid


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """The token may be right: the issuer may have a new key."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The token is wrong, whatever the keys are."""

    reason: str


Outcome = Valid | Expired | UnknownKey | Refused


class _WrongError(Exception):
    """What is wrong with a token."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """A token whose header is right."""

    data: bytes
    payload: bytes
    algorithm: str
    kid: str | None


def check(token: str, keys: SignatureKeys, policy: Policy, now: float) -> Outcome:
    """Check a token.

    Args:
        token: As it came.
        keys: Of the issuer.
        policy: Which tokens are taken.
        now: Seconds since the epoch.
    """
    try:
        signed = _read(token, policy)
        candidates = keys.candidates(signed.kid, signed.algorithm)
        signer = _find_signer(signed, candidates)
        if signer is None and (signed.kid is None or not keys.knows(signed.kid)):
            # Also of an issuer that names its keys nowhere: it may have another one since.
            return UnknownKey("its key is none of the issuer's")
        if signer is None:
            raise _WrongError("its signature does not match" if candidates else "its key is of another algorithm")  # noqa: TRY301
        claims = _decode(signed.payload, "payload")
        subject, expires_at = _check_claims(claims, policy, now)
    except _WrongError as error:
        return Refused(str(error))
    valid = Valid(claims, subject, expires_at, signer.thumbprint)
    if now < expires_at:
        return valid
    if now - expires_at <= RECENT_SECONDS:
        return Expired(valid)
    return Refused("it has expired more than a day ago")


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
    """The key that has signed a token; None if none has."""
    if signed.kid is None and len(candidates) > 1:
        raise _WrongError(f"it does not name its key (kid), and the issuer has {len(candidates)} that it could be")
    return next((key for key in candidates if key.has_signed(signed.data, signed.algorithm)), None)


def _check_header(header: Mapping[str, Any], policy: Policy) -> tuple[str, str | None]:
    """The algorithm and the name of the key."""
    for field in _FORBIDDEN_FIELDS:
        if field in header:
            raise _WrongError(f"its header has {field}, which is not accepted")
    kind = header.get("typ")
    if ANY_TYPE not in policy.types and not (isinstance(kind, str) and _media_type(kind) in policy.types):
        raise _WrongError(f"its type (typ) is none of auth_types ({', '.join(sorted(policy.types))})")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in policy.algorithms:
        raise _WrongError(f"its algorithm (alg) is none of auth_algorithms ({', '.join(sorted(policy.algorithms))})")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _WrongError("the name of its key (kid) is not a string")
    return algorithm, kid


def _check_claims(claims: Mapping[str, Any], policy: Policy, now: float) -> tuple[str, float]:
    """The subject, and when the token ends."""
    if claims.get("iss") != policy.issuer:
        raise _WrongError("its issuer (iss) is not auth_issuer")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or not any(
        isinstance(one, str) and one in policy.audiences for one in audiences
    ):
        raise _WrongError("it is not meant for this dispatcher: its audience (aud) is not in auth_audience")
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise _WrongError("it has no end (exp)")
    for name in ("nbf", "iat"):
        begins_at = _time(claims, name)
        if begins_at is not None and begins_at > now + SKEW_SECONDS:
            raise _WrongError(f"it is not valid yet ({name})")
    subject = claims.get("sub", claims.get("client_id"))
    if not isinstance(subject, str) or not subject:
        raise _WrongError("it has no subject (sub)")
    return subject, expires_at


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, section 2)."""
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
    except ValueError:  # binascii.Error and orjson.JSONDecodeError are such
        raise _WrongError(f"its {name} is not JSON in base64url") from None
    if not isinstance(found, dict):
        raise _WrongError(f"its {name} is not an object")
    return found


def _media_type(text: str) -> str:
    """RFC 7515, section 4.1.9: ``application/`` may be left out; case makes no difference."""
    return text.lower().removeprefix("application/")
