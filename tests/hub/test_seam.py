"""The hub without Kafka and sockets: those who leave, come back, or are ahead of what the replica has read."""

from collections.abc import Hashable, Mapping

import pytest
import trio

from dispatcher.hub.feed import feed_of
from dispatcher.sansio.encoding.wire import SSE_ENVELOPE, SSE_VALUE_UNFRAMED, WEBSOCKET
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import Chunk, Gap, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.hub.test_hub import FEED, GOODBYE, ONE, TWO, Bench, RecordedLog, RecordingTransport, settle, subscribed


async def test_subscribers_that_have_left_get_no_goodbye() -> None:
    """Some leave by themselves while subscribers are being sent away, which must end nobody else."""
    bench = Bench()
    subscriber = bench.hub.subscribe(FEED, RecordingTransport())
    bench.hub.unsubscribe(subscriber)
    subscriber.end(GOODBYE)
    assert bench.hub.subscribers == 0


async def test_a_reader_ahead_of_the_replica_that_falls_behind_misses_nothing(nursery: trio.Nursery) -> None:
    """What was published past its id has left memory by the time it looks."""
    sizes = {"history_bytes": 20_000, "pause_above_bytes": 10_000, "resume_below_bytes": 5_000}
    bench = Bench(**sizes, subscriber_buffer_bytes=200)
    nursery.start_soon(bench.hub.run)
    others, ahead = RecordingTransport(), RecordingTransport()
    others.gate.set()
    await nursery.start(bench.serve, others)
    bench.publish(ONE, TWO)
    await settle()
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


async def test_what_is_encoded_for_other_feeds_stays_within_the_bound(nursery: trio.Nursery) -> None:
    """On a quiet topic, encoding for another format has to make room itself."""
    bench = Bench(history_bytes=20_000, pause_above_bytes=10_000, resume_below_bytes=5_000)
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    for _ in range(20):
        bench.publish(ONE)
        await settle()
    for wire in (SSE_ENVELOPE, WEBSOCKET, SSE_VALUE_UNFRAMED):
        oldest = min(entry.batch.first_offset for entry in bench.hub.history._entries.values())
        reader = RecordingTransport()
        reader.gate.set()
        await nursery.start(bench.serve, reader, {ONE: oldest - 1}, None, feed_of(wire, frozenset({"assets"})))
        await settle()
        marks = b"".join(reader.writes).count(b'"offset"' if wire is WEBSOCKET else b"id: assets:0=")
        assert marks - (wire is not WEBSOCKET) == bench.number - oldest, "one is of the first state"
        assert bench.hub.history.size_bytes <= 20_000


async def test_nothing_is_kept_of_feeds_that_nobody_reads(nursery: trio.Nursery) -> None:
    """Clients can name many sets of topics, and a quiet replica may run for months."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    for number in range(50):
        transport = RecordingTransport()
        transport.gate.set()
        feed = feed_of(WEBSOCKET, frozenset({"assets", str(number)}))
        with subscribed(bench.hub, feed, transport) as subscriber:
            nursery.start_soon(subscriber.run)
            await settle()
            bench.publish(ONE)
            await settle()
            subscriber.end(GOODBYE)
            await settle()
    kept = (
        bench.hub.announcements._present._encoded,
        bench.hub._fan_out._newest,
        bench.hub._feeds._feeds,
        bench.hub._feeds._encodings,
        bench.hub._feeds._unfiltered,
        bench.hub._fan_out._live,
    )
    assert [len(mapping) for mapping in kept] == [0] * 6


@pytest.mark.parametrize("reads", ["Kafka", "memory"])
async def test_what_is_owed_of_partitions_that_leave_is_sent_when_they_come_back(
    nursery: trio.Nursery, reads: str
) -> None:
    """After a lost session others have taken it, but this subscriber has not."""
    sizes = {"history_bytes": 5_000, "pause_above_bytes": 4_000, "resume_below_bytes": 2_000}
    bench = Bench(**({"write_bytes": 1} if reads == "memory" else sizes))
    nursery.start_soon(bench.hub.run)
    others, behind = RecordingTransport(), RecordingTransport()
    others.gate.set()
    await nursery.start(bench.serve, others)
    for _ in range(20):
        bench.publish(ONE, TWO)
        await settle()
    bench.replays.gate = trio.Event()
    await nursery.start(bench.serve, behind, {ONE: 4, TWO: 5})
    await settle()
    bench.hub.unassigned([ONE, TWO])
    behind.gate.set()
    bench.replays.gate.set()
    await settle()
    bench.hub.assigned([ONE, TWO])
    bench.publish(ONE, TWO)
    await settle()
    assert sorted(map(int, behind.values)) == list(range(6, bench.number))
    assert sorted(map(int, others.values)) == list(range(bench.number))


async def test_no_id_names_a_partition_that_leaves_before_it_is_known_where_it_begins(nursery: trio.Nursery) -> None:
    """A client resuming with its end would miss everything since the time."""
    bench = Bench(history_bytes=5_000, pause_above_bytes=4_000, resume_below_bytes=2_000)
    nursery.start_soon(bench.hub.run)
    others, late = RecordingTransport(), RecordingTransport()
    others.gate.set()
    late.gate.set()
    await nursery.start(bench.serve, others)
    for _ in range(20):
        bench.publish(ONE, TWO)
        await settle()
    bench.replays.gate = trio.Event()
    await nursery.start(bench.serve, late, None, 0)
    await settle()
    bench.hub.unassigned([TWO])
    bench.replays.gate.set()
    await settle()
    assert late.values == [str(number) for number in range(0, bench.number, 2)]
    assert {tuple(parse_position(event_id)) for event_id, kind, _ in late.events if kind == "message"} == {(ONE,)}


class Expiring(RecordedLog):
    """Retention deletes the oldest segment while it is read."""

    async def read(
        self,
        ranges: Mapping[TopicPartition, Range],  # noqa: ARG002
        max_bytes: int,  # noqa: ARG002
        client: Hashable = None,  # noqa: ARG002
    ) -> Chunk:
        """Return what was read before, what has expired, and what follows it."""
        before, behind = (
            [Record(offset, None, None, b"%d" % offset, ()) for offset in part] for part in ((5, 6), (18, 19))
        )
        return Chunk([Batch(ONE, before), Batch(ONE, behind)], {ONE: 20}, [Gap(ONE, 7, 17, "expired")])


class ExpiringBench(Bench):
    """A hub that reads there."""

    log = Expiring


async def test_a_gap_is_sent_after_the_records_before_it(nursery: trio.Nursery) -> None:
    """An earlier gap would make clients drop those records as repeats."""
    bench = ExpiringBench()
    nursery.start_soon(bench.hub.run)
    bench.number = 20
    bench.publish(ONE)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport, {ONE: 4})
    await settle()
    told = [data if kind == "message" else kind for _, kind, data in transport.events if kind != "state"]
    assert told == ["5", "6", "gap", "18", "19", "20"]


async def test_a_live_reader_gets_no_repeats_when_a_partition_begins_again(nursery: trio.Nursery) -> None:
    """It kept its place in all other partitions, and returned there later."""
    sizes = {"history_bytes": 5_000, "pause_above_bytes": 4_000, "resume_below_bytes": 2_000}
    bench = Bench(**sizes, subscriber_buffer_bytes=200)
    nursery.start_soon(bench.hub.run)
    others, behind = RecordingTransport(), RecordingTransport()
    for transport in (others, behind):
        transport.gate.set()
        await nursery.start(bench.serve, transport)
    await settle()
    bench.publish(ONE, TWO)
    await settle()
    bench.hub.unassigned([ONE])
    bench.hub.assigned([ONE])
    bench.hub.partition_recreated(ONE, 0, 1)
    bench.hub.reached(ONE, 0)
    for number in range(20):
        if number == 10:
            behind.gate = trio.Event()
        bench.publish(TWO)
        await settle()
    behind.gate.set()
    await settle()
    assert behind.values == others.values == [str(number) for number in range(bench.number)]
