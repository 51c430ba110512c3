"""The commit coordinator decides when to commit which offsets, and what the answer to a commit means.

The poller's crossings into Trio drive it, at least every 0.25 s, so it needs neither a task nor a timer. The book of
the `OffsetTracker` lists the outstanding commits; offsets dispatched meanwhile go into the partition's next commit.

*Thread*: Trio's. The commits that it returns are sent by the poller thread, asynchronously: a synchronous commit
has no timeout in librdkafka and would hold up the poller while a broker is unreachable.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog
from confluent_kafka import KafkaError

from dispatcher.invariants import Invariant, invariants
from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.offsets import OffsetTracker
from dispatcher.sansio.records import TopicPartition

log = structlog.get_logger(__name__)

LOG_SECONDS = 10.0
"""Minimum time between log lines about the same error: commits are tried several times per second."""


class CommitOutcome(StrEnum):
    """What a commit's error code means for us."""

    STORED = "stored"
    RETRY = "retry"
    """The broker cannot commit now: the offset is committed again after the interval."""
    OWNERSHIP_IN_DOUBT = "ownership-in-doubt"
    """The group is rebalancing or has moved on without us. The offset is committed again after the interval if the
    partition is still ours by then; if it was lost, its records are dispatched again by its next owner."""
    REFUSED = "refused"
    """Only an operator can help: a permission is missing, or a broker's limit was reached. The commit is still
    retried."""
    FATAL = "fatal"
    """This consumer can never commit again: it is replaced."""


_OUTCOMES = {
    # librdkafka's own codes (rdkafka.h).
    KafkaError._NO_OFFSET: CommitOutcome.STORED,  # noqa: SLF001 - confluent_kafka's public spelling of local codes
    KafkaError._ASSIGNMENT_LOST: CommitOutcome.OWNERSHIP_IN_DOUBT,  # noqa: SLF001 - the same
    KafkaError._FENCED: CommitOutcome.FATAL,  # noqa: SLF001 - the same
    KafkaError._FATAL: CommitOutcome.FATAL,  # noqa: SLF001 - the same
    # Kafka's (org.apache.kafka.common.protocol.Errors). Ownership: KIP-62 for 22 and 25, KIP-429 for 27, KIP-848 for
    # 110 and 113; a fenced static member (KIP-345) is never readmitted under its old member id.
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
"""By code, because `KafkaError.retriable` was False for every commit error that was tried. Other codes are retried:
those of a broker that is unreachable or new (`_TRANSPORT`, `_TIMED_OUT`, `_WAIT_COORD`; 3, 5, 7, 14, 15, 16), and
unknown ones."""


_EXPELLED = frozenset({KafkaError.UNKNOWN_MEMBER_ID, 110, KafkaError._ASSIGNMENT_LOST})  # noqa: SLF001 - the same
"""The group has moved on without this member: its partitions have other owners."""


def outcome_of(code: int) -> CommitOutcome:
    """What an error code of a commit means; 0 means no error."""
    return _OUTCOMES.get(code, CommitOutcome.RETRY) if code else CommitOutcome.STORED


_MAY_ARRIVE = frozenset(
    {
        KafkaError._TIMED_OUT,  # noqa: SLF001 - the same
        KafkaError._TRANSPORT,  # noqa: SLF001 - the same
        KafkaError._WAIT_COORD,  # noqa: SLF001 - the same
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
"""The request was abandoned, or its answer was lost: the coordinator may have stored the offset, or may store it later.
While a group's coordinator changes, librdkafka repeats requests by itself: an offset was stored 1.0 s after
NOT_COORDINATOR had been reported for it, 1 ms after a newer offset (docs/rebalance.md)."""


def may_arrive(code: int) -> bool:
    """Whether a commit with this error code may be stored all the same, later than commits that were sent after it."""
    return code in _MAY_ARRIVE


def is_worth_another_try(code: int) -> bool:
    """Whether a leaving member should retry the commit at once: the answer may differ, and there is no later chance."""
    return outcome_of(code) in {CommitOutcome.RETRY, CommitOutcome.OWNERSHIP_IN_DOUBT} and code not in _EXPELLED


@dataclass(frozen=True, slots=True)
class CommitAnswer:
    """The answer to one offset of a commit, as plain data from the poller thread."""

    partition: TopicPartition
    offset: int
    code: int = 0
    """The error code; 0 means stored."""
    name: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CommitStatistics:
    """A snapshot of the coordinator."""

    confirmed: int
    """Offsets that the broker stored."""
    failed: Mapping[CommitOutcome, int]
    """Offsets that the broker did not store, by outcome."""
    under_way: int
    """Offsets that were sent but not answered yet."""


class CommitCoordinator:
    """Decides at each crossing what to commit.

    Args:
        offsets: Knows the dispatched offsets, and the commits under way.
        interval_seconds: Minimum time between two commits.
    """

    def __init__(self, offsets: OffsetTracker, interval_seconds: float) -> None:
        self._offsets = offsets
        self._interval_seconds = interval_seconds
        self._next_at = 0.0
        self._confirmed = 0
        self._failed: Counter[CommitOutcome] = Counter()
        self._logged_at: dict[int, float] = {}
        self._not_logged: Counter[int] = Counter()
        """Failures by code since the last log line about it."""

    def due(self, now: float) -> Sequence[Commit]:
        """The commits to send now, none before the interval has passed.

        Args:
            now: Seconds on any monotonic clock.
        """
        if now < self._next_at:
            return ()
        commits = self._never_back(self._offsets.committable(now))
        if commits:
            self._next_at = now + self._interval_seconds
            self._offsets.sent(commits, now)
        return commits

    def revoked(self, partitions: Iterable[TopicPartition], now: float) -> Sequence[Commit]:
        """Forget partitions; returns the commits to send before they are released."""
        confirmed = {partition: self._offsets.committed(partition) for partition in partitions}
        commits = self._never_back(self._offsets.revoked(confirmed), confirmed)
        self._offsets.sent(commits, now)
        return commits

    def forget(self) -> None:
        """Forget outstanding commits: the consumer is closed, and its answers will not arrive."""
        self._offsets.forget_answers()

    def answered(self, answers: Sequence[CommitAnswer], now: float) -> str | None:
        """Take the broker's answers; returns why the consumer must be rebuilt, or None."""
        rebuild = None
        for answer in answers:
            outcome = outcome_of(answer.code)
            stored = outcome is CommitOutcome.STORED
            late = may_arrive(answer.code)
            self._offsets.answered(answer.partition, answer.offset, now, stored=stored, may_arrive=late)
            if stored:
                self._confirmed += 1
                continue
            self._failed[outcome] += 1
            if outcome is CommitOutcome.FATAL:
                rebuild = f"a commit failed with {answer.name}: {answer.reason}"
            self._log_failure(answer, outcome, now)
        return rebuild

    def statistics(self) -> CommitStatistics:
        """A snapshot of the coordinator."""
        failed = {outcome: self._failed[outcome] for outcome in CommitOutcome}
        del failed[CommitOutcome.STORED]
        return CommitStatistics(self._confirmed, failed, self._offsets.book.statistics().under_way)

    def _never_back(
        self, commits: Sequence[Commit], confirmed: Mapping[TopicPartition, int | None] | None = None
    ) -> Sequence[Commit]:
        """Drop commits that would move an offset back; the tracker should never return any."""
        kept = []
        for commit in commits:
            before = self._offsets.committed(commit.partition) if confirmed is None else confirmed[commit.partition]
            if before is not None and commit.offset < before:
                invariants.violated(
                    Invariant.COMMITS_NEVER_STEP_BACK,
                    partition=str(commit.partition),
                    offset=commit.offset,
                    confirmed=before,
                )
            else:
                kept.append(commit)
        return kept

    def _log_failure(self, answer: CommitAnswer, outcome: CommitOutcome, now: float) -> None:
        """Log one line per code and `LOG_SECONDS`, with the number of failures since the last line.

        At debug level every failure gets a line: only a complete log shows which commits were abandoned, and may
        therefore have arrived late.
        """
        self._not_logged[answer.code] += 1
        is_due = now >= self._logged_at.get(answer.code, -LOG_SECONDS) + LOG_SECONDS
        times = {}
        if is_due:
            self._logged_at[answer.code] = now
            times = {"times": self._not_logged.pop(answer.code)}
        (log.warning if is_due else log.debug)(
            "commit not stored",
            partition=str(answer.partition),
            offset=answer.offset,
            outcome=outcome,
            code=answer.code,
            error=answer.name,
            reason=answer.reason,
            **times,
        )
