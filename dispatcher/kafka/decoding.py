"""Turns confluent_kafka's messages into records, a column at a time: a call from C costs a third of one from Python."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, starmap
from math import ceil
from operator import itemgetter, lt
from typing import NamedTuple, cast

import confluent_kafka
import structlog
from confluent_kafka import KafkaError, Message

from dispatcher.sansio.records import Headers, Records, TopicPartition

log = structlog.get_logger(__name__)

_MILLISECONDS = cast("Callable[[tuple[int, int]], int]", itemgetter(1))
"""The milliseconds in the return value of ``Message.timestamp``."""


class Group(NamedTuple):
    """Consecutive records of one partition, at least one."""

    partition: TopicPartition
    records: Records
    leader_epoch: int | None
    """The leader epoch of the last record."""


def grouped(messages: Sequence[Message], batch_bytes: int) -> Iterator[Group]:
    """Split messages into groups of about a given size; a partition's groups keep the order of its messages.

    Costs 0.3 µs per record at 200-byte values (``time.thread_time``, CPython 3.11).

    Args:
        messages: Messages without an error.
        batch_bytes: A larger group is split into parts with about the same number of records.
    """
    for partition, run in _runs(messages):
        end = 0
        for records in _parts(_records(run), batch_bytes):
            end += len(records)
            yield Group(partition, records, run[end - 1].leader_epoch())


def split_errors(messages: list[Message]) -> tuple[list[Message], list[tuple[Message, KafkaError]]]:
    """Split messages into records and events (end of partition, error), each in order."""
    if not any(map(Message.error, messages)):
        return messages, []
    checked = [(message, message.error()) for message in messages]
    return (
        [message for message, error in checked if error is None],
        [(message, error) for message, error in checked if error is not None],
    )


def _runs(messages: Sequence[Message]) -> Iterator[tuple[TopicPartition, Sequence[Message]]]:
    """The messages of each partition."""
    topics, numbers = list(map(Message.topic, messages)), list(map(Message.partition, messages))
    runs: dict[tuple[str | None, int | None], Sequence[Message]]
    if topics and topics.count(topics[0]) == numbers.count(numbers[0]) == len(messages):
        # A broker sends a partition's records together, so most polls are like this.
        runs = {(topics[0], numbers[0]): messages}
    else:
        found = defaultdict[tuple[str | None, int | None], list[Message]](list)
        for partition, message in zip(zip(topics, numbers, strict=True), messages, strict=True):
            found[partition].append(message)
        runs = {**found}
    for (topic, number), run in runs.items():
        yield TopicPartition(cast("str", topic), cast("int", number)), run


def _records(run: Sequence[Message]) -> Records:
    offsets: Sequence[int] = list(map(cast("Callable[[Message], int]", Message.offset), run))
    consecutive = range(offsets[0], offsets[0] + len(offsets))
    if offsets == list(consecutive):
        offsets = consecutive
    timestamps: list[int | None] = list(map(_MILLISECONDS, map(Message.timestamp, run)))
    if min(cast("list[int]", timestamps)) <= 0:
        timestamps = list(starmap(_known, map(Message.timestamp, run)))
    return Records(offsets, timestamps, list(map(Message.key, run)), list(map(Message.value, run)), _headers(run))


def _known(kind: int, timestamp_ms: int) -> int | None:
    """The timestamp, or None: a missing one is -1 in Kafka and librdkafka, or 0 in logs of the oldest format."""
    return None if kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE or timestamp_ms == -1 else timestamp_ms


def _headers(run: Sequence[Message]) -> Sequence[Headers]:
    """The headers of each message; empty if a header name is not UTF-8.

    Kafka does not check header names, but confluent_kafka fails on one that is not UTF-8: it returns a result *and*
    sets an error, and asking the same message again would yield the half-built result. CPython raises a SystemError for
    this wherever it checks the results of C functions, as it does here. It skips the check where Python code has called
    a function many times from the same place (adaptive interpreter, since 3.11); then the error surfaces elsewhere.
    """
    found: list[Sequence[tuple[str, bytes | None]] | None] = []
    calls = cast("Iterator[Sequence[tuple[str, bytes | None]] | None]", map(Message.headers, run))
    while len(found) < len(run):
        try:
            found.extend(calls)
        except SystemError:
            message = run[len(found)]
            found.append(None)
            message.set_headers([])
            log.warning(
                "headers dropped: a header name is not UTF-8",
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
            )
    return tuple(tuple(headers or ()) for headers in found) if any(found) else ((),) * len(run)


def _parts(records: Records, batch_bytes: int) -> Iterator[Records]:
    """Split records into parts of about a given size, and wherever offsets step back: a new log begins there."""
    offsets = records.offsets
    if isinstance(offsets, range) or all(map(lt, offsets, offsets[1:])):
        yield from _cut(records, batch_bytes)
    else:
        begins = [number for number, (before, offset) in enumerate(pairwise(offsets), start=1) if offset <= before]
        for first, end in pairwise([0, *begins, len(records)]):
            yield from _cut(records[first:end], batch_bytes)


def _cut(records: Records, batch_bytes: int) -> Iterator[Records]:
    number = min(ceil(records.size_bytes / batch_bytes), len(records))
    if number <= 1:
        yield records
    else:
        step = ceil(len(records) / number)
        for first in range(0, len(records), step):
            yield from _cut(records[first : first + step], batch_bytes)
