"""How many partitions topics have, for readers of whole topics, and which partitions are new to these readers.

Rules of this module:

* A topic has as many partitions as the highest answer so far: a broker that lags reports fewer.
* A topic that does not exist, or may not be described, has none: otherwise readers of several topics would wait for it.
* A partition is new if its topic was read before the partition existed; it is read from its start.
* A topic that is followed does not count as created because it was briefly missing: a lagging broker may not know it.
  If it really was recreated, brokers report another id (`sansio.log_ids`).
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
        """Take the counts that brokers reported; returns what is known now.

        Args:
            found: The counts; topics without an answer are left out.
            broken: What is wrong with topics, by topic.
            whole: Topics that somebody reads the whole of.
            followed: Topics with partitions that are followed.
        """
        for topic, count in found.items():
            self._counts[topic] = max(count, self._counts.get(topic, 0))
        for topic in broken.keys() - found.keys():
            if broken[topic] in _UNSEEN:
                self._counts[topic] = 0
            if broken[topic] in _ABSENT and topic in whole - followed:
                self._begun_with[topic] = 0
        # Only readers that waited for a topic have to be sent all of it: for later readers its log may be long.
        created = {topic for topic, begun_with in self._begun_with.items() if not begun_with}
        self.forget(created - whole - followed)
        return dict(self._counts)

    def is_new(self, partition: TopicPartition) -> bool:
        """Whether a partition that begins to be followed was added after its topic was first read."""
        begun_with = self._begun_with.setdefault(partition.topic, self._counts[partition.topic])
        return partition.partition >= begun_with

    def forget(self, topics: Collection[str]) -> None:
        """Forget topics that nobody reads the whole of: the next reader begins with the partitions that exist then."""
        for topic in topics:
            self._begun_with.pop(topic, None)
