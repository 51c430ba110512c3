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
    """Whether it is sent what was read again from Kafka."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A snapshot of the hub."""

    subscribers: Mapping[SubscriberState, int]
    """Number of subscribers by state."""
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
