"""Collects orders for the follower's next crossing, the partitions that it could not read, and its reports.

*Thread*: Trio's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dispatcher.kafka.follower import FollowCommands
from dispatcher.sansio.records import TopicPartition


@dataclass(frozen=True, slots=True)
class FollowingStatistics:
    """A snapshot of the follower."""

    is_running: bool
    """Whether there is a follower."""
    partitions: int
    """Followed partitions."""
    records: int
    """Records read by the follower."""
    bytes: int
    """Bytes of keys, values and headers read by the follower, including their overhead in memory."""
    failures: int
    """How often its consumer has failed or could not be made."""
    restarts: int
    """How often a partition was restarted because librdkafka did not fetch it."""
    lags: Mapping[TopicPartition, int]
    """Offsets from the next one to the end of the log, for followed partitions where it is known."""


class FollowerOrders:
    """Collects orders until the follower takes them."""

    def __init__(self) -> None:
        self._assign: dict[TopicPartition, tuple[int, int]] = {}
        self._unassign: set[TopicPartition] = set()
        self.stop = False
        """Whether the follower has to end."""
        self.lost: dict[TopicPartition, tuple[int, int]] = {}
        """Epoch and next offset of partitions whose next offset a broker does not have."""
        self.lags: Mapping[TopicPartition, int] = {}
        """The follower's last report."""

    def follow(self, partition: TopicPartition, epoch: int, offset: int) -> None:
        """Follow a partition in an epoch, from an offset on."""
        self._assign[partition] = (epoch, offset)
        self._unassign.discard(partition)

    def forget(self, partition: TopicPartition) -> None:
        """Stop following a partition."""
        self._assign.pop(partition, None)
        self._unassign.add(partition)
        self.lost.pop(partition, None)

    @property
    def are_any(self) -> bool:
        """Whether there are orders to take. *Thread*: any."""
        return self.stop or bool(self._assign or self._unassign)

    def take(self, *, settle: bool) -> FollowCommands:
        """The orders since the last crossing.

        Args:
            settle: Whether the next crossing has to wait until subscribers were offered everything.
        """
        assign, self._assign = self._assign, {}
        unassign, self._unassign = self._unassign, set()
        return FollowCommands(assign, unassign, stop=self.stop, settle=settle)

    def clear(self) -> None:
        """Drop the orders of a follower that has ended."""
        self._assign.clear()
        self._unassign.clear()
        self.lags = {}
