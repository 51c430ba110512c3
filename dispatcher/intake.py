"""The intake: passes the result of a poll to the offsets, the flow control and the hub.

*Thread*: Trio's, and one step per crossing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from dispatcher.following import Following
from dispatcher.hub.hub import Hub
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.decoding import Group
from dispatcher.sansio.beginnings import Start
from dispatcher.sansio.flow import FlowControl
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.ranges import Gap, recreated
from dispatcher.sansio.records import NO_RECORDS, Batch, TopicPartition

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IntakeStatistics:
    """A snapshot of the intake."""

    recreated: int
    """Partitions whose topic was recreated while they were assigned, or between two assignments."""
    unsent_gaps: int
    """Gaps that wait for the first record after them, because nobody read the topic."""


class Intake:
    """Knows the started partitions, and passes their records on.

    Args:
        offsets: The received and dispatched offsets.
        flow: Knows what is paused.
        hub: Where records go.
        following: Knows the records that the history has of partitions that were followed.
        on_forget: Called with partitions that leave or start over.
    """

    def __init__(
        self,
        offsets: OffsetTracker,
        flow: FlowControl,
        hub: Hub,
        following: Following,
        on_forget: Callable[[Sequence[TopicPartition]], None] = lambda _partitions: None,
    ) -> None:
        self._on_forget = on_forget
        self._following = following
        self._offsets = offsets
        self._flow = flow
        self._hub = hub
        self._unsent_gaps: dict[TopicPartition, Gap] = {}
        """Gaps of topics that were recreated while nobody read them: each precedes the next record."""
        self._recreated = 0

    def take(self, result: PollResult) -> None:
        """Take starts, gaps, records and ends, in this order: expired records precede those of the same poll."""
        for start in result.starts:
            self._take_start(start)
        for partition, stamp in result.stamps.items():
            self._offsets.described(partition, stamp.format())
            self._following.logs.ids.begin(partition, stamp.topic_id)
        for gap in result.gaps:
            self._take_gap(gap)
        for group in result.groups:
            self._take_records(group)
        for partition, end in result.ends.items():
            self._offsets.ended(partition, end)
            if self._offsets.epoch(partition) is not None:
                self._hub.reached(partition, end)

    def forget(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget partitions that leave or start over."""
        self._flow.unassigned(partitions)
        self._on_forget(partitions)
        self._hub.times.forget(partitions)
        for partition in partitions:
            self._unsent_gaps.pop(partition, None)

    def statistics(self) -> IntakeStatistics:
        """A snapshot of the intake."""
        return IntakeStatistics(self._recreated, len(self._unsent_gaps))

    def _take_start(self, start: Start) -> None:
        """A partition starts, or another log starts in its place."""
        partition = start.partition
        if not self._offsets.is_assigned(partition):
            # The start became known while the consumer was failing, and everything was released since.
            return
        epoch = self._offsets.began(
            partition,
            start.offset,
            leader_epoch=start.leader_epoch,
            committed=start.committed,
            commit_beginning=not start.has_old_offset,
            commit_again=start.is_unstamped,
            metadata=start.stamp.format(),
        )
        self.forget([partition])
        self._flow.assigned([partition])
        logs, is_recreated = self._following.logs, start.recreated
        if is_recreated and logs.are_followed(start):
            # Readers of the whole topic have begun with this log, or have had the gap.
            start = start._replace(recreated=False)
        if start.recreated:
            self._start_over(partition, start.offset, start.replaces)
        elif is_recreated or logs.ids.has_changed(partition, start.stamp.topic_id):
            # Noticed by the follower, or by another replica.
            self._hub.followed.returned(partition, start.offset)
        self._following.owned(start, epoch)
        self._hub.reached(partition, start.offset)

    def _start_over(self, partition: TopicPartition, first_offset: int, replaces: int | None) -> None:
        """The topic was recreated: its readers are sent the gap now; if there are none, the first new reader is."""
        log.warning("topic recreated", partition=str(partition), offset=first_offset, replaces=replaces)
        self._recreated += 1
        if not self._hub.has_readers(partition.topic) and replaces is not None:
            self._unsent_gaps[partition] = recreated(partition, replaces, first_offset)
        self._hub.partition_recreated(partition, first_offset, replaces)

    def _take_gap(self, gap: Gap) -> None:
        """Records have expired: sending the gap to a first subscriber settles their offsets."""
        partition = gap.partition
        epoch = self._offsets.epoch(partition)
        if epoch is None or (news := self._following.known.news_of_gap(gap)) is None:
            return
        gap = news
        log.warning("records expired", partition=str(partition), first=gap.first, last=gap.last)
        covers_from = self._offsets.received(partition, gap.first, gap.last + 1)
        self._hub.publish(Batch(partition, NO_RECORDS, epoch=epoch, covers_from=covers_from, gap=gap))

    def _take_records(self, group: Group) -> None:
        partition, records, leader_epoch = group
        epoch_before = self._offsets.epoch(partition)
        if epoch_before is None:
            # Fetched before a revoke within the same poll: the new owner reads them.
            return
        records = self._following.known.news(partition, records)
        if not records:
            return
        covers_from = self._offsets.received(partition, records.offsets[0], records.offsets[-1] + 1, leader_epoch)
        epoch = self._offsets.epoch(partition)
        assert epoch is not None  # noqa: S101 - it was just received
        if epoch != epoch_before:
            # Offsets went backwards: the log is not the one in memory.
            self._start_over(partition, records.offsets[0], None)
        gap = self._unsent_gaps.pop(partition, None)
        batch = Batch(partition, records, epoch=epoch, covers_from=covers_from, leader_epoch=leader_epoch, gap=gap)
        self._hub.times.taken(batch)
        self._hub.publish(batch)
        for first, end in self._following.known.taken_of(partition, batch.next_offset):
            self._hub.settlement.acked_between(partition, first, end)
