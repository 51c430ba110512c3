"""How long what waits is safe, by a topic's retention and its log's bounds."""

import math

import pytest

from dispatcher.sansio.entries import Entry
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.position import Snapshot
from dispatcher.sansio.ranges import Bounds, Gap
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, TopicPartition
from dispatcher.sansio.retention import (
    GROWTH_SAMPLES,
    LOG_OVERHEAD_BYTES,
    Outlook,
    Retention,
    RetentionWatch,
    Waiting,
    oldest,
)

ONE, TWO = TopicPartition("assets", 0), TopicPartition("assets", 1)
FOR_EVER = Retention(None, None)
NOW_MS = 1_000_000_000.0


def entry(*timestamps_ms: int | None, first: int = 0, gap: Gap | None = None) -> Entry:
    """An entry with a record of 30 bytes for each timestamp."""
    records = [Record(first + n, time_ms, None, b"x" * 30, ()) for n, time_ms in enumerate(timestamps_ms)]
    return Entry(1, Batch(ONE, records or NO_RECORDS, gap=gap), Snapshot.of(Layout([ONE]), (0,)), 1)


def waiting(offset: int = 0, age_seconds: float | None = 10, record_bytes: float = 100) -> Waiting:
    """A record that waits."""
    return Waiting(offset, None if age_seconds is None else int(NOW_MS - 1000 * age_seconds), record_bytes)


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        (("delete", "60000", "-1"), Retention(60, None)),
        (("compact,delete", "-1", "5000"), Retention(None, 5000)),
        (("delete", "0", "0"), Retention(0, 0)),
        (("compact", "60000", "5000"), FOR_EVER),
        ((None, "60000", "-1"), None),
        (("delete", None, "-1"), None),
        (("delete", "60000", None), None),
    ],
)
def test_a_topics_configuration_says_how_long_it_keeps_records(
    configs: tuple[str | None, ...], expected: Retention | None
) -> None:
    """Compacted topics keep records for ever; missing values mean nothing."""
    names = ("cleanup.policy", "retention.ms", "retention.bytes")
    assert Retention.of(dict(zip(names, configs, strict=True))) == expected


@pytest.mark.parametrize(
    ("retention", "headroom", "near"),
    [
        (Retention(7 * 86_400, None), 3601, False),
        (Retention(7 * 86_400, None), 3599, True),
        (Retention(60, None), 31, False),
        (Retention(60, None), 29, True),
        (Retention(None, 5000), 3599, True),
        (FOR_EVER, math.inf, False),
        (FOR_EVER, None, False),
    ],
)
def test_little_headroom_is_near(retention: Retention, headroom: float | None, near: bool) -> None:
    """Near is an hour, or half of a shorter retention time; unknown headroom is not near."""
    assert retention.is_near(headroom) is near


def test_the_oldest_waiting_record_is_the_first_that_is_pending() -> None:
    """Settled records and gaps are skipped."""
    assert oldest([]) is None
    gap = entry(gap=Gap(ONE, 0, 4, "expired"), first=5)
    assert oldest([gap]) is None
    whole = entry(1, 2, 3)
    assert oldest([gap, whole]) == Waiting(0, 1, 30 + LOG_OVERHEAD_BYTES)
    whole.settle([0, 2])
    found = oldest([whole])
    assert found is not None
    assert (found.offset, found.timestamp_ms) == (1, 2)
    whole.settle([1])
    assert oldest([whole]) is None


def test_time_runs_out_by_the_records_own_time() -> None:
    """Age and headroom add up to the retention time, and neither is below 0."""
    watch = RetentionWatch()
    hour = Retention(3600, None)
    assert watch.outlook(ONE, waiting(age_seconds=600), hour, NOW_MS) == Outlook(600, 3000)
    assert watch.outlook(ONE, waiting(age_seconds=9000), hour, NOW_MS) == Outlook(9000, 0)
    assert watch.outlook(ONE, waiting(age_seconds=-50), hour, NOW_MS) == Outlook(0, 3650)
    assert watch.outlook(ONE, waiting(age_seconds=10), FOR_EVER, NOW_MS) == Outlook(10, math.inf)


def test_what_is_unknown_has_no_number() -> None:
    """Retention, a record's time or a size may be unknown."""
    watch = RetentionWatch()
    assert watch.outlook(ONE, waiting(), None, NOW_MS) == Outlook(10, None)
    assert watch.outlook(ONE, waiting(age_seconds=None), Retention(60, None), NOW_MS) == Outlook(None, None)
    assert watch.outlook(ONE, waiting(), Retention(None, 5000), NOW_MS) == Outlook(10, None)
    assert watch.outlook(ONE, waiting(), Retention(60, 5000), NOW_MS) == Outlook(10, 50)


def test_size_runs_out_as_fast_as_the_log_grows() -> None:
    """100 records of 100 bytes fit; 40 are there, and 2 per second arrive, which leaves 30 s."""
    watch = RetentionWatch()
    size = Retention(None, 10_000)
    watch.measured({ONE: Bounds(0, 20)}, 0)
    assert watch.outlook(ONE, waiting(), size, NOW_MS).headroom_seconds == math.inf
    watch.measured({ONE: Bounds(0, 40)}, 10)
    assert watch.outlook(ONE, waiting(), size, NOW_MS).headroom_seconds == 30
    assert watch.outlook(ONE, waiting(), Retention(20, 10_000), NOW_MS).headroom_seconds == 10
    watch.measured({ONE: Bounds(0, 100)}, 20)
    assert watch.outlook(ONE, waiting(), size, NOW_MS).headroom_seconds == 0
    assert watch.outlook(ONE, waiting(offset=90), size, NOW_MS).headroom_seconds == 90 * 20 / 80


def test_a_record_that_is_gone_has_no_headroom() -> None:
    """Somebody else may have deleted it, whatever the retention is."""
    watch = RetentionWatch()
    watch.measured({ONE: Bounds(5, 20)}, 0)
    assert watch.outlook(ONE, waiting(offset=4), None, NOW_MS) == Outlook(10, 0)
    assert watch.outlook(ONE, waiting(offset=5), FOR_EVER, NOW_MS) == Outlook(10, math.inf)


def test_measurements_are_bounded_and_of_one_log() -> None:
    """The newest ones count, and a log that ends earlier than before is another one."""
    watch = RetentionWatch()
    for second in range(3 * GROWTH_SAMPLES):
        watch.measured({ONE: Bounds(0, 1000 if second < GROWTH_SAMPLES else 1000 + second)}, second)
    assert watch.outlook(ONE, waiting(1000), Retention(None, 100_000), NOW_MS).headroom_seconds == pytest.approx(965)
    watch.measured({ONE: Bounds(0, 3), TWO: Bounds(1, 2)}, 100)
    assert watch.outlook(ONE, waiting(), Retention(None, 100_000), NOW_MS).headroom_seconds == math.inf
    assert watch.bounds(TWO) == Bounds(1, 2)
    watch.measured({ONE: Bounds(0, 3)}, 101)
    assert watch.bounds(TWO) is None
