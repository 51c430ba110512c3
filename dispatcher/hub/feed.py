"""What subscribers ask for: the key under which encoded bytes are shared."""

from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakValueDictionary

from dispatcher.sansio.encoding.wire import Wire
from dispatcher.sansio.filters import Filter, Predicate, all_of
from dispatcher.sansio.records import Records


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Feed:
    """What subscribers asked for; those with the same feed are sent the very same bytes.

    Compared by identity, because it is looked up for each entry and subscriber: get it from `feed_of`.
    """

    wire: Wire
    topics: frozenset[str]
    filter: Filter | None = None
    """Which records the client wants; None: all."""
    grant: Filter | None = None
    """Which records the client may have; None: all."""
    wanted: Filter | None = None
    """Both together: which records are sent; None: all."""
    predicate: Predicate | None = None
    """The same as a function of a record."""
    encoding: "Feed | None" = None
    """With filters, and for observers: the feed of the same format, topics and scope whose records these are."""
    whole: bool = False
    """Every partition of the topics (``scope=topic``), also those that the replica does not own."""
    unframed: "Feed | None" = None
    """The feed under which the parts of its writes are kept, if it is another one: compressed or not, they are the same
    until they are framed."""
    counts: bool = True
    """What its subscribers are sent is dispatched; observers (``observe=1``) have a feed of their own."""
    acks: bool = False
    """Its subscribers acknowledge what they are sent (``ack=client``)."""
    observed: frozenset[str] = frozenset()
    """Topics that it observes though it counts for others: there only what was acknowledged counts."""
    decodes: frozenset[str] = frozenset()
    """Topics that are decoded because it asks (``decode=json``), and not by the settings."""

    def reads(self, topic: str, records: Records) -> Records:
        """Records of a topic as it has them: decoded if it asks."""
        return records.as_asked() if topic in self.decodes else records

    def awaits(self, topic: str, records: Records) -> bool:
        """Whether records of a topic have to be decoded first."""
        return topic in self.decodes and records.asked is None and len(records) > 0

    def counts_for(self, topic: str) -> bool:
        """Whether what its subscribers are sent, or acknowledge, of a topic may be committed."""
        return self.counts and topic not in self.observed

    @property
    def counted(self) -> frozenset[str]:
        """The topics for which it counts."""
        return self.topics - self.observed if self.counts else frozenset()

    @property
    def shared(self) -> "Feed":
        """The feed without filters that counts: states and heartbeats are the same for all that have it in common."""
        return self.encoding or self

    @property
    def key(self) -> "Feed":
        """The feed under which its bytes are kept: observers without filters have the same as others."""
        if self.wanted is not None:
            return self
        return self.unframed or self.shared


class _Key(NamedTuple):
    wire: Wire
    topics: frozenset[str]
    filter: Filter | None
    grant: Filter | None
    whole: bool
    counts: bool
    acks: bool
    observed: frozenset[str]
    decodes: frozenset[str]


_feeds: WeakValueDictionary[_Key, Feed] = WeakValueDictionary()
"""Feeds that somebody has: a feed is the same one for as long as it has a subscriber."""


def feed_of(
    wire: Wire,
    topics: frozenset[str],
    wanted: Filter | None = None,
    grant: Filter | None = None,
    *,
    whole: bool = False,
    counts: bool = True,
    acks: bool = False,
    observed: frozenset[str] = frozenset(),
    decodes: frozenset[str] = frozenset(),
) -> Feed:
    """The one feed of this wire format, these topics, these filters and this scope.

    Args:
        wire: How records become bytes.
        topics: Whose records.
        wanted: The client's filter.
        grant: What the client may have, evaluated before its own filter.
        whole: Every partition of the topics.
        counts: What is sent is dispatched.
        acks: Subscribers acknowledge what they are sent.
        observed: Topics of which what is sent is not dispatched.
        decodes: Topics that are decoded for it.
    """
    key = _Key(wire, topics, wanted, grant, whole, counts, acks, observed, decodes)
    feed = _feeds.get(key)
    if feed is None:
        filters = [part for part in (grant, wanted) if part is not None]
        both = all_of(filters) if filters else None
        has_own = filters or not counts or acks or observed
        encoding = feed_of(wire, topics, whole=whole, decodes=decodes) if has_own else None
        predicate = both.compile() if both is not None else None
        unframed = feed_of(wire.unframed, topics, whole=whole, decodes=decodes) if wire.plain is not None else None
        feed = Feed(
            wire,
            topics,
            wanted,
            grant,
            both,
            predicate,
            encoding,
            whole=whole,
            unframed=unframed,
            counts=counts,
            acks=acks,
            observed=observed,
            decodes=decodes,
        )
        _feeds[key] = feed
    return feed
