"""What subscribers ask for: the key under which encoded bytes are shared."""

from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakValueDictionary

from dispatcher.sansio.encoding.wire import Wire
from dispatcher.sansio.filters import Filter, Predicate, all_of
from dispatcher.sansio.records import Records


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Feed:
    """What subscribers asked for; all subscribers of a feed are sent the very same bytes.

    Compared by identity, because it is looked up for each entry and subscriber: always use `feed_of`.
    """

    wire: Wire
    topics: frozenset[str]
    filter: Filter | None = None
    """The client's own filter; None: all records."""
    grant: Filter | None = None
    """The filter of its grant; None: all records."""
    wanted: Filter | None = None
    """Both together: which records are sent; None: all records."""
    predicate: Predicate | None = None
    """The same as a function of a record."""
    encoding: "Feed | None" = None
    """For filtered feeds and observers: the feed of the same format, topics and scope that has all records."""
    whole: bool = False
    """Whether it has every partition of the topics (``scope=topic``), including those that the replica does not own."""
    unframed: "Feed | None" = None
    """The feed under which the parts of its writes are kept, if that is another: compressed or not, parts are the same
    until they are framed."""
    counts: bool = True
    """Whether records sent to its subscribers count as dispatched; observers (``observe=1``) have a separate feed."""
    acks: bool = False
    """Whether its subscribers acknowledge records (``ack=client``)."""
    observed: frozenset[str] = frozenset()
    """Topics that it only observes, although it counts for others: in these only acknowledgements count."""
    decodes: frozenset[str] = frozenset()
    """Topics that are decoded because it asks (``decode=json``), not because of the settings."""

    def reads(self, topic: str, records: Records) -> Records:
        """Records of a topic as this feed gets them: decoded if it asks."""
        return records.as_asked() if topic in self.decodes else records

    def awaits(self, topic: str, records: Records) -> bool:
        """Whether records of a topic have to be decoded before this feed can get them."""
        return topic in self.decodes and records.asked is None and len(records) > 0

    def counts_for(self, topic: str) -> bool:
        """Whether records of a topic that its subscribers are sent, or acknowledge, may be committed."""
        return self.counts and topic not in self.observed

    @property
    def counted(self) -> frozenset[str]:
        """The topics for which it counts."""
        return self.topics - self.observed if self.counts else frozenset()

    @property
    def shared(self) -> "Feed":
        """The unfiltered feed that counts: all feeds that share it have the same states and heartbeats."""
        return self.encoding or self

    @property
    def key(self) -> "Feed":
        """The feed under which its bytes are kept: unfiltered observers share those of other subscribers."""
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
"""Feeds in use: equal requests get the same feed for as long as it has a subscriber."""


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
        topics: The topics.
        wanted: The client's filter.
        grant: The filter of the client's grant, evaluated before its own.
        whole: Whether it has every partition of the topics.
        counts: Whether records that are sent count as dispatched.
        acks: Whether subscribers acknowledge records.
        observed: Topics whose records do not count as dispatched when they are sent.
        decodes: Topics that are decoded because it asks.
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
