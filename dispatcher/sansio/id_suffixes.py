"""What follows a record's own pair in its id: a template for each partition, because only the offsets change."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from dispatcher.sansio.records import TopicPartition

SHORT_CHARACTERS = 256
"""Longer positions are spelled compactly, and only once per write."""

MAX_SUFFIXES = 1024
"""Clients choose the topics, so there can be more combinations than are worth keeping."""

Offsets = tuple[int | None, ...]


class Suffix(NamedTuple):
    """The suffix of the ids of one partition while every offset is known."""

    template: str
    """The pairs, with a place for each offset."""
    choose: Callable[[Offsets], Any]
    """Picks the offsets for these places from those of all partitions."""
    own_characters: int
    """The length of what precedes the suffix, without the record's own offset."""

    def format(self, offsets: Offsets) -> str:
        """Return the suffix.

        Raises:
            TypeError: an offset is None.
        """
        chosen: int | tuple[int, ...] = self.choose(offsets)
        return self.template % chosen


class IdSuffixes:
    """The suffixes for one order of partitions, each made when it is first asked for.

    Args:
        partitions: The partitions, sorted.
        spans: Where each topic's partitions begin and end.
        next_pairs: What follows a topic's pairs in streams of the whole topic.
    """

    __slots__ = ("_found", "_next_pairs", "_partitions", "_spans")

    def __init__(
        self,
        partitions: Sequence[TopicPartition],
        spans: Mapping[str, tuple[int, int]],
        next_pairs: Mapping[str, str],
    ) -> None:
        self._partitions = partitions
        self._spans = spans
        self._next_pairs = next_pairs
        self._found: dict[tuple[int, frozenset[str] | None, bool], Suffix | None] = {}

    def find(self, own: int, topics: frozenset[str] | None, *, whole: bool) -> Suffix | None:
        """Return the suffix for a partition's records; None if their ids would be long with any offsets.

        Args:
            own: The index of the partition.
            topics: Only these topics, the partition's own among them; None for all.
            whole: Whether the stream has all partitions of its topics.
        """
        key = own, topics, whole
        try:
            return self._found[key]
        except KeyError:
            if len(self._found) >= MAX_SUFFIXES:
                self._found.clear()
            found = self._found[key] = self._make(own, topics, whole=whole)
            return found

    def _make(self, own: int, topics: frozenset[str] | None, *, whole: bool) -> Suffix | None:
        own_topic = self._partitions[own].topic
        spans = {topic: span for topic, span in self._spans.items() if topics is None or topic in topics}
        if 4 * sum([end - first for first, end in spans.values()]) > SHORT_CHARACTERS:
            return None
        template, chosen = "", list[int]()
        for topic in sorted(spans, key=lambda topic: topic != own_topic):
            indexes = [index for index in range(*spans[topic]) if index != own]
            pairs = "".join([f",{self._partitions[index].partition}=%d" for index in indexes])
            pairs += self._next_pairs.get(topic, "") if whole else ""
            template += pairs if topic == own_topic else f";{topic}:{pairs[1:]}"
            chosen += indexes
        return Suffix(template, itemgetter(*chosen) if chosen else _nothing, len(f"{self._partitions[own]}="))


def _nothing(_offsets: Offsets) -> tuple[()]:
    return ()
