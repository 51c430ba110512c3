"""One assignment of a partition: how far it has been received, dispatched and committed, and what its commits carry."""

from dataclasses import dataclass, field

from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.offset_set import OffsetSet
from dispatcher.sansio.records import TopicPartition


@dataclass(slots=True)
class Assignment:
    """The progress of one assignment of a partition; `OffsetTracker` decides what may happen to it."""

    epoch: int
    first: int | None = None
    """Where the assignment began; records before it are not ours to commit. None until it is known."""
    received_to: int = 0
    dispatched_to: int = 0
    above: OffsetSet = field(default_factory=OffsetSet)
    """What was dispatched above `dispatched_to`: with parked records in between these may be many ranges."""
    leader_epochs: list[tuple[int, int | None]] = field(default_factory=list)
    """(first offset, leader epoch) of each change of leader epoch, oldest first."""
    committed: int | None = None
    commits_beginning: bool = False
    """Whether the offset at which the assignment began has to be committed."""
    metadata: str = ""

    @property
    def has_news(self) -> bool:
        """Whether there is anything to commit that the broker has not confirmed."""
        if self.first is None:
            return False
        if self.committed is None:
            return self.commits_beginning or self.dispatched_to > self.first
        return self.dispatched_to > self.committed

    def commit(self, partition: TopicPartition) -> Commit:
        """Return a commit of the dispatched run."""
        leader_epoch = None
        for first_offset, epoch in self.leader_epochs:
            if first_offset < self.dispatched_to:
                leader_epoch = epoch
        return Commit(partition, self.epoch, self.dispatched_to, leader_epoch, self.metadata)
