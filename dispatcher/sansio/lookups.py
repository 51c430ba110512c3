"""What has to be looked up in Kafka before a reader can continue: three kinds of questions about some partitions."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition


@dataclass(frozen=True, slots=True, eq=False)
class OffsetsForTime:
    """Where does a reader begin these partitions?

    Look-ups are compared by identity, because the same question may have another answer later.
    """

    partitions: AbstractSet[TopicPartition]
    since_ms: int | None
    """The time from which on records are wanted: ms since the epoch, `EARLIEST` or `NOW`. None if no time was named."""
    last: int | None = None
    """How many of the newest records of each partition are wanted. None if no number was named."""
    committed: AbstractSet[TopicPartition] = frozenset()
    """Partitions whose answer is the group's committed offset, if that is lower or if neither time nor number was
    named."""
    exact: bool = False
    """Whether the end of the log is the answer when no record has this time or a later one."""


@dataclass(frozen=True, slots=True, eq=False)
class LogBounds:
    """Where the logs of these partitions begin and end."""

    partitions: AbstractSet[TopicPartition]


@dataclass(frozen=True, slots=True, eq=False)
class ReadRanges:
    """The next part of these ranges."""

    ranges: Mapping[TopicPartition, Range]

    @property
    def partitions(self) -> AbstractSet[TopicPartition]:
        """The partitions of the look-up."""
        return self.ranges.keys()


Lookup = OffsetsForTime | LogBounds | ReadRanges
