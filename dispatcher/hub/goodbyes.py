"""Goodbyes: why the server ends a stream, and when the client should return (docs/protocol.md has the codes)."""

import random
from dataclasses import dataclass

RETRY_MS = 1000
"""How long a client waits before it reconnects, unless a goodbye says otherwise."""

RETRY_SPREAD_MS = (500, 3000)
"""Clients of one replica return spread over this time, not all at once."""

RENEWAL_SPREAD_MS = (5000, 15_000)
"""The same for clients that connected with an expired token: an `EventSource` retries until its cookie is renewed."""

TOO_MANY_RETRY_MS = 60_000
"""How long a client that has reached its limit waits."""

RESTART, TRY_LATER = 1012, 1013
"""Codes that ask the client to come back, here or elsewhere."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Why the server ends a stream (docs/protocol.md has the table of codes)."""

    code: int
    reason: str
    retry_ms: int


def _spread_ms() -> int:
    return random.randint(*RETRY_SPREAD_MS)  # noqa: S311 - spreads load, guards nothing


def restart() -> Goodbye:
    """The replica is stopping; another one, or its successor, takes over."""
    return Goodbye(RESTART, "the replica is restarting", _spread_ms())


def try_later(reason: str) -> Goodbye:
    """The replica cannot take this subscriber now."""
    return Goodbye(TRY_LATER, reason, _spread_ms())


def too_many(reason: str) -> Goodbye:
    """The client has reached its limit: asking again at once cannot help."""
    return Goodbye(4429, reason, TOO_MANY_RETRY_MS + _spread_ms())


def spread() -> Goodbye:
    """Another replica has joined, or others have less to do, and this subscriber is one of those that should move."""
    return Goodbye(TRY_LATER, "subscribers are being rebalanced across replicas", _spread_ms())


def send_on() -> Goodbye:
    """Every partition of the subscriber's topics is assigned to other replicas."""
    reason = "this replica has no partition of these topics: reconnect to another one, or ask for scope=topic"
    return Goodbye(TRY_LATER, reason, _spread_ms())


def drained() -> Goodbye:
    """An operator is draining this replica."""
    return Goodbye(TRY_LATER, "the replica is being drained: reconnect to another one", _spread_ms())


def disconnected() -> Goodbye:
    """An operator ended this stream; the client may come back."""
    return Goodbye(TRY_LATER, "an operator disconnected this stream: reconnect", _spread_ms())


def refused(code: int, reason: str) -> Goodbye:
    """The client sent something that ends its stream; reconnecting and sending it again would not help."""
    return Goodbye(code, reason, _spread_ms())


def ack_timeout(seconds: float) -> Goodbye:
    """A client with `ack=client` has made no progress: what it has not acknowledged is sent again when it resumes."""
    return Goodbye(4408, f"nothing was acknowledged for {seconds:g} s: reconnect, and resume", 0)


def token_expired() -> Goodbye:
    """The stream's token has expired: the client should get a new one, and resume."""
    return Goodbye(4419, "the token has expired: get a new one, then reconnect", _spread_ms())


def token_needed(reason: str) -> Goodbye:
    """The client needs a different token; the long wait is for clients that cannot read the reason."""
    return Goodbye(4419, reason, random.randint(*RENEWAL_SPREAD_MS))  # noqa: S311 - as above
