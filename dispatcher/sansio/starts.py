"""Where a reader begins: the time or the number of records that it named, and where that is not known yet.

Each partition that the reader did not name begins there once. One of the whole topic keeps that until all partitions of
its topics have been here; what is added later begins at its first record.
"""

from collections.abc import Set as AbstractSet

from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import OffsetsForTime
from dispatcher.sansio.records import TopicPartition


class Starts:
    """What a reader named as its start, and for which partitions that was answered.

    Args:
        history: What it reads.
        topics: What it reads of it.
        since_ms: In ms since the epoch, `EARLIEST` or `NOW`; None: as for a new reader.
        last: How many records before their ends partitions begin, in place of a time.
        whole: It reads the whole of its topics, followed partitions included.
        counts: What it is sent is dispatched.
    """

    __slots__ = ("_counts", "_history", "_last", "_since_ms", "_topics", "is_complete", "resolved", "whole")

    def __init__(
        self,
        history: History,
        topics: frozenset[str],
        since_ms: int | None,
        last: int | None = None,
        *,
        whole: bool = False,
        counts: bool = True,
    ) -> None:
        self._history = history
        self._topics = topics
        self._since_ms = since_ms
        self._last = last
        self._counts = counts
        self.whole = whole
        self.is_complete = not whole
        """Whether every partition of its topics was here once: one that is added after that begins at its start."""
        self.resolved: set[TopicPartition] = set()
        """Partitions that were named, or began at the time: once each. Empty without a time."""

    @property
    def are_named(self) -> bool:
        """Whether the reader named a time or a number of records."""
        return self._since_ms is not None or self._last is not None

    def have_all(self) -> bool:
        """Whether every partition of its topics is here, or was once."""
        if not self.is_complete and self._history.is_complete(self._topics):
            self.is_complete = True
            # What is added from now on begins at its start: a live reader keeps nothing for each partition.
            self.resolved.clear()
        return self.is_complete

    def is_unknown(self, partition: TopicPartition) -> bool:
        """Whether where it begins in a partition has to be looked up."""
        if partition in self.resolved:
            return False
        if self.whole:
            return not self.is_complete and (self.are_named or self._history.is_followed(partition))
        return self.are_named

    def lookup(self, partitions: AbstractSet[TopicPartition]) -> OffsetsForTime:
        """The question where it begins some partitions."""
        committed = frozenset(filter(self._history.is_followed, partitions)) if self._counts else frozenset()
        return OffsetsForTime(frozenset(partitions), self._since_ms, self._last, committed, exact=not self._counts)
