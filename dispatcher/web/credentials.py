"""Finds the token of a request: data in, token out.

A request carries its token in exactly one of four ways (RFC 6750, section 2): two tokens could name two different
callers, and a proxy or a page could use one to hide the other.
"""

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from typing import Protocol

from dispatcher.errors import SeveralTokensError, UnauthenticatedError
from dispatcher.settings import Settings

QUERY_PARAMETER = "access_token"
SUBPROTOCOL_PREFIX = "dispatcher.bearer."
"""The token follows in base64url: this is the only header that a browser's WebSocket can set (RFC 6455, section
1.9)."""


class Values(Protocol):
    """Header fields, cookies, or query parameters: one name may have many values."""

    def getlist(self, key: str, /) -> list[str]:
        """All values, in order."""


def find_token(
    settings: Settings,
    fields: Values,
    cookies: Values,
    arguments: Mapping[str, Sequence[str]],
    subprotocols: Sequence[str] = (),
) -> str | None:
    """The token of a request; None if it carries none.

    Args:
        settings: Say whether cookie and query count.
        fields: The header fields.
        cookies: All cookies; none if they must not count.
        arguments: The query.
        subprotocols: The subprotocols that a WebSocket's handshake offers.

    Raises:
        SeveralTokensError: there are several tokens, or one in several ways.
        UnauthenticatedError: a token cannot be read, or is sent in a way that is not accepted.
    """
    found = [(f"Authorization: {scheme}", token) for scheme, token in _bearer(fields.getlist("Authorization"))]
    if settings.auth_cookie:
        found += [(f"cookie {settings.auth_cookie}", token) for token in cookies.getlist(settings.auth_cookie)]
    found += [
        ("subprotocol", _decoded(name.removeprefix(SUBPROTOCOL_PREFIX)))
        for name in subprotocols
        if name.startswith(SUBPROTOCOL_PREFIX)
    ]
    in_query = arguments.get(QUERY_PARAMETER, ())
    if in_query and not settings.auth_query_parameter:
        raise UnauthenticatedError(
            f"a token in the query ({QUERY_PARAMETER}=) is not accepted here (auth_query_parameter): send it as "
            "Authorization: Bearer"
        )
    found += [(f"query parameter {QUERY_PARAMETER}", token) for token in in_query]
    if len(found) > 1:
        ways = " and ".join(way for way, _ in found[:4])
        raise SeveralTokensError(f"send exactly one token; the request has {len(found)}: {ways}")
    return found[0][1] if found else None


def find_bearer(fields: Values) -> str | None:
    """The token in ``Authorization``, the only way that counts for administrators.

    Raises:
        SeveralTokensError: there are several tokens.
    """
    tokens = [token for _, token in _bearer(fields.getlist("Authorization"))]
    if len(tokens) > 1:
        raise SeveralTokensError(f"send exactly one token; the request has {len(tokens)}")
    return tokens[0] if tokens else None


def _bearer(values: list[str]) -> list[tuple[str, str]]:
    """Tokens in ``Authorization``; other schemes are for a proxy in front."""
    found = []
    for value in values:
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            found.append(("Bearer", token.strip()))
    return found


def _decoded(text: str) -> str:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        raise UnauthenticatedError(f"what follows {SUBPROTOCOL_PREFIX} is not a token in base64url") from None
