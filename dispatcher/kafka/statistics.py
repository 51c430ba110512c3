"""What librdkafka's statistics say, as far as the dispatcher uses it (librdkafka: STATISTICS.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from dispatcher.sansio.records import TopicPartition


@dataclass(frozen=True, slots=True)
class FetchStatistics:
    """One partition as the consumer's fetcher sees it."""

    lag_records: int | None
    """Records between the committed offset and the log end, None while librdkafka does not know it."""
    committed: int | None
    """The group's committed offset, None when there is none or it is not known yet."""
    log_end: int | None
    """The partition's high watermark."""
    prefetched_bytes: int


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """A snapshot of the consumer, at most a second old."""

    brokers_up: int
    joined: bool
    """The member has its assignment, which may be empty."""
    partitions: Mapping[TopicPartition, FetchStatistics]


def parse_statistics(text: str | bytes) -> ConsumerStatistics | None:
    """Read one JSON document of ``stats_cb``; what is missing is unknown. None if it cannot be read.

    librdkafka writes names into it without escaping them, such as a ``client.id`` with a quote.
    """
    try:
        return _parse(orjson.loads(text))
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def _parse(document: Mapping[str, Any]) -> ConsumerStatistics:
    group = document.get("cgrp", {})
    return ConsumerStatistics(
        brokers_up=sum(broker.get("state") == "UP" for broker in document.get("brokers", {}).values()),
        joined=group.get("state") == "up" and group.get("join_state") == "steady",
        partitions={
            TopicPartition(name, partition["partition"]): FetchStatistics(
                lag_records=_known(partition.get("consumer_lag")),
                committed=_known(partition.get("committed_offset")),
                log_end=_known(partition.get("hi_offset")),
                prefetched_bytes=partition.get("fetchq_size", 0),
            )
            for name, topic in document.get("topics", {}).items()
            for partition in topic.get("partitions", {}).values()
            # librdkafka keeps a partition -1 of its own for messages without one.
            if partition["partition"] >= 0
        },
    )


def _known(number: int | None) -> int | None:
    """Librdkafka writes negative numbers (-1, -1001) for what it does not know."""
    return None if number is None or number < 0 else number
