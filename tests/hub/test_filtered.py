"""Subscribers with filters: each is sent what it wants and nothing else, and what nobody wants may be committed."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio

from dispatcher.hub import resumption
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.hub import Hub
from dispatcher.sansio.encoding.wire import SSE_VALUE, WEBSOCKET
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import Chunk, Gap, Range, recreated
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, TopicPartition
from testbed.patience import seconds
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport, beat, settle
from tests.sansio.test_eviction import steps

TOPICS = frozenset({"assets"})


def wanting(*keys: str, grant: Any = None) -> Feed:
    """Records with one of these keys."""
    return feed_of(
        SSE_VALUE,
        TOPICS,
        read_filter({"in": {"key": list(keys)}}) if keys else None,
        None if grant is None else read_filter(grant),
    )


class KeyedBench(Bench):
    """Publishes batches of records with keys; their values count up."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.offsets = {ONE: 0, TWO: 0}

    def publish_keys(self, *keys: str, partition: TopicPartition = ONE, gap: int = 0) -> None:
        """One batch; a gap of this many offsets before it."""
        first = self.offsets[partition]
        records = []
        for offset, key in enumerate(keys, first + gap):
            records.append(Record(offset, None, key.encode(), str(self.number).encode(), ()))
            self.replays.log.append((partition, records[-1]))
            self.number += 1
        self.offsets[partition] = first + gap + len(keys)
        lost = Gap(partition, first, first + gap - 1, "expired") if gap else None
        self.hub.publish(Batch(partition, records or NO_RECORDS, epoch=1, covers_from=first, gap=lost))

    def unmatched(self) -> dict[str, int]:
        """Settled records by topic."""
        return dict(self.hub.statistics().unmatched)


@pytest.fixture
def bench(nursery: trio.Nursery) -> KeyedBench:
    """A hub that runs."""
    found = KeyedBench()
    nursery.start_soon(found.hub.run)
    return found


async def connect(
    nursery: trio.Nursery,
    bench: Bench,
    feed: Feed,
    position: dict[TopicPartition, int] | None = None,
    *,
    reads: bool = True,
) -> RecordingTransport:
    """A subscriber whose socket takes everything, or nothing."""
    transport = RecordingTransport()
    if reads:
        transport.gate.set()
    await nursery.start(bench.serve, transport, position, None, feed)
    await settle()
    return transport


def ids(transport: RecordingTransport) -> list[str]:
    """The ids of the records."""
    return [last_id for last_id, kind, _ in transport.events if kind == "message"]


async def test_filters_that_want_the_same_records_share_their_bytes(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """They are joined once for each format, with a gap before them or without."""
    hot = [wanting("hot", f"{n}") for n in range(20)]
    others = [wanting("cold"), feed_of(WEBSOCKET, TOPICS, read_filter({"in": {"key": ["hot", "x"]}}))]
    transports = [await connect(nursery, bench, feed) for feed in (*hot, *others)]
    for gap in (0, 3):
        bench.publish_keys("hot", "cold", "hot", gap=gap)
        published = bench.hub._fan_out._published
        assert len({id(part) for feed in hot for _, part in published[feed]}) == 1
        assert len({id(part) for feed in (hot[0], *others) for _, part in published[feed]}) == 3
        await settle()
    assert [transport.values for transport in transports[:-1]] == [["0", "2", "3", "5"]] * len(hot) + [["1", "4"]]
    assert [kind for _, kind, _ in transports[0].events if kind == "gap"] == ["gap"]
    await bench.hub.wait_settled()
    assert bench.ranges == {ONE: set(range(9))}


async def test_each_is_sent_what_it_wants_and_the_rest_is_settled(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """Two filters overlap in one batch; ids name every earlier record, wanted or not."""
    a, b = await connect(nursery, bench, wanting("a", "x")), await connect(nursery, bench, wanting("b", "x"))
    bench.publish_keys("a", "n", "b", "x", "n")
    bench.publish_keys("n", partition=TWO)
    await settle()
    assert (a.values, b.values) == (["0", "3"], ["2", "3"])
    assert ids(a) == ["assets:0=0", "assets:0=3"] == [ids(a)[0], ids(b)[1]]
    assert bench.ranges == {ONE: set(range(5)), TWO: {0}}
    assert bench.unmatched() == {"assets": 3}
    assert bench.hub.history.waiting_bytes == 0
    statistics = bench.hub.statistics()
    assert (statistics.dispatched_records, statistics.deliveries) == (3, 4)


async def test_without_anybody_records_wait_and_a_newcomer_settles_what_it_does_not_want(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """Only a present subscriber can settle a record."""
    for _ in range(3):
        bench.publish_keys("a", "n")
    await settle()
    assert (bench.ranges, bench.unmatched()) == ({}, {})
    a = await connect(nursery, bench, wanting("a"))
    await settle()
    assert a.values == ["0", "2", "4"]
    assert bench.ranges == {ONE: set(range(6))}
    assert bench.unmatched() == {"assets": 3}


async def test_a_subscriber_without_a_filter_leaves_nothing_to_settle(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """Records wait for it; when it leaves, the filters of the others decide."""
    everything = RecordingTransport()
    async with trio.open_nursery() as inner:
        await inner.start(bench.serve, everything)
        a = await connect(nursery, bench, wanting("a"))
        bench.publish_keys("a", "n")
        bench.publish_keys("n")
        await settle()
        assert a.values == ["0"]
        assert (bench.ranges, bench.unmatched()) == ({ONE: {0}}, {})
        inner.cancel_scope.cancel()
    await trio.sleep(0.1)  # the pause between two looks
    await settle()
    assert (bench.ranges, bench.unmatched()) == ({ONE: {0, 1, 2}}, {"assets": 2})


async def test_what_is_wanted_waits_for_its_socket_until_that_one_leaves(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """It is not settled while the subscriber that wants it is present."""
    async with trio.open_nursery() as inner:
        await connect(inner, bench, wanting("b"), reads=False)
        a = await connect(nursery, bench, wanting("a"))
        bench.publish_keys("a", "b", "n", "b", "a")
        await settle()
        assert a.values == ["0", "4"]
        assert (bench.ranges, bench.unmatched()) == ({ONE: {0, 2, 4}}, {"assets": 1})
        inner.cancel_scope.cancel()
    await trio.sleep(0.1)
    await settle()
    assert (bench.ranges, bench.unmatched()) == ({ONE: set(range(5))}, {"assets": 3})
    assert bench.hub.history.waiting_bytes == 0


async def test_what_a_grant_hides_waits(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """Of two tenants, the present one settles only records of its own."""
    mine = {"prefix": {"key": "mine."}}
    tenant = await connect(nursery, bench, wanting("mine.a", grant=mine))
    bench.publish_keys("mine.a", "mine.b", "other.a")
    await settle()
    assert tenant.values == ["0"]
    assert (bench.ranges, bench.unmatched()) == ({ONE: {0, 1}}, {"assets": 1})
    other = await connect(nursery, bench, wanting(grant={"prefix": {"key": "other."}}))
    await settle()
    assert other.values == ["2"]
    assert bench.ranges == {ONE: {0, 1, 2}}
    assert bench.unmatched() == {"assets": 1}


async def test_of_a_followed_partition_readers_of_the_whole_topic_have_what_they_want(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """Other readers get nothing of it, and unwanted records are not ours to settle."""
    followed = TopicPartition("assets", 2)
    bench.offsets[followed] = 0
    bench.hub.followed.follow(followed, 0)
    bench.hub.expect({"assets": 3})
    for partition in (ONE, TWO):
        bench.hub.reached(partition, 0)
    wanted = read_filter({"exact": {"key": "a"}})
    whole = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, wanted, whole=True))
    own = await connect(nursery, bench, wanting("a"))
    bench.publish_keys("a", "n", "a", partition=followed)
    bench.publish_keys("a", "n")
    bench.publish_keys("n", partition=followed, gap=2)
    await settle()
    late = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, wanted, whole=True), {followed: 0})
    assert (whole.values, own.values, late.values) == (["0", "2", "3"], ["3"], ["2"])
    gaps = [[kind for _, kind, _ in transport.events].count("gap") for transport in (whole, own, late)]
    assert gaps == [1, 0, 1]
    assert (bench.ranges[ONE], bench.unmatched()) == ({0, 1}, {"assets": 1})
    assert bench.ranges[followed] == {0, 2, 3, 4}, "the records that were sent, and the gap"


async def test_a_gap_is_sent_to_everybody_whatever_they_want(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """Live and from the history: the missing records may have been wanted."""
    live = await connect(nursery, bench, wanting("a"))
    bench.publish_keys("n", gap=2)
    bench.publish_keys("a", gap=3)
    bench.publish_keys(gap=1)
    await settle()
    late = await connect(nursery, bench, wanting("b"), {ONE: 0})
    for transport, firsts in ((live, [0, 3, 7]), (late, [1, 3, 7])):
        gaps = [data for _, kind, data in transport.events if kind == "gap"]
        assert [f'"from":{first},' in gap for first, gap in zip(firsts, gaps, strict=True)] == [True] * 3
    assert (live.values, late.values) == (["1"], [])
    assert bench.ranges == {ONE: set(range(8))}
    assert bench.hub.history.waiting_bytes == 0


async def test_the_state_echoes_the_filter(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """The first state contains the client's filter, but not its grant."""
    plain = await connect(nursery, bench, wanting(grant={"exact": {"key": "secret"}}))
    filtered = await connect(nursery, bench, wanting("b", "a"))
    websocket = await connect(nursery, bench, feed_of(WEBSOCKET, TOPICS, read_filter({"exists": {"/a": True}})))
    states = [data for _, kind, data in filtered.events if kind == "state"]
    assert states[0].endswith(',"filter":{"in":{"key":["a","b"]}}}')
    assert '"filter"' not in "".join(states[1:])
    assert b'"filter"' not in b"".join(plain.writes)
    assert b"secret" not in b"".join(plain.writes)
    assert b',"filter":{"exists":{"/a":true}}' in websocket.writes[0]


async def test_memory_and_kafka_are_read_through_the_filter(nursery: trio.Nursery) -> None:
    """A resume leaves nothing out and repeats nothing, and chunks without a match carry an id."""
    bench = KeyedBench(history_bytes=4_000, pause_above_bytes=2_000, resume_below_bytes=1_000)
    nursery.start_soon(bench.hub.run)
    everything = await connect(nursery, bench, wanting())
    for number in range(30):
        bench.publish_keys("a" if number % 7 == 0 else "n", "n")
        await settle()
    assert len(everything.values) == 60
    assert len(bench.hub.history._entries) < 10
    resumed = await connect(nursery, bench, wanting("a"), {ONE: 0})
    expected = [str(2 * number) for number in range(30) if number % 7 == 0 and number]
    assert resumed.values == expected
    alone = [last_id for last_id, kind, _ in resumed.events if kind == "message"]
    assert [int(last_id.partition("=")[2]) for last_id in alone] == [int(value) for value in expected]
    body = b"".join(resumed.writes)
    assert body.count(b"\nid: assets:0=4\n\n") + body.count(b"\nid: assets:0=6\n\n") > 0, "ids without a record"
    bench.publish_keys("n", "a")
    await settle()
    assert resumed.values == [*expected, "61"]


async def test_a_long_search_in_memory_lets_others_have_the_loop_and_says_how_far_it_is(
    nursery: trio.Nursery, bench: KeyedBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is not live until all entries were looked at."""
    monkeypatch.setattr(resumption, "LOOK_RECORDS", 4)
    monkeypatch.setattr(resumption, "SILENT_RECORDS", 8)
    everything = await connect(nursery, bench, wanting())
    for _ in range(10):
        bench.publish_keys("n", "n")
    bench.publish_keys("a")
    await settle()
    assert len(everything.values) == 21
    found = await connect(nursery, bench, wanting("a"), {ONE: 0})
    assert found.values == ["20"]
    body = b"".join(found.writes)
    assert [b"\nid: assets:0=%d\n\n" % offset in body for offset in (7, 15)] == [True, True]
    assert [s.state for s in bench.hub.subscriber_statistics()] == ["live", "live"]


async def test_a_quiet_filtered_stream_is_moved_on_by_heartbeats(nursery: trio.Nursery) -> None:
    """After a rebalance it searches nothing again, and asks Kafka for nothing."""
    bench = KeyedBench(history_bytes=4_000, pause_above_bytes=2_000, resume_below_bytes=1_000)
    nursery.start_soon(bench.hub.run)
    quiet = await connect(nursery, bench, wanting("a"))
    for _ in range(30):
        bench.publish_keys("n", "n")
    await settle()
    for part in range(10):
        beat(bench.hub, part)
    await settle()
    assert b"id: assets:0=59\n\n" in quiet.writes[-1]
    for subscriber in tuple(bench.hub._registry.everybody.values()):
        subscriber.fall_back()
    await settle()
    assert bench.replays.asked == []
    bench.publish_keys("a")
    await settle()
    assert quiet.values == ["60"]


async def test_a_partition_that_is_added_is_read_from_where_a_filtered_reader_named_it(nursery: trio.Nursery) -> None:
    """A live reader catches up with that partition, and with new records of others."""
    bench = KeyedBench(history_bytes=4_000, pause_above_bytes=2_000, resume_below_bytes=1_000)
    nursery.start_soon(bench.hub.run)
    bench.hub.unassigned([TWO])
    reader = await connect(nursery, bench, wanting("a"), {TWO: -1, ONE: -1})
    for _ in range(30):
        bench.publish_keys("n", "n")
    await settle()
    bench.hub.assigned([TWO])
    bench.publish_keys("a", partition=TWO)
    await settle()
    assert reader.values == ["60"]


async def test_many_feeds_do_not_hold_the_loop(
    nursery: trio.Nursery, bench: KeyedBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of many feeds yields like one of many subscribers."""
    monkeypatch.setattr("dispatcher.hub.fan_out.SLICE", 2)
    yields: list[int] = []
    fan_out = bench.hub._fan_out
    between_slices = fan_out._between_slices

    async def counted() -> None:
        yields.append(1)
        await between_slices()

    monkeypatch.setattr(fan_out, "_between_slices", counted)
    readers = [await connect(nursery, bench, wanting(str(n), "all")) for n in range(10)]
    bench.publish_keys("all")
    await settle()
    assert [reader.values for reader in readers] == [["0"]] * 10
    assert len(yields) == 4
    assert bench.hub.encoder.statistics().entries == 0, "the history keeps bytes of feeds without filters only"


def entries_of(hub: Hub) -> Sequence[Any]:
    """The history."""
    return list(hub.history._entries.values())


async def test_a_partition_that_leaves_takes_its_selections_with_it(nursery: trio.Nursery, bench: KeyedBench) -> None:
    """A started write is reported to the tracker; waiting ones are dropped."""
    slow = await connect(nursery, bench, wanting("a"), reads=False)
    bench.publish_keys("a", "n", "a")
    await settle()
    bench.publish_keys("a")
    await settle()
    bench.hub.unassigned([ONE])
    slow.gate.set()
    await settle()
    assert slow.values in (["0", "2"], []), "the write under way, or none"
    assert entries_of(bench.hub) == []


@pytest.mark.parametrize("keys", [(), ("a",)])
async def test_an_id_beyond_what_was_read_is_sent_all_of_it_when_its_partition_becomes_owned(
    nursery: trio.Nursery, bench: KeyedBench, keys: tuple[str, ...]
) -> None:
    """Nobody was sent the records before the id, so this reader gets them."""
    bench.hub.unassigned([ONE, TWO])
    records = [Record(n, None, b"a", str(n).encode(), ()) for n in range(8)]
    bench.replays.log += [(ONE, record) for record in records]
    for partition in (ONE, TWO):
        bench.hub.followed.follow(partition, 0)
    bench.hub.expect({"assets": 2})
    asked = read_filter({"in": {"key": list(keys)}}) if keys else None
    reader = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, asked, whole=True), {ONE: 5, TWO: -1})
    bench.hub.assigned([ONE])
    bench.hub.followed.own(ONE, 7, HandOver(0, []))
    bench.hub.publish(Batch(ONE, records, epoch=7, covers_from=0))
    await settle()
    assert reader.values == [str(n) for n in range(8)]
    assert bench.ranges == {ONE: set(range(8))}


async def test_a_filter_that_wants_nothing_of_what_was_read_goes_on_where_that_ends(
    nursery: trio.Nursery, bench: KeyedBench
) -> None:
    """Nobody was sent the records up to the id's offset, so the filter looks at them."""
    bench.hub.unassigned([ONE, TWO])
    records = [Record(n, None, b"b" if n < 4 else b"a", str(n).encode(), ()) for n in range(8)]
    bench.replays.log += [(ONE, record) for record in records]
    for partition in (ONE, TWO):
        bench.hub.followed.follow(partition, 0)
    bench.hub.expect({"assets": 2})
    bench.hub.publish(Batch(ONE, records[:4], covers_from=0))
    only = feed_of(SSE_VALUE, TOPICS, read_filter({"in": {"key": ["a"]}}), whole=True)
    reader = await connect(nursery, bench, only, {ONE: 5, TWO: -1})
    bench.hub.assigned([ONE])
    bench.hub.followed.own(ONE, 7, HandOver(0, []))
    bench.hub.publish(Batch(ONE, records[4:], epoch=7, covers_from=4))
    await settle()
    assert reader.values == ["4", "5", "6", "7"]
    assert bench.ranges[ONE] >= set(range(4, 8))


@pytest.mark.parametrize("key", ["a", "none"])
async def test_a_filter_that_is_first_after_a_recreation_is_sent_the_gap_once(
    nursery: trio.Nursery, bench: KeyedBench, key: str
) -> None:
    """Then nothing waits any more, and nobody is sent its records again."""
    bench.hub.partition_recreated(ONE, 0, 50)
    bench.hub.reached(ONE, 0)
    records = [Record(offset, None, b"a", str(offset).encode(), ()) for offset in (2, 3, 4)]
    bench.hub.publish(Batch(ONE, records, covers_from=0, gap=recreated(ONE, 50, 0)))
    await settle()
    first = await connect(nursery, bench, wanting(key))
    assert [kind for _, kind, _ in first.events if kind != "state"] == ["gap", *["message"] * (3 * (key == "a"))]
    assert (bench.hub.history.start(ONE), bench.hub.history.waiting_bytes) == (5, 0)
    assert bench.ranges == {ONE: set(range(5))}
    second = await connect(nursery, bench, wanting(key))
    assert [kind for _, kind, _ in second.events] == ["state"]


SMALL = {"history_bytes": 20_000, "pause_above_bytes": 10_000, "resume_below_bytes": 5_000}


async def test_a_stuck_subscriber_does_not_keep_in_memory_what_others_were_sent(nursery: trio.Nursery) -> None:
    """Its record waits, and nothing more: memory stays within its bound, and so does the work of a publish."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    rare = await connect(nursery, bench, wanting("rare"), reads=False)
    fast = await connect(nursery, bench, wanting("b"))
    bench.publish_keys("rare")
    await settle()

    async def publish(number: int) -> int:
        most = 0
        for _ in range(number):
            most = max(most, steps(lambda: bench.publish_keys("b")))
            await settle()
        return most

    before = await publish(60)
    assert await publish(600) <= 2 * before, "ten times as many records are there"
    assert len(fast.values) == 660
    history = bench.hub.history
    assert history.size_bytes <= 20_000
    assert history.waiting_records(ONE) == 1
    assert bench.ranges == {ONE: set(range(1, 661))}, "commits stop before what waits"
    rare.gate.set()
    await settle()
    assert rare.values == ["0"]
    assert bench.ranges == {ONE: set(range(661))}
    assert (history.waiting_bytes, history.size_bytes <= 20_000) == (0, True)
    assert bench.replays.asked == [], "it had it in its buffer"


async def test_older_records_of_another_partition_move_no_id_back_after_a_replay(nursery: trio.Nursery) -> None:
    """They wait in memory, and were published before all that was replayed: a cut there repeats none of it."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, wanting("rare"), reads=False)
    await connect(nursery, bench, wanting("b"))
    bench.publish_keys("b", partition=TWO)
    bench.publish_keys("rare", "rare")
    for _ in range(60):
        bench.publish_keys("b", partition=TWO)
        await settle()
    assert bench.hub.history.begin(TWO) > 10
    late = await connect(nursery, bench, wanting(), {ONE: -1, TWO: 0})
    assert bench.replays.asked
    assert len(late.values) == 62
    named = [parse_position(event_id).get(TWO, -1) for event_id in ids(late)]
    assert named == sorted(named)


@pytest.mark.parametrize("returns", [False, True])
async def test_whoever_needs_what_a_stuck_subscriber_left_is_sent_it_from_kafka(
    nursery: trio.Nursery, *, returns: bool
) -> None:
    """A new subscriber begins there; one that returns with its id goes on there. Then it is committed."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, wanting("b"))
    async with trio.open_nursery() as inner:
        await connect(inner, bench, wanting("rare"), reads=False)
        bench.publish_keys("b")
        bench.publish_keys("rare")
        for _ in range(60):
            bench.publish_keys("b")
            await settle()
        assert bench.hub.history.waits_before(ONE)
        rare = await connect(nursery, bench, wanting("rare"), {ONE: 0} if returns else None)
        assert rare.values == ["1"]
        assert bench.replays.asked
        assert bench.ranges == {ONE: set(range(62))}
        assert not bench.hub.history.waits_before(ONE)
        inner.cancel_scope.cancel()


async def test_what_a_stuck_subscriber_wanted_alone_is_settled_when_it_leaves(nursery: trio.Nursery) -> None:
    """As if the others had never gone on."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, wanting("b"))
    async with trio.open_nursery() as inner:
        await connect(inner, bench, wanting("rare"), reads=False)
        bench.publish_keys("rare")
        for _ in range(60):
            bench.publish_keys("b")
            await settle()
        inner.cancel_scope.cancel()
    with trio.fail_after(seconds(10)):
        while bench.ranges != {ONE: set(range(61))}:  # noqa: ASYNC110 - nothing tells when it has looked
            await trio.sleep(0.01)
    assert bench.unmatched() == {"assets": 1}


async def with_an_expired_record(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> KeyedBench:
    """A record waits for a stuck subscriber, outside of what is in memory, and retention has deleted it."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, wanting("b"))
    await connect(nursery, bench, wanting("rare"), reads=False)
    bench.publish_keys("rare")
    for _ in range(60):
        bench.publish_keys("b")
        await settle()

    async def expired(ranges: Mapping[TopicPartition, Range], *_: object) -> Chunk:
        return Chunk((), {ONE: ranges[ONE].end}, [Gap(ONE, 0, ranges[ONE].end - 1, "expired")])

    monkeypatch.setattr(bench.replays, "read", expired)
    return bench


async def test_a_gap_in_the_place_of_what_waits_counts(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber that wants the deleted record is sent the gap, and commits go on."""
    bench = await with_an_expired_record(nursery, monkeypatch)
    rare = await connect(nursery, bench, wanting("rare"))
    assert "gap" in [kind for _, kind, _ in rare.events]
    assert bench.ranges == {ONE: set(range(61))}
    assert bench.hub.history.waiting_bytes == 0


@pytest.mark.parametrize("disowned", [[], [ONE]], ids=["gone", "followed"])
@pytest.mark.parametrize("feed", [wanting("rare"), FEED], ids=["filtered", "everything"])
async def test_what_is_being_written_from_kafka_counts_although_its_partition_leaves(
    nursery: trio.Nursery, feed: Feed, disowned: list[TopicPartition]
) -> None:
    """The revoke waits for the write, as for one from memory; what it does not hold still waits."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    bench.hub.expect({"assets": 2})
    bench.hub.reached(TWO, 0)
    await connect(nursery, bench, wanting("b"))
    async with trio.open_nursery() as inner:
        await connect(inner, bench, wanting("rare"), reads=False)
        bench.publish_keys("rare", "rare", "rare")
        for _ in range(60):
            bench.publish_keys("b")
            await settle()
        bench.replays.gate = trio.Event()
        late = await connect(nursery, bench, feed)
        late.gate = trio.Event()
        bench.replays.gate.set()
        await settle()
        inner.cancel_scope.cancel()
    assert bench.ranges == {ONE: set(range(3, 63))}
    bench.hub.unassigned([ONE], disowned)
    assert bench.hub.has_first_writes_for([ONE])
    late.gate.set()
    await settle()
    assert late.values[:2] == ["0", "1"]
    assert bench.ranges == {ONE: {0, 1, *range(3, 63)}}
    assert not bench.hub.has_first_writes_for([ONE])


async def test_a_gap_of_the_old_log_says_nothing_about_what_waits_in_the_new_one(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic is recreated while a full socket is being sent the gap: records with the same offsets still wait."""
    bench = await with_an_expired_record(nursery, monkeypatch)
    rare = RecordingTransport()
    await nursery.start(bench.serve, rare, None, None, wanting("rare"))
    rare.gate.set()  # for the state,
    await trio.lowlevel.checkpoint()
    rare.gate = trio.Event()  # and no longer for the gap
    await settle()
    bench.hub.partition_recreated(ONE, 0, 61)
    bench.hub.reached(ONE, 0)
    bench.ranges.clear()
    bench.offsets[ONE] = 0
    bench.publish_keys("rare")
    full, rare.gate = rare.gate, trio.Event()
    full.set()
    await settle()
    assert [kind for _, kind, _ in rare.events if kind != "state"] == ["gap"]
    assert bench.ranges == {}, "nobody has been sent the new record"
    rare.gate.set()
    await settle()
    assert rare.values == ["61"]
    assert bench.ranges == {ONE: {0}}


async def test_what_waits_and_was_compacted_is_passed_by_commits(nursery: trio.Nursery) -> None:
    """Kafka reports no gap for it: whoever comes for it is sent what is left, and nobody reads all of that again."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, wanting("b"))
    await connect(nursery, bench, wanting("rare"), reads=False)
    for keys in (["b"], ["rare"], ["rare", "rare", "b", "rare"]):
        bench.publish_keys(*keys)
    for _ in range(60):
        bench.publish_keys("b")
        await settle()
    assert bench.ranges[ONE] == {0, 4, *range(6, 66)}
    bench.replays.log = [(partition, record) for partition, record in bench.replays.log if record.offset not in {1, 3}]
    observer = feed_of(SSE_VALUE, TOPICS, read_filter({"exact": {"key": "rare"}}), counts=False)
    await connect(nursery, bench, observer, {ONE: 0})
    assert not bench.ranges[ONE] & {1, 2, 3, 5}, "an observer does not count"
    rare = await connect(nursery, bench, wanting("rare"))
    assert rare.values == ["2", "5"]
    assert bench.ranges == {ONE: set(range(66))}
    assert not bench.hub.history.waits_before(ONE)
    asked = len(bench.replays.asked)
    await connect(nursery, bench, wanting("rare"))
    assert len(bench.replays.asked) == asked


async def test_of_what_is_compacted_only_the_part_that_was_read_counts(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was read is judged: Kafka has sent two records, and may still have those after them."""
    bench = KeyedBench(**SMALL)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, wanting("b"))
    await connect(nursery, bench, wanting("rare"), reads=False)
    for keys in (["rare", "b", "rare"], ["b", "rare"], ["rare"]):
        bench.publish_keys(*keys)
    for _ in range(60):
        bench.publish_keys("b")
        await settle()
    bench.replays.log = [(partition, record) for partition, record in bench.replays.log if record.offset not in {0, 4}]
    read = bench.replays.read
    answered: list[Chunk] = []

    async def read_once(*question: Any) -> Chunk:
        if answered:
            await trio.sleep_forever()
        answered.append(await read(*question))
        return answered[0]

    monkeypatch.setattr(bench.replays, "read", read_once)
    rare = await connect(nursery, bench, wanting("rare"))
    assert answered[0].next_offsets == {ONE: 3}
    assert rare.values == ["2"]
    assert set(range(66)) - bench.ranges[ONE] == {4, 5}
