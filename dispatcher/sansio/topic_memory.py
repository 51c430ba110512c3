"""What this process has learned of its topics' ids, for as long as it runs: consumers come and go meanwhile.

Kafka deletes the group's offsets with a topic, so no commit says that a topic was recreated, only who has seen the old
one. A replica in standby, or one that replaces a failed consumer, has a new consumer afterwards and the same memory.

*Thread*: the poller's; there is one consumer at a time.
"""

from collections.abc import Mapping

from dispatcher.sansio.beginnings import Stamp, other_log


class TopicMemory:
    """The stamps of topics as they were first found, and as they were last read."""

    def __init__(self) -> None:
        self._first_seen: dict[str, Stamp] = {}
        """Topics as they were first found, whether or not any of them was read. Never renewed: if commits expire after
        a topic was recreated, that repeats records, and loses none."""
        self._read: dict[str, Stamp] = {}
        """The stamps of topics of which reading has begun."""

    def found(self, topics: Mapping[str, Stamp]) -> None:
        """Note what brokers say about topics; what was found first stays, unless it had no id."""
        for topic, stamp in topics.items():
            before = self._first_seen.get(topic)
            if before is None or before.topic_id is None:
                self._first_seen[topic] = stamp

    def begun(self, topic: str, stamp: Stamp) -> None:
        """Note that a topic is read."""
        self._read[topic] = stamp

    def of(self, topic: str, now: Stamp) -> list[Stamp]:
        """Return what is known of a topic besides its present stamp: that it is read, or was another one before."""
        found = [self._read[topic]] if topic in self._read else []
        first_seen = self._first_seen.get(topic, Stamp())
        # If it is the same topic, that it was seen says nothing about what the group has read.
        if other_log(first_seen, now) or (now.topic_id is None and first_seen.topic_id is not None):
            found.append(first_seen)
        return found

    @property
    def has_ids(self) -> bool:
        """Whether brokers have ever reported the id of a topic."""
        return any(stamp.topic_id is not None for stamp in self._first_seen.values())
