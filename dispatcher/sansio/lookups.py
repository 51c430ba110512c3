"""What has to be looked up in Kafka before a reader can go on: three questions, each about some partitions."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition


@dataclass(frozen=True, slots=True, eq=False)
class OffsetsForTime:
    """Where does a reader begin these partitions?

    Compared by identity, as each lookup is: the same one, asked later, may have another answer.
    """

    partitions: AbstractSet[TopicPartition]
    since_ms: int | None
    """What came since a time: milliseconds since the epoch, `EARLIEST` or `NOW`. None: no time was named."""
    last: int | None = None
    """The newest records of each, by number; None: no number was named."""
    committed: AbstractSet[TopicPartition] = frozenset()
    """Those of them of which the group's committed offset is the answer, if that is smaller or nothing was named."""
    exact: bool = False
    """Where nothing came since the time, the answer is the end of the log."""


@dataclass(frozen=True, slots=True, eq=False)
class LogBounds:
    """Where do the logs of these partitions begin and end?"""

    partitions: AbstractSet[TopicPartition]


@dataclass(frozen=True, slots=True, eq=False)
class ReadRanges:
    """What is the next part of these ranges?"""

    ranges: Mapping[TopicPartition, Range]

    @property
    def partitions(self) -> AbstractSet[TopicPartition]:
        """What it is about."""
        return self.ranges.keys()


Lookup = OffsetsForTime | LogBounds | ReadRanges
