"""What the follower's thread has to do at its next crossing, and which partitions it could not read.

*Thread*: Trio's.
"""

from dispatcher.kafka.follower import FollowCommands
from dispatcher.sansio.records import TopicPartition


class FollowerOrders:
    """Collects orders until the follower takes them."""

    def __init__(self) -> None:
        self._assign: dict[TopicPartition, tuple[int, int]] = {}
        self._unassign: set[TopicPartition] = set()
        self.stop = False
        """Whether the follower has to end."""
        self.lost: dict[TopicPartition, tuple[int, int]] = {}
        """Epoch and next offset of partitions of which a broker does not have that offset."""

    def follow(self, partition: TopicPartition, epoch: int, offset: int) -> None:
        """Follow a partition in an epoch, from an offset on."""
        self._assign[partition] = (epoch, offset)
        self._unassign.discard(partition)

    def forget(self, partition: TopicPartition) -> None:
        """Follow a partition no longer."""
        self._assign.pop(partition, None)
        self._unassign.add(partition)
        self.lost.pop(partition, None)

    def take(self, *, settle: bool) -> FollowCommands:
        """The orders since the last crossing.

        Args:
            settle: Whether the next crossing has to wait until subscribers were offered everything.
        """
        assign, self._assign = self._assign, {}
        unassign, self._unassign = self._unassign, set()
        return FollowCommands(assign, unassign, stop=self.stop, settle=settle)

    def clear(self) -> None:
        """The follower has ended: nobody takes these orders."""
        self._assign.clear()
        self._unassign.clear()
