"""Which offsets may be committed, per epoch: takes dispatched ranges and the answers to commits, returns commits.

Rules of this module:

* A commit carries the offset after the last record of the longest dispatched run that starts where the assignment
  began. It never passes a record that was received and not dispatched.
* If the group has no offset in a partition, the offset at which the assignment began is committed first. Otherwise a
  restart with ``auto.offset.reset=latest`` would skip everything before the first dispatch.
* Every beginning of a partition is a new epoch. Whatever belongs to an earlier epoch changes nothing, with one
  exception: if an earlier commit may have arrived after a newer one, the newer one is sent again.
* An offset that was committed without the metadata that belongs to it is committed again, with the metadata.
* Each partition has at most one commit of its present epoch under way. One book holds all commits under way.
* Illegal input raises and changes nothing.
* Offsets without a record (compacted, aborted, control records) lie inside the range that a batch covers
  (`Batch.covers_from`), so they are dispatched with the record after them. Records that expired before they were read
  are dispatched with the gap that reports them.
* The cost of a crossing depends on what changed in it, not on the number of partitions.
"""

import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dispatcher.sansio.assignment import Assignment
from dispatcher.sansio.commit_book import Commit, CommitBook
from dispatcher.sansio.records import TopicPartition

RECOMMIT_SECONDS = 5.0
"""How long after an unanswered commit the offset is committed again: until then the broker may still process the old
request, and store an older offset. Seen 1.6 s after the client had given up (docs/rebalance.md)."""

AT_ONCE = -math.inf
"""The time of a repeated commit that need not wait."""

MAX_RANGES = 1_000
"""About the most ranges that a partition takes along when it becomes followed (`ownership`)."""


@dataclass(frozen=True, slots=True)
class PartitionStatistics:
    """What is known about one assigned partition; offsets are None until its start is known."""

    epoch: int
    received_to: int | None
    """The offset after the last received record."""
    dispatched_to: int | None
    """The offset after the last record of the dispatched run, which is what may be committed."""
    committed: int | None
    """The offset that the broker has confirmed, in this assignment or before it."""


class OffsetTracker:
    """Follows every assigned partition from received through dispatched to committed."""

    def __init__(self) -> None:
        self._assignments: dict[TopicPartition, Assignment] = {}
        self._epoch = 0
        self.book = CommitBook()
        self._changed: dict[TopicPartition, None] = {}
        """Partitions that may have something to commit and have no commit of this epoch under way."""
        self._again: dict[TopicPartition, float] = {}
        """When to commit partitions again whose offset an older commit may have set back."""

    def assigned(self, partition: TopicPartition) -> int:
        """Begin a new epoch for a partition and return it; an earlier epoch is forgotten.

        No record of the partition is received before `began`.
        """
        self._epoch += 1
        self._changed.pop(partition, None)
        self._assignments[partition] = Assignment(self._epoch)
        return self._epoch

    def began(
        self,
        partition: TopicPartition,
        offset: int,
        *,
        leader_epoch: int | None = None,
        committed: bool = False,
        commit_beginning: bool = True,
        commit_again: bool = False,
        metadata: str = "",
    ) -> int:
        """Note where a partition begins, in a new epoch, which is returned.

        Args:
            partition: An assigned partition.
            offset: The first offset to be read.
            leader_epoch: The leader epoch of the record before it (KIP-320); None if unknown.
            committed: Whether the group has committed it.
            commit_beginning: Whether to commit it, if the group has not. False if the group's offset belongs to another
                log: the next owner has to notice that until a record of the new log has been dispatched.
            commit_again: Whether to commit it again although the group has, because that commit lacks the metadata.
            metadata: The metadata of commits.

        Raises:
            KeyError: the partition is not assigned.
            ValueError: the offset is negative.
        """
        if offset < 0:
            raise ValueError(f"not an offset: {offset}")
        if partition not in self._assignments:
            raise KeyError(partition)
        epoch = self.assigned(partition)
        assignment = self._assignments[partition]
        assignment.first = assignment.received_to = assignment.dispatched_to = offset
        assignment.committed = offset if committed else None
        assignment.commits_beginning = commit_beginning and not committed
        assignment.metadata = metadata
        if leader_epoch is not None:
            assignment.leader_epochs.append((offset - 1, leader_epoch))
        if commit_again:
            self._again[partition] = AT_ONCE
        self._note_change(partition, assignment)
        return epoch

    def described(self, partition: TopicPartition, metadata: str) -> None:
        """Give a partition's commits other metadata; what was committed without it is committed again."""
        if (assignment := self._assignments.get(partition)) is not None and assignment.metadata != metadata:
            assignment.metadata = metadata
            self._again[partition] = AT_ONCE

    def epoch(self, partition: TopicPartition) -> int | None:
        """Return the epoch of the partition's present assignment; None if it is not assigned or has not begun."""
        assignment = self._assignments.get(partition)
        return None if assignment is None or assignment.first is None else assignment.epoch

    def received(
        self, partition: TopicPartition, first_offset: int, next_offset: int, leader_epoch: int | None = None
    ) -> int:
        """Note that a range of the log was received, and return the offset from which on it covers the log.

        Offsets that go backwards begin a new epoch: the log is another one, and what was dispatched of the old log says
        nothing about it. The poller begins such logs itself, so this is a second line of defence.

        Raises:
            KeyError: the partition is not assigned, or has not begun.
            ValueError: the range is empty or negative.
        """
        if not 0 <= first_offset < next_offset:
            raise ValueError(f"not a range of offsets: {first_offset}..{next_offset}")
        assignment = self._assignments[partition]
        if assignment.first is None:
            raise KeyError(partition)
        if first_offset < assignment.received_to:
            self.began(partition, first_offset, metadata=assignment.metadata)
            assignment = self._assignments[partition]
        covers_from = assignment.received_to
        assignment.received_to = next_offset
        if not assignment.leader_epochs or assignment.leader_epochs[-1][1] != leader_epoch:
            assignment.leader_epochs.append((first_offset, leader_epoch))
        return covers_from

    def ended(self, partition: TopicPartition, end: int) -> None:
        """Note that the log has no record between the last received one and its end.

        Whatever lies there, control records and aborted ones, counts as dispatched. The same holds for an end without
        any record before it: there is nothing to read between the beginning and that end.
        """
        assignment = self._assignments.get(partition)
        if assignment is None or assignment.first is None or end <= assignment.received_to:
            return
        start, assignment.received_to = assignment.received_to, end
        self.dispatched(partition, assignment.epoch, start, end)

    def dispatched(self, partition: TopicPartition, epoch: int, start: int, end: int) -> None:
        """Note that every record from ``start`` to ``end`` (exclusive) was dispatched; repeats are fine.

        Raises:
            ValueError: the range was not received in this epoch.
        """
        assignment = self._assignments.get(partition)
        if assignment is None or assignment.epoch != epoch:
            return
        if assignment.first is None or not assignment.first <= start < end <= assignment.received_to:
            raise ValueError(f"{partition}: {start}..{end} was not received in epoch {epoch}")
        if end <= assignment.dispatched_to:
            return
        if start > assignment.dispatched_to:
            assignment.above.add(start, end)
            return
        assignment.dispatched_to = assignment.above.advance(end)
        while len(assignment.leader_epochs) > 1 and assignment.leader_epochs[1][0] < assignment.dispatched_to:
            del assignment.leader_epochs[0]
        self._note_change(partition, assignment)

    def committable(self, now: float) -> list[Commit]:
        """Return commits for what was dispatched and is neither under way nor confirmed, and for what is due again.

        Args:
            now: Seconds on any clock that only moves forward.
        """
        due = dict(self._changed)
        for partition, at in self._again.items():
            assignment = self._assignments[partition]
            if at <= now and assignment.committed is not None and not self.book.has(partition, assignment.epoch):
                due[partition] = None
        return [self._assignments[partition].commit(partition) for partition in due]

    def sent(self, commits: Iterable[Commit], now: float) -> None:
        """Enter commits that are being sent into the book."""
        for commit in commits:
            self.book.enter(commit)
            if self._present(commit) is not None:
                self._changed.pop(commit.partition, None)
                if self._again.get(commit.partition, now) <= now:
                    self._again.pop(commit.partition, None)

    def answered(
        self, partition: TopicPartition, offset: int, now: float, *, stored: bool, may_arrive: bool = False
    ) -> Commit | None:
        """Take the answer to the oldest matching commit under way.

        Args:
            partition: The partition.
            offset: The offset of the commit.
            now: As for `committable`.
            stored: Whether the broker has stored it.
            may_arrive: Whether it was given up but may still arrive.

        Returns:
            The commit; None if none was under way.
        """
        commit = self.book.take(partition, offset)
        assignment = self._assignments.get(partition)
        if commit is None or assignment is None:
            return commit
        is_ours = commit.epoch == assignment.epoch
        if stored and is_ours:
            # An epoch has one commit under way at a time, so this is never below the previous one.
            assignment.committed = commit.offset
        elif stored or may_arrive:
            # The broker has, or will have, an older offset than the one that it confirmed to us.
            self._again[partition] = now if stored else now + RECOMMIT_SECONDS
        elif is_ours and not assignment.has_news:
            # It was a repeated commit, and it failed.
            self._again[partition] = now
        self._note_change(partition, assignment)
        return commit

    def forget_answers(self) -> None:
        """Note that no commit under way will be answered, because the consumer that sent them is gone."""
        self.book.clear()
        for partition, assignment in self._assignments.items():
            self._note_change(partition, assignment)

    def revoked(self, partitions: Iterable[TopicPartition]) -> list[Commit]:
        """Forget these partitions, and return what must be committed before they are released.

        A commit that is under way is returned again: committing an offset twice does no harm.
        """
        commits = []
        for partition in partitions:
            assignment = self._assignments.get(partition)
            if assignment is not None:
                if assignment.has_news or (partition in self._again and assignment.committed is not None):
                    commits.append(assignment.commit(partition))
                self._forget(partition)
        return commits

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget these partitions; another member has them, so none of their offsets may be committed."""
        for partition in partitions:
            self._forget(partition)

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """The assigned partitions."""
        return frozenset(self._assignments)

    @property
    def is_empty(self) -> bool:
        """Whether no partition is assigned."""
        return not self._assignments

    def is_assigned(self, partition: TopicPartition) -> bool:
        """Whether a partition is assigned, whether or not its start is known."""
        return partition in self._assignments

    @property
    def begun(self) -> frozenset[TopicPartition]:
        """The assigned partitions whose start is known."""
        return frozenset(tp for tp, assignment in self._assignments.items() if assignment.first is not None)

    def dispatched_ranges(self, partition: TopicPartition) -> Sequence[tuple[int, int]]:
        """Return what was dispatched in this assignment as ranges (ends exclusive); of many, only the newest."""
        assignment = self._assignments.get(partition)
        if assignment is None or assignment.first is None:
            return ()
        return [(assignment.first, assignment.dispatched_to), *assignment.above.last_ranges(MAX_RANGES)]

    def dispatched_to(self, partition: TopicPartition) -> int | None:
        """Return the offset after everything dispatched without a hole; None while the start is unknown."""
        assignment = self._assignments.get(partition)
        return None if assignment is None or assignment.first is None else assignment.dispatched_to

    def committed(self, partition: TopicPartition) -> int | None:
        """Return the offset that the broker has confirmed in this assignment; None if there is none."""
        assignment = self._assignments.get(partition)
        return None if assignment is None else assignment.committed

    def statistics(self) -> dict[TopicPartition, PartitionStatistics]:
        """Return a snapshot of every assigned partition."""
        return {
            partition: PartitionStatistics(
                epoch=assignment.epoch,
                received_to=None if assignment.first is None else assignment.received_to,
                dispatched_to=None if assignment.first is None else assignment.dispatched_to,
                committed=assignment.committed,
            )
            for partition, assignment in sorted(self._assignments.items())
        }

    def _present(self, commit: Commit) -> Assignment | None:
        assignment = self._assignments.get(commit.partition)
        return assignment if assignment is not None and assignment.epoch == commit.epoch else None

    def _note_change(self, partition: TopicPartition, assignment: Assignment) -> None:
        if partition not in self._changed and assignment.has_news and not self.book.has(partition, assignment.epoch):
            self._changed[partition] = None

    def _forget(self, partition: TopicPartition) -> None:
        self._assignments.pop(partition, None)
        self._changed.pop(partition, None)
        self._again.pop(partition, None)


def merge(runs: list[tuple[int, int]], start: int, end: int) -> None:
    """Insert a range into sorted disjoint ranges, and join it with those that it touches."""
    at = bisect_right(runs, (start, end))
    while at > 0 and runs[at - 1][1] >= start:
        at -= 1
        start, end = min(start, runs[at][0]), max(end, runs[at][1])
        del runs[at]
    while at < len(runs) and runs[at][0] <= end:
        end = max(end, runs[at][1])
        del runs[at]
    insort(runs, (start, end))
