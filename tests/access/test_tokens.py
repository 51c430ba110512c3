"""Tokens: each row one that is refused, or taken, and why."""

import hmac
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.access.keys import KeySet, UnusableKeysError, read_keys, read_secret
from dispatcher.access.tokens import MAX_TOKEN_BYTES, Expired, Outcome, Policy, Refused, UnknownKey, Valid, check
from dispatcher.settings import Settings
from testbed.tokens import AUDIENCE, ISSUER, SECRET, claims, jwks, pem, sign, signing_key, token

NOW = time.time()
HEADER = {"alg": "ES256", "typ": "at+jwt", "kid": "ES256-0"}
FIELDS = ["alg", "typ", "kid", "crit", "b64", "x"]
DAY = 24 * 60 * 60
KEYS = read_keys(jwks(signing_key("ES256"), signing_key("RS256"), signing_key("EdDSA"), signing_key("ES384")))


def policy(**settings: object) -> Policy:
    """Return the policy for an issuer and an audience."""
    return Policy.of(Settings(auth_issuer=ISSUER, auth_audience=[AUDIENCE], **settings))  # type: ignore[arg-type]


def checked(text: str, keys: KeySet = KEYS, now: float | None = None, **settings: object) -> Outcome:
    """The outcome."""
    return check(text, keys, policy(**settings), time.time() if now is None else now)


def unsigned(header: object, payload: object, signature: str = "") -> str:
    """Parts put together by hand."""
    parts = [urlsafe_b64encode(orjson.dumps(part)).decode().rstrip("=") for part in (header, payload)]
    return ".".join([*parts, signature])


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_right_token_is_valid(algorithm: str) -> None:
    """A valid token yields its claims, its subject, its expiry, and the key that signed it."""
    key = signing_key(algorithm)
    outcome = checked(sign(claims(exp=int(NOW) + DAY), algorithm=algorithm))
    assert isinstance(outcome, Valid)
    assert (outcome.subject, outcome.expires_at, outcome.key) == ("alice", int(NOW) + DAY, key.thumbprint())


@pytest.mark.parametrize("algorithm", ["PS256", "PS512", "RS384", "ES384", "ES512", "Ed25519", "HS256", "HS512"])
def test_every_algorithm_can_be_allowed(algorithm: str) -> None:
    """Each algorithm is accepted if the settings allow it, and refused otherwise."""
    shared = algorithm.startswith("HS")
    settings: dict[str, Any] = {"auth_algorithms": algorithm, "auth_secret_file": "/run/secret" if shared else ""}
    keys = read_secret(SECRET + b"\n", [algorithm]) if shared else read_keys(jwks(signing_key(algorithm)))
    text = sign(claims(), algorithm=algorithm)
    assert isinstance(checked(text, keys, **settings), Valid)
    others = "RS256" if algorithm != "RS256" else "ES256"
    assert isinstance(checked(text, keys, auth_algorithms=others), Refused)


def hs_with_public_key() -> str:
    """The classic: an HMAC whose secret is the public key of RS256."""
    rsa = signing_key("RS256")
    signed = unsigned({"alg": "HS256", "typ": "at+jwt", "kid": rsa.kid}, claims()).rstrip(".")
    mac = hmac.digest(pem("RS256"), signed.encode(), "sha256")
    return f"{signed}.{urlsafe_b64encode(mac).decode().rstrip('=')}"


WRONG: dict[str, tuple[Callable[[], str], str]] = {
    "none": (lambda: unsigned({"alg": "none", "typ": "at+jwt"}, claims()), "alg"),
    "none with a key": (lambda: unsigned({"alg": "none", "typ": "at+jwt", "kid": "ES256-0"}, claims()), "alg"),
    "None": (lambda: unsigned({"alg": "None", "typ": "at+jwt"}, claims()), "alg"),
    "no alg": (lambda: unsigned({"typ": "at+jwt"}, claims()), "alg"),
    "alg is a list": (lambda: unsigned({"typ": "at+jwt", "alg": ["ES256"]}, claims()), "alg"),
    "HS256 with the public key": (hs_with_public_key, "alg"),
    "another kind of key": (lambda: sign(claims(), signing_key("ES256", 7), kid="RS256-0"), "for another algorithm"),
    "another curve": (lambda: sign(claims(), kid="ES384-0"), "for another algorithm"),
    "another key of that name": (lambda: sign(claims(), signing_key("ES256", 7), kid="ES256-0"), "signature"),
    "changed": (lambda: token()[:-5] + "AAAAA", "signature"),
    "jku": (lambda: sign(claims(), jku="https://evil.example/jwks"), "jku"),
    "x5u": (lambda: sign(claims(), x5u="https://evil.example/cert"), "x5u"),
    "jwk": (lambda: sign(claims(), jwk=signing_key("ES256", 7).as_dict(private=False)), "jwk"),
    "x5c": (lambda: sign(claims(), x5c=["MIIB"]), "x5c"),
    "crit": (lambda: unsigned({"alg": "ES256", "typ": "at+jwt", "kid": "ES256-0", "crit": ["exp"]}, claims()), "crit"),
    "crit of none": (
        lambda: unsigned({"alg": "ES256", "typ": "at+jwt", "kid": "ES256-0", "crit": []}, claims()),
        "crit",
    ),
    "ID token": (lambda: sign(claims(), typ="JWT"), "typ"),
    "no typ": (lambda: sign(claims(), typ=None), "typ"),
    "typ is no text": (lambda: unsigned(HEADER | {"typ": 1}, claims()), "typ"),
    "kid is no text": (lambda: unsigned(HEADER | {"kid": 1}, claims()), "kid"),
    "another issuer": (lambda: token(iss=ISSUER + "/"), "iss"),
    "no issuer": (lambda: token(iss=None), "iss"),
    "another audience": (lambda: token(aud="billing"), "aud"),
    "other audiences": (lambda: token(aud=["billing", "shop"]), "aud"),
    "audience in another case": (lambda: token(aud=AUDIENCE.upper()), "aud"),
    "audience is an object": (lambda: token(aud={AUDIENCE: 1}), "aud"),
    "no audience": (lambda: token(aud=None), "aud"),
    "no end": (lambda: token(exp=None), "exp"),
    "end is a text": (lambda: token(exp="2999-01-01"), "exp"),
    "end is true": (lambda: token(exp=True), "exp"),
    "expired two days ago": (lambda: token(exp=NOW - 2 * DAY), "more than a day"),
    "not valid yet": (lambda: token(nbf=NOW + DAY), "nbf"),
    "issued in the future": (lambda: token(iat=NOW + DAY), "iat"),
    "no subject": (lambda: token(sub=None, client_id=None), "sub"),
    "subject is a number": (lambda: token(sub=1), "sub"),
    "empty": (lambda: "", "three parts"),
    "opaque": (lambda: "mF_9.B5f-4.1JqM", "header"),
    "two parts": (lambda: token().rpartition(".")[0], "three parts"),
    "four parts": (lambda: token() + ".x", "three parts"),
    "encrypted": (lambda: ".".join([*token().split(".")[:1], "a", "b", "c", "d"]), "three parts"),
    "not ASCII": (lambda: "é" + token(), "header"),
    "header in plain base64": (lambda: "e30=.e30=.e30=", "base64url"),
    "header is a list": (lambda: unsigned([], {}), "not an object"),
    "payload is a list": (lambda: sign([1]), "not an object"),  # type: ignore[arg-type]
    "payload is no JSON": (lambda: token().replace(token().split(".")[1], "AAAA"), "signature"),
    "too long": (lambda: token(padding="x" * MAX_TOKEN_BYTES), f"longer than {MAX_TOKEN_BYTES}"),
    "far too long": (lambda: "x" * 10**7, f"longer than {MAX_TOKEN_BYTES}"),
    "deep": (lambda: urlsafe_b64encode(b"[" * 4000).decode() + ".AA.AA", "header"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_token_is_refused(name: str) -> None:
    """The reason of a refusal contains nothing of the token."""
    make, reason = WRONG[name]
    text = make()
    outcome = checked(text)
    assert isinstance(outcome, Refused), outcome
    assert reason in outcome.reason
    assert not any(part in outcome.reason for part in text.split(".") if len(part) > 8)


def test_a_recently_expired_token_has_an_outcome_of_its_own() -> None:
    """For a day its bearer only needs a new token; everything else about it has to be right."""
    for ago, kind in ((0, Expired), (1, Expired), (DAY - 1, Expired), (DAY + 1, Refused)):
        assert isinstance(checked(token(exp=int(NOW), iat=int(NOW) - 60), now=int(NOW) + ago), kind), ago
    assert isinstance(checked(token(exp=NOW - 10, aud="billing")), Refused)
    assert isinstance(checked(token(exp=NOW - 10)[:-5] + "AAAAA"), Refused)


def test_an_unknown_key_has_an_outcome_of_its_own() -> None:
    """The issuer may have a new key; nothing else of such a token has been looked at."""
    assert isinstance(checked(sign(claims(), signing_key("ES256", 1))), UnknownKey)
    assert isinstance(checked(sign(claims(aud="billing"), signing_key("ES256", 1))), UnknownKey)
    assert isinstance(checked(sign(claims(), typ="JWT", kid="new")), Refused)


def test_an_issuer_that_names_no_keys_may_have_another_one() -> None:
    """oidc-provider-mock rotates its keys, and its tokens do not say so."""
    for keys in (read_keys(jwks(signing_key("ES256"))), read_keys(pem("ES256"))):
        kid = None if keys.knows("ES256-0") else "of-tokens-alone"
        assert isinstance(checked(sign(claims(), kid=kid), keys), Valid)
        assert isinstance(checked(sign(claims(), signing_key("ES256", 1), kid=kid), keys), UnknownKey)


def test_without_a_name_the_key_must_be_the_only_one() -> None:
    """A token without ``kid`` is accepted only if one key is possible (RFC 7515 leaves ``kid`` optional)."""
    assert isinstance(checked(sign(claims(), kid=None)), Valid)
    two = read_keys(jwks(signing_key("ES256"), signing_key("ES256", 1)))
    assert isinstance(checked(sign(claims(), kid=None), two), Refused)


@pytest.mark.parametrize(
    ("types", "kind", "taken"),
    [
        ("at+jwt", "application/AT+JWT", True),
        ("JWT,at+jwt", "jwt", True),
        ("JWT", "at+jwt", False),
        ("*", "dpop+jwt", True),
        ("*", None, True),
    ],
)
def test_types_are_those_of_the_settings(types: str, kind: str | None, taken: bool) -> None:
    """Media types are compared without ``application/`` and without case (RFC 7515, section 4.1.9)."""
    assert isinstance(checked(sign(claims(), typ=kind), auth_types=types), Valid if taken else Refused)


def test_keys_that_cannot_be_used_are_passed_over() -> None:
    """Weak, symmetric, encryption, unknown and broken keys are ignored; the others of the set count."""
    from joserfc.jwk import RSAKey

    good = signing_key("ES256").as_dict(private=False)
    with pytest.warns(match="2048"):
        weak = RSAKey.generate_key(1024, {"kid": "weak"})
    bad = [
        1,
        {},
        {"kty": "AKP", "alg": "ML-DSA-44"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {**good, "use": "enc"},
        {**good, "key_ops": ["encrypt"]},
        {**good, "x": "AAAA"},
        weak.as_dict(private=False),
    ]
    assert len(read_keys(orjson.dumps({"keys": [*bad, good]}))) == 1
    for document in (b"", b"[]", b"{}", b'{"keys":1}', orjson.dumps({"keys": bad}), b"-----BEGIN PUBLIC KEY-----"):
        with pytest.raises(UnusableKeysError):
            read_keys(document)


def test_a_key_may_come_as_pem() -> None:
    """A PEM key has no name, and checks tokens with any name."""
    for algorithm in ("RS256", "ES256", "EdDSA"):
        keys = read_keys(pem(algorithm))
        assert isinstance(checked(sign(claims(), algorithm=algorithm), keys), Valid)


def test_a_byte_order_mark_is_no_part_of_keys() -> None:
    """A byte order mark, which editors on Windows write, is ignored."""
    for document in (pem("ES256"), jwks()):
        assert isinstance(checked(sign(claims()), read_keys(b"\xef\xbb\xbf" + document)), Valid)


def test_a_secret_is_as_long_as_the_hash() -> None:
    """A shorter secret is refused (RFC 7518, section 3.2), and the reason does not contain it."""
    with pytest.raises(UnusableKeysError, match="has 31 bytes, HS256 needs 32"):
        read_secret(b"x" * 31 + b"\r\n", ["HS256"])
    with pytest.raises(UnusableKeysError, match="HS512"):
        read_secret(b"x" * 63, ["HS256", "HS512"])


@given(st.one_of(st.text(max_size=200), st.lists(st.binary(max_size=60), min_size=3, max_size=3)))
def test_whatever_comes_has_an_outcome(said: str | list[bytes]) -> None:
    """Nothing that a client sends raises an exception."""
    if not isinstance(said, str):
        said = ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in said)
    assert isinstance(checked(said), Refused | UnknownKey)


@given(st.dictionaries(st.sampled_from(FIELDS), st.none() | st.integers(-(2**53), 2**53) | st.text()))
def test_whatever_header_comes_has_an_outcome(header: dict[str, object]) -> None:
    """A header with JSON of any kind has an outcome."""
    text = unsigned(HEADER | header, claims(), "AAAA")
    assert isinstance(checked(text), Refused | UnknownKey)


@given(st.integers(0, 400), st.integers(0, 7))
def test_no_bit_of_a_token_can_be_changed(at: int, bit: int) -> None:
    """A token with any bit changed is not valid."""
    text = RIGHT.encode()
    changed = bytearray(text)
    changed[at % len(text)] ^= 1 << bit
    outcome = checked(changed.decode("latin-1"))
    assert not isinstance(outcome, Valid | Expired)


RIGHT = token()
