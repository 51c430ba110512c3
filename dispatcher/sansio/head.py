"""The head: the place of a reader that has been sent everything.

Ids carry it: the newest offset of every assigned partition, where it is known.
"""

from collections.abc import Collection, Iterable, Mapping

from dispatcher.sansio.position import Layout, Snapshot
from dispatcher.sansio.records import TopicPartition


class Moment:
    """A point in the order of what was published, and the head at that point.

    Args:
        sequence: Of the newest entry then.
        snapshot: The newest offset of each partition then.
    """

    __slots__ = ("sequence", "snapshot")

    def __init__(self, sequence: int, snapshot: Snapshot) -> None:
        self.sequence = sequence
        self.snapshot = snapshot


class Head:
    """The newest offset of each assigned partition, None while it is unknown."""

    def __init__(self) -> None:
        self.layout = Layout(())
        self._offsets: list[int | None] = []
        self._snapshot: Snapshot | None = None

    def lay_out(
        self,
        partitions: Iterable[TopicPartition],
        followed: Collection[TopicPartition] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """These partitions are here from now on, owned or followed; what is known of those that stay is kept.

        Args:
            partitions: All of them.
            followed: Those of them that are followed.
            counts: How many partitions topics have had at least.
        """
        known = dict(zip(self.layout.partitions, self._offsets, strict=True))
        self.layout = Layout(partitions, followed, counts)
        self._offsets = [known.get(partition) for partition in self.layout.partitions]
        self._snapshot = None

    def move(self, partition: TopicPartition, offset: int | None) -> None:
        """Set the newest offset of a partition; None: it is no longer known.

        Raises:
            KeyError: the partition is not assigned.
        """
        self._offsets[self.layout.indexes[partition]] = offset
        self._snapshot = None

    def snapshot(self) -> Snapshot:
        """The head now; the same object until it moves, so that many can keep it."""
        if self._snapshot is None:
            self._snapshot = Snapshot(self.layout, tuple(self._offsets))
        return self._snapshot
