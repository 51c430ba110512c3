"""The plain data that crosses between the poller's thread and Trio: a `PollResult` one way, `Commands` the other."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar, TypeVarTuple

import trio

from dispatcher.kafka.commits import CommitAnswer
from dispatcher.kafka.decoding import Group
from dispatcher.kafka.spacing import Spacing
from dispatcher.kafka.statistics import ConsumerStatistics
from dispatcher.sansio.beginnings import Stamp, Start
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.poll_size import PollSize
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.stalls import Stall

IDLE_POLL_SECONDS = 0.1
"""How long a poll waits for a record, and so how long a command may wait for the thread; longer once nothing has been
received for a while (`Fetching.poll_seconds`)."""


@dataclass(slots=True)
class PollResult:
    """The result of one poll, as plain data for the Trio thread."""

    assigned: list[TopicPartition] | None = None
    """Newly assigned partitions, possibly none; None if there was no assignment. A start follows for each."""
    starts: list[Start] = field(default_factory=list)
    """Where partitions begin; each start precedes its records. A second one means that the log was replaced."""
    stamps: dict[TopicPartition, Stamp] = field(default_factory=dict)
    """Stamps for partitions' commits from now on, where they were unknown at the start."""
    gaps: list[Gap] = field(default_factory=list)
    """Records that expired before they were read; those in `groups` follow them."""
    groups: list[Group] = field(default_factory=list)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    """The log ends that were reached, where the last offsets before the end hold no record."""
    stalls: list[Stall] = field(default_factory=list)
    """Partitions that are not fetched although they have records: restarted, unless a restart has not helped before."""
    held: frozenset[TopicPartition] = frozenset()
    """Partitions whose records wait to be decoded; they are paused."""
    commit_answers: list[CommitAnswer] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of each error that the client reported and survived."""
    messages: int = 0
    """How many messages the poll took: records, ends and errors."""
    statistics: ConsumerStatistics | None = None

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Leave out what partitions that have left since would begin with."""
        if self.assigned is not None:
            self.assigned = [partition for partition in self.assigned if partition not in partitions]
        self.starts = [start for start in self.starts if start.partition not in partitions]
        self.stamps = {tp: stamp for tp, stamp in self.stamps.items() if tp not in partitions}
        self.gaps = [gap for gap in self.gaps if gap.partition not in partitions]
        self.stalls = [stall for stall in self.stalls if stall.partition not in partitions]


class Commands(NamedTuple):
    """What the thread must do with the consumer before it polls again."""

    commit: Sequence[Commit] = ()
    pause: Iterable[TopicPartition] = ()
    resume: Iterable[TopicPartition] = ()
    stop: bool = False
    rebuild: str | None = None
    """Why the consumer must be rebuilt, if it must."""
    poll_seconds: float = IDLE_POLL_SECONDS
    settle: bool = False
    """Whether to hand over the next result through `Downstream.exchange_after_settling`."""


class Polled(Protocol):
    """The result of a poll of either consumer."""

    messages: int


_Polled = TypeVar("_Polled", bound=Polled)
_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


class Calls:
    """Calls functions in Trio's thread, one turn of the loop sooner than `trio.from_thread` does by default.

    By default it wakes the task that waits for the thread, and that task calls the function in the next turn. Records
    should not wait for that turn, which is long while many clients connect.

    *Thread*: one that `trio.to_thread` has started.

    Args:
        spacing: Learns how long crossings take.
        poll_size: Knows how many records a poll may take.
    """

    def __init__(self, spacing: Spacing, poll_size: PollSize) -> None:
        self._spacing, self._poll_size = spacing, poll_size
        self._token = trio.from_thread.run_sync(trio.lowlevel.current_trio_token)

    def call(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Call a function, and return what it returns, or raise what it raises.

        *Cancellation*: none; `trio.from_thread.check_cancelled` says whether the waiting task was cancelled.
        """
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)

    def hand_over(self, function: Callable[[_Polled], _Result], polled: _Polled) -> _Result:
        """Call a function with the result of a poll; the next one should wait for `Spacing.wait`."""
        begun, is_full = time.monotonic(), polled.messages >= self._poll_size.records
        answer = self.call(function, polled)
        if not is_full:  # otherwise there may be more records already, so none have to collect
            self._spacing.crossed(polled.messages, time.monotonic() - begun)
        return answer


class Downstream(Protocol):
    """The Trio side of the crossing.

    Every method runs in the Trio thread while the poller waits, and all but `exchange_after_settling` in one step.
    """

    def exchange(self, result: PollResult) -> Commands:
        """Take the result of a poll, and return what the thread must do."""

    async def exchange_after_settling(self, result: PollResult) -> Commands:
        """The same, after everything received before has been offered to every live subscriber."""

    def revoking(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop handing out these partitions."""

    def drained(self, partitions: Sequence[TopicPartition]) -> bool:
        """Whether no write in progress would dispatch records of these partitions."""

    def revoked(self, partitions: Sequence[TopicPartition]) -> Sequence[Commit]:
        """Forget these partitions and return what to commit before they are released."""

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget these partitions: they have another owner."""

    def leaving(self) -> Sequence[TopicPartition]:
        """Stop handing out all partitions, and return them: the consumer is about to close."""

    def left(self) -> None:
        """The consumer is closed: commits get no more answers."""
