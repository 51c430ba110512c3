"""Tokens as an issuer makes them, right and wrong ones, with keys that live as long as the process."""

import time
import warnings
from functools import cache
from typing import Any

import orjson
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

ISSUER = "https://login.example.org/realms/main"
AUDIENCE = "dispatcher"
SCOPE = "orders:read"

SECRET = b"a secret that is long enough for every hash: 64 bytes, or a few more than that"


def signing_key(algorithm: str = "ES256", number: int = 0) -> Key:
    """A private key for an algorithm, named ``<algorithm>-<number>``."""
    return _make_key(algorithm, number)


@cache
def _make_key(algorithm: str, number: int) -> Key:
    parameters = {"kid": f"{algorithm}-{number}"}
    if algorithm.startswith("HS"):
        return OctKey.import_key(SECRET)
    if algorithm.startswith(("RS", "PS")):
        return RSAKey.generate_key(2048, parameters)  # type: ignore[arg-type]
    if algorithm.startswith("Ed"):
        return OKPKey.generate_key("Ed25519", parameters)  # type: ignore[arg-type]
    curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm]
    return ECKey.generate_key(curve, parameters)  # type: ignore[arg-type]


def pem(algorithm: str) -> bytes:
    """The public half of the key for an algorithm."""
    key = signing_key(algorithm)
    assert not isinstance(key, OctKey)
    return key.as_pem(private=False)


def jwks(*keys: Key) -> bytes:
    """The public halves, as an issuer publishes them."""
    published = [{**key.as_dict(private=False), "use": "sig"} for key in keys or (signing_key(),)]
    return orjson.dumps({"keys": published})


def claims(**changed: Any) -> dict[str, Any]:
    """Claims that are right for an hour; None leaves one out."""
    now = int(time.time())
    given = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "client_id": "app",
        "iat": now,
        "exp": now + 3600,
        "jti": "1",
        "scope": f"openid {SCOPE}",
    } | changed
    return {name: value for name, value in given.items() if value is not None}


def grant(*topics: str, actions: tuple[str, ...] = ("subscribe",), **more: Any) -> dict[str, Any]:
    """A grant as a token holds it (RFC 9396)."""
    return {"type": "https://dispatcher/stream", "actions": list(actions), "topics": list(topics), **more}


def sign(payload: dict[str, Any], key: Key | None = None, algorithm: str = "ES256", **header: Any) -> str:
    """A token with these claims; header fields that are None are left out."""
    key = key or signing_key(algorithm)
    fields = {"alg": algorithm, "typ": "at+jwt", "kid": key.kid} | header
    fields = {name: value for name, value in fields.items() if value is not None}
    registry = jws.JWSRegistry(algorithms=[str(fields["alg"])], strict_check_header=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EdDSA, whose name RFC 9864 replaces
        return jws.serialize_compact(fields, orjson.dumps(payload), key, registry=registry)


def token(**changed: Any) -> str:
    """A right token but for what is changed in its claims."""
    return sign(claims(**changed))
