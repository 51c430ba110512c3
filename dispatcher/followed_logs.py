"""Finds out what became of the logs of followed partitions: records have expired, or the topic was recreated.

*Thread*: Trio's.
"""

from collections.abc import Callable, Mapping

import structlog

from dispatcher.follower_orders import FollowerOrders
from dispatcher.hub.hub import Hub
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.beginnings import Start
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
        wake: Called when `find_lost` has something to do.
    """

    def __init__(
        self, hub: Hub, replays: Replays, ownership: Ownership, orders: FollowerOrders, wake: Callable[[], None]
    ) -> None:
        self._hub, self._replays, self._ownership, self._orders = hub, replays, ownership, orders
        self._wake = wake
        self.ids = LogIds()
        """The logs of owned and followed partitions."""

    def found(self, topic_ids: Mapping[str, str]) -> bool:
        """Take the topics' ids as brokers report them: a recreated topic is followed from its first record on.

        Returns:
            Whether brokers should be asked again soon.
        """
        is_doubtful = self.ids.found(topic_ids)
        replaced = [partition for partition in self._ownership.followed if self.ids.is_replaced(partition)]
        for partition in replaced:
            epoch = self._ownership.epoch(partition)
            assert epoch is not None  # noqa: S101 - it is followed
            self._orders.lost[partition] = (epoch, self._hub.history.end(partition))
        if replaced:
            self._wake()
        return is_doubtful

    def are_followed(self, start: Start) -> bool:
        """Whether a partition that begins is followed, in the log in which it begins."""
        is_followed = start.partition in self._ownership.followed
        return is_followed and self.ids.is_same(start.partition, start.stamp.topic_id) is True

    def owned(self, start: Start) -> None:
        """A followed partition becomes owned: if the group reads another log, what was sent of this one is forgotten.

        The group may have noticed the recreation before, on another replica, and have committed an offset since: then
        readers of the whole topic are owed what precedes that offset. If it is not known which log the group reads,
        they continue where they are, or repeat what follows that offset, because none of that may count. Readers of
        only the replica's partitions were sent nothing here since it left, and continue where they were.
        """
        partition, topic_id = start.partition, start.stamp.topic_id
        is_same = self.ids.is_same(partition, topic_id)
        if is_same is False or self.ids.is_replaced(partition):
            self._start_over(partition, 0, topic_id)
        elif is_same is None and self.ids.is_known(partition):
            first = min(start.offset, self._hub.history.end(partition))
            self._start_over(partition, first, topic_id, is_certain=False)

    async def find_lost(self) -> bool:
        """Ask the leaders about partitions whose next offset is not in their log; returns whether all have answered."""
        lost = dict(self._orders.lost)
        if not lost:
            return True
        reported = {partition: self.ids.reported(partition.topic) for partition in lost}
        bounds = await self._replays.bounds(lost.keys())
        for partition in bounds:
            if self._orders.lost.get(partition) != lost[partition]:
                continue  # the answer is older than the question
            epoch, next_offset = self._orders.lost.pop(partition)
            if self._ownership.epoch(partition) != epoch:
                continue
            first, end = bounds[partition]
            is_replaced = self.ids.is_replaced(partition)
            if is_replaced or next_offset > end:
                # A log that ends too early was replaced after the last report.
                topic_id = reported.get(partition) if is_replaced else None
                self._orders.follow(partition, self._start_over(partition, first, topic_id), first)
                continue
            if next_offset < first:
                log.warning("records expired", partition=str(partition), first=next_offset, last=first - 1)
                gap = Gap(partition, next_offset, first - 1, "expired")
                self._hub.publish(Batch(partition, NO_RECORDS, covers_from=next_offset, gap=gap))
            # Otherwise that broker lags, and will have the offset in a moment.
            self._orders.follow(partition, epoch, self._hub.history.end(partition))
        return not self._orders.lost

    def _start_over(
        self, partition: TopicPartition, first: int, topic_id: str | None, *, is_certain: bool = True
    ) -> int:
        """Follow the new log of a partition, that of an id, from an offset on; returns the epoch."""
        replaces = self._hub.history.end(partition)
        log.warning("topic recreated", partition=str(partition), offset=first, replaces=replaces)
        self._ownership.drop([partition])
        self.ids.begin(partition, topic_id)
        self._hub.followed.recreated(partition, first, is_certain=is_certain)
        return self._ownership.follow(partition)
