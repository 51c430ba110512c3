"""A consumer without a group, which reads ranges of partitions. It commits nothing, and every call has a timeout.

librdkafka may stop fetching a partition without an error (`sansio.stalls`). Whoever reads asks the leaders in between
(`Replays`), so a consumer that still yields nothing, read after read, is replaced.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import cast

import confluent_kafka
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from dispatcher.kafka.decoding import Group, grouped, split_errors
from dispatcher.kafka.properties import LIBRDKAFKA_LOG
from dispatcher.sansio.ranges import Bounds, Chunk, Gap, Range
from dispatcher.sansio.records import Batch, TopicPartition

log = structlog.get_logger(__name__)

CHUNK_SECONDS = 1.0
"""A chunk that is not full by then is returned anyway, even if records still trickle in."""

EMPTY_SECONDS = 0.05
"""A poll without a record in this time ends a chunk that has records, or while other subscribers wait in line."""

VAIN_SECONDS = (5.0, 60.0)
"""After so long without a record, end or error a consumer is replaced: at first, and at most. It doubles each time, for
brokers whose quotas delay fetches, until something arrives."""

MAX_MESSAGES = 10_000
"""Maximum number of messages taken from a consumer at a time."""

PROPERTIES: Mapping[str, str | int | bool] = {
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    # These bound a reader's memory, which the README's formula includes.
    "queued.max.messages.kbytes": 1024,
    "queued.min.messages": 1000,
    "fetch.max.bytes": 1024 * 1024,
    "fetch.queue.backoff.ms": 20,
    "fetch.wait.max.ms": 100,
}
"""A reader's properties in addition to the connection settings of the group's consumer."""

_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}  # noqa: SLF001 - how local codes are spelled


class Reader:
    """A consumer that remembers its position.

    *Thread*: everything but `is_positioned` and `is_positioned_at` runs in worker threads, one at a time.

    Args:
        properties: librdkafka's connection settings.
        batch_bytes: Records of one partition are split into batches of about this size.
        bounds: Asks the leaders where logs begin and end; leaves out partitions without an answer.
    """

    def __init__(
        self,
        properties: Mapping[str, str | int | float | bool],
        batch_bytes: int,
        bounds: Callable[[Collection[TopicPartition]], Mapping[TopicPartition, Bounds]],
    ) -> None:
        self._properties = {**properties, **PROPERTIES}
        self._batch_bytes = batch_bytes
        self._bounds = bounds
        self._consumer: Consumer | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._fetches = False
        """Whether the consumer is fetching, even where no subscriber continues."""
        self._record_bytes = 0
        """Mean memory per record of the last messages; 0 if there were none."""
        self._overfetched = False
        """Whether more was taken from the consumer than fits, so that its position is past the end of the chunk."""
        self._vain_since: float | None = None
        """When the first of the latest reads began, if none of them has yielded anything."""
        self._vain_seconds = VAIN_SECONDS[0]
        self._unread: set[TopicPartition] = set()
        """Partitions that this chunk leaves out: they failed, or the ends of their logs are not known yet."""

    def open(self) -> Consumer:
        """Create the consumer, unless it exists.

        Raises:
            KafkaException: the consumer cannot be created.
        """
        if self._consumer is None:
            self._consumer = Consumer(dict(self._properties), logger=LIBRDKAFKA_LOG)
        return self._consumer

    def is_positioned_at(self, ranges: Mapping[TopicPartition, Range]) -> bool:
        """Whether its position is where these ranges begin."""
        return self._positions == {partition: part.first for partition, part in ranges.items()}

    @property
    def is_positioned(self) -> bool:
        """Whether it is fetching, for a subscriber that may return for the records."""
        return bool(self._positions)

    def read(self, ranges: Mapping[TopicPartition, Range], max_bytes: int, may_wait: Callable[[float], bool]) -> Chunk:
        """Read the next part of some ranges.

        If that fails, the consumer is dropped.

        Args:
            ranges: What to read.
            max_bytes: The last record of a chunk is the one that reaches this size.
            may_wait: Called every `EMPTY_SECONDS` with the seconds passed; says whether to keep waiting for the first
                record.

        Returns:
            A chunk without the next offsets of partitions that could not be read: because of errors, or because a
            leader is unreachable or newly elected. If nothing arrived, the chunk has no next offsets at all.

        Raises:
            KafkaException: the consumer failed.
        """
        try:
            return self._read(ranges, max_bytes, may_wait)
        except Exception:
            # Whatever failed, the consumer's position may be past records that were not returned.
            self.close()
            raise

    def _read(self, ranges: Mapping[TopicPartition, Range], max_bytes: int, may_wait: Callable[[float], bool]) -> Chunk:
        consumer = self.open()
        if not self.is_positioned_at(ranges):
            self._go_to({partition: part.first for partition, part in ranges.items()})
        left = dict(ranges)
        self._overfetched = False
        self._unread = set()
        batches: list[Batch] = []
        gaps: list[Gap] = []
        room_bytes = max_bytes
        begin = time.monotonic()
        while left and room_bytes > 0 and (seconds := time.monotonic() - begin) < CHUNK_SECONDS:
            messages = self._take(consumer, room_bytes)
            if not messages:
                if len(left) < len(ranges) or batches or gaps or not may_wait(seconds):
                    break
                continue
            records, events = split_errors(messages)
            for group in grouped(records, self._batch_bytes):
                self._record_bytes = group.records.size_bytes // len(group.records)
                for batch in self._take_wanted(left, group, room_bytes):
                    batches.append(batch)
                    room_bytes -= batch.records.size_bytes
            for message, error in events:
                gaps += self._take_event(left, message, error)
        positions = {partition: self._positions.get(partition, part.end) for partition, part in ranges.items()}
        if len(left) == len(ranges) and not batches and not gaps:
            # Nothing arrived. The fetches continue, for a subscriber that asks for the same again.
            self._unread |= left.keys()
            self._read_in_vain(begin, left)
        else:
            self._vain_since, self._vain_seconds = None, VAIN_SECONDS[0]
        unread = {partition for partition in self._unread if positions[partition] == ranges[partition].first}
        if self._overfetched or self._unread - left.keys():
            self._positions = {}
        return Chunk(batches, {tp: offset for tp, offset in positions.items() if tp not in unread}, gaps)

    def _take(self, consumer: Consumer, max_bytes: int) -> list[Message]:
        """Wait for a message, then take as many more as fit, assuming that they are as large as the last ones."""
        first = consumer.poll(EMPTY_SECONDS)
        more = max_bytes // self._record_bytes - 1 if self._record_bytes else 0
        if first is None or more <= 0:
            return [] if first is None else [first]
        return [first, *consumer.consume(min(more, MAX_MESSAGES), 0)]

    def _take_wanted(self, left: dict[TopicPartition, Range], group: Group, room_bytes: int) -> Iterator[Batch]:
        """The wanted records of a group, up to the one that fills the chunk; those after it are fetched again."""
        partition, records, leader_epoch = group
        if partition not in left or self._overfetched:
            return
        end = left[partition].end
        wanted = records[: bisect_left(records.offsets, end)]
        if wanted.size_bytes > room_bytes:
            fits = bisect_left(range(len(wanted)), room_bytes, key=lambda number: wanted[:number].size_bytes)
            self._overfetched = fits < len(wanted)
            wanted = wanted[:fits]
        if wanted:
            self._positions[partition] = wanted.offsets[-1] + 1
            yield Batch(partition, wanted, leader_epoch=leader_epoch)
        if not self._overfetched and records.offsets[-1] + 1 >= end:
            self._finish(left, partition)

    def _take_event(self, left: dict[TopicPartition, Range], message: Message, error: KafkaError) -> Iterable[Gap]:
        """Apply an end or an error to the ranges."""
        partition = TopicPartition(cast("str", message.topic()), cast("int", message.partition()))
        if error.fatal():
            raise KafkaException(error)
        if partition in left and not self._overfetched:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - how local codes are spelled
                return self._at_end(left, partition, cast("int", message.offset()))
            if error.code() in _OUT_OF_RANGE:
                return self._out_of_range(left, partition)
            self._give_up(left, partition)
        return ()

    def _read_in_vain(self, begin: float, partitions: Collection[TopicPartition]) -> None:
        """Drop the consumer if it has yielded nothing for too long."""
        if self._vain_since is None:
            self._vain_since = begin
        elif time.monotonic() - self._vain_since >= self._vain_seconds:
            log.warning("replays yield nothing, replacing a reader", partitions=[str(tp) for tp in sorted(partitions)])
            self.close()
            self._vain_since, self._vain_seconds = None, min(2 * self._vain_seconds, VAIN_SECONDS[1])

    def rest(self) -> None:
        """Stop fetching: no subscriber has returned for the records."""
        if self._consumer is not None and self._fetches:
            self._consumer.unassign()
        self._positions, self._fetches, self._vain_since = {}, False, None

    def serve(self) -> None:
        """Take the client's log lines and errors while it rests.

        They queue without a bound until the client is polled: several per second while a broker is unreachable.
        """
        while self._consumer is not None and self._consumer.poll(0) is not None:
            pass

    def close(self) -> None:
        """Close the connections."""
        consumer, self._consumer, self._positions, self._fetches = self._consumer, None, {}, False
        if consumer is not None:
            consumer.close()

    def _go_to(self, positions: Mapping[TopicPartition, int]) -> None:
        assert self._consumer is not None  # noqa: S101 - `read` made it
        self._positions, self._fetches = dict(positions), True
        self._consumer.assign([confluent_kafka.TopicPartition(*p, offset) for p, offset in positions.items()])

    def _finish(self, left: dict[TopicPartition, Range], partition: TopicPartition) -> None:
        """Stop reading a partition: nothing after its range is wanted."""
        self._stop_reading(left, partition)
        self._positions.pop(partition, None)

    def _give_up(self, left: dict[TopicPartition, Range], partition: TopicPartition) -> None:
        """Stop reading a partition in this chunk: the rest of its range is requested later."""
        self._stop_reading(left, partition)
        self._unread.add(partition)

    def _stop_reading(self, left: dict[TopicPartition, Range], partition: TopicPartition) -> None:
        assert self._consumer is not None  # noqa: S101 - `read` made it
        del left[partition]
        self._consumer.incremental_unassign([confluent_kafka.TopicPartition(*partition)])

    def _at_end(self, left: dict[TopicPartition, Range], partition: TopicPartition, end: int) -> Iterable[Gap]:
        """A fetch has reached the end of the log.

        If that is before the end of the range, the log was truncated, or the leader has just been elected and does not
        know its high watermark yet (KIP-207). So the leader is asked: it answers only once it does.
        """
        part = left[partition]
        if end >= part.end:
            self._finish(left, partition)
            return ()
        position = max(end, self._positions[partition])
        bounds = self._bounds([partition]).get(partition)
        if bounds is None or bounds.end > position:
            self._give_up(left, partition)
            return ()
        self._finish(left, partition)
        return (Gap(partition, position, part.end - 1, "truncated"),)

    def _out_of_range(self, left: dict[TopicPartition, Range], partition: TopicPartition) -> Iterable[Gap]:
        """A broker does not have the position: the log begins after it, or ends before it, or the broker lags."""
        assert self._consumer is not None  # noqa: S101 - `read` made it
        part, position = left[partition], self._positions[partition]
        bounds = self._bounds([partition]).get(partition)
        if bounds is None or bounds.first <= position <= bounds.end:
            self._give_up(left, partition)
            return ()
        self._finish(left, partition)
        if position > bounds.end:
            return (Gap(partition, position, part.end - 1, "truncated"),)
        if bounds.first < part.end:
            left[partition] = part
            self._positions[partition] = bounds.first
            self._consumer.incremental_assign([confluent_kafka.TopicPartition(*partition, bounds.first)])
        return (Gap(partition, position, min(bounds.first, part.end) - 1, "expired"),)
