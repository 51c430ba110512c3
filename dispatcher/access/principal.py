"""Who made a request, and what they may do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dispatcher.auth_settings import Action
from dispatcher.sansio.filters import Filter
from dispatcher.sansio.grant_filters import granted


@dataclass(frozen=True, slots=True)
class Grant:
    """What one grant allows."""

    actions: frozenset[str]
    topics: tuple[str, ...]
    """Topic names, or prefixes that end in one ``*``."""
    filter: Filter | None = None
    """Which records, with the claims filled in; None: all of them."""

    def covers(self, action: Action, topic: str) -> bool:
        """Whether the grant allows an action on a topic."""
        return action in self.actions and any(matches(pattern, topic) for pattern in self.topics)


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of a valid token."""

    issuer: str
    subject: str
    expires_at: float
    """When the token expires, in seconds since the epoch."""
    grants: tuple[Grant, ...]
    key: str
    """The thumbprint of the key that signed the token (RFC 7638)."""

    def may(self, action: Action) -> bool:
        """Whether any grant allows an action, on whatever topic."""
        return any(action in grant.actions for grant in self.grants)

    def allowed_topics(self, action: Action, topics: Iterable[str]) -> tuple[str, ...]:
        """Return the topics on which an action is allowed, in the given order."""
        return tuple(topic for topic in topics if any(grant.covers(action, topic) for grant in self.grants))

    def filters(self, action: Action, topic: str) -> Sequence[Filter]:
        """Return the filters of which a topic's records must match at least one; empty if every record is allowed."""
        covering = [grant.filter for grant in self.grants if grant.covers(action, topic)]
        return [] if None in covering else [one for one in covering if one is not None]

    def grant(self, action: Action, topics: Iterable[str]) -> Filter | None:
        """Return which records of these topics, all of which the principal may read, are allowed; None: all of them."""
        if all(grant.filter is None for grant in self.grants):
            return None
        return granted({topic: self.filters(action, topic) for topic in sorted(topics)})

    def is_same_bearer(self, other: "Principal") -> bool:
        """Whether another token belongs to the same subject."""
        return (self.issuer, self.subject) == (other.issuer, other.subject)

    def has_same_grants(self, other: "Principal") -> bool:
        """Whether another token allows the same."""
        return self.grants == other.grants


def matches(pattern: str, topic: str) -> bool:
    """Whether a pattern is a topic's name, or a prefix of it with ``*``."""
    return topic.startswith(pattern[:-1]) if pattern.endswith("*") else topic == pattern
