"""An issuer's keys, and what they say about a signature. The one module that imports joserfc.

Rules of this module:

* A key serves the algorithms of its own kind alone: no public key is ever the secret of an HMAC.
* Only keys from the place that the settings name count: nothing in a token brings or names a key but ``kid``, and that
  only chooses among them.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key

from dispatcher.auth_settings import PUBLIC_KEY_ALGORITHMS, SHARED_KEY_ALGORITHMS

MIN_RSA_BITS = 2048
"""RFC 7518, section 3.3."""

MAX_KEYS = 100
"""Of one set; providers have two or three."""

_BROKEN = (JoseError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, UnsupportedAlgorithm)
"""What joserfc and cryptography were seen to raise, or may, for keys that are none."""

_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The least length of a secret (RFC 7518, section 3.2)."""


class UnusableKeysError(Exception):
    """There are no keys in what should hold them."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """One key."""

    kid: str | None
    """As its issuer names it."""
    thumbprint: str
    """RFC 7638."""
    algorithm: str | None
    """The only one that it is for, if it says so."""
    key: Key

    def serves(self, algorithm: str) -> bool:
        """Whether it may check signatures of an algorithm."""
        if self.algorithm is not None and self.algorithm != algorithm:
            return False
        if isinstance(self.key, RSAKey):
            return algorithm.startswith(("RS", "PS"))
        if isinstance(self.key, OctKey):
            return algorithm.startswith("HS")
        return _CURVES.get(algorithm) == self.key.curve_name

    def has_signed(self, token: bytes, algorithm: str) -> bool:
        """Whether a compact serialization (RFC 7515, section 7.1) is signed by it."""
        registry = _registries[algorithm]
        try:
            jws.deserialize_compact(token, self.key, registry=registry)
        except _BROKEN:
            return False
        return True


class KeySet:
    """The keys of one issuer."""

    def __init__(self, keys: Iterable[IssuerKey]) -> None:
        self._keys = tuple(keys)
        self.thumbprints = frozenset(key.thumbprint for key in self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def candidates(self, kid: str | None, algorithm: str) -> list[IssuerKey]:
        """The keys that may have signed a token; with a ``kid``, those of that name or without any."""
        return [key for key in self._keys if (kid is None or key.kid in {kid, None}) and key.serves(algorithm)]

    def knows(self, kid: str) -> bool:
        """Whether there is a key of that name, for whatever algorithm."""
        return any(key.kid == kid for key in self._keys)


class _Registry(jws.JWSRegistry):
    """One algorithm; a registry of joserfc would warn of ``EdDSA`` each time, the name that RFC 9864 replaces."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm], strict_check_header=False)  # `tokens` has checked the header
        # Likewise the length of the whole.
        self.max_header_length = self.max_signature_length = 8192

    def get_alg(self, name: str) -> Any:
        """The algorithm of the token, if it is that of this registry."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


_registries = {algorithm: _Registry(algorithm) for algorithm in PUBLIC_KEY_ALGORITHMS + SHARED_KEY_ALGORITHMS}


def read_keys(document: bytes) -> KeySet:
    """The public keys in a JWKS (RFC 7517, section 5), a single JWK, or PEM.

    Keys that are not understood, too weak, symmetric, or for encryption are passed over.

    Raises:
        UnusableKeysError: there is none that could be used.
    """
    if b"-----BEGIN" in document:
        try:
            return KeySet([_issuer_key(_import_pem(document), {})])
        except _BROKEN as error:
            raise UnusableKeysError("the PEM file holds no public key that can be used") from error
    try:
        found = orjson.loads(document.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        raise UnusableKeysError("it is neither JSON nor PEM") from None
    listed = found.get("keys", [found]) if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise UnusableKeysError("it is not a JWKS: it has no list of keys")
    keys = []
    for jwk in listed[:MAX_KEYS]:
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or jwk.get("kty") not in {"RSA", "EC", "OKP"}:
            continue
        operations = jwk.get("key_ops")
        if isinstance(operations, list) and "verify" not in operations and "sign" not in operations:
            continue
        # What is said about the use of a key is checked here: joserfc would refuse a public key for "sign".
        public = {name: jwk[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in jwk}
        try:
            key = _issuer_key(_import(public), jwk)
        except _BROKEN:
            continue
        keys.append(key)
    if not keys:
        raise UnusableKeysError("it has no usable public key for signatures")
    return KeySet(keys)


def read_secret(document: bytes, algorithms: Iterable[str]) -> KeySet:
    """The secret of HMAC algorithms; a line end after it is no part of it.

    Raises:
        UnusableKeysError: it is shorter than the hash of one of the algorithms.
    """
    secret = document.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    for algorithm in algorithms:
        if len(secret) < _SECRET_BYTES[algorithm]:
            raise UnusableKeysError(f"the secret has {len(secret)} bytes, {algorithm} needs {_SECRET_BYTES[algorithm]}")
    key = OctKey.import_key(secret)
    return KeySet([IssuerKey(None, key.thumbprint(), None, key)])


def _import(public: dict[str, Any]) -> Key:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weak keys: they are refused here
        return import_key(public)


def _import_pem(document: bytes) -> Key:
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return kind.import_key(document)
        except _BROKEN:
            continue
    raise ValueError("no key")


def _issuer_key(key: Key, jwk: dict[str, object]) -> IssuerKey:
    if isinstance(key, RSAKey) and key.raw_value.key_size < MIN_RSA_BITS:
        raise ValueError("too short")
    if isinstance(key, OctKey):
        raise TypeError("symmetric")
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    return IssuerKey(
        kid if isinstance(kid, str) else None,
        key.thumbprint(),
        algorithm if isinstance(algorithm, str) else None,
        key,
    )
