"""Replays ranges of partitions to subscribers that need more than is in memory, and looks up offsets for them.

Rules of this module:

* Pull-based: a chunk is read when a subscriber asks for it, and it asks when its socket has taken the previous one. So
  the socket sets the pace, and a slow subscriber holds no more than one chunk.
* A reader is held for one chunk, not for a whole replay, so a slow subscriber makes nobody wait. At most `concurrency`
  chunks are read at a time; clients in line take turns (`Turns`).
* A reader that is asked to continue at its position has already fetched the next records.
* Each partition is answered separately. One that yields nothing occupies a reader for 50 ms if others are in line, and
  then rests (`Unreadable`): requests for it return at once without an answer, and its leader is asked in the background
  whether it answers again. Readers serve only partitions that are believed to be readable.
* Look-ups need no reader.
* Every consumer is created at start-up. If threads or address space run short, librdkafka aborts the process; that
  should happen at start-up, not at the first request for a replay.
"""

import math
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog
import trio
from confluent_kafka import KafkaException

from dispatcher.errors import ResourcesError
from dispatcher.kafka.held import RecordDecoder, decode_chunk
from dispatcher.kafka.leaders import Answer, Leaders, Properties
from dispatcher.kafka.reader import CHUNK_SECONDS, Reader
from dispatcher.kafka.turns import Turns
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.unreadable import Unreadable

log = structlog.get_logger(__name__)

SERVE_SECONDS = 5.0
"""Interval at which idle clients are polled for their log lines and errors, in a thread: four of them, polled every
second, would take a sixth of what an idle replica costs."""

REST_SECONDS = 5.0
"""A reader that was not used for this long stops fetching."""

LOOKUPS = 4
"""Maximum number of look-ups at a time."""

LOG_SECONDS = 10.0
"""Minimum time between two log lines about failed replays."""

NOTHING = Chunk((), {}, ())

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
        concurrency: Number of readers, and of chunks that are read at a time.
        batch_bytes: Records of one partition are split into batches of about this size.
        decoder: Decodes the records of some topics; None if no topic is decoded.
    """

    def __init__(
        self, properties: Properties, *, concurrency: int, batch_bytes: int, decoder: RecordDecoder | None = None
    ) -> None:
        self.leaders = Leaders(properties)
        """Looks up offsets; other parts may use its client."""
        self._decoder = decoder
        self._turns = Turns(concurrency)
        self._idle = [Reader(properties, batch_bytes, self.leaders.bounds) for _ in range(concurrency)]
        """Readers, the one that has been idle longest first."""
        self._idle_since: dict[Reader, float] = {}
        self._unreadable = Unreadable()
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._due: set[TopicPartition] = set()
        """Partitions to ask the leaders about, in the background."""
        self._due_event = trio.Event()
        self._log_at = -math.inf
        self._chunks = 0
        self._records = 0

    def open(self) -> None:
        """Create every consumer, and the client for look-ups. Blocks for a few milliseconds for each.

        Raises:
            ResourcesError: one of them cannot be created.
        """
        try:
            self.leaders.open()
            for reader in self._idle:
                reader.open()
        except KafkaException as error:
            raise ResourcesError(f"the consumers for replays cannot be created: {error.args[0].str()}") from error

    async def run(self) -> None:
        """Serve idle clients, and find out when partitions can be read again, until cancelled. *Cancellation*: safe."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_idle)
            while True:
                await self._due_event.wait()
                self._due_event = trio.Event()
                due, self._due = self._due, set()
                nursery.start_soon(self._ask_again, due)

    async def read(self, ranges: Mapping[TopicPartition, Range], max_bytes: int, client: Hashable = None) -> Chunk:
        """Read the next part of some ranges.

        *Backpressure*: waits in line for a reader. *Cancellation*: safe; once it is reading, late by at most
        `CHUNK_SECONDS`.

        Args:
            ranges: The ranges to read.
            max_bytes: The last record of a chunk is the one that reaches this size.
            client: The client whose turn this takes: clients take turns.

        Returns:
            A chunk without the next offsets of partitions that cannot be read now, or whose next record waits for its
            schema.
        """
        if not self._readable(ranges):
            await trio.lowlevel.checkpoint()
            return NOTHING
        async with self._turns.turn(client):
            # Some may have turned out to be unreadable meanwhile.
            readable = {tp: ranges[tp] for tp in self._readable(ranges)}
            if not readable:
                return NOTHING
            chunk = await self._read(readable, max_bytes)
            self._unreadable.failed(readable.keys() - chunk.next_offsets.keys(), time.monotonic())
            self._unreadable.read(tp for tp, offset in chunk.next_offsets.items() if offset > readable[tp].first)
            decoder = self._decoder
            if decoder is not None and any(batch.partition.topic in decoder.topics for batch in chunk.batches):
                read = chunk
                chunk = await _in_thread(lambda: decode_chunk(decoder, read), NOTHING, _UNLIMITED)
        if chunk.next_offsets:
            self._chunks += 1
            self._records += sum(len(batch.records) for batch in chunk.batches)
        return chunk

    async def offsets_since(
        self, partitions: Collection[TopicPartition], since_ms: int
    ) -> Mapping[TopicPartition, int | None]:
        """By partition, the offset of the first record at or after this time; None if there is no such record.

        Args:
            partitions: The partitions to look up.
            since_ms: Milliseconds since the epoch, or `EARLIEST`.

        Returns:
            The offsets, without partitions that have no answer now. *Cancellation*: safe, takes at most
            `ANSWER_SECONDS`.
        """
        return await self._look_up(partitions, lambda readable: self.leaders.offsets_since(readable, since_ms))

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Where the logs of partitions begin and end now; partitions without an answer are left out.

        *Cancellation*: safe, takes at most `ANSWER_SECONDS`.
        """
        return await self._look_up(partitions, self.leaders.bounds)

    def log_ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Answer]:
        """Ask where logs end, without waiting; see `Leaders.log_ends`. *Thread*: any."""
        return self.leaders.log_ends(partitions)

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The group's committed offsets, or the offset that ``auto.offset.reset`` selects where it has none.

        *Cancellation*: safe, takes at most `ANSWER_SECONDS`.

        Returns:
            The offsets, without partitions that have no answer now.
        """
        async with self._lookups:
            found: Mapping[TopicPartition, int] = {}
            return await _in_thread(lambda: self.leaders.committed(partitions), found, _UNLIMITED)

    async def group_is_empty(self) -> bool:
        """Whether the group is known to have no members now. *Cancellation*: as above."""
        async with self._lookups:
            return await _in_thread(self.leaders.group_is_empty, False, _UNLIMITED)

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """How many partitions topics have; topics without an answer are left out. *Cancellation*: as above."""
        async with self._lookups:
            found: Mapping[str, int] = {}
            return await _in_thread(lambda: self.leaders.partition_counts(topics), found, _UNLIMITED)

    async def close(self) -> None:
        """Close every idle reader."""
        while self._idle:
            await trio.to_thread.run_sync(self._idle.pop().close, limiter=_UNLIMITED)
        self.leaders.close()

    def statistics(self) -> ReplayStatistics:
        """A snapshot of all replays."""
        return ReplayStatistics(self._turns.taken, self._turns.waiting, self._chunks, self._records)

    async def _read(self, ranges: Mapping[TopicPartition, Range], max_bytes: int) -> Chunk:
        patience = self._unreadable.patience(ranges)

        def may_wait(seconds: float) -> bool:
            return seconds < (patience if self._turns.waiting else CHUNK_SECONDS)

        reader = self._reader_at(ranges)
        try:
            return await _in_thread(lambda: reader.read(ranges, max_bytes, may_wait), NOTHING, _UNLIMITED)
        finally:
            self._idle.append(reader)
            self._idle_since[reader] = time.monotonic()

    def _reader_at(self, ranges: Mapping[TopicPartition, Range]) -> Reader:
        """The reader that is positioned at these ranges, otherwise the one that has been idle longest.

        There is a reader for each turn.
        """
        found = next((reader for reader in self._idle if reader.is_positioned_at(ranges)), self._idle[0])
        self._idle.remove(found)
        return found

    async def _look_up(
        self,
        partitions: Collection[TopicPartition],
        look_up: Callable[[Collection[TopicPartition]], Mapping[TopicPartition, _Found]],
    ) -> Mapping[TopicPartition, _Found]:
        async with self._lookups:
            readable = self._readable(partitions)
            found: Mapping[TopicPartition, _Found] = {}
            if readable:
                found = await _in_thread(lambda: look_up(readable), found, _UNLIMITED)
        self._unreadable.failed(readable - found.keys(), time.monotonic())
        return found

    def _readable(self, partitions: Collection[TopicPartition]) -> frozenset[TopicPartition]:
        """The partitions that are believed to be readable; leaders of others are asked in the background when due."""
        asked = self._unreadable.ask(partitions, time.monotonic())
        if asked.due:
            self._due |= asked.due
            self._due_event.set()
        return asked.readable

    async def _ask_again(self, partitions: Collection[TopicPartition]) -> None:
        async with self._lookups:
            found: Mapping[TopicPartition, Bounds] = {}
            found = await _in_thread(lambda: self.leaders.bounds_of_new_leaders(partitions), found, _UNLIMITED)
        self._unreadable.answered(found.keys())
        silent = partitions - found.keys()
        self._unreadable.failed(silent, time.monotonic())
        if silent and time.monotonic() - self._log_at >= LOG_SECONDS:
            self._log_at = time.monotonic()
            log.warning("replays waiting: partitions unreadable", partitions=[str(tp) for tp in sorted(silent)])

    async def _serve_idle(self) -> None:
        while True:
            await trio.sleep(SERVE_SECONDS)
            for reader in tuple(self._idle):
                async with self._turns.turn(self):
                    # Another task may have taken it during one of the waits in this loop.
                    if reader in self._idle and not self._may_be_wanted(reader):
                        at = self._idle.index(reader)
                        self._idle.remove(reader)
                        try:
                            await _in_thread(lambda reader=reader: _rest(reader), None, _UNLIMITED)  # type: ignore[misc]
                        finally:
                            self._idle.insert(at, reader)

    def _may_be_wanted(self, reader: Reader) -> bool:
        """Whether a subscriber may return for what a positioned reader holds: then it must not be polled."""
        return reader.is_positioned and time.monotonic() - self._idle_since.get(reader, -math.inf) < REST_SECONDS


def _rest(reader: Reader) -> None:
    reader.rest()
    reader.serve()


async def _in_thread(do: Callable[[], _Found], instead: _Found, limiter: trio.CapacityLimiter) -> _Found:
    """Call a function in a worker thread; return `instead` if a client or the thread fails or cannot be created."""
    try:
        return await trio.to_thread.run_sync(do, limiter=limiter)
    except (KafkaException, RuntimeError, MemoryError) as error:
        # "can't start new thread" is a RuntimeError, which must not end the process: one client gets no answer.
        log.warning("replay or offset lookup failed", error=str(error))
        return instead


_UNLIMITED = trio.CapacityLimiter(1_000)
"""Threads are bounded by turns and by the limiter of look-ups."""
