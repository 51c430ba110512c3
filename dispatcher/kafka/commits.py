"""The commit coordinator: when to commit what, and what a commit's answer means.

It is driven by the poller's crossings into Trio, which come at least every 0.1 s, so it needs no task and no
timer of its own. One commit is on its way at a time; what was dispatched meanwhile goes with the next one.

*Thread*: Trio's. The commits that it returns are sent by the poller thread, asynchronously: a synchronous commit
has no timeout in librdkafka and would hold the poller while a broker is away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog
from confluent_kafka import KafkaError

from dispatcher.sansio.offsets import Commit, OffsetTracker

log = structlog.get_logger(__name__)


class CommitOutcome(StrEnum):
    """What a commit's error code means for us."""

    STORED = "stored"
    RETRY = "retry"
    """The broker cannot now: the offset is committed again after the interval."""
    OWNERSHIP_IN_DOUBT = "ownership-in-doubt"
    """The group is rebalancing or has moved on without us: the next assignment tells, records may repeat."""
    REFUSED = "refused"
    """Trying again cannot help by itself; it is tried again all the same, because nothing better is known."""


_OUTCOMES = {
    KafkaError._NO_OFFSET: CommitOutcome.STORED,  # noqa: SLF001 - confluent_kafka's public spelling of local codes
    # Ownership: KIP-62 / KIP-429 for 22, 25, 27; KIP-848 for 110, 113.
    KafkaError.ILLEGAL_GENERATION: CommitOutcome.OWNERSHIP_IN_DOUBT,
    KafkaError.UNKNOWN_MEMBER_ID: CommitOutcome.OWNERSHIP_IN_DOUBT,
    KafkaError.REBALANCE_IN_PROGRESS: CommitOutcome.OWNERSHIP_IN_DOUBT,
    110: CommitOutcome.OWNERSHIP_IN_DOUBT,  # FENCED_MEMBER_EPOCH
    113: CommitOutcome.OWNERSHIP_IN_DOUBT,  # STALE_MEMBER_EPOCH
    KafkaError.OFFSET_METADATA_TOO_LARGE: CommitOutcome.REFUSED,
    KafkaError.INVALID_COMMIT_OFFSET_SIZE: CommitOutcome.REFUSED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: CommitOutcome.REFUSED,
    KafkaError.GROUP_AUTHORIZATION_FAILED: CommitOutcome.REFUSED,
}
"""By code, because `KafkaError.retriable` was False for every commit error that was tried. Others: retry."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The answer to one offset of a commit, as plain data from the poller thread."""

    commit: Commit
    code: int
    """0: stored."""
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class CommitStatistics:
    """A snapshot of the coordinator."""

    confirmed: int
    """Offsets that the broker stored."""
    failed: int
    """Offsets that it did not."""
    outstanding: bool


class CommitCoordinator:
    """Decides at each crossing what to commit.

    Args:
        offsets: Where dispatched offsets are.
        interval_seconds: Least time between two commits.
    """

    def __init__(self, offsets: OffsetTracker, interval_seconds: float) -> None:
        self._offsets = offsets
        self._interval_seconds = interval_seconds
        self._outstanding: set[Commit] = set()
        self._next_at = 0.0
        self._confirmed = 0
        self._failed = 0

    def due(self, now: float) -> Sequence[Commit]:
        """The commits to send now, none while one is on its way or the interval has not passed.

        Args:
            now: Seconds on any clock that only goes forward.
        """
        if self._outstanding or now < self._next_at:
            return ()
        commits = self._offsets.committable()
        if commits:
            self._next_at = now + self._interval_seconds
            self._outstanding.update(commits)
            self._offsets.sent(commits)
        return commits

    def forget(self) -> None:
        """The consumer is gone, with every answer that was still to come."""
        for commit in self._outstanding:
            self._offsets.refused(commit)
        self._outstanding.clear()

    def answered(self, results: Sequence[CommitResult]) -> None:
        """Take note of what the broker answered."""
        for result in results:
            self._outstanding.discard(result.commit)
            outcome = _OUTCOMES.get(result.code, CommitOutcome.RETRY) if result.code else CommitOutcome.STORED
            if outcome is CommitOutcome.STORED:
                self._confirmed += 1
                self._offsets.confirmed(result.commit)
                continue
            self._failed += 1
            self._offsets.refused(result.commit)
            log.warning(
                "commit not stored",
                partition=str(result.commit.partition),
                offset=result.commit.offset,
                outcome=outcome,
                code=result.code,
                error=result.name,
                reason=result.reason,
            )

    def statistics(self) -> CommitStatistics:
        """A snapshot of the coordinator."""
        return CommitStatistics(self._confirmed, self._failed, bool(self._outstanding))
