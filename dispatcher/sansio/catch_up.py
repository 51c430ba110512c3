"""From where a reader goes on in each partition, and what has to be found out before the history can go on for it.

Rules of this module:

* All that is missing of any partition comes before the history goes on: the ids in the history name the last offset of
  every partition.
* A partition that nobody named begins where it stood when the reader came, or at its first record when it comes later:
  what is published while something else is found out is not passed over.
* An offset that lies behind everything in memory is doubted: the replica may not have read so far yet, or the log is
  another one. Only Kafka knows.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.history import History
from dispatcher.sansio.ranges import Bounds, Chunk, Gap, Range
from dispatcher.sansio.records import Batch, TopicPartition


@dataclass(frozen=True, slots=True)
class TimeQuestion:
    """From which offset on do these partitions hold what came since a time?"""

    partitions: AbstractSet[TopicPartition]
    since_ms: int
    """Milliseconds since the epoch, or `EARLIEST`."""


@dataclass(frozen=True, slots=True)
class BoundsQuestion:
    """Where do the logs of these partitions begin and end?"""

    partitions: AbstractSet[TopicPartition]


@dataclass(frozen=True, slots=True)
class ReadQuestion:
    """What is the next part of these ranges?"""

    ranges: Mapping[TopicPartition, Range]


Question = TimeQuestion | BoundsQuestion | ReadQuestion


NONE: frozenset[TopicPartition] = frozenset()


class CatchUp:
    """A reader's way to the history.

    Args:
        history: Where it goes.
        topics: What it reads.
        position: The last offset that it has seen of some partitions of these topics.
        since_ms: Where the others begin, in ms since the epoch, or `EARLIEST`; None: as for a new reader.
    """

    def __init__(
        self, history: History, topics: frozenset[str], position: Mapping[TopicPartition, int], since_ms: int | None
    ) -> None:
        self._history = history
        self._topics = topics
        self._since_ms = since_ms
        self._wanted = history.ends(topics)
        """The next offset of each partition, while something has to be found out."""
        self._fresh = frozenset(self._wanted)
        """Partitions of which the history has handed out nothing to this reader."""
        self._awaited: dict[TopicPartition, int] = {}
        """The next offset of partitions that were named and are not here yet, or left before all was handed out."""
        self._unplaced = NONE if since_ms is None else frozenset(self._wanted.keys() - position.keys())
        """Partitions that begin at a time, and it is not known where that is."""
        self._placed = frozenset(position)
        """Partitions that were named, or began at a time: once each. One that comes back goes on where it stands."""
        self._doubted: dict[TopicPartition, int] = {}
        """Partitions that may be another log by now, which ends before this offset."""
        for partition, offset in position.items():
            if partition in self._wanted:
                self._want(partition, offset + 1)
            else:
                self._awaited[partition] = offset + 1
        self._missing = self._find_missing()

    @property
    def question(self) -> Question | None:
        """What has to be found out next; None when the history can go on."""
        if self._unplaced and self._since_ms is not None:
            return TimeQuestion(self._unplaced, self._since_ms)
        if self._doubted:
            return BoundsQuestion(frozenset(self._doubted))
        if self._missing:
            # Copied: what is missing may change before the answer comes.
            return ReadQuestion(dict(self._missing))
        return None

    @property
    def pending(self) -> bool:
        """Whether something has to be found out before the history can go on."""
        return bool(self._unplaced or self._doubted or self._missing)

    @property
    def places(self) -> Mapping[TopicPartition, int]:
        """The next offset of each partition, while something has to be found out."""
        return self._wanted

    def cursor(self) -> Cursor:
        """Where the history goes on."""
        cursor = self._history.cursor(self._topics, self._wanted, self._fresh)
        # Nothing of this is needed while the history goes on, and most readers never come back here.
        self._fresh, self._wanted = NONE, {}
        return cursor

    def go_back(self, places: Mapping[TopicPartition, int]) -> None:
        """Leave the history: the next offset of each partition is no longer in memory, or may not be."""
        self._wanted = dict(places)
        self._missing = self._find_missing()

    @property
    def expects_partitions(self) -> bool:
        """Whether `concerns` may hold for a partition that comes, also when nothing has to be found out now."""
        return bool(self._awaited) or self._since_ms is not None

    def concerns(self, partition: TopicPartition, place: int | None) -> bool:
        """Whether a partition that has come changes where the reader goes on; see `arrived`."""
        return (
            self.pending
            or partition in self._awaited
            or self._begins_at_time(partition)
            or (place is not None and place > self._history.end(partition))
        )

    def arrived(self, partition: TopicPartition, place: int | None) -> None:
        """A partition is here now: it goes on where it was named, or at the time, or with its first record.

        Args:
            partition: The partition.
            place: The next offset when it was here before, while this reader was there.
        """
        if place is not None and place > self._history.end(partition):
            self._doubted[partition] = place
        if self._begins_at_time(partition):
            self._unplaced |= {partition}
        self._fresh |= {partition}
        self._wanted.setdefault(partition, self._history.origin(partition))
        if (offset := self._awaited.pop(partition, None)) is not None:
            self._want(partition, offset)
        self._missing = self._find_missing()

    def departing(self, ends: Mapping[TopicPartition, int], places: Mapping[TopicPartition, int]) -> None:
        """Partitions are about to leave: what has been read of them, and not handed out, comes when they come back.

        Args:
            ends: The offset after the last one that was read, of each partition of which anything was.
            places: The next offset of each partition.
        """
        for partition, end in ends.items():
            if places.get(partition, end) < end:
                self._awaited[partition] = places[partition]

    def departed(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions have left: nothing has to be found out for them. Their places stay, in case they come back."""
        for partition in partitions:
            self._doubted.pop(partition, None)
        if self._unplaced:
            self._unplaced -= frozenset(partitions)
        for partition in partitions:
            self._missing.pop(partition, None)
        if not self._missing:
            # What else has left the memory meanwhile is looked for before the history goes on.
            self._missing = self._find_missing()

    def forget(self, partition: TopicPartition) -> None:
        """A partition is another log now: nothing is known of its place."""
        self.departed([partition])
        self._wanted.pop(partition, None)
        self._awaited.pop(partition, None)

    def placed(self, question: TimeQuestion, offsets: Mapping[TopicPartition, int]) -> None:
        """Take the first offsets of what came since the time; a partition without one goes on where it was."""
        found = self._unplaced & question.partitions
        self._unplaced -= found
        self._placed |= found
        self._wanted.update((partition, offset) for partition, offset in offsets.items() if partition in found)
        self._missing = self._find_missing()

    def bounded(self, bounds: Mapping[TopicPartition, Bounds]) -> list[Gap]:
        """Take where logs begin and end; returns what is to be told of those that are others than they were."""
        gaps = []
        for partition in self._doubted.keys() & bounds.keys():
            first, end = bounds[partition]
            place = self._doubted.pop(partition)
            if place > end:
                gaps.append(began_anew(partition, place, first))
                self._wanted[partition] = first
        self._missing = self._find_missing()
        return gaps

    def read(
        self, question: ReadQuestion, chunk: Chunk
    ) -> tuple[list[Gap], list[tuple[Batch, Mapping[TopicPartition, int]]]]:
        """Take what was read; returns what is to be told, and then sent, of what is still missing.

        Returns:
            Gaps, and batches, each with the last seen offset of every partition behind it, but those that begin at a
            time, and it was not found where that is before they left.
        """
        expected = {
            tp for tp, part in question.ranges.items() if tp in self._missing and self._missing[tp].first == part.first
        }
        batches: list[tuple[Batch, Mapping[TopicPartition, int]]] = []
        for batch in chunk.batches:
            if batch.partition in expected:
                self._wanted[batch.partition] = batch.next_offset
                seen = {tp: offset - 1 for tp, offset in self._wanted.items() if not self._begins_at_time(tp)}
                batches.append((batch, seen))
        self._wanted.update((tp, offset) for tp, offset in chunk.next_offsets.items() if tp in expected)
        self._missing = self._find_missing()
        return [gap for gap in chunk.gaps if gap.partition in expected], batches

    def _want(self, partition: TopicPartition, offset: int) -> None:
        self._wanted[partition] = offset
        if offset > self._history.end(partition):
            self._doubted[partition] = offset

    def _begins_at_time(self, partition: TopicPartition) -> bool:
        return self._since_ms is not None and partition not in self._placed

    def _find_missing(self) -> dict[TopicPartition, Range]:
        return self._history.missing(self._topics, self._wanted)


def began_anew(partition: TopicPartition, place: int, first_offset: int) -> Gap:
    """What is told when a log is another one: there is nothing from a place in the old one to the first of the new."""
    return Gap(partition, place, first_offset - 1, "recreated")
