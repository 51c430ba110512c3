"""What a client has seen: the merged position of all partitions over all replicas, by which repeats are known.

An id names the partitions of the replica that sent it. A client that went from one replica to another, each with a part
of the partitions, keeps the offsets of all of them by itself.
"""

from collections.abc import Mapping
from itertools import islice

from dispatcher.client.events import Gap, Record, partition_of
from dispatcher.errors import MalformedPositionError
from dispatcher.sansio.compact_position import MAX_PARTITIONS
from dispatcher.sansio.position import parse_position, shortest_position
from dispatcher.sansio.records import TopicPartition

MAX_KEPT = 65_536
"""Partitions that are remembered: a server may name new ones for ever. Ids name at most 8,192."""


class ResumePosition:
    """Where to resume, and which records came.

    These are two things. An id also names partitions of which this client got nothing, since they were quiet: it
    resumes there, but what comes at or below that place is no repeat.

    Args:
        position: What was seen before.
    """

    def __init__(self, position: Mapping[TopicPartition, int] | None = None) -> None:
        self._came: dict[TopicPartition, int] = dict(position or {})
        """The highest offset of each partition under the first pair of an id."""
        self._offsets: dict[TopicPartition, int] = dict(position or {})
        """The highest offset that anything named; the partition that moved last is last."""
        self._suffix = ("", "")
        """Topic and other partitions of the last id: the ids of one batch share them, so they are read once."""

    def record(self, record: Record) -> bool:
        """Take a record; False when it is a repeat.

        Raises:
            MalformedPositionError: its id is not a position, or names another record.
        """
        partition = partition_of(record)
        own = f"{partition}={record.offset}"
        if record.id != own:
            self._take_id(record, own)
        if record.offset <= self._came.get(partition, -1):
            return False
        _keep(self._came, partition, record.offset)
        if record.offset > self._offsets.get(partition, -2):
            self._move(partition, record.offset)
        return True

    def move_to(self, event_id: str) -> None:
        """Take a position that names no record: the id of a heartbeat, or of a first state; none when it is empty.

        Raises:
            MalformedPositionError: it is not a position.
        """
        if event_id:
            self._raise(parse_position(event_id))

    def gap(self, gap: Gap) -> None:
        """What a gap names will not come. Behind ``recreated`` the log is another one, and offsets begin again."""
        partition = partition_of(gap)
        if gap.reason == "recreated":
            _keep(self._came, partition, gap.to_offset)
            self._move(partition, gap.to_offset)
            self._suffix = ("", "")
        elif gap.to_offset > self._offsets.get(partition, -1):
            self._move(partition, gap.to_offset)

    def __len__(self) -> int:
        """How many partitions it names."""
        return len(self._offsets)

    def format(self) -> str:
        """The position as an event id, empty while nothing was seen.

        With more partitions than a server would take back, those that moved last stay; the others begin where a new
        subscriber's do.
        """
        if not self._offsets:
            return ""
        pairs = list(self._offsets.items())
        most = min(len(pairs), MAX_PARTITIONS)
        text, fits, step = shortest_position(dict(pairs[-most:])), 0, most // 2
        # Spelling takes as long as the position is: it is halved until it fits, and then made longer while that fits.
        while not text or (fits and step > fits // 16):
            if longer := shortest_position(dict(pairs[-fits - step :])):
                text, fits = longer, fits + step
            step //= 2
        return text

    def _take_id(self, record: Record, own: str) -> None:
        """Take the other partitions of a record's id, which names the record first."""
        suffix = record.topic, record.id[len(own) :]
        if not record.id.startswith(own) or suffix[1][:1].isdigit():
            raise MalformedPositionError(f"the id {record.id[:80]!a} does not begin with its record's {own}")
        if suffix != self._suffix:
            self._raise(parse_position(record.id))
            self._suffix = suffix

    def _raise(self, position: Mapping[TopicPartition, int]) -> None:
        for partition, offset in position.items():
            if offset > self._offsets.get(partition, -2):
                self._move(partition, offset)

    def _move(self, partition: TopicPartition, offset: int) -> None:
        self._offsets.pop(partition, None)
        _keep(self._offsets, partition, offset)


def _keep(offsets: dict[TopicPartition, int], partition: TopicPartition, offset: int) -> None:
    """Remember an offset, and no more than `MAX_KEPT` of them: the oldest are forgotten.

    Many at once, because a dict looks for its first key among all those that were deleted before it.
    """
    offsets[partition] = offset
    if len(offsets) > MAX_KEPT:
        for oldest in list(islice(offsets, MAX_KEPT // 16)):
            del offsets[oldest]
