"""What the hub and its subscribers report about themselves: states and snapshots.

Running sums are in `HubStatistics`. For the rest every subscriber is examined, in slices between which other tasks
run; with many subscribers the result is kept for a moment (`Census`).
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Protocol

import trio

from dispatcher.hub.dispatch_times import DispatchStatistics
from dispatcher.hub.present_subscribers import PresentSubscribers
from dispatcher.sansio.history import HistoryStatistics
from dispatcher.sansio.parking import ParkedStatistics
from dispatcher.sansio.records import TopicPartition


class SubscriberState(StrEnum):
    """How a subscriber is served."""

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
    """Whether records are being replayed to it from Kafka, or it waits in line for that."""
    behind_records: int
    """How many records were received from Kafka but not handed to its socket: exact while it is live, otherwise
    offsets, including those without a record."""
    outstanding_records: int | None = None
    """Records that it was sent and has not acknowledged; None if it does not acknowledge."""


@dataclass(frozen=True, slots=True)
class CensusStatistics:
    """Figures over all subscribers."""

    replaying: int
    """Subscribers being replayed to from Kafka, or waiting in line for it."""
    behind_records_median: int
    behind_records_worst: int
    """Among very many subscribers that are catching up, only a random sample is examined."""
    buffered_bytes: int
    """Bytes in all channels; the same bytes waiting for two subscribers count twice."""


@dataclass(frozen=True, slots=True)
class FanOutStatistics:
    """A snapshot of the fan-out."""

    rounds: int
    """Rounds since the start."""
    feeds: int
    """Feeds that have live subscribers."""
    published_bytes: int
    """Encoded bytes that wait for the next round."""
    is_congested: bool
    """Whether the poller waits for it."""


@dataclass(frozen=True, slots=True)
class LookupStatistics:
    """A snapshot of the look-ups."""

    asked: int
    """Look-ups since the start."""
    reading: int
    """Clients being replayed to from Kafka, or waiting in line for it."""
    looking_up: int
    """Look-ups of bounds, or of offsets at a time, that Kafka has not answered yet."""
    put_off: int
    """Clients that wait to ask again."""


@dataclass(frozen=True, slots=True)
class EncoderStatistics:
    """A snapshot of the encoder's counts since the start."""

    entries: int
    """Entries, once per feed."""
    parts: int
    """Parts of entries, each for one subscriber."""
    replayed: int
    """Replayed batches, each for one subscriber."""
    compression: "CompressionStatistics | None" = None
    """None if compression is off."""


@dataclass(frozen=True, slots=True)
class CompressionStatistics:
    """A snapshot of the compression, since the start: each write counts once, however many subscribers it has."""

    input_bytes: int
    """Bytes before compression, including pieces too small for it."""
    output_bytes: int
    """Bytes after compression, without chunks and frames."""
    kept_bytes: int
    """Bytes of compressed writes that are kept for other subscribers."""


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    """A snapshot of the registry."""

    subscribers: int
    catching_up: int
    expecting: int
    """Live subscribers that catch up again when a certain partition is added."""
    departed: int
    """Partitions that have left, and were not added again."""


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """A snapshot of the feeds."""

    feeds: int
    """Distinct feeds that have subscribers."""
    encodings: int
    """Distinct formats and topics among them."""
    unindexed: int
    """Feeds whose filter is evaluated for every record."""
    refused: int
    """Subscribers refused because of `max_feeds`, since the start."""
    present: PresentSubscribers


@dataclass(frozen=True, slots=True)
class AnnouncementStatistics:
    """A snapshot of the announcements."""

    version: int
    encoded: int
    """Encodings of the present state that are kept, per feed."""


@dataclass(slots=True)
class HubCounts:
    """The running sums of a hub, as described in `HubStatistics`."""

    published_records: int = 0
    fell_back: int = 0
    stalled: int = 0
    history_hits: int = 0
    history_misses: int = 0


@dataclass(frozen=True, slots=True)
class AckingStatistics:
    """Figures over all subscribers that acknowledge."""

    subscribers: int
    outstanding_records: int
    """Records that were sent but not acknowledged yet."""
    outstanding_bytes: int
    acked_records: int
    """Records that were acknowledged since the start, by any of them."""
    nacked_records: int
    """Records that were refused."""
    passed_over: int
    """Parts of acknowledgements that named records that were not sent, or partitions that this replica does not
    have."""
    timeouts: int
    """Streams that ended because nothing was acknowledged for too long."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A snapshot of the hub."""

    subscribers: Mapping[SubscriberState, int]
    """Number of subscribers by state."""
    transports: Mapping[str, int]
    """Number of subscribers by transport."""
    takers: int
    """Number of subscribers that count."""
    history: HistoryStatistics
    fan_out: FanOutStatistics
    lookups: LookupStatistics
    encoder: EncoderStatistics
    registry: RegistryStatistics
    feeds: FeedStatistics
    announcements: AnnouncementStatistics
    acking: AckingStatistics
    unmatched: Mapping[str, int]
    """Records that no present subscriber wanted, by topic."""
    parked: Mapping[TopicPartition, ParkedStatistics]
    """The records that wait in Kafka for a subscriber that wants them."""
    parked_records: Mapping[str, int]
    """Records that were parked, since the start, by topic."""
    heartbeats: int
    """Heartbeats since the start."""
    times: DispatchStatistics
    published_records: int
    dispatched_records: int
    """Records that at least one subscriber took."""
    deliveries: int
    """Deliveries: one for each record and each subscriber that took it."""
    fell_back: int
    """How often a live subscriber had to catch up again because its channel was full."""
    stalled: int
    """Subscribers that were cut off because they took nothing for too long."""
    history_hits: int
    """How often a subscriber became live from memory alone."""
    history_misses: int
    """How often a subscriber needed Kafka as well to become live."""


SLICE = 2_000
"""Maximum work between two checkpoints: one unit for each live subscriber, and one for each partition of a subscriber
that is catching up. A unit takes about 0.3 µs."""

SAMPLE = 20_000
"""Maximum work per census for subscribers that are catching up: if there are more, only a random sample is examined."""

KEPT_SECONDS = 1.0
"""How long the result of a census is reused, if it took more than one slice."""


class Counted(Protocol):
    """What a census reads from a subscriber."""

    state: SubscriberState
    closed: bool

    @property
    def buffered_bytes(self) -> int:
        """The bytes in its channel."""

    @property
    def buffered_records(self) -> int:
        """The number of records in its channel."""

    @property
    def replaying(self) -> bool:
        """Whether records are being replayed to it from Kafka, or it waits in line for that."""

    def behind_records(self) -> int:
        """How many offsets it lags; the work grows with the partitions."""


class Census:
    """Examines all subscribers, a slice at a time.

    *Thread*: Trio's.

    Args:
        subscribers: The present subscribers.
        partitions: How many partitions are assigned.
    """

    def __init__(self, subscribers: Callable[[], Iterable[Counted]], partitions: Callable[[], int]) -> None:
        self._subscribers = subscribers
        self._partitions = partitions
        self._lock = trio.Lock()
        self._last: CensusStatistics | None = None
        self._kept_until = 0.0

    async def take(self) -> tuple[CensusStatistics, float]:
        """The figures, and how long they held the loop, in seconds. *Cancellation*: safe."""
        async with self._lock:
            if self._last is not None and time.monotonic() < self._kept_until:
                return self._last, 0.0
            count = _Count()
            self._last = await self._take(count)
            self._kept_until = time.monotonic() + KEPT_SECONDS if count.slices else 0.0
            return self._last, count.seconds()

    async def _take(self, count: "_Count") -> CensusStatistics:
        replaying = buffered_bytes = 0
        behind: list[int] = []
        catching_up: list[Counted] = []
        for subscriber in tuple(self._subscribers()):
            if count.is_full:
                await count.checkpoint()
            count.work += 1
            if subscriber.closed:
                continue
            if subscriber.state is SubscriberState.LIVE:
                behind.append(subscriber.buffered_records)
                buffered_bytes += subscriber.buffered_bytes
            else:
                catching_up.append(subscriber)
                replaying += subscriber.replaying
        each = 1 + self._partitions()
        most = max(1, SAMPLE // each)
        sample = catching_up if len(catching_up) <= most else random.sample(catching_up, most)
        found: list[int] = []
        for subscriber in sample:
            if count.is_full:
                await count.checkpoint()
            count.work += each
            if not subscriber.closed:
                found.append(subscriber.behind_records())
        # Each subscriber of the sample represents an equal share of those that were not examined.
        behind += found * max(1, len(catching_up) // max(1, len(sample)))
        return CensusStatistics(
            replaying=replaying,
            behind_records_median=int(median(behind)) if behind else 0,
            behind_records_worst=max(behind, default=0),
            buffered_bytes=buffered_bytes,
        )


class _Count:
    """The work of one census."""

    def __init__(self) -> None:
        self.work = self.slices = 0
        self._began = time.perf_counter()
        self._seconds = 0.0

    @property
    def is_full(self) -> bool:
        """Whether it is time to yield to the loop."""
        return self.work >= SLICE

    async def checkpoint(self) -> None:
        """Yield the loop to other tasks."""
        self._seconds += time.perf_counter() - self._began
        self.work, self.slices = 0, self.slices + 1
        await trio.lowlevel.checkpoint()
        self._began = time.perf_counter()

    def seconds(self) -> float:
        """The time spent in the loop up to now."""
        return self._seconds + time.perf_counter() - self._began
