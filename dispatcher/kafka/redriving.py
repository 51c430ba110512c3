"""Reads a dead-letter topic, and writes records back to their topics, each exactly once, in transactions.

A transaction contains some records and the commit that marks them as redriven, so a run that is killed at any moment
and started again redrives no letter twice. A second run at the same time makes the first one fail (Kafka fences it).

*Thread*: any, one at a time; it blocks.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from dispatcher.errors import KafkaClientError
from dispatcher.kafka.properties import LIBRDKAFKA_LOG
from dispatcher.sansio.redrive import Done, Origin, Wanted, origin_of

ANSWER_SECONDS = 30.0
"""Maximum wait for any answer from a broker."""

BATCH_LETTERS = 500
"""Maximum number of records in one transaction."""

PAUSE_SECONDS = 0.2
"""Maximum time between two looks at whether to stop."""


@dataclass(slots=True)
class Report:
    """What a run did, or would do."""

    redriven: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Redriven letters by the record's topic and reason."""
    left: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Letters that were left out, likewise; ``?`` for records without the headers of a letter."""
    before: int = 0
    """Letters that this run read although an earlier one had redriven them."""


class Redriving:
    """One run over one dead-letter topic.

    Args:
        properties: librdkafka's connection settings.
        group: The group whose commits record what was redriven; its name is also the producer's transactional id.
        topic: The dead-letter topic.
        is_dry: Whether to write nothing.
    """

    def __init__(
        self, properties: Mapping[str, str | int | float | bool], group: str, topic: str, *, is_dry: bool
    ) -> None:
        self._topic = topic
        self._is_dry = is_dry
        consumed = {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
        self._consumer = Consumer({**properties, **consumed}, logger=LIBRDKAFKA_LOG)
        produced = {"transactional.id": group, "message.max.bytes": 256 * 1024 * 1024, "partitioner": "murmur2_random"}
        self._producer = None if is_dry else Producer({**properties, **produced}, logger=LIBRDKAFKA_LOG)
        self._partitions: dict[str, int] = {}
        """The number of partitions of each of the records' topics; 0 if another topic, that a letter names, was not
        found."""
        self._done: dict[int, Done] = {}
        self._ends: dict[int, int] = {}
        """The ends of the partitions that have not been read to the end yet."""
        self._read_to: dict[int, int] = {}

    def open(self, topics: Collection[str]) -> int:
        """Find the letters; returns how many there are to read.

        Args:
            topics: The topics whose letters these are.

        Raises:
            KafkaClientError: a topic or a permission is missing, or no broker answers.
        """
        try:
            if self._producer is not None:
                # Before anything is read: from now on an earlier run can commit nothing.
                self._producer.init_transactions(ANSWER_SECONDS)
            numbers = range(self._count(self._topic))
            self._partitions = {topic: self._count(topic) for topic in topics}
            asked = [confluent_kafka.TopicPartition(self._topic, number) for number in numbers]
            ends = {}
            for one in self._consumer.committed(asked, timeout=ANSWER_SECONDS):
                first, end = self._consumer.get_watermark_offsets(one, timeout=ANSWER_SECONDS)
                done = Done(one.offset, one.metadata) if one.offset >= 0 else Done(0)
                done.add(0, first)  # expired letters
                self._done[one.partition], ends[one.partition] = done, end
        except KafkaException as error:
            raise _failure(error) from error
        self._ends = {number: end for number, end in ends.items() if self._done[number].offset < end}
        self._read_to = {number: self._done[number].offset for number in self._ends}
        self._consumer.assign(
            [confluent_kafka.TopicPartition(self._topic, number, offset) for number, offset in self._read_to.items()]
        )
        return sum(end - self._read_to[number] for number, end in self._ends.items())

    def run(
        self,
        wanted: Wanted,
        report: Report,
        *,
        limit: int | None,
        rate: float,
        advance: Callable[[int], None],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Redrive the wanted letters that existed when this was opened.

        Args:
            wanted: Which letters. Whoever writes a letter chooses one of its topics: it is left if that is not found.
            report: Counts them.
            limit: Maximum number of letters; None: no limit.
            rate: Maximum number of letters per second; 0: as fast as possible.
            advance: Called with the number of letters read.
            is_stopped: Asked before each transaction; once it is true, this returns.

        Raises:
            KafkaClientError: something failed; the letters counted in `report` by then were redriven.
        """
        began, redriven = time.monotonic(), 0
        silent_since = began
        try:
            while self._ends and (limit is None or redriven < limit) and not is_stopped():
                most = BATCH_LETTERS if limit is None else min(BATCH_LETTERS, limit - redriven)
                # At a low rate, a transaction takes a fifth of a second's letters.
                most = most if not rate else max(1, min(most, int(rate / 5)))
                messages = self._consumer.consume(most, 0.5)
                now = time.monotonic()
                silent_since = now if messages else silent_since
                if now - silent_since > ANSWER_SECONDS:
                    raise KafkaClientError(KafkaError._TIMED_OUT, "_TIMED_OUT", "no broker sends the letters")  # noqa: SLF001
                redriven += self._take(messages, wanted, report, advance)
                while rate and not is_stopped() and (ahead := redriven / rate - (time.monotonic() - began)) > 0:
                    time.sleep(min(ahead, PAUSE_SECONDS))
        except KafkaException as error:
            raise _failure(error) from error

    def close(self) -> None:
        """Close the clients."""
        self._consumer.close()

    def _count(self, topic: str) -> int:
        found = self._consumer.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic]
        if found.error is not None:
            raise KafkaClientError(found.error.code(), found.error.name(), f"{topic}: {found.error.str()}")
        return len(found.partitions)

    def _finds(self, topic: str) -> bool:
        if topic not in self._partitions:
            try:
                self._partitions[topic] = self._count(topic)
            except KafkaClientError:
                self._partitions[topic] = 0
        return self._partitions[topic] > 0

    def _take(self, messages: Sequence[Message], wanted: Wanted, report: Report, advance: Callable[[int], None]) -> int:
        chosen: list[tuple[Message, Origin]] = []
        seen: Report = Report()
        for message in messages:
            number, offset, error = message.partition() or 0, message.offset() or 0, message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the public spelling of local codes
                    raise KafkaException(error)
                self._ends.pop(number, None)
                continue
            if number not in self._ends:
                continue
            done = self._done[number]
            done.add(self._read_to[number], offset)  # no letters in between
            advance(offset + 1 - self._read_to[number])
            self._read_to[number] = offset + 1
            origin = origin_of(cast("Sequence[tuple[str, bytes | None]]", message.headers() or ()))
            key = ("?", "?") if origin is None else (origin.partition.topic, origin.reason)
            if offset in done:
                seen.before += 1
            elif origin is not None and wanted.has(origin, message.timestamp()[1]) and self._finds(key[0]):
                seen.redriven[key] += 1
                chosen.append((message, origin))
            else:
                seen.left[key] += 1
            if offset + 1 >= self._ends[number]:
                del self._ends[number]
        self._write(chosen)
        report.redriven += seen.redriven
        report.left += seen.left
        report.before += seen.before
        return len(chosen)

    def _write(self, chosen: Sequence[tuple[Message, Origin]]) -> None:
        producer = self._producer
        if producer is None or not chosen:
            return
        for message, _origin in chosen:
            offset = message.offset() or 0
            self._done[message.partition() or 0].add(offset, offset + 1)
        commits = {message.partition() or 0 for message, _origin in chosen}
        if any(self._done[number].is_too_long for number in commits):
            reason = "too many letters were left out in between: redrive those first, with other filters or with none"
            raise KafkaClientError(KafkaError._INVALID_ARG, "_INVALID_ARG", reason)  # noqa: SLF001
        producer.begin_transaction()
        try:
            self._write_in_transaction(producer, chosen, commits)
        except BaseException:
            # An open one would hide all later records of these topics from other readers until it times out.
            with suppress(KafkaException):
                producer.abort_transaction(ANSWER_SECONDS)
            raise

    def _write_in_transaction(
        self, producer: Producer, chosen: Sequence[tuple[Message, Origin]], commits: Collection[int]
    ) -> None:
        for message, origin in chosen:
            topic, number = origin.partition
            # The same partition, if it still exists: records with the same key stay in order.
            place = number if number < self._partitions[topic] else -1
            producer.produce(topic, message.value(), message.key(), place, headers=list(origin.headers))
            producer.poll(0)
        offsets = [
            confluent_kafka.TopicPartition(self._topic, number, self._done[number].offset, self._done[number].metadata)
            for number in commits
        ]
        producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), ANSWER_SECONDS)
        producer.commit_transaction(ANSWER_SECONDS)


def _failure(error: KafkaException) -> KafkaClientError:
    found = error.args[0]
    return KafkaClientError(found.code(), found.name(), found.str())
