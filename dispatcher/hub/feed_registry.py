"""The feeds that have subscribers, and which of them want a record.

*Thread*: Trio's.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from dispatcher.errors import TooManyError
from dispatcher.hub.feed import Feed
from dispatcher.hub.statistics import FeedStatistics
from dispatcher.sansio.filter_index import FilterIndex, anchors
from dispatcher.sansio.records import Batch

Counted = TypeVar("Counted", Feed, str)

Matches = Sequence[tuple[Iterable[Feed], Sequence[int]]]
"""Feeds, and the indexes of the records of a batch that they want."""


class FeedRegistry:
    """Counts the subscribers of each feed, and indexes the filters.

    Args:
        max_feeds: Bound of the feeds that cost work for every record: each distinct format with its topics, and each
            filter that no index finds.
    """

    def __init__(self, max_feeds: int) -> None:
        self._max_feeds = max_feeds
        self._feeds: Counter[Feed] = Counter()
        """Number of subscribers by feed."""
        self._encodings: Counter[Feed] = Counter()
        """Number of feeds by what they share."""
        self._unindexed = 0
        """Feeds whose filter no index finds."""
        self._indexes: dict[str, FilterIndex[Feed]] = {}
        """Filters, by topic."""
        self._unfiltered: Counter[str] = Counter()
        """Number of feeds without filters, by topic."""
        self.refused = 0
        """Subscribers refused because of the bound."""

    def check(self, feed: Feed) -> None:
        """Make sure that a subscriber of a feed can be taken.

        Raises:
            TooManyError: it would be one feed too many.
        """
        if feed in self._feeds:
            return
        cost = (feed.shared not in self._encodings) + _is_unindexed(feed)
        if cost and len(self._encodings) + self._unindexed + cost > self._max_feeds:
            self.refused += 1
            raise TooManyError(f"this replica serves {self._max_feeds} distinct feeds already (max_feeds)")

    def add(self, feed: Feed) -> None:
        """Count one subscriber more."""
        self._feeds[feed] += 1
        if self._feeds[feed] > 1:
            return
        self._encodings[feed.shared] += 1
        self._unindexed += _is_unindexed(feed)
        for topic in feed.topics:
            if feed.wanted is None:
                self._unfiltered[topic] += 1
            else:
                self._indexes.setdefault(topic, FilterIndex()).add(feed.wanted, feed)

    def remove(self, feed: Feed) -> bool:
        """Count one subscriber less; returns whether what the feed shares with others has no subscriber any more."""
        if not _lower(self._feeds, feed):
            return False
        self._unindexed -= _is_unindexed(feed)
        for topic in feed.topics:
            if feed.wanted is None:
                _lower(self._unfiltered, topic)
            else:
                self._indexes[topic].remove(feed.wanted, feed)
                if not self._indexes[topic]:
                    del self._indexes[topic]
        return _lower(self._encodings, feed.shared)

    def has_filters(self, topic: str) -> bool:
        """Whether some feed wants a part of a topic's records only."""
        return topic in self._indexes

    def wants_all(self, topic: str) -> bool:
        """Whether some feed wants all of a topic's records."""
        return topic in self._unfiltered

    def match(self, batch: Batch) -> Matches:
        """The filtered feeds that want something of a batch."""
        return self._indexes[batch.partition.topic].match(batch.partition, batch.records)

    def statistics(self) -> FeedStatistics:
        """A snapshot."""
        return FeedStatistics(len(self._feeds), len(self._encodings), self._unindexed, self.refused)


def _is_unindexed(feed: Feed) -> bool:
    return feed.wanted is not None and not anchors(feed.wanted)


def _lower(counter: Counter[Counted], key: Counted) -> bool:
    """Count one less, at a cost that does not grow with the counter; returns whether none is left."""
    counter[key] -= 1
    if counter[key]:
        return False
    del counter[key]
    return True
