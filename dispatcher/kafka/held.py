"""Passes records through a decoder: those that have to wait hold up their own partition, and no other.

Rules of this module:

* Each partition stays in order: everything that follows a waiting record waits as well, including gaps and ends.
* The poller pauses the partitions that are held, and offers their waiting records to the decoder again with each poll.
  A decoder never waits.
* One call is bounded: records that are not decoded within `PASS_SECONDS` wait for the next poll.

*Thread*: the consumer's.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Protocol

from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.decoding import Group
from dispatcher.sansio.ranges import Chunk, Gap
from dispatcher.sansio.records import Batch, Records, TopicPartition

PASS_SECONDS = 0.5
"""How long decoding may delay the next poll: far less than the group allows."""

ASKED_SECONDS = 0.1
"""The same for topics that only some subscribers ask to have decoded: what is left is decoded elsewhere, and delays no
other subscriber."""


class RecordDecoder(Protocol):
    """Decodes the records of some topics. *Thread*: any, several at a time."""

    topics: frozenset[str]
    """Topics that it decodes for all subscribers."""
    asked: frozenset[str]
    """Topics that some subscriber currently asks to have decoded; other subscribers are sent what Kafka delivered."""

    def decode(self, topic: str, records: Records) -> Records:
        """Decode consecutive records of a partition, up to the first that has to wait. Never waits."""


class HeldRecords:
    """The waiting records, by partition.

    Args:
        decoder: Decodes records.
    """

    def __init__(self, decoder: RecordDecoder) -> None:
        self._decoder = decoder
        self._queues: dict[TopicPartition, deque[Group | Gap | int]] = {}
        """Groups, gaps and ends, in order; the first item is a waiting group, or follows a group that was passed on."""

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """The partitions with waiting records."""
        return frozenset(self._queues)

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget waiting records of partitions that leave or start over: they will be read again."""
        for partition in partitions:
            self._queues.pop(partition, None)

    def pass_on(self, result: PollResult) -> None:
        """Decode a poll's records: take out of its result what has to wait, and add what no longer has to.

        Args:
            result: Changed in place. Records of other topics stay unchanged.
        """
        queues = self._queues
        if not (queues or (result.groups and (self._decoder.topics or self._decoder.asked))):
            return
        for gap in result.gaps:
            if gap.partition in queues:
                queues[gap.partition].append(gap)
        result.gaps = [gap for gap in result.gaps if gap.partition not in queues]
        groups, result.groups = result.groups, []
        result.groups += self._at_once(groups)
        for partition, end in list(result.ends.items()):
            if partition in queues:
                queues[partition].append(end)
                del result.ends[partition]
        deadline = time.monotonic() + PASS_SECONDS
        for partition in list(queues):
            if time.monotonic() >= deadline:
                break
            self._pass_on(partition, result)
            if queues[partition]:
                # Move it to the end: the next call begins with other partitions.
                queues[partition] = queues.pop(partition)
            else:
                del queues[partition]

    def _at_once(self, groups: Iterable[Group]) -> Iterator[Group]:
        """The groups that need not wait, because their topics are not decoded for all; the others are queued."""
        topics, asked, asked_until = self._decoder.topics, self._decoder.asked, time.monotonic() + ASKED_SECONDS
        for group in groups:
            if group.partition.topic in topics:
                self._queues.setdefault(group.partition, deque()).append(group)
            elif group.partition.topic in asked and time.monotonic() < asked_until:
                yield from self._asked(group)
            else:
                yield group

    def _asked(self, group: Group) -> Iterator[Group]:
        """Decode what needs no waiting, for subscribers that ask. The rest waits in the history, delaying only them."""
        records = group.records
        part = self._decoder.decode(group.partition.topic, records)
        if part:
            yield group._replace(records=part.with_asked(part.decoded))
        if len(part) < len(records):
            yield group._replace(records=records[len(part) :])

    def _pass_on(self, partition: TopicPartition, result: PollResult) -> None:
        """Pass on what one partition need not hold back: in a result, gaps precede groups, and ends follow them."""
        queue = self._queues[partition]
        has_records = False
        while queue:
            item = queue[0]
            if isinstance(item, Gap):
                if has_records:
                    return
                result.gaps.append(item)
            elif isinstance(item, int):
                result.ends[partition] = item
                queue.popleft()
                return
            else:
                decoded = self._decoder.decode(partition.topic, item.records)
                if decoded:
                    has_records = True
                    result.groups.append(item._replace(records=decoded))
                if len(decoded) < len(item.records):
                    queue[0] = item._replace(records=item.records[len(decoded) :])
                    return
            queue.popleft()


def decode_chunk(decoder: RecordDecoder, chunk: Chunk, asked: AbstractSet[str] = frozenset()) -> Chunk:
    """Decode replayed records, up to the first record of each partition that has to wait.

    Args:
        decoder: Decodes the records.
        chunk: The replayed records.
        asked: Topics to decode for a subscriber that asks, instead of those that are decoded for all.

    Returns:
        The chunk, without the next offsets of partitions that yield nothing yet.
    """
    stops: dict[TopicPartition, int] = {}
    batches: list[Batch] = []
    for batch in chunk.batches:
        partition = batch.partition
        if partition.topic not in (asked or decoder.topics):
            batches.append(batch)
        elif partition not in stops:
            decoded = decoder.decode(partition.topic, batch.records)
            if asked:
                decoded = decoded.with_asked(decoded.decoded)
            if decoded:
                batches.append(Batch(partition, decoded, leader_epoch=batch.leader_epoch, gap=batch.gap))
            if len(decoded) < len(batch.records):
                stops[partition] = batch.records.offsets[len(decoded)]
    if not stops:
        return Chunk(batches, chunk.next_offsets, chunk.gaps)
    next_offsets = {tp: stops.get(tp, offset) for tp, offset in chunk.next_offsets.items()}
    gaps = [gap for gap in chunk.gaps if gap.first < stops.get(gap.partition, gap.first + 1)]
    begun = {batch.partition for batch in batches} | {gap.partition for gap in gaps}
    waiting = stops.keys() - begun
    return Chunk(batches, {tp: offset for tp, offset in next_offsets.items() if tp not in waiting}, gaps)
