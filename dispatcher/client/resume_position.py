"""What a client has seen: the merged position of all partitions over all replicas, which also identifies repeats.

An id names the partitions of the replica that sent it. A client that has read from several replicas, each with a part
of the partitions, keeps the offsets of all of them itself.
"""

from collections.abc import Mapping
from itertools import islice

from dispatcher.client.events import Gap, Record, partition_of
from dispatcher.errors import MalformedPositionError
from dispatcher.sansio.compact_position import MAX_PARTITIONS
from dispatcher.sansio.position import parse_position, shortest_position
from dispatcher.sansio.records import TopicPartition

MAX_KEPT = 65_536
"""Maximum number of remembered partitions, because a server may name new ones for ever. Ids name at most 8,192."""


class ResumePosition:
    """Where to resume, and which records were received.

    These are different. An id also names quiet partitions, of which this client received nothing: it resumes at their
    offsets, but a record at or below such an offset is not a repeat.

    Args:
        position: The offsets that were seen before.
    """

    def __init__(self, position: Mapping[TopicPartition, int] | None = None) -> None:
        self._came: dict[TopicPartition, int] = dict(position or {})
        """The highest offset of each partition in the first pair of an id."""
        self._offsets: dict[TopicPartition, int] = dict(position or {})
        """The highest offset of each partition in any id; the partition that moved last is last."""
        self._suffix = ("", "")
        """Topic and other partitions of the last id: the ids of one batch share them, so they are read once."""

    def record(self, record: Record) -> bool:
        """Take a record; returns False if it is a repeat.

        Raises:
            MalformedPositionError: its id is not a position, or names another record.
        """
        partition = partition_of(record)
        own = f"{partition}={record.offset}"
        if record.id != own:
            self._take_id(record, own)
        if record.offset <= self._came.get(partition, -1):
            return False
        keep(self._came, partition, record.offset)
        if record.offset > self._offsets.get(partition, -2):
            self._move(partition, record.offset)
        return True

    def move_to(self, event_id: str) -> None:
        """Take a position that names no record: the id of a heartbeat or of a first state, which may be empty.

        Raises:
            MalformedPositionError: it is not a position.
        """
        if event_id:
            self._raise(parse_position(event_id))

    def gap(self, gap: Gap) -> None:
        """Take a gap: its offsets will not be sent. After a ``recreated`` one, the new log's offsets start over."""
        partition = partition_of(gap)
        if gap.reason == "recreated":
            keep(self._came, partition, gap.to_offset)
            self._move(partition, gap.to_offset)
            self._suffix = ("", "")
        elif gap.to_offset > self._offsets.get(partition, -1):
            self._move(partition, gap.to_offset)

    def __len__(self) -> int:
        """The number of partitions in it."""
        return len(self._offsets)

    def format(self) -> str:
        """The position as an event id; empty while nothing was seen.

        If it has more partitions than a server would accept, those that moved last stay; the others begin where a new
        subscriber's would.
        """
        if not self._offsets:
            return ""
        pairs = list(self._offsets.items())
        most = min(len(pairs), MAX_PARTITIONS)
        text, fits, step = shortest_position(dict(pairs[-most:])), 0, most // 2
        # Formatting takes time in proportion to the length: the position is halved until it fits, then extended while
        # it still fits.
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
        keep(self._offsets, partition, offset)


def keep(offsets: dict[TopicPartition, int], partition: TopicPartition, offset: int) -> None:
    """Remember an offset, and at most `MAX_KEPT` of them: the oldest are forgotten.

    Many are forgotten at once, because a dict finds its first key by skipping all deleted ones before it.
    """
    offsets[partition] = offset
    if len(offsets) > MAX_KEPT:
        for oldest in list(islice(offsets, MAX_KEPT // 16)):
            del offsets[oldest]
