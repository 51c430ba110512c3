"""confluent_kafka's messages become records."""

from collections.abc import Iterable, Iterator
from typing import cast

import confluent_kafka
import structlog
from confluent_kafka import Message

from dispatcher.sansio.records import Record, TopicPartition

log = structlog.get_logger(__name__)

Group = tuple[TopicPartition, tuple[Record, ...], int | None]
"""Consecutive records of one partition, with the leader epoch of the last one."""


def grouped(messages: Iterable[Message], batch_bytes: int) -> Iterator[Group]:
    """Groups of about a size, a partition's in the order in which its messages came.

    Args:
        messages: Without an error.
        batch_bytes: A group is closed when it holds so much.
    """
    by_partition: dict[TopicPartition, list[Message]] = {}
    for message in messages:
        key = cast("TopicPartition", (message.topic(), message.partition()))
        by_partition.setdefault(key, []).append(message)
    for key, run in by_partition.items():
        partition = TopicPartition(*key)
        records: list[Record] = []
        size_bytes = 0
        leader_epoch = None
        for message in run:
            record = _record(message)
            # Offsets go backwards where the topic was made anew, or its log was cut.
            if records and (size_bytes >= batch_bytes or record.offset <= records[-1].offset):
                yield partition, tuple(records), leader_epoch
                records = []
                size_bytes = 0
            records.append(record)
            size_bytes += record.size_bytes
            leader_epoch = message.leader_epoch()
        yield partition, tuple(records), leader_epoch


def _record(message: Message) -> Record:
    """A message without an error, of which confluent_kafka's types do not know that it has these fields."""
    kind, timestamp_ms = message.timestamp()
    try:
        headers = cast("list[tuple[str, bytes | None]] | None", message.headers())
    except SystemError:
        # Header names are UTF-8, but nobody checks: confluent_kafka fails over one that is not, and a second call
        # would return what it left half done. The record goes on without any of its headers.
        headers = None
        log.warning(
            "headers left out, a name is not UTF-8",
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
        )
    return Record(
        cast("int", message.offset()),
        None if kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
        message.key(),
        message.value(),
        tuple(headers) if headers else (),
    )
