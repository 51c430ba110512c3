"""Which offsets may be committed: dispatched runs in, committable offsets out, per assignment epoch.

Rules of this module:

* A commit carries the offset behind the last record of the longest dispatched run that starts at the first
  received record. It never passes a record that was received and not dispatched.
* Every assignment of a partition begins a new epoch. What is told of an earlier epoch changes nothing.
* Illegal input raises and changes nothing.
* Offsets without a record (compacted, aborted, control records) lie inside the range that a batch covers
  (`Batch.covers_from`), so they are dispatched with the record behind them.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dispatcher.sansio.records import TopicPartition


class Commit(NamedTuple):
    """One offset to commit."""

    partition: TopicPartition
    epoch: int
    """Assignment epoch of the dispatched records; a commit of an earlier epoch must not be sent."""
    offset: int
    """Last dispatched + 1: the next record that the group has to read."""
    leader_epoch: int | None
    """Leader epoch of the last dispatched record (KIP-320), None when unknown."""


@dataclass(frozen=True, slots=True)
class PartitionStatistics:
    """What is known of one assigned partition; offsets are None until the first record came."""

    epoch: int
    received_to: int | None
    """Offset behind the last received record."""
    dispatched_to: int | None
    """Offset behind the last record of the dispatched run: what may be committed."""
    committed: int | None
    """Offset that the broker confirmed in this assignment."""


@dataclass(slots=True)
class _Assignment:
    epoch: int
    first: int | None = None
    """Offset of the first received record: before it nothing is ours to commit."""
    received_to: int = 0
    dispatched_to: int = 0
    runs: list[tuple[int, int]] = field(default_factory=list)
    """Dispatched ranges above `dispatched_to`, sorted, disjoint, not touching."""
    leader_epochs: list[tuple[int, int | None]] = field(default_factory=list)
    """(first offset, leader epoch) of each change of leader epoch, oldest first."""
    sent: int | None = None
    """Offset of the newest commit on its way, None when there is none or it was refused."""
    committed: int | None = None

    def commit_beyond(self, partition: TopicPartition, *known: int | None) -> list[Commit]:
        """The commit of the dispatched run, if it goes further than every offset that is known already."""
        if self.first is None or self.dispatched_to <= max((self.first, *(o for o in known if o is not None))):
            return []
        leader_epoch = None
        for first_offset, epoch in self.leader_epochs:
            if first_offset < self.dispatched_to:
                leader_epoch = epoch
        return [Commit(partition, self.epoch, self.dispatched_to, leader_epoch)]


class OffsetTracker:
    """Follows every assigned partition from received to dispatched to committed."""

    def __init__(self) -> None:
        self._assignments: dict[TopicPartition, _Assignment] = {}
        self._epoch = 0

    def assigned(self, partition: TopicPartition) -> int:
        """Begin a new epoch for a partition and return it; an earlier one is forgotten."""
        self._epoch += 1
        self._assignments[partition] = _Assignment(self._epoch)
        return self._epoch

    def epoch(self, partition: TopicPartition) -> int | None:
        """The epoch of the partition's present assignment, None when it is not assigned."""
        assignment = self._assignments.get(partition)
        return None if assignment is None else assignment.epoch

    def received(
        self, partition: TopicPartition, first_offset: int, next_offset: int, leader_epoch: int | None = None
    ) -> int:
        """Take note of records that came, and return the offset from which they cover the log.

        The log before the first batch of an assignment is not this assignment's business: the range begins at
        its first record. Offsets that go backwards (a recreated topic, a truncated log, a reset) begin a new
        epoch: what was dispatched of the old log says nothing about the new one.

        Raises:
            KeyError: the partition is not assigned.
            ValueError: the range is empty or negative.
        """
        if not 0 <= first_offset < next_offset:
            raise ValueError(f"not a range of offsets: {first_offset}..{next_offset}")
        assignment = self._assignments[partition]
        if assignment.first is not None and first_offset < assignment.received_to:
            self.assigned(partition)
            assignment = self._assignments[partition]
        if assignment.first is None:
            assignment.first = assignment.dispatched_to = assignment.received_to = first_offset
        covers_from = assignment.received_to
        assignment.received_to = next_offset
        if not assignment.leader_epochs or assignment.leader_epochs[-1][1] != leader_epoch:
            assignment.leader_epochs.append((first_offset, leader_epoch))
        return covers_from

    def ended(self, partition: TopicPartition, end: int) -> None:
        """Take note that the log has no record between the last received one and its end.

        What lies there, control records and aborted ones, counts as dispatched. So does an end that comes before any
        record: from where the group stood up to there nothing is to be read.
        """
        assignment = self._assignments.get(partition)
        if assignment is None or end <= assignment.received_to:
            return
        if assignment.first is None:
            assignment.first = 0
            assignment.dispatched_to = end
        start, assignment.received_to = assignment.received_to, end
        self.dispatched(partition, assignment.epoch, start, end)

    def dispatched(self, partition: TopicPartition, epoch: int, start: int, end: int) -> None:
        """Take note that every record in ``start`` to ``end`` (exclusive) was dispatched; repeats are fine.

        Raises:
            ValueError: the range was never received in this epoch.
        """
        assignment = self._assignments.get(partition)
        if assignment is None or assignment.epoch != epoch:
            return
        if assignment.first is None or not assignment.first <= start < end <= assignment.received_to:
            raise ValueError(f"{partition}: {start}..{end} was not received in epoch {epoch}")
        if end <= assignment.dispatched_to:
            return
        if start > assignment.dispatched_to:
            _merge(assignment.runs, start, end)
            return
        assignment.dispatched_to = end
        while assignment.runs and assignment.runs[0][0] <= assignment.dispatched_to:
            assignment.dispatched_to = max(assignment.dispatched_to, assignment.runs.pop(0)[1])
        while len(assignment.leader_epochs) > 1 and assignment.leader_epochs[1][0] < assignment.dispatched_to:
            del assignment.leader_epochs[0]

    def committable(self) -> list[Commit]:
        """What was dispatched and neither sent nor confirmed yet."""
        return [
            commit
            for partition, assignment in self._assignments.items()
            for commit in assignment.commit_beyond(partition, assignment.sent, assignment.committed)
        ]

    def sent(self, commits: Iterable[Commit]) -> None:
        """Take note that these commits are on their way."""
        for commit in commits:
            if (assignment := self._present(commit)) is not None:
                assignment.sent = commit.offset

    def confirmed(self, commit: Commit) -> None:
        """The broker has stored this commit."""
        if (assignment := self._present(commit)) is not None:
            assignment.committed = commit.offset

    def refused(self, commit: Commit) -> None:
        """The commit failed: it becomes committable again."""
        if (assignment := self._present(commit)) is not None and assignment.sent == commit.offset:
            assignment.sent = None

    def revoked(self, partitions: Iterable[TopicPartition]) -> list[Commit]:
        """Forget these partitions and return what must be committed before they are let go.

        A commit that is sent and not confirmed is returned again: to commit an offset twice does no harm.
        """
        return [
            commit
            for partition in partitions
            if (assignment := self._assignments.pop(partition, None)) is not None
            for commit in assignment.commit_beyond(partition, assignment.committed)
        ]

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget these partitions; another member has them, so nothing of theirs may be committed."""
        for partition in partitions:
            self._assignments.pop(partition, None)

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """The assigned partitions."""
        return frozenset(self._assignments)

    def statistics(self) -> dict[TopicPartition, PartitionStatistics]:
        """A snapshot of every assigned partition."""
        return {
            partition: PartitionStatistics(
                epoch=assignment.epoch,
                received_to=None if assignment.first is None else assignment.received_to,
                dispatched_to=None if assignment.first is None else assignment.dispatched_to,
                committed=assignment.committed,
            )
            for partition, assignment in sorted(self._assignments.items())
        }

    def _present(self, commit: Commit) -> _Assignment | None:
        assignment = self._assignments.get(commit.partition)
        return assignment if assignment is not None and assignment.epoch == commit.epoch else None


def _merge(runs: list[tuple[int, int]], start: int, end: int) -> None:
    """Put a range into sorted disjoint ranges, joining those that it touches."""
    at = bisect_right(runs, (start, end))
    while at > 0 and runs[at - 1][1] >= start:
        at -= 1
        start, end = min(start, runs[at][0]), max(end, runs[at][1])
        del runs[at]
    while at < len(runs) and runs[at][0] <= end:
        end = max(end, runs[at][1])
        del runs[at]
    insort(runs, (start, end))
