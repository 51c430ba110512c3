"""Records that nobody present wants, or may have, wait in Kafka and stop neither fetching nor others."""

from typing import Any

import pytest
import trio

from dispatcher.hub import settlement
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.entries import covered
from dispatcher.sansio.offset_set import BLOCK_OFFSETS
from dispatcher.sansio.ranges import EARLIEST, Chunk, Gap
from dispatcher.sansio.records import Batch, Record
from tests.hub.test_filtered import KeyedBench, connect, wanting
from tests.hub.test_hub import ONE, TWO, RecordingTransport, settle

SMALL = {"history_bytes": 4_000, "pause_above_bytes": 2_000, "resume_below_bytes": 1_000}
PARKS = {"topics": ["assets"], "topic_tables": {"assets": {"unmatched": "park"}}}
MINE, OTHER = {"prefix": {"key": "mine."}}, {"prefix": {"key": "other."}}
OBSERVING = feed_of(SSE_VALUE, frozenset({"assets"}), counts=False)


@pytest.fixture
def bench(nursery: trio.Nursery) -> KeyedBench:
    """A hub with little memory, whose topic parks."""
    found = KeyedBench(**SMALL, **PARKS)
    nursery.start_soon(found.hub.run)
    return found


def parked(bench: KeyedBench) -> dict[str, Any]:
    """Return what is parked in the first partition."""
    found = bench.hub.statistics().parked.get(ONE)
    if found is None:
        return {}
    return {"ranges": found.ranges, "offsets": found.offsets, "first": found.first_offset, **found.reasons}


async def publish_pairs(bench: KeyedBench, number: int) -> None:
    """One record for the one who is present and one for nobody, again and again."""
    for _ in range(number):
        bench.publish_keys("a", "n")
        await settle()


async def test_what_nobody_wants_is_parked_and_comes_to_whoever_does(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """With thirty times the memory, commits stop at the first parked record."""
    a = await connect(nursery, bench, wanting("a"))
    await publish_pairs(bench, 60)
    assert a.values == [str(2 * n) for n in range(60)]
    assert bench.ranges == {ONE: set(range(0, 120, 2))}
    assert bench.unmatched() == {}
    assert bench.hub.history.waiting_bytes == 0
    assert len(bench.hub.history._entries) < 10
    assert parked(bench) == {"ranges": 1, "offsets": 60, "first": 1, "unmatched": 60}
    n = await connect(nursery, bench, wanting("n"))
    assert n.values == [str(2 * number + 1) for number in range(60)]
    assert bench.ranges == {ONE: set(range(120))}
    assert parked(bench) == {}
    statistics = bench.hub.statistics()
    assert (statistics.dispatched_records, statistics.parked_records) == (120, {"assets": 60})


async def test_of_two_tenants_the_one_that_is_away_gets_all_of_its_records(nursery: trio.Nursery) -> None:
    """The present one settles only its own records, even if the topic settles unmatched ones."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    mine = await connect(nursery, bench, wanting("mine.a", grant=MINE))
    for _ in range(40):
        bench.publish_keys("mine.a", "other.a", "mine.b")
        await settle()
    assert len(mine.values) == 40
    assert bench.unmatched() == {"assets": 40}
    assert parked(bench) == {"ranges": 1, "offsets": 40, "first": 1, "not-granted": 40}
    assert bench.hub.history.waiting_bytes == 0
    other = await connect(nursery, bench, wanting(grant=OTHER))
    assert other.values == [str(3 * n + 1) for n in range(40)]
    assert bench.ranges == {ONE: set(range(120))}
    bench.publish_keys("other.b", "mine.a")
    await settle()
    assert (other.values[-1], mine.values[-1]) == ("120", "121")


async def test_what_is_parked_and_still_in_memory_is_read_there(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """This holds for readers with and without filters."""
    await connect(nursery, bench, wanting("a"))
    bench.publish_keys("a", "b", "n")
    await settle()
    assert parked(bench) == {"ranges": 1, "offsets": 2, "first": 1, "unmatched": 2}
    b = await connect(nursery, bench, wanting("b"))
    assert b.values == ["1"]
    assert parked(bench) == {"ranges": 1, "offsets": 1, "first": 2, "unmatched": 1}
    everything = await connect(nursery, bench, wanting())
    assert everything.values == ["2"]
    assert parked(bench) == {}
    assert bench.ranges == {ONE: {0, 1, 2}}
    assert bench.hub.statistics().dispatched_records == 3
    assert bench.replays.asked == []


async def test_with_nobody_present_records_wait_in_memory(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """Fetching pauses as without filters, and the first subscriber parks what it does not want."""
    for _ in range(3):
        bench.publish_keys("a", "n")
    await settle()
    assert (parked(bench), bench.hub.history.waiting_bytes > 0) == ({}, True)
    a = await connect(nursery, bench, wanting("a"))
    assert a.values == ["0", "2", "4"]
    assert parked(bench) == {"ranges": 1, "offsets": 3, "first": 1, "unmatched": 3}
    assert bench.hub.history.waiting_bytes == 0


async def test_what_a_leaving_subscriber_wanted_is_parked(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """It had not taken these records."""
    await connect(nursery, bench, wanting("a"))
    async with trio.open_nursery() as inner:
        await connect(inner, bench, wanting("b"), reads=False)
        bench.publish_keys("a", "b")
        await settle()
        assert parked(bench) == {}
        inner.cancel_scope.cancel()
    await trio.sleep(0.1)  # the pause between two looks
    await settle()
    assert parked(bench) == {"ranges": 1, "offsets": 1, "first": 1, "unmatched": 1}
    assert bench.ranges == {ONE: {0}}


@pytest.mark.parametrize("begins", ["since", "id", "last", "grant"])
async def test_a_subscriber_that_begins_within_a_batch_releases_nothing_that_is_parked_before(
    nursery: trio.Nursery, begins: str
) -> None:
    """Not even if it wants everything: it was sent only the end of the batch."""
    bench = KeyedBench(**SMALL, **({} if begins == "grant" else PARKS))
    nursery.start_soon(bench.hub.run)
    a = await connect(nursery, bench, wanting(grant={"in": {"key": ["a"]}}) if begins == "grant" else wanting("a"))
    bench.publish_keys("b", "a", "b", "a", "b", "a")
    await settle()
    assert (a.values, bench.ranges) == (["1", "3", "5"], {ONE: {1, 3, 5}})
    everything = RecordingTransport()
    everything.gate.set()
    start = {"id": {"position": {ONE: 2}}, "last": {"last": 3}}.get(begins, {"since_ms": 3})
    subscriber = bench.hub.subscribe(wanting(), everything, **start)  # type: ignore[arg-type] # each takes one of them
    nursery.start_soon(subscriber.run)
    await settle()
    assert everything.values == ["3", "4", "5"]
    assert bench.ranges == {ONE: {1, 3, 4, 5}}
    reason = "not-granted" if begins == "grant" else "unmatched"
    assert parked(bench) == {"ranges": 1, "offsets": 2, "first": 0, reason: 2}
    b = await connect(nursery, bench, wanting("b"))
    assert b.values[:2] == ["0", "2"]
    assert (bench.ranges, parked(bench)) == ({ONE: set(range(6))}, {})
    assert (subscriber.record_count, bench.hub.statistics().dispatched_records) == (3, 6)


async def test_whoever_resumes_gets_what_comes_after_its_id_and_nothing_before(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """Parked records that it takes are no longer parked; the same holds for a start by time."""
    await connect(nursery, bench, wanting("a"))
    await publish_pairs(bench, 20)
    resumed = await connect(nursery, bench, wanting("n"), {ONE: 30})
    assert resumed.values == ["31", "33", "35", "37", "39"]
    assert parked(bench) == {"ranges": 1, "offsets": 15, "first": 1, "unmatched": 15}
    since = RecordingTransport()
    since.gate.set()
    await nursery.start(bench.serve, since, None, 25, wanting("n", "x"))
    await settle()
    assert since.values[0] == "25"
    assert parked(bench)["offsets"] == 12
    everything = RecordingTransport()
    everything.gate.set()
    await nursery.start(bench.serve, everything, None, EARLIEST, wanting("n", "y"))
    await settle()
    assert parked(bench) == {}
    assert bench.ranges == {ONE: set(range(40))}


async def test_a_second_reader_of_a_feed_that_has_looked_reads_nothing_again(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """Records parked since the first one arrived are not for this feed."""
    await connect(nursery, bench, wanting("a"))
    for _ in range(30):
        bench.publish_keys("a", "n")
        await settle()
        bench.publish_keys("a", partition=TWO)
        await settle()
    second = await connect(nursery, bench, wanting("a"))
    assert (second.values, bench.replays.asked) == ([], [])
    other = await connect(nursery, bench, wanting("c"))
    asked = len(bench.replays.asked)
    assert (other.values, asked > 0) == ([], True)
    assert (await connect(nursery, bench, wanting("c"))).values == []
    assert len(bench.replays.asked) == asked
    bench.publish_keys("c", "a")
    await settle()
    assert (second.values, other.values) == (["91"], ["90"])
    resumed = await connect(nursery, bench, wanting("a"), {ONE: 40, TWO: 10})
    assert len(resumed.values) == 9 + 1 + 19


async def test_beyond_the_bound_records_wait_in_memory_until_there_is_room(nursery: trio.Nursery) -> None:
    """Fetching of that partition pauses, others continue, and any reader makes room."""
    bench = KeyedBench(**PARKS, max_parked_ranges=4)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, wanting("a"))
    for number, key in enumerate("nmnmnm"):
        bench.offsets[ONE] = 2 * number * BLOCK_OFFSETS
        bench.publish_keys("a", key)
    bench.publish_keys("n", partition=TWO)
    await settle()
    assert parked(bench) == {"ranges": 4, "offsets": 4, "first": 1, "unmatched": 4}
    assert bench.hub.statistics().parked[ONE].is_full
    assert bench.hub.history.waiting_records(ONE) == 4, "two batches"
    assert not bench.hub.statistics().parked[TWO].is_full
    assert bench.hub.history.waiting_records(TWO) == 0
    n = await connect(nursery, bench, wanting("n"))
    await trio.sleep(0.1)
    await settle()
    assert n.values == ["1", "5", "9", "12"]
    assert parked(bench) == {"ranges": 3, "offsets": 3, "first": 2 * BLOCK_OFFSETS + 1, "unmatched": 3}
    assert not bench.hub.statistics().parked[ONE].is_full
    assert bench.hub.history.waiting_bytes == 0


async def test_what_is_sent_after_the_partition_left_counts_for_nothing(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """By then, the same offsets belong to another assignment and are parked again."""
    await connect(nursery, bench, wanting("a"))
    await publish_pairs(bench, 30)
    bench.replays.gate = trio.Event()
    slow = await connect(nursery, bench, wanting("n"))
    assert bench.replays.asked
    slow.gate = trio.Event()
    bench.replays.gate.set()
    await settle()
    bench.hub.unassigned([ONE])
    assert parked(bench) == {}
    bench.hub.assigned([ONE])
    bench.offsets[ONE] = 0
    bench.ranges.clear()
    bench.publish_keys("x", "x", "x", "x")
    await settle()
    before = dict(bench.ranges)
    slow.gate.set()
    await settle()
    assert slow.values[:1] == ["1"]
    assert bench.ranges == before == {}


async def test_what_is_put_aside_is_parked_no_more(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """No new subscriber begins at a record that was parked while its letter was under way."""
    bench.publish_keys("n", "n")
    (entry,) = bench.hub.history.waiting_entries("assets")
    ranges = covered(entry.batch, [0])
    await connect(nursery, bench, wanting("a"))
    assert parked(bench) == {"ranges": 1, "offsets": 2, "first": 0, "unmatched": 2}
    bench.hub.settlement.put_aside(entry, [0], ranges)
    assert parked(bench) == {"ranges": 1, "offsets": 1, "first": 1, "unmatched": 1}
    assert bench.ranges == {ONE: {0}}
    n = await connect(nursery, bench, wanting("n"))
    assert n.values == ["1"]
    assert bench.ranges == {ONE: {0, 1}}


async def test_a_batch_of_an_earlier_assignment_takes_nothing_from_what_is_parked(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """Otherwise its offsets would be neither parked nor dispatched, and never be committed."""
    await connect(nursery, bench, wanting("a"))
    bench.publish_keys("n", "n")
    await settle()
    before = parked(bench)
    record = Record(0, None, b"n", b"0", ())
    bench.hub.settlement.parking.dispatched(Batch(ONE, [record, record._replace(offset=1)], epoch=-1), 0, 2)
    assert parked(bench) == before == {"ranges": 1, "offsets": 2, "first": 0, "unmatched": 2}


async def test_expired_records_are_parked_no_more_once_a_gap_says_so(
    nursery: trio.Nursery, bench: KeyedBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits then pass them."""
    await connect(nursery, bench, wanting("a"))
    await publish_pairs(bench, 30)
    read = bench.replays.read

    async def expired(ranges: Any, max_bytes: int, client: Any = None) -> Chunk:
        chunk = await read(ranges, max_bytes, client)
        if ranges[ONE].first > 1:
            return chunk
        return Chunk((), {ONE: 20}, [Gap(ONE, 1, 19, "expired")])

    monkeypatch.setattr(bench.replays, "read", expired)
    n = await connect(nursery, bench, wanting("n"))
    assert n.values == [str(number) for number in range(21, 60, 2)]
    assert parked(bench) == {}
    assert bench.ranges == {ONE: set(range(60))}


async def test_compacted_records_are_parked_no_more_once_somebody_came_for_them(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """Kafka reports no gap for them. They count as sent to nobody, and commits go on."""
    await connect(nursery, bench, wanting("a"))
    bench.publish_keys("b", "a", "b", "b", "a")
    for _ in range(20):
        bench.publish_keys("a")
        await settle()
    assert set(range(25)) - bench.ranges[ONE] == {0, 2, 3}
    bench.replays.log = [(tp, record) for tp, record in bench.replays.log if record.offset not in {0, 3}]
    before = bench.hub.statistics().dispatched_records
    b = await connect(nursery, bench, wanting("b"))
    assert b.values == ["2"]
    assert bench.ranges == {ONE: set(range(25))}
    assert parked(bench) == {}
    assert bench.hub.statistics().dispatched_records == before + 1


async def test_whoever_observes_a_topic_beside_others_takes_nothing_of_what_is_parked(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts for another topic; it begins now, and its gaps let no commit pass."""
    bench = KeyedBench(**SMALL, topics=["assets", "orders"], topic_tables={"assets": {"commit_on": "acked"}})
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, OBSERVING)
    for _ in range(30):
        bench.publish_keys("a", "b")
        bench.hub.park_observed()
        await settle()
    assert parked(bench) == {"ranges": 1, "offsets": 60, "first": 0, "observed": 60}
    both = frozenset({"assets", "orders"})
    beside = feed_of(SSE_VALUE, both, observed=frozenset({"assets"}))
    assert (await connect(nursery, bench, beside)).values == []

    async def expired(_ranges: Any, _max_bytes: int, _client: Any = None) -> Chunk:
        return Chunk((), {ONE: 60}, [Gap(ONE, 1, 59, "expired")])

    monkeypatch.setattr(bench.replays, "read", expired)
    resumed = await connect(nursery, bench, beside, {ONE: 0})
    assert b"expired" in b"".join(resumed.writes)
    assert bench.ranges == {}
    assert parked(bench)["offsets"] == 60


async def test_observers_park_nothing_and_take_nothing(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """Watching is not consuming."""
    some = wanting("a")
    observing: Feed = feed_of(some.wire, some.topics, some.filter, counts=False)
    await connect(nursery, bench, observing)
    bench.publish_keys("a", "n")
    await settle()
    assert parked(bench) == {}
    await connect(nursery, bench, some)
    assert parked(bench) == {"ranges": 1, "offsets": 1, "first": 1, "unmatched": 1}
    everything = feed_of(some.wire, some.topics, counts=False)
    observer = await connect(nursery, bench, everything, {ONE: -1})
    assert observer.values == ["0", "1"]
    assert parked(bench) == {"ranges": 1, "offsets": 1, "first": 1, "unmatched": 1}


async def test_observers_go_on_when_nobody_takes_and_memory_is_full(nursery: trio.Nursery) -> None:
    """Records leave memory uncommitted, and are replayed for the first subscriber that counts."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    observer = await connect(nursery, bench, OBSERVING)
    for _ in range(60):
        bench.publish_keys("a", "b")
        if bench.hub.history.waiting_bytes > SMALL["pause_above_bytes"]:
            bench.hub.park_observed()
        await settle()
        assert bench.hub.history.waiting_bytes <= SMALL["pause_above_bytes"]
    assert observer.values == [str(number) for number in range(120)]
    assert bench.ranges == {}
    assert len(bench.hub.history._entries) < 20
    assert parked(bench)["first"] == 0
    assert parked(bench)["observed"] == parked(bench)["offsets"] > 1
    taker = await connect(nursery, bench, wanting())
    assert taker.values == observer.values
    assert bench.ranges == {ONE: set(range(120))}
    assert (parked(bench), bench.hub.history.waiting_bytes) == ({}, 0)


@pytest.mark.parametrize("action", ["skip", "dead-letter"])
async def test_to_look_keeps_no_record_from_its_deadline(nursery: trio.Nursery, action: str) -> None:
    """Parked records have no deadline, so waiting ones stay in memory while observers look."""
    bench = KeyedBench(
        **SMALL,
        topics=["assets"],
        topic_tables={"assets": {"undelivered_deadline_seconds": 1, "on_deadline": action}},
        idle_leave_seconds=0,
    )
    nursery.start_soon(bench.hub.run)
    observer = await connect(nursery, bench, OBSERVING)
    for _ in range(6):
        bench.publish_keys("a", "b")
    bench.hub.park_observed()
    await settle()
    assert len(observer.values) == 12
    assert parked(bench) == {}
    assert bench.hub.history.statistics().waiting_records == 12


async def test_what_is_observed_waits_in_memory_while_somebody_takes_or_a_gap_waits(nursery: trio.Nursery) -> None:
    """A gap exists only in memory, and precedes what follows it."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, OBSERVING)
    async with trio.open_nursery() as inner:
        await connect(inner, bench, wanting(), reads=False)
        bench.publish_keys("a")
        bench.hub.park_observed()
        assert parked(bench) == {}
        inner.cancel_scope.cancel()
    bench.publish_keys("b", gap=5)
    bench.publish_keys("c")
    bench.publish_keys("d", partition=TWO)
    bench.hub.park_observed()
    assert parked(bench) == {"ranges": 1, "offsets": 1, "first": 0, "observed": 1}
    assert bench.hub.history.waiting_records(ONE) == 2
    assert bench.hub.history.waiting_records(TWO) == 0
    taker = await connect(nursery, bench, wanting())
    assert sorted(taker.values) == ["0", "1", "2", "3"]  # of two partitions
    assert parked(bench) == {}


async def test_no_more_is_parked_at_once_than_the_loop_can_bear(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest follows with later crossings, and records beyond the bound wait."""
    monkeypatch.setattr(settlement, "PARKED_RECORDS", 3)
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, OBSERVING)
    for _ in range(5):
        bench.publish_keys("a", "b")
    bench.hub.park_observed()
    assert bench.hub.history.waiting_records(ONE) == 6
    bench.hub.park_observed()
    bench.hub.park_observed()
    assert bench.hub.history.waiting_records(ONE) == 0
