"""How many partitions topics have, as readers of whole topics know it, and from where on one is read that was added.

Rules of this module:

* A topic has as many partitions as any answer has said: a broker that lags says fewer.
* One that does not exist, or may not be seen, has none: readers of several topics would wait for it otherwise.
* A partition is new if its topic was read before it was there; such a one is read from its start.
* A topic that is followed is not created by being away for a moment: a broker that lags may not know it. If it was
  recreated, the follower finds its logs shorter than they were.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.topic_health import Reason

_ABSENT = frozenset({Reason.MISSING, Reason.DELETED})
_UNSEEN = _ABSENT | {Reason.UNAUTHORIZED}


class TopicCounts:
    """Counts of partitions by topic."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._begun_with: dict[str, int] = {}
        """How many partitions topics had when they were first followed."""

    def counted(
        self, found: Mapping[str, int], broken: Mapping[str, str], whole: AbstractSet[str], followed: AbstractSet[str]
    ) -> dict[str, int]:
        """Take the counts that brokers have answered; returns what is known now.

        Args:
            found: The answers; topics without one are left out.
            broken: What is wrong with topics.
            whole: Topics of which somebody reads the whole.
            followed: Topics with partitions that are followed.
        """
        for topic, count in found.items():
            self._counts[topic] = max(count, self._counts.get(topic, 0))
        for topic in broken.keys() - found.keys():
            if broken[topic] in _UNSEEN:
                self._counts[topic] = 0
            if broken[topic] in _ABSENT and topic in whole - followed:
                self._begun_with[topic] = 0
        # Only readers that waited for a topic have to be sent all of it: for later ones its log may be long.
        created = {topic for topic, begun_with in self._begun_with.items() if not begun_with}
        self.forget(created - whole - followed)
        return dict(self._counts)

    def is_new(self, partition: TopicPartition) -> bool:
        """Whether a partition that begins to be followed was added after its topic began to be read."""
        begun_with = self._begun_with.setdefault(partition.topic, self._counts[partition.topic])
        return partition.partition >= begun_with

    def forget(self, topics: Collection[str]) -> None:
        """Let go of topics that nobody reads the whole of: the next reader begins with what is there then."""
        for topic in topics:
            self._begun_with.pop(topic, None)
