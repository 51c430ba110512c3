"""An issuer's keys, and whether one of them has signed a token. The only module that imports joserfc.

Rules of this module:

* A key serves only algorithms of its own kind: no public key is ever used as the secret of an HMAC.
* Only keys from the place that the settings name count: a token cannot bring a key or say where to find one. Its
  ``kid`` merely chooses among the known keys.
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
"""How many keys one set may hold; providers have two or three."""

_BROKEN = (JoseError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, UnsupportedAlgorithm)
"""What joserfc and cryptography have been seen to raise, or may raise, for malformed keys."""

_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The least length of a secret (RFC 7518, section 3.2)."""


class UnusableKeysError(Exception):
    """A document that should hold keys holds none that can be used."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """One key."""

    kid: str | None
    """The key's name, given by its issuer."""
    thumbprint: str
    """The key's thumbprint (RFC 7638)."""
    algorithm: str | None
    """The only algorithm that the key is for, if it names one."""
    key: Key

    def serves(self, algorithm: str) -> bool:
        """Whether the key may check signatures of an algorithm."""
        if self.algorithm is not None and self.algorithm != algorithm:
            return False
        if isinstance(self.key, RSAKey):
            return algorithm.startswith(("RS", "PS"))
        if isinstance(self.key, OctKey):
            return algorithm.startswith("HS")
        return _CURVES.get(algorithm) == self.key.curve_name

    def has_signed(self, token: bytes, algorithm: str) -> bool:
        """Whether the key has signed a compact serialization (RFC 7515, section 7.1)."""
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
        """Return the keys that may have signed a token: with a ``kid``, keys of that name or without a name."""
        return [key for key in self._keys if (kid is None or key.kid in {kid, None}) and key.serves(algorithm)]

    def knows(self, kid: str) -> bool:
        """Whether any key has this name, for whatever algorithm."""
        return any(key.kid == kid for key in self._keys)


class _Registry(jws.JWSRegistry):
    """A registry of one algorithm: joserfc's own warns each time of ``EdDSA``, the name that RFC 9864 replaces."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm], strict_check_header=False)  # `tokens` has checked the header
        # `tokens` has checked the length of the whole token, too.
        self.max_header_length = self.max_signature_length = 8192

    def get_alg(self, name: str) -> Any:
        """Return the token's algorithm, if it is the one of this registry."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


_registries = {algorithm: _Registry(algorithm) for algorithm in PUBLIC_KEY_ALGORITHMS + SHARED_KEY_ALGORITHMS}


def read_keys(document: bytes) -> KeySet:
    """Read the public keys in a JWKS (RFC 7517, section 5), a single JWK, or PEM.

    Ignores keys that are not understood, too weak, symmetric, or for encryption.

    Raises:
        UnusableKeysError: no key can be used.
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
        # The use that a key declares is checked here: joserfc would refuse a public key declared for "sign".
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
    """Read the secret of HMAC algorithms; a line end after it is not part of it.

    Raises:
        UnusableKeysError: the secret is shorter than the hash of one of the algorithms.
    """
    secret = document.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    for algorithm in algorithms:
        if len(secret) < _SECRET_BYTES[algorithm]:
            raise UnusableKeysError(f"the secret has {len(secret)} bytes, {algorithm} needs {_SECRET_BYTES[algorithm]}")
    key = OctKey.import_key(secret)
    return KeySet([IssuerKey(None, key.thumbprint(), None, key)])


def _import(public: dict[str, Any]) -> Key:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weak keys, which are refused here
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
