"""Who made a request, and what they may do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dispatcher.auth_settings import Action
from dispatcher.sansio.filters import Filter, granted


@dataclass(frozen=True, slots=True)
class Grant:
    """What one grant allows."""

    actions: frozenset[str]
    topics: tuple[str, ...]
    """Names, or prefixes with one final ``*``."""
    filter: Filter | None = None
    """Which records, with every claim in its place; None: all of them."""

    def covers(self, action: Action, topic: str) -> bool:
        """Whether it allows an action on a topic."""
        return action in self.actions and any(matches(pattern, topic) for pattern in self.topics)


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of a token that was found right."""

    issuer: str
    subject: str
    expires_at: float
    """When the token ends, in seconds since the epoch."""
    grants: tuple[Grant, ...]
    key: str
    """The thumbprint of the key that signed the token (RFC 7638)."""

    def may(self, action: Action) -> bool:
        """Whether some grant allows an action at all, on whatever topic."""
        return any(action in grant.actions for grant in self.grants)

    def allowed_topics(self, action: Action, topics: Iterable[str]) -> tuple[str, ...]:
        """Those of the topics on which an action is allowed, in their order."""
        return tuple(topic for topic in topics if any(grant.covers(action, topic) for grant in self.grants))

    def filters(self, action: Action, topic: str) -> Sequence[Filter]:
        """The filters of which a record of a topic must match one; none: every record is allowed."""
        covering = [grant.filter for grant in self.grants if grant.covers(action, topic)]
        return [] if None in covering else [one for one in covering if one is not None]

    def grant(self, action: Action, topics: Iterable[str]) -> Filter | None:
        """Which records of these topics are allowed, all of which it may read; None: all of them."""
        return granted({topic: self.filters(action, topic) for topic in sorted(topics)})

    def is_same_bearer(self, other: "Principal") -> bool:
        """Whether another token is one of the same subject."""
        return (self.issuer, self.subject) == (other.issuer, other.subject)

    def has_same_grants(self, other: "Principal") -> bool:
        """Whether another token allows the same."""
        return self.grants == other.grants


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic is the one of this name, or has this prefix."""
    return topic.startswith(pattern[:-1]) if pattern.endswith("*") else topic == pattern
