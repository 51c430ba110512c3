"""Reads ranges of partitions again, for subscribers that are behind what is in memory.

Rules of this module:

* Pull-based: a chunk is read when a subscriber asks for it, and it asks when its socket has taken the one before. So
  the socket sets the pace, and a slow subscriber holds no more than one chunk.
* A reader is held for one chunk, not for a whole replay: who is slow makes nobody wait. At most `concurrency` chunks
  are read at a time; others wait in line, first come, first served.
* A reader that is asked to go on where it stands has the next records fetched already.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog
import trio
from confluent_kafka import KafkaException

from dispatcher.kafka.reader import Reader
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import TopicPartition

log = structlog.get_logger(__name__)

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class ReplayStatistics:
    """A snapshot of all replays."""

    running: int
    """Chunks that are being read."""
    waiting: int
    """Subscribers in line."""
    chunks: int
    records: int


class Replays:
    """Reads chunks for subscribers.

    *Thread*: Trio's; each reader is used by one worker thread at a time.

    Args:
        properties: librdkafka's connection settings.
        concurrency: Most chunks at a time, and most readers.
        batch_bytes: Records of one partition are cut into batches of about this size.
    """

    def __init__(
        self, properties: Mapping[str, str | int | float | bool], *, concurrency: int, batch_bytes: int
    ) -> None:
        self._properties = properties
        self._batch_bytes = batch_bytes
        self._limiter = trio.CapacityLimiter(concurrency)
        self._idle: list[Reader] = []
        self._chunks = 0
        self._records = 0

    async def read(self, ranges: Mapping[TopicPartition, Range], most_bytes: int) -> Chunk | None:
        """Read the next part of some ranges; None when nothing came, such as when no broker answers.

        *Backpressure*: waits in line for a reader. *Cancellation*: safe; at most `CHUNK_SECONDS` late once it reads.
        """
        async with self._limiter:
            reader = self._reader_at(ranges)
            try:
                chunk = await trio.to_thread.run_sync(reader.read, ranges, most_bytes, limiter=_UNLIMITED)
            except KafkaException as error:
                log.warning("replay failed, its consumer is given up", error=str(error))
                return None
            finally:
                self._idle.append(reader)
        starts = {partition: part.first for partition, part in ranges.items()}
        if not chunk.batches and not chunk.gaps and chunk.next_offsets == starts:
            return None
        self._chunks += 1
        self._records += sum(len(batch.records) for batch in chunk.batches)
        return chunk

    async def offsets_since(
        self, partitions: Iterable[TopicPartition], since_ms: int
    ) -> Mapping[TopicPartition, int] | None:
        """By partition, the offset of the first record with this time or a later one, if there is any.

        Args:
            partitions: Where to look.
            since_ms: Milliseconds since the epoch, or `EARLIEST`.

        Returns:
            None when no broker answers. *Cancellation*: safe, at most `LOOK_SECONDS` late.
        """
        return await self._look_up(lambda reader: reader.offsets_since(partitions, since_ms))

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds] | None:
        """Where the logs of partitions begin and end now; None when no broker answers.

        *Cancellation*: safe, at most `LOOK_SECONDS` late for each partition.
        """
        return await self._look_up(lambda reader: reader.bounds(partitions))

    async def _look_up(self, look: Callable[[Reader], _Found]) -> _Found | None:
        async with self._limiter:
            reader = self._idle.pop() if self._idle else Reader(self._properties, self._batch_bytes)
            try:
                return await trio.to_thread.run_sync(look, reader, limiter=_UNLIMITED)
            except KafkaException as error:
                log.warning("offsets could not be looked up", error=str(error))
                return None
            finally:
                self._idle.append(reader)

    async def close(self) -> None:
        """Let go of every reader that is idle."""
        while self._idle:
            await trio.to_thread.run_sync(self._idle.pop().close, limiter=_UNLIMITED)

    def statistics(self) -> ReplayStatistics:
        """A snapshot of all replays."""
        limiter = self._limiter.statistics()
        return ReplayStatistics(limiter.borrowed_tokens, limiter.tasks_waiting, self._chunks, self._records)

    def _reader_at(self, ranges: Mapping[TopicPartition, Range]) -> Reader:
        """The reader that stands where this goes on, else the one that has been idle for the longest time."""
        for reader in self._idle:
            if reader.stands_at(ranges):
                self._idle.remove(reader)
                return reader
        # Each token that is taken stands for a reader in use, the one for this included.
        if self._idle and len(self._idle) + self._limiter.borrowed_tokens > self._limiter.total_tokens:
            return self._idle.pop(0)
        return Reader(self._properties, self._batch_bytes)


_UNLIMITED = trio.CapacityLimiter(1_000)
"""Threads are bounded by the readers, which are."""
