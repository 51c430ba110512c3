"""What the pipeline reports about itself: snapshots of everything between Kafka and the subscribers' sockets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dispatcher.follower_orders import FollowingStatistics
from dispatcher.intake import IntakeStatistics
from dispatcher.kafka.commits import CommitStatistics
from dispatcher.kafka.replay import ReplayStatistics
from dispatcher.membership import MembershipStatistics
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.lag import PartitionLag
from dispatcher.sansio.offsets import PartitionStatistics
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.stalls import StallStatistics
from dispatcher.schemas.statistics import DecodingStatistics
from dispatcher.topic_watch import TopicWatchStatistics
from dispatcher.undelivered import UndeliveredStatistics


@dataclass(frozen=True, slots=True)
class PipelineHealth:
    """What readiness depends on, at a constant cost."""

    state: ReplicaState
    broker_reachable: bool
    joined: bool
    """A member of the group: it has partitions, or statistics say that it has its assignment, which is empty. Or in
    standby, or on its way back from there."""
    stopping: bool
    last_error: str | None
    """The client's last error; None when it has recovered."""
    assigned: int
    """Number of assigned partitions."""
    degraded: Sequence[str]
    """Present problems with topics and the group, for people."""


@dataclass(frozen=True, slots=True)
class PipelineStatistics(PipelineHealth):
    """A snapshot of everything between Kafka and the subscribers' sockets."""

    partitions: Mapping[TopicPartition, PartitionStatistics]
    paused: frozenset[TopicPartition]
    waiting_bytes: Mapping[TopicPartition, int]
    waiting_records: Mapping[TopicPartition, int]
    lags: Mapping[TopicPartition, PartitionLag]
    """The end of each assigned partition's log and the group's offset in it, if known."""
    prefetched_bytes: int
    """Bytes fetched and held by librdkafka, at most a second ago."""
    commits: CommitStatistics
    rebalances: int
    crossings: int
    last_exchange_at: float
    """`time.monotonic` of the last crossing: its age shows whether the poller is alive."""
    replays: ReplayStatistics
    intake: IntakeStatistics
    membership: MembershipStatistics
    following: FollowingStatistics
    stalls: StallStatistics
    decoding: DecodingStatistics
    held: frozenset[TopicPartition]
    """Partitions whose next record waits for its schema."""
    topics: TopicWatchStatistics
    undelivered: UndeliveredStatistics
    """How long waiting records are safe in Kafka, and what happened to overdue ones."""
