"""The commit coordinator: when to commit what, and what a commit's answer means.

It is driven by the poller's crossings into Trio, which come at least every 0.1 s, so it needs no task and no
timer of its own. One commit is on its way at a time; what was dispatched meanwhile goes with the next one.

*Thread*: Trio's. The commits that it returns are sent by the poller thread, asynchronously: a synchronous commit
has no timeout in librdkafka and would hold the poller while a broker is away.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
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
    """The group is rebalancing or has moved on without us. The offset is committed again after the interval if the
    partition is still ours by then; if it was lost, its records are dispatched again by its next owner."""
    REFUSED = "refused"
    """Only a person can help: an authorization, or a limit of the broker. It is tried again all the same."""
    FATAL = "fatal"
    """This consumer will never commit again: another one takes its place."""


_OUTCOMES = {
    # librdkafka's own codes (rdkafka.h).
    KafkaError._NO_OFFSET: CommitOutcome.STORED,  # noqa: SLF001 - confluent_kafka's public spelling of local codes
    KafkaError._ASSIGNMENT_LOST: CommitOutcome.OWNERSHIP_IN_DOUBT,  # noqa: SLF001 - the same
    KafkaError._FENCED: CommitOutcome.FATAL,  # noqa: SLF001 - the same
    KafkaError._FATAL: CommitOutcome.FATAL,  # noqa: SLF001 - the same
    # Kafka's (org.apache.kafka.common.protocol.Errors). Ownership: KIP-62 for 22 and 25, KIP-429 for 27, KIP-848 for
    # 110 and 113; a fenced static member (KIP-345) is never let in again under its old member id.
    KafkaError.ILLEGAL_GENERATION: CommitOutcome.OWNERSHIP_IN_DOUBT,
    KafkaError.UNKNOWN_MEMBER_ID: CommitOutcome.OWNERSHIP_IN_DOUBT,
    KafkaError.REBALANCE_IN_PROGRESS: CommitOutcome.OWNERSHIP_IN_DOUBT,
    110: CommitOutcome.OWNERSHIP_IN_DOUBT,  # FENCED_MEMBER_EPOCH
    113: CommitOutcome.OWNERSHIP_IN_DOUBT,  # STALE_MEMBER_EPOCH
    KafkaError.FENCED_INSTANCE_ID: CommitOutcome.FATAL,
    111: CommitOutcome.FATAL,  # UNRELEASED_INSTANCE_ID
    KafkaError.OFFSET_METADATA_TOO_LARGE: CommitOutcome.REFUSED,
    KafkaError.INVALID_COMMIT_OFFSET_SIZE: CommitOutcome.REFUSED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: CommitOutcome.REFUSED,
    KafkaError.GROUP_AUTHORIZATION_FAILED: CommitOutcome.REFUSED,
    KafkaError.INVALID_GROUP_ID: CommitOutcome.REFUSED,
}
"""By code, because `KafkaError.retriable` was False for every commit error that was tried. Others are retried: those
of a broker that is away or new (`_TRANSPORT`, `_TIMED_OUT`, `_WAIT_COORD`; 3, 5, 7, 14, 15, 16), and those that
nobody knows yet."""


_EXPELLED = frozenset({KafkaError.UNKNOWN_MEMBER_ID, 110, KafkaError._ASSIGNMENT_LOST})  # noqa: SLF001 - the same
"""The group has gone on without this member: its partitions have other owners."""


def outcome_of(code: int) -> CommitOutcome:
    """What an error code of a commit means; 0 is none."""
    return _OUTCOMES.get(code, CommitOutcome.RETRY) if code else CommitOutcome.STORED


def is_worth_another_try(code: int) -> bool:
    """Whether a commit may have another answer in a moment, for a member that leaves and has only that."""
    return outcome_of(code) in {CommitOutcome.RETRY, CommitOutcome.OWNERSHIP_IN_DOUBT} and code not in _EXPELLED


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
    failed: Mapping[CommitOutcome, int]
    """Offsets that it did not, by what that meant."""
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
        self._failed: Counter[CommitOutcome] = Counter()

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

    def answered(self, results: Sequence[CommitResult]) -> str | None:
        """Take note of what the broker answered; returns why the consumer has to be built anew, None if it has not."""
        rebuild = None
        for result in results:
            self._outstanding.discard(result.commit)
            outcome = outcome_of(result.code)
            if outcome is CommitOutcome.STORED:
                self._confirmed += 1
                self._offsets.confirmed(result.commit)
                continue
            self._failed[outcome] += 1
            if outcome is CommitOutcome.FATAL:
                rebuild = f"a commit failed with {result.name}: {result.reason}"
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
        return rebuild

    def statistics(self) -> CommitStatistics:
        """A snapshot of the coordinator."""
        failed = {outcome: self._failed[outcome] for outcome in CommitOutcome}
        del failed[CommitOutcome.STORED]
        return CommitStatistics(self._confirmed, failed, bool(self._outstanding))
