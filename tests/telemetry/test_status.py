"""What asking costs: work is counted, not timed."""

import threading
from collections.abc import Sequence

import orjson
import pytest
import trio
import trio.testing

from dispatcher.hub import statistics
from dispatcher.hub.statistics import Census, SubscriberState
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.statistics import ConsumerStatistics, FetchStatistics
from dispatcher.pipeline import Pipeline
from dispatcher.pipeline_statistics import PipelineStatistics
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings
from dispatcher.telemetry import snapshot as snapshot_module
from dispatcher.telemetry.metrics import ROWS
from dispatcher.telemetry.snapshot import AccessStatistics, Page, Snapshot
from dispatcher.telemetry.status import ReplicaStatus, status_of

ONE, TWO = TopicPartition("ofa_assets", 0), TopicPartition("ofa_assets", 1)


class CountingPipeline(Pipeline):
    """Counts the snapshots that are taken of it."""

    snapshots = 0

    def statistics(self) -> PipelineStatistics:
        """One more."""
        self.snapshots += 1
        return super().statistics()


def counting() -> tuple[CountingPipeline, ReplicaStatus]:
    """A replica that has joined and has two partitions; statistics know of the first one only."""
    settings = Settings(client_id="replica")
    pipeline = CountingPipeline(settings)
    pipeline.exchange(PollResult(assigned=[ONE, TWO]))
    known = {ONE: FetchStatistics(committed=7, log_end=12, last_stable_offset=9, prefetched_bytes=5)}
    pipeline.exchange(PollResult(statistics=ConsumerStatistics(1, True, known)))
    return pipeline, ReplicaStatus(settings, pipeline, lambda: AccessStatistics(3))


async def test_each_page_takes_one_snapshot_and_readiness_none() -> None:
    """Readiness is on every page, and orchestrators ask for it every few seconds."""
    pipeline, status = counting()
    assert status.why_not_ready() == []
    assert pipeline.snapshots == 0
    assert orjson.loads(await status.status_page())["ready"] is True
    assert pipeline.snapshots == 1
    assert b"dispatcher_ready 1.0" in await status.metrics_page()
    assert pipeline.snapshots == 2


async def test_what_is_unknown_is_null_and_has_no_series() -> None:
    """A partition that was just assigned is not in the statistics yet."""
    _, status = counting()
    one, two = orjson.loads(await status.status_page())["partitions"]
    names = ("committed", "log_end", "last_stable_offset", "lag")
    assert [one[name] for name in names] == [7, 12, 9, 5]
    assert [two[name] for name in names] == [None, None, None, None]
    assert [two["next_offset"], two["position"]] == [None, None]
    lines = (await status.metrics_page()).decode().splitlines()
    assert [line for line in lines if line.startswith(("dispatcher_lag", "dispatcher_undecided"))] == [
        'dispatcher_lag_records{partition="0",topic="ofa_assets"} 5.0',
        'dispatcher_undecided_records{partition="0",topic="ofa_assets"} 3.0',
    ]
    assert sum(line.startswith("dispatcher_assigned_partition{") for line in lines) == 2


async def test_statistics_of_an_earlier_assignment_say_nothing_about_the_next() -> None:
    """A partition that left and returned has another log end and commit."""
    pipeline, _ = counting()
    pipeline.lost([ONE])
    pipeline.exchange(PollResult(assigned=[ONE]))
    assert pipeline.statistics().lags[ONE].lag_records is None


async def test_simultaneous_requests_share_a_page() -> None:
    """A page being made when they arrive is too old; the next one answers all of them."""
    pipeline, status = counting()
    async with trio.open_nursery() as nursery:
        for _ in range(1_000):
            nursery.start_soon(status.status_page)
    assert pipeline.snapshots <= 2


class Clock:
    """Shows what a test has set."""

    now = 100.0

    def __call__(self) -> float:
        """That."""
        return self.now


class Dear:
    """Snapshots that cost a part of the loop, and pages that cost nothing."""

    def __init__(self, taken_seconds: float) -> None:
        self.taken_seconds = taken_seconds
        self.taken = 0
        self.clock = Clock()
        self.page = Page(self.take, lambda _: b"page %d" % self.taken, self.clock)
        self.snapshot: Snapshot | None = None

    async def take(self) -> tuple[Snapshot, float]:
        """Say what it cost."""
        if self.snapshot is None:
            self.snapshot, _ = await counting()[1]._take()
        self.taken += 1
        return self.snapshot, self.taken_seconds


async def test_asking_without_a_pause_takes_a_bounded_share_of_the_loop() -> None:
    """Of a thousand requests per second for a page of 10 ms, most get the last one again."""
    dear = Dear(0.010)
    for _ in range(60_000):
        dear.clock.now += 0.001
        await dear.page.get()
    spent_seconds = dear.taken * dear.taken_seconds
    assert spent_seconds <= 60 * snapshot_module.SHARE + snapshot_module.ALLOWANCE_SECONDS + 0.011
    assert spent_seconds >= 0.5 * 60 * snapshot_module.SHARE


async def test_whoever_asks_seldom_gets_a_page_of_this_moment() -> None:
    """A person, a probe and a scrape ask once a second each."""
    dear = Dear(0.010)
    pages = []
    for _ in range(10):
        dear.clock.now += 0.5
        pages.append(await dear.page.get())
    assert pages == [b"page %d" % n for n in range(1, 11)]


async def test_a_page_is_rendered_outside_of_the_loop() -> None:
    """Rendering costs as much as there are partitions."""
    dear = Dear(0.0)
    rendered_in: list[int] = []

    def render(_: Snapshot) -> bytes:
        rendered_in.append(threading.get_ident())
        return b"page"

    assert await Page(dear.take, render).get() == b"page"
    assert rendered_in != [threading.get_ident()]


async def test_a_page_that_was_not_made_is_made_for_the_next_one() -> None:
    """A client that leaves while its page is made takes nothing from others."""
    dear = Dear(0.0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await dear.page.get()
    assert scope.cancelled_caught
    assert await dear.page.get() == b"page 1"


class Somebody:
    """A subscriber to be counted."""

    looked_at = 0

    def __init__(self, state: SubscriberState, behind: int = 0) -> None:
        self.state = state
        self.closed = False
        self.buffered_bytes = self.buffered_records = behind
        self.replaying = state is SubscriberState.CATCHING_UP

    def behind_records(self) -> int:
        """That is the dear part."""
        type(self).looked_at += 1
        return 7


async def census_of(everybody: Sequence[Somebody], partitions: int) -> tuple[statistics.CensusStatistics, list[int]]:
    """A census, and how many were looked at in each step of its task."""
    steps: list[int] = []

    class Steps(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is me:
                steps.append(Somebody.looked_at)
                Somebody.looked_at = 0

    me = trio.lowlevel.current_task()
    Somebody.looked_at = 0
    instrument = Steps()
    trio.lowlevel.add_instrument(instrument)
    found, _ = await Census(lambda: everybody, lambda: partitions).take()
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(instrument)
    return found, steps


async def test_no_step_of_a_census_looks_at_more_than_a_slice() -> None:
    """Ten thousand readers of a hundred partitions took a million look-ups in one step."""
    found, steps = await census_of([Somebody(SubscriberState.CATCHING_UP) for _ in range(10_000)], 100)
    assert max(steps) * 101 <= statistics.SLICE + 101
    assert sum(steps) * 101 <= statistics.SAMPLE
    assert (found.replaying, found.behind_records_median, found.behind_records_worst) == (10_000, 7, 7)


async def test_a_census_of_few_is_exact_and_of_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits into one slice is counted each time; a larger census is kept for a second."""
    everybody = [Somebody(SubscriberState.LIVE, n) for n in range(5)] + [Somebody(SubscriberState.CATCHING_UP)]
    census = Census(lambda: everybody, lambda: 2)
    assert (await census.take())[0] == statistics.CensusStatistics(1, 2, 7, 10)
    everybody[4].buffered_bytes, everybody[3].closed = 104, True
    assert (await census.take())[0] == statistics.CensusStatistics(1, 2, 7, 107)
    monkeypatch.setattr(statistics, "SLICE", 2)
    assert (await census.take())[0].buffered_bytes == 107
    everybody.clear()
    assert (await census.take())[0].buffered_bytes == 107


async def test_a_census_of_nobody() -> None:
    """This is a replica before its first subscriber."""
    assert (await Census(list, lambda: 0).take())[0] == statistics.CensusStatistics(0, 0, 0, 0)


def test_every_metric_has_a_name_of_its_own() -> None:
    """Prometheus would refuse a repeated name, and with it everything else."""
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


async def test_status_names_the_next_offset_and_its_old_name() -> None:
    """`position` has the same value for one more release."""
    pipeline, status = counting()
    snapshot, _ = await status._take()
    (one, _) = status_of(pipeline.hub._settings, snapshot)["partitions"]
    assert one["next_offset"] == one["position"]
