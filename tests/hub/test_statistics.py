"""What the parts of the hub report about themselves."""

import pytest
import trio

from dispatcher.hub import statistics
from dispatcher.hub.statistics import (
    AnnouncementStatistics,
    Census,
    CensusStatistics,
    EncoderStatistics,
    FanOutStatistics,
    LookupStatistics,
    RegistryStatistics,
    SubscriberState,
)
from tests.hub.test_hub import ONE, TWO, Bench, RecordingTransport, beat, settle


async def test_each_part_of_the_hub_reports_what_it_has_done(nursery: trio.Nursery) -> None:
    """There are two live subscribers of one feed, and one whose replay gets no answer."""
    bench = Bench(history_bytes=2_500, pause_above_bytes=2_000, resume_below_bytes=1_000)
    nursery.start_soon(bench.hub.run)
    live = [RecordingTransport() for _ in range(2)]
    for transport in live:
        transport.gate.set()
        await nursery.start(bench.serve, transport)
    await settle()
    for _ in range(3):
        bench.publish(ONE, TWO)
        await settle()
    bench.replays.gate = trio.Event()
    behind = RecordingTransport()
    behind.gate.set()
    await nursery.start(bench.serve, behind, {ONE: 0, TWO: 1, ONE._replace(partition=7): 5})
    await settle()
    found = bench.hub.statistics()
    assert found.encoder == EncoderStatistics(entries=6, parts=0, replayed=0)
    assert found.lookups == LookupStatistics(asked=1, reading=1, looking_up=0, put_off=0)
    assert found.registry == RegistryStatistics(subscribers=3, catching_up=1, expecting=0, departed=0)
    assert found.fan_out == FanOutStatistics(rounds=3, feeds=1, published_bytes=0, is_congested=False)
    assert found.announcements == AnnouncementStatistics(version=bench.hub.announcements.version, encoded=2)
    assert found.heartbeats == 0
    beat(bench.hub, 1)
    assert bench.hub.statistics().heartbeats == 1
    bench.replays.gate.set()
    await settle()
    found = bench.hub.statistics()
    assert (found.lookups.reading, found.encoder.replayed) == (0, 3), "the last record is in memory"
    assert found.registry == RegistryStatistics(subscribers=3, catching_up=0, expecting=1, departed=0)
    bench.hub.unassigned([ONE])
    assert bench.hub.statistics().registry.departed == 1


class Seen:
    """What a census sees of one subscriber."""

    def __init__(self, behind: int, *, live: bool = True, replaying: bool = False) -> None:
        self.state = SubscriberState.LIVE if live else SubscriberState.CATCHING_UP
        self.closed = False
        self.buffered_bytes = self.buffered_records = behind
        self.replaying = replaying
        self.looked_at = 0

    def behind_records(self) -> int:
        """Count the looks."""
        self.looked_at += 1
        return self.buffered_records


async def test_a_census_of_nobody_is_all_zero() -> None:
    """An empty census costs nothing."""
    figures, seconds = await Census(list, lambda: 2).take()
    assert figures == CensusStatistics(replaying=0, behind_records_median=0, behind_records_worst=0, buffered_bytes=0)
    assert seconds >= 0


async def test_a_census_counts_live_ones_by_their_channels_and_others_by_offsets() -> None:
    """Subscribers that have left do not count."""
    gone = Seen(1000)
    gone.closed = True
    everybody = [Seen(1), Seen(2), Seen(30, live=False, replaying=True), Seen(4, live=False), gone]
    figures, _ = await Census(lambda: everybody, lambda: 2).take()
    assert figures == CensusStatistics(replaying=1, behind_records_median=3, behind_records_worst=30, buffered_bytes=3)
    everybody.append(Seen(50))
    assert (await Census(lambda: everybody, lambda: 2).take())[0].behind_records_worst == 50


async def test_a_small_census_is_taken_each_time_and_a_large_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one yields the loop and has a cost, so it is kept for a moment."""
    everybody = [Seen(1) for _ in range(10)]
    census = Census(lambda: everybody, lambda: 2)
    assert [(await census.take())[0].buffered_bytes, everybody.pop().buffered_bytes] == [10, 1]
    assert (await census.take())[0].buffered_bytes == 9
    monkeypatch.setattr(statistics, "SLICE", 4)
    monkeypatch.setattr(statistics, "KEPT_SECONDS", 3600.0)
    assert (await census.take())[0].buffered_bytes == 9
    everybody.pop()
    assert await census.take() == (
        CensusStatistics(replaying=0, behind_records_median=1, behind_records_worst=1, buffered_bytes=9),
        0.0,
    )


async def test_of_very_many_that_catch_up_a_sample_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look costs as much as there are partitions, and departed subscribers are skipped."""
    monkeypatch.setattr(statistics, "SLICE", 6)
    monkeypatch.setattr(statistics, "SAMPLE", 30)
    everybody = [Seen(7, live=False) for _ in range(100)]
    live = [Seen(0) for _ in range(10)]
    figures, _ = await Census(lambda: everybody + live, lambda: 2).take()
    assert sum(one.looked_at for one in everybody) == 10
    assert (figures.behind_records_median, figures.behind_records_worst) == (7, 7), "a hundred, not ten, are behind"


async def test_whoever_leaves_while_a_census_yields_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts may be gone."""
    monkeypatch.setattr(statistics, "SLICE", 1)
    everybody = [Seen(7, live=False) for _ in range(10)]

    def close_the_rest() -> int:
        for one in everybody[1:]:
            one.closed = True
        return 2

    await Census(lambda: everybody, close_the_rest).take()
    assert [one.looked_at for one in everybody] == [1] + [0] * 9
