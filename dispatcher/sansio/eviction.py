"""Which entries leave the history when memory is full, and in which order.

Rules of this module:

* An entry can be evicted once neither it nor an earlier entry of its partition waits. The one that reached this state
  first is evicted first.
* If no entry can be evicted, waiting entries give way, the oldest of a partition first, until the dispatched entries
  after them can be evicted. Such a waiting entry stays in memory, *detached*: it still waits, and counts, but no reader
  is handed it any more. Whoever needs it reads it from Kafka, with everything up to `HistoryPartition.begins`.
* An entry whose gap nobody was sent is never detached, because a gap cannot be read again.
* The work per entry is constant, however many entries wait, or follow those that do.
"""

from collections import deque
from collections.abc import Iterable

from dispatcher.sansio.entries import GAP, Entry
from dispatcher.sansio.history_partition import Evictable, HistoryPartition
from dispatcher.sansio.records import TopicPartition


class Eviction:
    """Remembers what can be evicted."""

    __slots__ = ("_evictable", "_pinning")

    def __init__(self) -> None:
        self._evictable: Evictable = deque()
        self._pinning: dict[TopicPartition, HistoryPartition] = {}
        """Partitions in which dispatched entries follow a waiting one that may be detached."""

    def appended(self, partition: HistoryPartition, entry: Entry) -> None:
        """Note that an entry was appended that waits for nothing: its partition is followed."""
        self._evictable.append((partition, entry))

    def released(self, partition: HistoryPartition, entry: Entry) -> None:
        """Note that an entry waits no longer."""
        partition.release(entry, self._evictable)
        if partition.pinned:
            self._pinning[partition.partition] = partition

    def disowned(self, partition: HistoryPartition) -> list[Entry]:
        """Note that nothing waits any longer in a partition; returns the entries that were detached."""
        return partition.wait_no_longer(self._evictable)

    def waits_again(self, partition: HistoryPartition) -> None:
        """Note that entries of a partition wait that did not wait before."""
        first = partition.kept[0].sequence if partition.kept else None
        if first is not None:
            found = self._evictable
            self._evictable = deque(one for one in found if one[0] is not partition or one[1].sequence < first)
        if partition.pinned:
            self._pinning[partition.partition] = partition

    def forget(self, partitions: Iterable[HistoryPartition]) -> None:
        """Forget partitions that left."""
        gone = set(partitions)
        for partition in gone:
            self._pinning.pop(partition.partition, None)
        if gone:
            self._evictable = deque(one for one in self._evictable if one[0] not in gone)

    def next(self) -> Entry | None:
        """Take the next entry from the log of its partition; None if there is none.

        If it waits, it is detached, and stays in memory.
        """
        while not self._evictable:
            if not self._pinning:
                return None
            tp, partition = next(iter(self._pinning.items()))
            first = partition.kept[0] if partition.pinned else None
            if first is None or _has_gap_pending(first):
                # With the next entry that is released there, it is looked at again.
                del self._pinning[tp]
                continue
            partition.detach(self._evictable)
            return first
        partition, entry = self._evictable.popleft()
        partition.evict()
        return entry


def _has_gap_pending(entry: Entry) -> bool:
    return entry.batch.gap is not None and (entry.pending is None or GAP in entry.pending)
