"""The head: the place of a reader that has been sent everything.

Ids of live streams name the head: the newest known offset of every assigned partition.
"""

from collections.abc import Collection, Iterable, Mapping

from dispatcher.sansio.layout import Layout
from dispatcher.sansio.position import OFFSET_BYTES, Snapshot
from dispatcher.sansio.records import TopicPartition


class Moment:
    """A point in the order of publication, with the head at that point.

    Args:
        sequence: The sequence of the newest entry at that point.
        snapshot: The newest offset of each partition at that point.
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
        self._owned: Head | None = None
        """The head of the owned partitions alone, while others are followed."""
        self._snapshot = Snapshot(self.layout, (), number=0)
        self._moved: set[int] = set()
        """The indexes of offsets that have moved since the last snapshot."""

    def lay_out(
        self,
        partitions: Iterable[TopicPartition],
        followed: Collection[TopicPartition] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Set the partitions that are here, owned or followed; keeps what is known about those that stay.

        Args:
            partitions: All partitions that are here.
            followed: Which of them are followed.
            counts: The least number of partitions that each topic is known to have had.
        """
        known = dict(zip(self.layout.partitions, self._offsets, strict=True))
        self._take(Layout(partitions, followed, counts), known)

    def _take(self, layout: Layout, known: Mapping[TopicPartition, int | None]) -> None:
        self.layout = layout
        self._offsets = [known.get(partition) for partition in layout.partitions]
        self._owned = None
        if layout.owned is not layout:
            self._owned = Head()
            self._owned._take(layout.owned, known)  # noqa: SLF001 - another head
        self._snapshot = Snapshot(layout, layout.cut(self._offsets), number=self._snapshot.number + 1)
        self._moved.clear()

    def move(self, partition: TopicPartition, offset: int | None) -> None:
        """Set the newest offset of a partition; None if it is no longer known.

        Raises:
            KeyError: the partition is not assigned.
        """
        index = self.layout.indexes[partition]
        self._offsets[index] = offset
        self._moved.add(index)
        if self._owned is not None and partition in self._owned.layout.indexes:
            self._owned.move(partition, offset)

    def snapshot(self) -> Snapshot:
        """Return the head; the same object until it moves, so that many can keep it."""
        if self._moved:
            layout, before = self.layout, self._snapshot
            places, chunks, kept = layout.places, list(before.chunks), len(before.chunks)
            moved = self._moved.pop() if len(self._moved) == 1 else None
            for number in {places[index][0] for index in self._moved} if moved is None else (places[moved][0],):
                first, end = layout.chunks[number]
                chunks[number] = tuple(self._offsets[first:end])
                kept += end - first
            self._moved.clear()
            owned = None if self._owned is None else self._owned.snapshot()
            self._snapshot = Snapshot(layout, tuple(chunks), OFFSET_BYTES * kept, before.number + 1, moved, owned=owned)
        return self._snapshot
