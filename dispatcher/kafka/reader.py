"""A consumer without a group, which reads ranges of partitions. It commits nothing, and no call lacks a timeout."""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from dispatcher.kafka.decoding import Group, grouped, told_apart
from dispatcher.kafka.properties import LIBRDKAFKA_LOG
from dispatcher.sansio.ranges import Bounds, Chunk, Gap, Range
from dispatcher.sansio.records import Batch, TopicPartition

CHUNK_SECONDS = 1.0
"""A chunk that is not full by then goes as it is: who waits in line must not wait for a broker that is away."""

MOST_MESSAGES = 10_000
"""Most messages that are taken from a consumer at a time."""

LOOK_SECONDS = 5.0
"""Longest look for where a partition begins and ends."""

PROPERTIES: Mapping[str, str | int | bool] = {
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    # A reader's memory, of which the README's formula knows.
    "queued.max.messages.kbytes": 1024,
    "queued.min.messages": 1000,
    "fetch.max.bytes": 1024 * 1024,
    "fetch.queue.backoff.ms": 20,
    "fetch.wait.max.ms": 100,
}
"""What a reader has beside the connection settings of the group's consumer."""


class Reader:
    """A consumer that stands somewhere.

    *Thread*: everything but `stands_at` runs in a worker thread, one at a time.

    Args:
        properties: librdkafka's connection settings.
        batch_bytes: Records of one partition are cut into batches of about this size.
    """

    def __init__(self, properties: Mapping[str, str | int | float | bool], batch_bytes: int) -> None:
        self._properties = {**properties, **PROPERTIES}
        self._batch_bytes = batch_bytes
        self._consumer: Consumer | None = None
        self._places: dict[TopicPartition, int] = {}
        self._record_bytes = 0
        """Memory that each of the last records holds; 0 when there was none."""
        self._has_too_much = False
        """Whether more was taken from the consumer than there was room for: it stands too far then."""

    def stands_at(self, ranges: Mapping[TopicPartition, Range]) -> bool:
        """Whether it goes on where these ranges begin."""
        return self._places == {partition: part.first for partition, part in ranges.items()}

    def read(self, ranges: Mapping[TopicPartition, Range], most_bytes: int) -> Chunk:
        """The next part of some ranges; its consumer is given up when that fails."""
        try:
            return self._read(ranges, most_bytes)
        except KafkaException:
            self.close()
            raise

    def _read(self, ranges: Mapping[TopicPartition, Range], most_bytes: int) -> Chunk:
        consumer = self._made()
        if not self.stands_at(ranges):
            self._go_to({partition: part.first for partition, part in ranges.items()})
        left = dict(ranges)
        self._has_too_much = False
        batches: list[Batch] = []
        gaps: list[Gap] = []
        room_bytes = most_bytes
        deadline = time.monotonic() + CHUNK_SECONDS
        while left and room_bytes > 0 and (seconds := deadline - time.monotonic()) > 0:
            messages = self._take(consumer, room_bytes, seconds)
            if not messages:
                break
            records, told = told_apart(messages)
            for group in grouped(records, self._batch_bytes):
                self._record_bytes = group.records.size_bytes // len(group.records)
                for batch in self._wanted(left, group, room_bytes):
                    batches.append(batch)
                    room_bytes -= batch.records.size_bytes
            for message, error in told:
                gaps += self._told(left, message, error)
        next_offsets = {partition: self._places.get(partition, part.end) for partition, part in ranges.items()}
        if self._has_too_much:
            self._places = {}
        return Chunk(batches, next_offsets, gaps)

    def _take(self, consumer: Consumer, most_bytes: int, seconds: float) -> list[Message]:
        """Wait for a message, then take what else is there and fits, if the next are as large as the last ones."""
        first = consumer.poll(seconds)
        more = most_bytes // self._record_bytes - 1 if self._record_bytes else 0
        if first is None or more <= 0:
            return [] if first is None else [first]
        return [first, *consumer.consume(min(more, MOST_MESSAGES), 0)]

    def _wanted(self, left: dict[TopicPartition, Range], group: Group, room_bytes: int) -> Iterator[Batch]:
        """What is wanted of a group, up to the record that takes the last of the room; the others are fetched again."""
        partition, records, leader_epoch = group
        if partition not in left or self._has_too_much:
            return
        end = left[partition].end
        wanted = records[: bisect_left(records.offsets, end)]
        if wanted.size_bytes > room_bytes:
            fits = bisect_left(range(len(wanted)), room_bytes, key=lambda number: wanted[:number].size_bytes)
            self._has_too_much = fits < len(wanted)
            wanted = wanted[:fits]
        if wanted:
            self._places[partition] = wanted.offsets[-1] + 1
            yield Batch(partition, wanted, leader_epoch=leader_epoch)
        if not self._has_too_much and records.offsets[-1] + 1 >= end:
            self._done(left, partition)

    def _told(self, left: dict[TopicPartition, Range], message: Message, error: KafkaError) -> Iterable[Gap]:
        """What an end or an error means for who reads."""
        partition = TopicPartition(cast("str", message.topic()), cast("int", message.partition()))
        if error.fatal():
            raise KafkaException(error)
        if partition in left and not self._has_too_much:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the public spelling of local codes
                return self._at_end(left, partition, cast("int", message.offset()))
            if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
                return self._out_of_range(left, partition)
        return ()

    def offsets_since(self, partitions: Iterable[TopicPartition], since_ms: int) -> dict[TopicPartition, int]:
        """By partition, the offset of the first record with this time or a later one, if there is any."""
        consumer = self._made()
        asked = [confluent_kafka.TopicPartition(*partition, since_ms) for partition in partitions]
        offsets = {}
        for answer in consumer.offsets_for_times(asked, timeout=LOOK_SECONDS):
            if answer.error is not None:
                raise KafkaException(answer.error)
            if answer.offset >= 0:
                offsets[TopicPartition(answer.topic, answer.partition)] = answer.offset
        return offsets

    def bounds(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """Where the logs of partitions begin and end now."""
        consumer = self._made()
        return {
            partition: Bounds(
                *consumer.get_watermark_offsets(confluent_kafka.TopicPartition(*partition), timeout=LOOK_SECONDS)
            )
            for partition in partitions
        }

    def _made(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(dict(self._properties), logger=LIBRDKAFKA_LOG)
        return self._consumer

    def close(self) -> None:
        """Let go of the connections."""
        consumer, self._consumer, self._places = self._consumer, None, {}
        if consumer is not None:
            consumer.close()

    def _go_to(self, places: Mapping[TopicPartition, int]) -> None:
        assert self._consumer is not None  # noqa: S101 - `read` has made it
        self._places = dict(places)
        self._consumer.assign([confluent_kafka.TopicPartition(*p, offset) for p, offset in places.items()])

    def _done(self, left: dict[TopicPartition, Range], partition: TopicPartition) -> None:
        """Read no more of a partition: nobody wants what comes behind its range."""
        assert self._consumer is not None  # noqa: S101 - `read` has made it
        del left[partition]
        self._places.pop(partition, None)
        self._consumer.incremental_unassign([confluent_kafka.TopicPartition(*partition)])

    def _at_end(self, left: dict[TopicPartition, Range], partition: TopicPartition, end: int) -> Iterable[Gap]:
        """The log ends here: at the end of the range, or the log has been cut below it."""
        part = left[partition]
        if end >= part.end:
            self._done(left, partition)
            return ()
        place = max(end, self._places[partition])
        self._done(left, partition)
        return (Gap(partition, place, part.end - 1, "truncated"),)

    def _out_of_range(self, left: dict[TopicPartition, Range], partition: TopicPartition) -> Iterable[Gap]:
        """The log begins behind the place, or ends before it."""
        assert self._consumer is not None  # noqa: S101 - `read` has made it
        low, _ = self._consumer.get_watermark_offsets(confluent_kafka.TopicPartition(*partition), timeout=LOOK_SECONDS)
        part, place = left[partition], self._places[partition]
        self._done(left, partition)
        if low <= place:
            return (Gap(partition, place, part.end - 1, "truncated"),)
        if low < part.end:
            left[partition] = part
            self._places[partition] = low
            self._consumer.incremental_assign([confluent_kafka.TopicPartition(*partition, low)])
        return (Gap(partition, place, min(low, part.end) - 1, "expired"),)
