"""Which offsets may be committed: dispatched runs in, commits out and their answers in, per assignment epoch.

Rules of this module:

* A commit carries the offset after the last record of the longest dispatched run that starts where the assignment
  began. It never passes a record that was received and not dispatched.
* Where an assignment began is committed before anything else if the group has no offset there: what comes before the
  first dispatch would otherwise be skipped by a restart with ``auto.offset.reset=latest``.
* Every beginning of a partition is a new epoch. What belongs to an earlier epoch changes nothing, except that an
  earlier commit which may have arrived after a newer one makes the newer one be sent once more.
* An offset that was committed without the metadata that belongs to it is sent once more, with it.
* One commit of each partition's present epoch is under way at a time. All commits under way are in one book.
* Illegal input raises and changes nothing.
* Offsets without a record (compacted, aborted, control records) lie inside the range that a batch covers
  (`Batch.covers_from`), so they are dispatched with the record after them. Records that expired before they were read
  are dispatched with the gap that reports them.
* What is done for each crossing costs what changed in it, not the number of partitions.
"""

import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dispatcher.sansio.assignment import Assignment
from dispatcher.sansio.commit_book import Commit, CommitBook
from dispatcher.sansio.records import TopicPartition

RECOMMIT_SECONDS = 5.0
"""How long after a commit that nobody answered the offset is committed once more: until then the broker may still take
the old request, and with it an older offset. Seen 1.6 s after the client had given up (docs/rebalance.md)."""

AT_ONCE = -math.inf
"""When to commit once more what waits for nothing."""

MAX_RANGES = 1_000
"""About the most ranges that a partition which is followed from now on takes along (`ownership`)."""


@dataclass(frozen=True, slots=True)
class PartitionStatistics:
    """What is known of one assigned partition; offsets are None until it is known where it begins."""

    epoch: int
    received_to: int | None
    """Offset after the last received record."""
    dispatched_to: int | None
    """Offset after the last record of the dispatched run: what may be committed."""
    committed: int | None
    """Offset that the broker has confirmed in this assignment, or had before."""


class OffsetTracker:
    """Follows every assigned partition from received to dispatched to committed."""

    def __init__(self) -> None:
        self._assignments: dict[TopicPartition, Assignment] = {}
        self._epoch = 0
        self.book = CommitBook()
        self._changed: dict[TopicPartition, None] = {}
        """Partitions that may have something to commit and have no commit of this epoch under way."""
        self._again: dict[TopicPartition, float] = {}
        """When to commit partitions once more whose offset an older commit may have set back."""

    def assigned(self, partition: TopicPartition) -> int:
        """Begin a new epoch for a partition and return it; an earlier one is forgotten.

        Nothing is received of it before `began`.
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
        """Take note of where a partition begins, in a new epoch, which is returned.

        Args:
            partition: An assigned partition.
            offset: The first offset that is read.
            leader_epoch: Of the record before it (KIP-320), None when unknown.
            committed: Whether the group has committed it.
            commit_beginning: Whether to commit it, if the group has not. Not where the group's offset belongs to
                another log, which the next owner has to notice as long as nothing of the new one was dispatched.
            commit_again: Whether to commit it once more if the group has, because that commit lacks the metadata.
            metadata: What commits carry.

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
        """Let commits of a partition carry other metadata; what was committed without it is committed once more."""
        if (assignment := self._assignments.get(partition)) is not None and assignment.metadata != metadata:
            assignment.metadata = metadata
            self._again[partition] = AT_ONCE

    def epoch(self, partition: TopicPartition) -> int | None:
        """The epoch of the partition's present assignment, None when it is not assigned or has not begun."""
        assignment = self._assignments.get(partition)
        return None if assignment is None or assignment.first is None else assignment.epoch

    def received(
        self, partition: TopicPartition, first_offset: int, next_offset: int, leader_epoch: int | None = None
    ) -> int:
        """Take note of a range of the log, and return the offset from which it covers the log.

        Offsets that go backwards begin a new epoch: the log is another one, and what was dispatched of the old one says
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
        """Take note that the log has no record between the last received one and its end.

        What lies there, control records and aborted ones, counts as dispatched. So does an end that comes before any
        record: between the beginning and that end nothing is to be read.
        """
        assignment = self._assignments.get(partition)
        if assignment is None or assignment.first is None or end <= assignment.received_to:
            return
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
            assignment.above.add(start, end)
            return
        assignment.dispatched_to = assignment.above.advance(end)
        while len(assignment.leader_epochs) > 1 and assignment.leader_epochs[1][0] < assignment.dispatched_to:
            del assignment.leader_epochs[0]
        self._note_change(partition, assignment)

    def committable(self, now: float) -> list[Commit]:
        """What was dispatched and is neither under way nor confirmed, and what is due once more.

        Args:
            now: Seconds on any clock that only goes forward.
        """
        due = dict(self._changed)
        for partition, at in self._again.items():
            assignment = self._assignments[partition]
            if at <= now and assignment.committed is not None and not self.book.has(partition, assignment.epoch):
                due[partition] = None
        return [self._assignments[partition].commit(partition) for partition in due]

    def sent(self, commits: Iterable[Commit], now: float) -> None:
        """Enter commits into the book: they are under way."""
        for commit in commits:
            self.book.enter(commit)
            if self._present(commit) is not None:
                self._changed.pop(commit.partition, None)
                if self._again.get(commit.partition, now) <= now:
                    self._again.pop(commit.partition, None)

    def answered(
        self, partition: TopicPartition, offset: int, now: float, *, stored: bool, may_arrive: bool = False
    ) -> Commit | None:
        """Take the answer to the oldest commit under way that fits.

        Args:
            partition: The partition.
            offset: The offset that was to be committed.
            now: As for `committable`.
            stored: The broker has stored it.
            may_arrive: It was given up, and may still arrive.

        Returns:
            The commit; None when none was under way.
        """
        commit = self.book.take(partition, offset)
        assignment = self._assignments.get(partition)
        if commit is None or assignment is None:
            return commit
        is_ours = commit.epoch == assignment.epoch
        if stored and is_ours:
            # One of an epoch is under way at a time, so this is never below the one before.
            assignment.committed = commit.offset
        elif stored or may_arrive:
            # The broker has, or may come to have, an older offset than the one that it confirmed to us.
            self._again[partition] = now if stored else now + RECOMMIT_SECONDS
        elif is_ours and not assignment.has_news:
            # It was a commit once more, and it failed.
            self._again[partition] = now
        self._note_change(partition, assignment)
        return commit

    def forget_answers(self) -> None:
        """No commit under way will be answered: the consumer that sent them is gone."""
        self.book.clear()
        for partition, assignment in self._assignments.items():
            self._note_change(partition, assignment)

    def revoked(self, partitions: Iterable[TopicPartition]) -> list[Commit]:
        """Forget these partitions and return what must be committed before they are let go.

        A commit that is under way is returned again: to commit an offset twice does no harm.
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
        """Forget these partitions; another member has them, so nothing of theirs may be committed."""
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
        """Whether a partition is assigned, begun or not."""
        return partition in self._assignments

    @property
    def begun(self) -> frozenset[TopicPartition]:
        """The assigned partitions of which it is known where they begin."""
        return frozenset(tp for tp, assignment in self._assignments.items() if assignment.first is not None)

    def dispatched_ranges(self, partition: TopicPartition) -> Sequence[tuple[int, int]]:
        """What was dispatched in this assignment: first offsets, and the ones after the last; the newest of many."""
        assignment = self._assignments.get(partition)
        if assignment is None or assignment.first is None:
            return ()
        return [(assignment.first, assignment.dispatched_to), *assignment.above.last_ranges(MAX_RANGES)]

    def dispatched_to(self, partition: TopicPartition) -> int | None:
        """The offset after all that was dispatched without a hole; None when it is not known where it begins."""
        assignment = self._assignments.get(partition)
        return None if assignment is None or assignment.first is None else assignment.dispatched_to

    def committed(self, partition: TopicPartition) -> int | None:
        """The offset that the broker has confirmed in this assignment, None when there is none."""
        assignment = self._assignments.get(partition)
        return None if assignment is None else assignment.committed

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

    def _present(self, commit: Commit) -> Assignment | None:
        assignment = self._assignments.get(commit.partition)
        return assignment if assignment is not None and assignment.epoch == commit.epoch else None

    def _note_change(self, partition: TopicPartition, assignment: Assignment) -> None:
        if assignment.has_news and not self.book.has(partition, assignment.epoch):
            self._changed[partition] = None

    def _forget(self, partition: TopicPartition) -> None:
        self._assignments.pop(partition, None)
        self._changed.pop(partition, None)
        self._again.pop(partition, None)


def merge(runs: list[tuple[int, int]], start: int, end: int) -> None:
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
