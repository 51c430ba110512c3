"""The book of commits: every commit that was sent and not answered, per partition, oldest first, of any epoch.

An answer names only a partition and an offset, so it belongs to the oldest matching commit under way.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.sansio.records import TopicPartition


class Commit(NamedTuple):
    """One offset to commit."""

    partition: TopicPartition
    epoch: int
    """The epoch of the dispatched records. A commit of an earlier epoch must not be sent."""
    offset: int
    """The last dispatched offset + 1: the next record that the group has to read."""
    leader_epoch: int | None
    """The leader epoch of the last dispatched record (KIP-320); None if unknown."""
    metadata: str = ""
    """What Kafka stores with the offset: see `beginnings.Stamp`."""


@dataclass(frozen=True, slots=True)
class CommitBookStatistics:
    """A snapshot of the book."""

    under_way: int
    """Commits that were sent and not answered yet."""
    sent: int
    """Commits that were sent since the start."""


class CommitBook:
    """The commits under way."""

    def __init__(self) -> None:
        self._under_way: dict[TopicPartition, deque[Commit]] = {}
        self._sent = 0

    def enter(self, commit: Commit) -> None:
        """Note that a commit was sent."""
        self._under_way.setdefault(commit.partition, deque()).append(commit)
        self._sent += 1

    def take(self, partition: TopicPartition, offset: int) -> Commit | None:
        """Remove and return the commit that an answer belongs to; None if none was under way."""
        queue = self._under_way.get(partition, ())
        commit = next((commit for commit in queue if commit.offset == offset), None)
        if commit is not None:
            self._under_way[partition].remove(commit)
            if not queue:
                del self._under_way[partition]
        return commit

    def has(self, partition: TopicPartition, epoch: int) -> bool:
        """Whether a commit of this epoch is under way."""
        queue = self._under_way.get(partition)
        return queue is not None and any(commit.epoch == epoch for commit in queue)

    def clear(self) -> None:
        """Forget all commits: no answer will arrive."""
        self._under_way.clear()

    @property
    def under_way(self) -> Sequence[Commit]:
        """Return every unanswered commit, the oldest of each partition first."""
        return [commit for queue in self._under_way.values() for commit in queue]

    def statistics(self) -> CommitBookStatistics:
        """A snapshot of the book."""
        return CommitBookStatistics(sum(map(len, self._under_way.values())), self._sent)
