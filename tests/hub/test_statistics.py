"""What the parts of the hub report about themselves."""

import trio

from dispatcher.hub.statistics import (
    AnnouncementStatistics,
    EncoderStatistics,
    FanOutStatistics,
    LookupStatistics,
    RegistryStatistics,
)
from tests.hub.test_hub import ONE, TWO, Bench, RecordingTransport, settle


async def test_each_part_of_the_hub_reports_what_it_has_done(nursery: trio.Nursery) -> None:
    """Two live subscribers of one feed, and one that is replayed to by a Kafka that does not answer."""
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
    statistics = bench.hub.statistics()
    assert statistics.encoder == EncoderStatistics(entries=6, parts=0, replayed=0)
    assert statistics.lookups == LookupStatistics(asked=1, reading=1, looking_up=0, put_off=0)
    assert statistics.registry == RegistryStatistics(subscribers=3, catching_up=1, expecting=0, departed=0)
    assert statistics.fan_out == FanOutStatistics(rounds=3, feeds=1, published_bytes=0, is_congested=False)
    assert statistics.announcements == AnnouncementStatistics(version=bench.hub.announcements.version, encoded=2)
    assert statistics.heartbeats == 0
    bench.hub._heartbeats.beat(1)
    assert bench.hub.statistics().heartbeats == 1
    bench.replays.gate.set()
    await settle()
    statistics = bench.hub.statistics()
    assert (statistics.lookups.reading, statistics.encoder.replayed) == (0, 3), "the last record is in memory"
    assert statistics.registry == RegistryStatistics(subscribers=3, catching_up=0, expecting=1, departed=0)
    bench.hub.unassigned([ONE])
    assert bench.hub.statistics().registry.departed == 1
