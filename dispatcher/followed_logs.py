"""Finds out what became of the logs of followed partitions: records have expired, or the topic was recreated.

*Thread*: Trio's.
"""

from collections.abc import Mapping

import structlog

from dispatcher.follower_orders import FollowerOrders
from dispatcher.hub.hub import Hub
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.beginnings import Stamp
from dispatcher.sansio.log_ids import LogIds
from dispatcher.sansio.ownership import Ownership
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import NO_RECORDS, Batch, TopicPartition

log = structlog.get_logger(__name__)


class FollowedLogs:
    """Knows which log is followed of each partition, and has another one followed in its place.

    Args:
        hub: Where followed records go.
        replays: Looks offsets up.
        ownership: Knows what is followed.
        orders: Takes what the follower has to do.
    """

    def __init__(self, hub: Hub, replays: Replays, ownership: Ownership, orders: FollowerOrders) -> None:
        self._hub, self._replays, self._ownership, self._orders = hub, replays, ownership, orders
        self.ids = LogIds()
        """The logs of owned and followed partitions."""

    def found(self, topic_ids: Mapping[str, str]) -> bool:
        """Take the topics' ids as brokers report them; returns whether a log that is followed was replaced."""
        self.ids.found(topic_ids)
        replaced = [partition for partition in self._ownership.followed if self.ids.is_replaced(partition)]
        for partition in replaced:
            epoch = self._ownership.epoch(partition)
            assert epoch is not None  # noqa: S101 - it is followed
            self._orders.lost[partition] = (epoch, self._hub.history.end(partition))
        return bool(replaced)

    def owned(self, partition: TopicPartition, stamp: Stamp) -> None:
        """A followed partition becomes owned: if the group reads another log, what was sent of this one is forgotten.

        The group may have noticed the recreation before, on another replica, and have committed an offset since.
        """
        if self.ids.is_other(partition, stamp.topic_id):
            self._start_over(partition, 0)

    async def find_lost(self) -> bool:
        """Ask the leaders about partitions whose next offset is not in their log; returns whether all have answered."""
        lost = dict(self._orders.lost)
        if not lost:
            return True
        bounds = await self._replays.bounds(lost.keys())
        for partition in bounds.keys() & self._orders.lost.keys():
            epoch, next_offset = self._orders.lost.pop(partition)
            if self._ownership.epoch(partition) != epoch:
                continue
            first, end = bounds[partition]
            if next_offset > end or self.ids.is_replaced(partition):
                self._orders.follow(partition, self._start_over(partition, first), first)
                continue
            if next_offset < first:
                log.warning("records expired", partition=str(partition), first=next_offset, last=first - 1)
                gap = Gap(partition, next_offset, first - 1, "expired")
                self._hub.publish(Batch(partition, NO_RECORDS, covers_from=next_offset, gap=gap))
            # Otherwise that broker lags, and will have the offset in a moment.
            self._orders.follow(partition, epoch, self._hub.history.end(partition))
        return not self._orders.lost

    def _start_over(self, partition: TopicPartition, first: int) -> int:
        """Follow the new log of a partition from an offset on; returns the epoch."""
        replaces = self._hub.history.end(partition)
        log.warning("topic recreated", partition=str(partition), offset=first, replaces=replaces)
        self._ownership.drop([partition])
        self.ids.begin(partition)
        self._hub.followed.recreated(partition, first)
        return self._ownership.follow(partition)
