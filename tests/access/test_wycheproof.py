"""Vectors of the project Wycheproof for JWS: the valid ones are signed, the others are refused before any claim counts.

A valid vector of theirs holds no claims, but ``foo``: it is refused for that, and for nothing before.
"""

from pathlib import Path
from typing import Any

import orjson
import pytest

from dispatcher.access.keys import IssuerKey, KeySet, read_keys, read_secret
from dispatcher.access.tokens import Policy, Refused, UnknownKey, check
from dispatcher.settings import Settings

GROUPS: list[dict[str, Any]] = orjson.loads((Path(__file__).parent / "wycheproof_jws.json").read_bytes())["groups"]
VECTORS = [(group, name) for group in GROUPS for name in group["invalid"]]
UNSIGNED_REASONS = ("its payload is not JSON in base64url",)


def keys_of(group: dict[str, Any]) -> KeySet:
    """The key of a group, as an issuer or a file with a secret has it."""
    key = group["key"]
    if key["kty"] != "oct":
        return read_keys(orjson.dumps({"keys": [key]}))
    from base64 import urlsafe_b64decode

    return read_secret(urlsafe_b64decode(key["k"] + "=" * (-len(key["k"]) % 4)), ["HS256"])


def policy_of(group: dict[str, Any]) -> Policy:
    """Return a policy that accepts any type, because the vectors have none."""
    secret = "/run/secret" if group["key"]["kty"] == "oct" else ""
    given: dict[str, Any] = {"auth_issuer": "https://x", "auth_audience": ["x"], "auth_types": "*"}
    return Policy.of(Settings(**given, auth_algorithms=group["algorithm"], auth_secret_file=secret))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: str(group["algorithm"]))
def test_a_valid_vector_is_signed(group: dict[str, Any]) -> None:
    """Its signature is accepted; the token is then refused for its payload, which is not an object."""
    keys = keys_of(group)
    for vector in group["valid"]:
        [key] = keys.candidates(group["key"]["kid"], group["algorithm"])
        assert isinstance(key, IssuerKey)
        assert key.has_signed(vector.encode(), group["algorithm"])
        assert check(vector, keys, policy_of(group), 0.0) == Refused("its payload is not JSON in base64url")


@pytest.mark.parametrize(("group", "name"), VECTORS, ids=[f"{group['algorithm']}-{name}" for group, name in VECTORS])
def test_an_invalid_vector_is_refused(group: dict[str, Any], name: str) -> None:
    """It is refused before its payload is looked at, and its signature is not accepted either."""
    vector = group["invalid"][name]
    keys = keys_of(group)
    outcome = check(vector, keys, policy_of(group), 0.0)
    assert isinstance(outcome, Refused | UnknownKey)
    assert outcome.reason not in UNSIGNED_REASONS
    for key in keys.candidates(None, group["algorithm"]):
        assert not key.has_signed(vector.encode(), group["algorithm"])
