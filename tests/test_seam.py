"""The hub without Kafka and sockets: those who leave, come back, or are ahead of what the replica has read."""

import trio

from dispatcher.sansio.records import Record
from tests.test_hub import FEED, GOODBYE, ONE, TWO, Bench, RecordingTransport, settle


async def test_who_has_left_is_told_no_goodbye() -> None:
    """Subscribers are sent away over a time, and some leave by themselves meanwhile: that ends nobody else."""
    bench = Bench()
    subscriber = bench.hub.subscribe(FEED, RecordingTransport())
    bench.hub.unsubscribe(subscriber)
    subscriber.end(GOODBYE)
    assert bench.hub.subscribers == 0


async def test_who_is_ahead_of_the_replica_and_falls_behind_misses_nothing(nursery: trio.Nursery) -> None:
    """Its id names an offset that was not read yet; what was published meanwhile has left the memory when it looks."""
    sizes = {"history_bytes": 20_000, "pause_above_bytes": 10_000, "resume_below_bytes": 5_000}
    bench = Bench(**sizes, subscriber_buffer_bytes=200)
    nursery.start_soon(bench.hub.run)
    others, ahead = RecordingTransport(), RecordingTransport()
    others.gate.set()
    await nursery.start(bench.serve, others)
    bench.publish(ONE, TWO)
    bench.replays.log.append((ONE, Record(10_000, None, None, b"not read yet", ())))
    ahead.gate.set()
    await nursery.start(bench.serve, ahead, {ONE: 5_000, TWO: 1})
    await settle()
    ahead.gate = trio.Event()
    for _ in range(100):
        bench.publish(ONE, TWO)
        await settle()
    ahead.gate.set()
    await settle()
    assert bench.replays.asked
    assert sorted(map(int, ahead.values)) == list(range(2, bench.number))
