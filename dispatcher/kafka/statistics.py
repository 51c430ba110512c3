"""The part of librdkafka's statistics that the dispatcher uses (librdkafka: STATISTICS.md)."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from dispatcher.sansio.records import TopicPartition


@dataclass(frozen=True, slots=True)
class FetchStatistics:
    """One partition as the consumer's fetcher sees it."""

    committed: int | None
    """The group's committed offset; None if there is none, or it is not known yet."""
    log_end: int | None
    """The high watermark as of the last fetch; None if it is not known, or the broker to fetch from is unreachable."""
    last_stable_offset: int | None
    """The first offset that an open transaction may hold back; None likewise."""
    prefetched_bytes: int


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """A snapshot of the consumer, at most a second old."""

    brokers_up: int
    joined: bool
    """Whether the member has an assignment, which may be empty."""
    partitions: Mapping[TopicPartition, FetchStatistics]
    coordinator_timeouts: int = 0
    """Requests to the group's coordinator that were not answered in time, since the consumer was created."""


def parse_statistics(text: str | bytes) -> ConsumerStatistics | None:
    """Read one JSON document of ``stats_cb``; what is missing counts as unknown. None if it cannot be read.

    librdkafka writes names into it without escaping them, such as a ``client.id`` with a quote.
    """
    try:
        return _parse(orjson.loads(text))
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def _parse(document: Mapping[str, Any]) -> ConsumerStatistics:
    group = document.get("cgrp", {})
    # Bootstrap addresses have the id -1, and so has the leader of a partition without one.
    up = {
        broker.get("nodeid")
        for broker in document.get("brokers", {}).values()
        if broker.get("state") == "UP" and broker.get("nodeid", -1) >= 0
    }
    return ConsumerStatistics(
        brokers_up=sum(broker.get("state") == "UP" for broker in document.get("brokers", {}).values()),
        joined=group.get("state") == "up" and group.get("join_state") == "steady",
        partitions={
            TopicPartition(name, partition["partition"]): _fetch_statistics(partition, up)
            for name, topic in document.get("topics", {}).items()
            for partition in topic.get("partitions", {}).values()
            # librdkafka keeps an internal partition -1 for messages without one.
            if partition["partition"] >= 0
        },
        # The coordinator has a separate connection, listed under this name.
        coordinator_timeouts=document.get("brokers", {}).get("GroupCoordinator", {}).get("req_timeouts", 0),
    )


def _fetch_statistics(partition: Mapping[str, Any], up: Container[int]) -> FetchStatistics:
    # librdkafka continues to report its last figures of earlier assignments and unreachable brokers.
    is_active = partition.get("fetch_state") == "active"
    is_fetched = is_active and partition.get("broker") in up
    return FetchStatistics(
        committed=_known(partition.get("committed_offset")) if is_active else None,
        log_end=_known(partition.get("hi_offset")) if is_fetched else None,
        last_stable_offset=_known(partition.get("ls_offset")) if is_fetched else None,
        prefetched_bytes=partition.get("fetchq_size", 0),
    )


def _known(number: int | None) -> int | None:
    """Librdkafka writes negative numbers (-1, -1001) for what it does not know."""
    return None if number is None or number < 0 else number
