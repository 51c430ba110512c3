"""What the hub and its subscribers tell of themselves: states and snapshots."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from dispatcher.sansio.history import HistoryStatistics


class ReplicaState(StrEnum):
    """What the replica as a whole is doing, as subscribers are told."""

    STREAMING = "streaming"
    REBALANCING = "rebalancing"
    WAITING = "waiting"
    """A member of the group, without a partition of the stream's topics."""
    BROKER_DOWN = "broker-down"


class SubscriberState(StrEnum):
    """Where a subscriber stands."""

    CATCHING_UP = "catching-up"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class SubscriberStatistics:
    """A snapshot of one subscriber."""

    id: int
    state: SubscriberState
    transport: str
    wire: str
    buffered_bytes: int
    records: int
    replaying: bool
    """Whether it is sent what was read again from Kafka, or waits for that."""
    behind_records: int
    """How many records of its partitions were taken from Kafka and not handed to its socket: counted when it is live,
    else offsets (those without a record included)."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A snapshot of the hub."""

    subscribers: Mapping[SubscriberState, int]
    """Number of subscribers by state."""
    transports: Mapping[str, int]
    """Number of subscribers by transport."""
    replaying: int
    """Subscribers that are sent what was read again from Kafka, or wait for that."""
    behind_records_median: int
    behind_records_worst: int
    buffered_bytes: int
    """Bytes in all channels; the same bytes waiting for two subscribers count twice."""
    history: HistoryStatistics
    published_records: int
    dispatched_records: int
    """Records that at least one subscriber took."""
    deliveries: int
    """Records times subscribers that took them."""
    fell_back: int
    """How often a full channel sent a live subscriber back to catching up."""
    stalled: int
    """Subscribers that were cut because they took nothing for too long."""
    history_hits: int
    """How often a subscriber became live from memory alone."""
    history_misses: int
    """How often it needed Kafka for it."""
