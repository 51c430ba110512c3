"""The feeds that have subscribers, and which of them want a record.

What costs work for every record is bounded: each encoding (a format with its topics and scope) except those of all
topics, of which there are few, and each filter that cannot be indexed. It is held by the owner of the subscriber that
needed it first, until the last subscriber that needs it has left, and no owner can take everything (`Quota`).

*Thread*: Trio's.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from dispatcher.errors import TooManyError
from dispatcher.hub.feed import Feed
from dispatcher.hub.present_subscribers import PresentSubscribers
from dispatcher.hub.statistics import FeedStatistics
from dispatcher.sansio.filter_index import FilterIndex, anchors
from dispatcher.sansio.filters import Filter, Place, Term, on_topic
from dispatcher.sansio.quotas import Quota, Refusal
from dispatcher.sansio.records import Batch

Counted = TypeVar("Counted", Feed, str)

_TopicView = tuple[str, bool]
"""A topic, and whether filters see its records as decoded for feeds that ask."""

Matches = Sequence[tuple[Iterable[Feed], Sequence[int]]]
"""Feeds, and the indexes of the records of a batch that they want."""


class FeedRegistry:
    """Counts the subscribers of each feed, and indexes the filters.

    Args:
        max_feeds: Maximum number of encodings and of filters that cannot be indexed.
        topics: All topics: encodings of exactly these are not counted, so that a plain stream of all topics can begin
            whatever others have asked for.
    """

    def __init__(self, max_feeds: int, topics: Iterable[str] = ()) -> None:
        self._all_topics = frozenset(topics)
        self._quota = Quota(max_feeds)
        self._holders: dict[Feed, Hashable] = {}
        """Who holds what is counted: an encoding by its shared feed, a filter by its own."""
        self._feeds: Counter[Feed] = Counter()
        """Number of subscribers by feed."""
        self._encodings: Counter[Feed] = Counter()
        """Number of feeds by the feed that they share."""
        self._unindexed = 0
        """Number of feeds whose filter cannot be indexed."""
        self._indexes: dict[_TopicView, FilterIndex[Feed]] = {}
        """Filters, by topic and whether their feeds ask for it to be decoded."""
        self._grants: dict[_TopicView, FilterIndex[Feed]] = {}
        """Grants, likewise."""
        self._asking: Counter[str] = Counter()
        """Number of feeds that ask for a topic to be decoded, by topic."""
        self._not_granted: Counter[str] = Counter()
        """Number of feeds that may have all of a topic but want only a part of it, by topic."""
        self._unfiltered: Counter[str] = Counter()
        """Number of feeds without filters, by topic."""
        self.refused = 0
        """Number of subscribers refused because of the bound."""

    def check(self, feed: Feed, owner: Hashable = None) -> None:
        """Make sure that there is room for a subscriber of this feed.

        Args:
            feed: The feed.
            owner: The subscriber's owner, such as its address.

        Raises:
            TooManyError: the feed would be one too many, or one too many for its owner.
        """
        if feed in self._feeds:
            return
        needed = self._counted(feed)
        refusal = self._quota.refusal(owner, len(needed)) if needed else None
        if refusal is None:
            return
        self.refused += 1
        if refusal is Refusal.RESERVED:
            raise TooManyError("the last feeds of this replica are reserved for clients that need fewer (max_feeds)")
        raise TooManyError(f"this replica already serves {self._quota.total} distinct feeds (max_feeds)")

    def add(self, feed: Feed, owner: Hashable = None) -> bool:
        """Count one more subscriber; returns whether it is the feed's first."""
        self._feeds[feed] += 1
        if self._feeds[feed] > 1:
            return False
        for one in self._counted(feed):
            self._holders[one] = owner
            self._quota.take(owner)
        self._encodings[feed.shared] += 1
        self._unindexed += _is_unindexed(feed)
        self._asking.update(feed.decodes)
        for topic in feed.topics:
            if feed.wanted is None:
                if feed.counts_for(topic):
                    self._unfiltered[topic] += 1
                continue
            view = topic, topic in feed.decodes
            self._indexes.setdefault(view, FilterIndex()).add(_of_topic(feed.wanted, topic), feed)
            if not feed.counts_for(topic):
                continue
            if feed.grant is None or on_topic(feed.grant, topic) is True:
                self._not_granted[topic] += 1
            else:
                self._grants.setdefault(view, FilterIndex()).add(_of_topic(feed.grant, topic), feed)
        return True

    def remove(self, feed: Feed) -> bool:
        """Count one subscriber fewer; returns whether it was the feed's last."""
        if not _lower(self._feeds, feed):
            return False
        if _is_unindexed(feed):
            self._unindexed -= 1
            self._release(feed)
        for topic in feed.decodes:
            _lower(self._asking, topic)
        for topic in feed.topics:
            if feed.wanted is None:
                if feed.counts_for(topic):
                    _lower(self._unfiltered, topic)
                continue
            view = topic, topic in feed.decodes
            _forget(self._indexes, view, _of_topic(feed.wanted, topic), feed)
            if not feed.counts_for(topic):
                continue
            if feed.grant is None or on_topic(feed.grant, topic) is True:
                _lower(self._not_granted, topic)
            else:
                _forget(self._grants, view, _of_topic(feed.grant, topic), feed)
        if _lower(self._encodings, feed.shared) and feed.shared in self._holders:
            self._release(feed.shared)
        return True

    def _counted(self, feed: Feed) -> Sequence[Feed]:
        """What a new feed needs that is counted, and that nobody has yet."""
        needed = [feed] if _is_unindexed(feed) else []
        if feed.shared not in self._encodings and feed.topics != self._all_topics:
            needed.append(feed.shared)
        return needed

    def _release(self, held: Feed) -> None:
        self._quota.release(self._holders.pop(held))

    def has_shared(self, feed: Feed) -> bool:
        """Whether the feed that this one shares with others has a subscriber."""
        return feed.shared in self._encodings

    def has_filters(self, topic: str) -> bool:
        """Whether some feed wants only a part of a topic's records."""
        indexes = self._indexes
        return bool(indexes) and ((topic, False) in indexes or (topic, True) in indexes)

    @property
    def asked_topics(self) -> frozenset[str]:
        """Topics that are decoded because some feed asks."""
        return frozenset(self._asking)

    def is_undecided(self, batch: Batch) -> bool:
        """Whether some feed waits until a batch is decoded."""
        records = batch.records
        return batch.partition.topic in self._asking and records.asked is None and bool(records)

    def wants_all(self, topic: str) -> bool:
        """Whether some feed wants all of a topic's records."""
        return topic in self._unfiltered

    def filters(self, topic: str) -> int:
        """How many distinct filters a topic has."""
        return sum([len(self._indexes.get((topic, asks), ())) for asks in (False, True)])

    def tried(self, topic: str) -> int:
        """How often filters and grants were tried on a record of a topic: only differences mean anything."""
        views = (topic, False), (topic, True)
        found = [indexes.get(view) for indexes in (self._indexes, self._grants) for view in views]
        return sum([index.tried for index in found if index is not None])

    def tried_singly(self) -> int:
        """How often filters and grants were tried on single records of all topics: only differences mean anything."""
        return sum([index.tried_singly for index in chain(self._indexes.values(), self._grants.values())])

    def match(self, batch: Batch, part: range | None = None) -> Matches:
        """The filtered feeds, and which records of a batch each wants: all of an undecoded one, for feeds that ask.

        Args:
            batch: The batch.
            part: The indexes of the records that are looked at; None: all.
        """
        return _match(self._indexes, batch, part)

    def has_grants(self, topic: str) -> bool:
        """Whether present subscribers may have a part of a topic's records, but none of them may have all."""
        return self._is_granted(topic) and topic not in self._not_granted and topic not in self._unfiltered

    def is_read(self, topic: str) -> bool:
        """Whether a subscriber that counts is present for a topic."""
        return self._is_granted(topic) or topic in self._not_granted or topic in self._unfiltered

    def allowed(self, batch: Batch, part: range | None = None) -> Iterable[int]:
        """The indexes of the records, or of those in a part, that some present subscriber may have."""
        topic = batch.partition.topic
        if topic in self._not_granted or topic in self._unfiltered:
            return range(len(batch.records)) if part is None else part
        return {index for _, indexes in _match(self._grants, batch, part) for index in indexes}

    def statistics(self) -> FeedStatistics:
        """A snapshot."""
        return FeedStatistics(len(self._feeds), len(self._encodings), self._unindexed, self.refused, self._present())

    def _is_granted(self, topic: str) -> bool:
        return (topic, False) in self._grants or (topic, True) in self._grants

    def _present(self) -> PresentSubscribers:
        topics: Counter[str] = Counter()
        observers = filtered = acking = whole = 0
        for feed, number in self._feeds.items():
            for topic in feed.topics:
                topics[topic] += number
            observers += 0 if feed.counts else number
            filtered += 0 if feed.wanted is None else number
            acking += number if feed.acks else 0
            whole += number if feed.whole else 0
        return PresentSubscribers(topics, observers, filtered, acking, whole)


def _is_unindexed(feed: Feed) -> bool:
    """Whether its filter cannot be indexed, so that it is evaluated for every record."""
    if feed.wanted is None:
        return False
    parts = [on_topic(feed.wanted, topic) for topic in feed.topics]
    return any(not isinstance(part, bool) and not anchors(part) for part in parts)


def _of_topic(wanted: Filter, topic: str) -> Filter:
    """The part of a filter that applies to one topic, for its index; the whole filter if there is no grant."""
    part = on_topic(wanted, topic)
    return Term(Place("topic"), "exact", (topic,) if part else ()) if isinstance(part, bool) else part


def _match(indexes: Mapping[_TopicView, FilterIndex[Feed]], batch: Batch, part: range | None) -> Matches:
    topic, records = batch.partition.topic, batch.records
    looked_at = range(len(records)) if part is None else part
    plain, asked = indexes.get((topic, False)), indexes.get((topic, True))
    found = [] if plain is None else plain.match(batch.partition, records, looked_at)
    if asked is None:
        return found
    if records and records.asked is None:
        # Their filters cannot be evaluated yet.
        return [*found, (asked.owners, looked_at)]
    return [*found, *asked.match(batch.partition, records.as_asked(), looked_at)]


def _forget(indexes: dict[_TopicView, FilterIndex[Feed]], view: _TopicView, wanted: Filter, feed: Feed) -> None:
    indexes[view].remove(wanted, feed)
    if not indexes[view]:
        del indexes[view]


def _lower(counter: Counter[Counted], key: Counted) -> bool:
    """Count one fewer, at a cost that does not grow with the counter; returns whether none is left."""
    counter[key] -= 1
    if counter[key]:
        return False
    del counter[key]
    return True
