"""What is known of lag, and what is not."""

from dispatcher.sansio.lag import FRESH_SECONDS, UNKNOWN, LagTracker, PartitionLag
from dispatcher.sansio.records import TopicPartition

ONE = TopicPartition("assets", 0)


def reported(
    tracker: LagTracker,
    committed: int | None,
    log_end: int | None,
    stable: int | None,
    *,
    fetched: bool = True,
    now: float = 0.0,
) -> None:
    """One report about the partition."""
    tracker.reported(ONE, committed=committed, log_end=log_end, last_stable_offset=stable, fetched=fetched, now=now)


def lag(
    tracker: LagTracker, committed: int | None = None, next_offset: int | None = None, now: float = 0
) -> PartitionLag:
    """What is known of the partition."""
    return tracker.lag(ONE, committed=committed, next_offset=next_offset, now=now)


def test_nothing_is_known_before_a_report() -> None:
    """A partition that was just assigned has no lag of 0, even if it had one before it left."""
    tracker = LagTracker()
    assert lag(tracker) == UNKNOWN
    reported(tracker, 3, 3, 3)
    tracker.forget([ONE])
    assert lag(tracker) == UNKNOWN


def test_lag_counts_up_to_the_high_watermark() -> None:
    """Records of open transactions wait as well; the last stable offset shows them separately."""
    tracker = LagTracker()
    reported(tracker, 10, 15, 10)
    assert lag(tracker) == PartitionLag(10, 15, 10, 5)


def test_without_a_commit_the_lag_is_unknown() -> None:
    """The group's place is unknown, although the end of the log is known."""
    tracker = LagTracker()
    reported(tracker, None, 15, None)
    assert lag(tracker) == PartitionLag(None, 15, None, None)


def test_what_this_replica_knows_is_newer_than_what_was_reported() -> None:
    """Its own commit counts, and the log reaches at least as far as it has received."""
    tracker = LagTracker()
    reported(tracker, 10, 15, 15)
    assert lag(tracker, committed=18, next_offset=20) == PartitionLag(18, 20, 20, 2)


def test_a_watermark_that_no_fetch_confirms_counts_for_a_moment_only() -> None:
    """While fetching is paused, reports repeat the last one, however much is produced."""
    tracker = LagTracker()
    reported(tracker, 10, 15, 15, now=100)
    reported(tracker, 12, 15, 15, fetched=False, now=101)
    assert lag(tracker, now=100 + FRESH_SECONDS) == PartitionLag(12, 15, 15, 3)
    assert lag(tracker, now=100 + FRESH_SECONDS + 0.1) == PartitionLag(12, None, None, None)
    reported(tracker, 12, 99, 99, now=120)
    assert lag(tracker, now=120) == PartitionLag(12, 99, 99, 87)


def test_without_a_leader_the_log_end_is_unknown_at_once() -> None:
    """Nobody can be asked, but the group's commit stays known."""
    tracker = LagTracker()
    reported(tracker, 10, 15, 15)
    reported(tracker, 10, None, None)
    assert lag(tracker) == PartitionLag(10, None, None, None)


def test_a_commit_beyond_the_end_belongs_to_another_log() -> None:
    """After a recreation, a lag of 0 would hide everything in the new log."""
    tracker = LagTracker()
    reported(tracker, 1000, 8, 8)
    assert lag(tracker) == PartitionLag(1000, 8, 8, None)
