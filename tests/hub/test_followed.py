"""Partitions that change sides: what readers of the whole topic, and of the replica's own partitions, are sent then."""

import re

import pytest
import trio

from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.heartbeats import HEARTBEAT_SLICES
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.hub.test_filtered import KeyedBench
from tests.hub.test_hub import FEED, ONE, TWO, RecordingTransport, beat, unchunked
from tests.hub.test_hub import settle as settled
from tests.hub.test_subscriber import Stream, opened

TOPICS = frozenset({"assets"})
WHOLE = feed_of(SSE_VALUE, TOPICS, whole=True)
OBSERVING = feed_of(SSE_VALUE, TOPICS, whole=True, counts=False)
ELSEWHERE = feed_of(SSE_VALUE, frozenset({"other"}), whole=True)


def wants(*keys: str) -> Feed:
    """A reader of the whole topic with a filter."""
    return feed_of(SSE_VALUE, TOPICS, read_filter({"in": {"key": list(keys)}}), whole=True)


class FollowingBench(KeyedBench):
    """Owns partition 0, and follows partition 1 from an offset on."""

    def __init__(self, nursery: trio.Nursery, offset: int = 0, **settings: object) -> None:
        super().__init__(**settings)
        self.nursery = nursery
        nursery.start_soon(self.hub.run)
        self.hub.unassigned([TWO])
        self.hub.reached(ONE, 0)
        self.hub.followed.follow(TWO, offset)
        self.offsets[TWO] = offset
        self.hub.expect({"assets": 2})

    def stream(
        self, feed: Feed = WHOLE, position: dict[TopicPartition, int] | None = None, *, reads: bool = True
    ) -> Stream:
        """A subscriber whose socket takes everything, or nothing."""
        transport = opened() if reads else RecordingTransport()
        return Stream(self, self.nursery, transport, feed, position=position)

    def own(self, begins: int, *counted: tuple[int, int]) -> int:
        """The group assigns partition 1, and has committed up to there."""
        self.hub.assigned([TWO])
        return self.hub.followed.own(TWO, 5, HandOver(begins, counted))


@pytest.fixture
def bench(nursery: trio.Nursery) -> FollowingBench:
    """A hub that runs."""
    return FollowingBench(nursery)


async def test_a_partition_that_is_followed_from_now_on_goes_on_for_readers_of_the_whole_topic(
    bench: FollowingBench,
) -> None:
    """Live or catching up; for other readers it has left."""
    whole, own = bench.stream(), bench.stream(FEED)
    slow_whole, slow_own = bench.stream(reads=False), bench.stream(FEED, reads=False)
    bench.publish_keys("a")
    await settled()
    bench.hub.followed.disown([])
    bench.hub.unassigned([ONE], [ONE])
    bench.publish_keys("b")
    for stream in (slow_whole, slow_own):
        opened(stream.transport)
    await settled()
    assert [stream.transport.values for stream in (whole, slow_whole)] == [["0", "1"]] * 2
    assert own.transport.values == ["0"]
    assert slow_own.transport.values in ([], ["0"])
    assert bench.hub.followed.partitions == {ONE, TWO}


async def test_a_followed_partition_that_leaves_is_handed_to_nobody(bench: FollowingBench) -> None:
    """When it is followed again, readers are owed what was read of it here."""
    bench.publish_keys("z")
    whole, own = bench.stream(), bench.stream(FEED)
    waiting = [bench.stream(feed, reads=False) for feed in (WHOLE, FEED)]
    await settled()
    bench.hub.followed.drop([ONE])
    bench.publish_keys("a", partition=TWO)
    bench.hub.followed.drop([TWO])
    assert bench.hub.followed.partitions == set()
    for stream in waiting:
        opened(stream.transport)
    await settled()
    assert [stream.transport.values for stream in (whole, own, *waiting)] == [["0"]] * 4
    bench.hub.followed.follow(TWO, 1)
    bench.publish_keys("b", partition=TWO)
    await settled()
    assert [stream.transport.values for stream in (whole, own)] == [["0", "1", "2"], ["0"]]


async def test_a_followed_topic_that_is_recreated_begins_again_with_a_gap(bench: FollowingBench) -> None:
    """The gap is for readers of the whole topic, which had read the old log."""
    whole, own = bench.stream(), bench.stream(FEED)
    await settled()
    bench.publish_keys("a", "b", partition=TWO)
    await settled()
    bench.hub.followed.recreated(TWO, 0)
    bench.offsets[TWO] = 0
    bench.publish_keys("c", partition=TWO)
    await settled()
    gaps = [[data for _, kind, data in one.transport.events if kind == "gap"] for one in (whole, own)]
    assert [len(found) for found in gaps] == [1, 0]
    assert "recreated" in gaps[0][0]
    assert (whole.transport.values, own.transport.values) == (["0", "1", "2"], [])


async def test_a_write_of_a_recreated_topic_says_nothing_about_its_new_log(bench: FollowingBench) -> None:
    """Its offsets are those of other records now, followed or owned, which nobody may have been sent."""
    replayed: list[TopicPartition] = []
    bench.hub._on_replayed = lambda partition, _first, _end: replayed.append(partition)
    bench.publish_keys("a", "b", partition=ONE)
    bench.publish_keys("a", "b", partition=TWO)
    waiting = bench.stream(reads=False)
    ranges = [(partition, 0, 1) for partition in (ONE, TWO)]
    waiting.subscriber.resumption._replayed_ranges += ranges  # for the first write, which does not end,
    await settled()
    waiting.subscriber.resumption._replayed_ranges += ranges  # and for the next one
    assert {entry.batch.partition for entry in waiting.subscriber.in_flight} == {ONE, TWO}
    bench.hub.partition_recreated(ONE, 0, 2)
    bench.hub.followed.recreated(TWO, 0)
    opened(waiting.transport)
    await settled()
    assert waiting.transport.values[:4] == ["0", "1", "2", "3"]
    assert (bench.ranges, replayed) == ({}, [])


async def test_a_partition_that_becomes_owned_goes_on_without_a_repeat(bench: FollowingBench) -> None:
    """For its other readers it begins where nobody has been sent anything; other topics are unaffected."""
    whole, own, other = bench.stream(), bench.stream(FEED), bench.stream(ELSEWHERE)
    await settled()
    bench.publish_keys("a", "b", partition=TWO)
    await settled()
    assert bench.own(0, (0, 2)) == 2
    bench.publish_keys("c", partition=TWO)
    await settled()
    assert [one.transport.values for one in (whole, own, other)] == [["0", "1", "2"], ["2"], []]
    assert bench.ranges[TWO] >= {2}


PARTS = [feed_of(SSE_VALUE, TOPICS), feed_of(SSE_VALUE, TOPICS, read_filter({"in": {"key": list("abcdz")}}))]


def positions(stream: Stream) -> list[dict[TopicPartition, int]]:
    """What the ids name, in order, those of heartbeats included."""
    body = unchunked(b"".join(stream.transport.writes)).decode()
    return [parse_position(event_id) for event_id in re.findall(r"^id: (.+)$", body, re.MULTILINE)]


def assert_never_back(stream: Stream) -> None:
    """No id names less of a partition than one before."""
    named: dict[TopicPartition, int] = {}
    for position in positions(stream):
        assert all(position.get(tp, -1) >= offset for tp, offset in named.items()), (named, position)
        named |= position


@pytest.mark.parametrize("feed", PARTS)
@pytest.mark.parametrize("is_behind", [False, True])
async def test_other_readers_are_not_sent_what_was_committed_elsewhere(
    bench: FollowingBench, feed: Feed, *, is_behind: bool
) -> None:
    """However old the last moment of a live one: it was never sent anything of that partition."""
    observer, own = bench.stream(OBSERVING), bench.stream(feed)
    await settled()
    for key in "abcdabcdab":
        bench.publish_keys(key, partition=TWO)
    if not is_behind:
        await settled()
    bench.own(8)
    newcomer = bench.stream(feed)
    await settled()
    bench.publish_keys("a", partition=TWO)
    await settled()
    assert [one.transport.values for one in (own, newcomer)] == [["8", "9", "10"]] * 2
    assert observer.transport.values == [str(n) for n in range(11)]
    assert b"repeats" not in b"".join(own.transport.writes)
    assert_never_back(own)


async def test_other_readers_need_no_record_from_kafka_if_the_group_has_committed_all(nursery: trio.Nursery) -> None:
    """Memory holds only the last of what others have long committed."""
    bench = FollowingBench(nursery, history_bytes=10_000, pause_above_bytes=5_000, resume_below_bytes=2_500)
    bench.stream(OBSERVING)
    own = bench.stream(FEED)
    await settled()
    for _ in range(100):
        bench.publish_keys("k", partition=TWO)
    await settled()
    assert bench.hub.history.begin(TWO) > 50
    bench.own(100)
    await settled()
    assert (own.transport.values, bench.replays.asked) == ([], [])


@pytest.mark.parametrize("feed", PARTS)
async def test_what_other_readers_never_had_is_no_repeat(bench: FollowingBench, feed: Feed) -> None:
    """Their last moment is newer than the records that nobody has dispatched."""
    bench.stream()
    own = bench.stream(feed)
    await settled()
    bench.publish_keys(*"abcda", partition=TWO)
    bench.publish_keys("z")
    await settled()
    bench.own(2)
    await settled()
    assert own.transport.values == ["5", "2", "3", "4"]
    assert b"repeats" not in b"".join(own.transport.writes)
    assert_never_back(own)


@pytest.mark.parametrize("feed", PARTS)
@pytest.mark.parametrize("is_behind", [False, True])
async def test_ids_of_other_readers_do_not_step_back(bench: FollowingBench, feed: Feed, *, is_behind: bool) -> None:
    """Entries from before what they were sent have ids of their own there: a cut repeats nothing. Then all share."""
    bench.stream(OBSERVING)
    own = bench.stream(feed)
    await settled()
    bench.publish_keys("a", partition=TWO)
    for _ in range(20):
        bench.publish_keys("z")
        await settled()
    bench.publish_keys("b", partition=TWO)
    if is_behind:
        bench.publish_keys("z", "z")
    else:
        bench.hub.reached(ONE, 30)  # offsets without a record: a heartbeat names them
        for part in range(HEARTBEAT_SLICES):
            beat(bench.hub, part)
        await settled()
        assert positions(own)[-1] == {ONE: 29}
    bench.own(0)
    await settled()
    last_of_one = 21 if is_behind else 29
    assert sorted(map(int, own.transport.values)) == list(range(24 if is_behind else 22))
    assert_never_back(own)
    assert positions(own)[-1] == {ONE: last_of_one, TWO: 1}
    encoded = bench.hub.statistics().encoder.parts
    bench.publish_keys("c", partition=TWO)
    await settled()
    assert positions(own)[-1] == {ONE: last_of_one, TWO: 2}
    assert bench.hub.statistics().encoder.parts == encoded


async def test_a_gap_from_before_comes_to_other_readers_with_an_id_of_their_own(bench: FollowingBench) -> None:
    """Nobody had it, with a record or alone."""
    bench.stream(OBSERVING)
    own = bench.stream(FEED)
    await settled()
    bench.publish_keys(gap=3, partition=TWO)
    bench.publish_keys("a", gap=2, partition=TWO)
    bench.publish_keys("z")
    await settled()
    bench.own(0)
    await settled()
    assert [kind for _, kind, _ in own.transport.events if kind in {"gap", "message"}] == [
        "message",
        "gap",
        "gap",
        "message",
    ]
    assert bench.ranges[TWO] == set(range(6))
    assert_never_back(own)


async def test_ids_of_readers_that_are_sent_back_do_not_step_back_elsewhere(bench: FollowingBench) -> None:
    """Only the partition that nobody was sent is repeated, whether or not there is a filter."""
    bench.publish_keys("a", "b", "a", partition=TWO)
    after = [bench.stream(feed, {ONE: -1, TWO: 2}) for feed in (WHOLE, wants("a", "z"))]
    await settled()
    for _ in range(20):
        bench.publish_keys("z")
        await settled()
    bench.own(0)
    await settled()
    ones = [str(n) for n in range(3, 23)]
    assert [one.transport.values for one in after] == [[*ones, "0", "1", "2"], [*ones, "0", "2"]]
    for one in after:
        assert [position[ONE] for position in positions(one)[-3:]] == [19, 19, 19]


async def test_records_that_no_counting_subscriber_got_are_sent_to_readers_past_them(bench: FollowingBench) -> None:
    """An observer had them, and another reader's id names them: that reader goes back."""
    bench.publish_keys("a", "b", "c", partition=TWO)
    observer, after = bench.stream(OBSERVING), bench.stream(WHOLE, {ONE: -1, TWO: 2})
    await settled()
    assert after.transport.values == []
    bench.own(0)
    await settled()
    assert after.transport.values == ["0", "1", "2"]
    assert observer.transport.values.count("2") <= 1
    assert bench.ranges[TWO] == {0, 1, 2}


async def test_a_write_that_fails_after_the_partition_became_owned_is_made_up_for_by_others(
    bench: FollowingBench,
) -> None:
    """Readers past it get its records, which nobody was sent."""
    bench.publish_keys("a", "b", "c", partition=TWO)
    writing, beside = (bench.stream(reads=False) for _ in range(2))
    await settled()
    after, passing = bench.stream(WHOLE, {ONE: -1, TWO: 2}), bench.stream(ELSEWHERE)
    await settled()
    bench.own(0)
    await settled()
    assert (after.transport.values, bench.ranges.get(TWO)) == ([], None)
    passing.subscriber.leave()
    await settled()
    assert after.transport.values == [], "the write is still under way"
    for one in (writing, beside):
        one.transport.broken = True
        opened(one.transport)
    await settled()
    assert after.transport.values == ["0", "1", "2"]
    assert bench.ranges[TWO] == {0, 1, 2}


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_write_that_succeeds_or_a_partition_that_leaves_again_sends_nobody_back(
    bench: FollowingBench, leaves: bool
) -> None:
    """There is nothing to make up for."""
    bench.publish_keys("a", "b", "c", partition=TWO)
    writing, passing = bench.stream(reads=False), bench.stream(ELSEWHERE)
    await settled()
    after = bench.stream(WHOLE, {ONE: -1, TWO: 2})
    await settled()
    bench.own(0)
    if leaves:
        bench.hub.unassigned([TWO])
    else:
        opened(writing.transport)
    await settled()
    passing.subscriber.leave()
    await settled()
    assert after.transport.values == []
    if not leaves:
        assert bench.ranges[TWO] == {0, 1, 2}


async def test_a_write_of_some_records_that_fails_is_made_up_for_by_a_reader_that_took_only_later_ones(
    bench: FollowingBench,
) -> None:
    """What precedes these in their batch does not count with them."""
    filtered = bench.stream(wants("f"))
    await settled()
    filtered.transport.gate = trio.Event()  # from now on its socket is full
    bench.publish_keys(*"aaaafffbbb", partition=TWO)
    everything = bench.stream(WHOLE, {ONE: -1, TWO: 9})
    await settled()
    bench.own(0, (0, 4))
    await settled()
    assert everything.transport.values == ["7", "8", "9"]
    assert bench.ranges[TWO] == {7, 8, 9}
    filtered.transport.broken = True
    opened(filtered.transport)
    await settled()
    assert everything.transport.values == ["7", "8", "9", *map(str, range(4, 10))]
    assert bench.ranges[TWO] == set(range(4, 10))
    assert bench.hub.history.waiting_bytes == 0


async def test_memory_that_does_not_reach_where_the_group_goes_on_begins_again(nursery: trio.Nursery) -> None:
    """Readers of the whole topic continue where they were, without repeats."""
    bench = FollowingBench(nursery, 12)
    bench.replays.log += [(TWO, Record(n, None, b"a", str(n).encode(), ())) for n in range(12)]
    whole = bench.stream(WHOLE, {ONE: -1, TWO: 11})
    own, other = bench.stream(FEED), bench.stream(ELSEWHERE)
    await settled()
    assert bench.own(3) == 3
    bench.hub.publish(Batch(TWO, [Record(n, None, b"a", str(n).encode(), ()) for n in range(3, 14)], epoch=5))
    await settled()
    assert own.transport.values == [str(n) for n in range(3, 14)]
    assert whole.transport.values[-2:] == ["12", "13"]
    assert other.transport.values == []


async def test_a_filter_goes_back_for_what_it_wants_of_what_nobody_has_had(bench: FollowingBench) -> None:
    """Not for its own write under way, nor for what only other filters want."""
    bench.publish_keys("a", "b", "a", "c", partition=TWO)
    after = [bench.stream(wants(key), {ONE: -1, TWO: 3}) for key in ("a", "b", "none")]
    first = bench.stream(wants("a"), {ONE: -1, TWO: 0})
    await settled()
    assert first.transport.values == ["2"]
    bench.own(0, (2, 3))
    await settled()
    assert [one.transport.values for one in after] == [["0", "2"], ["1"], []]
    assert bench.ranges[TWO] >= {0, 1}


async def test_what_is_under_way_to_a_filter_is_not_sent_to_it_again(bench: FollowingBench) -> None:
    """It counts when its socket has taken it."""
    bench.publish_keys("a", "b", "a", partition=TWO)
    writing = bench.stream(wants("a"), reads=False)
    everything = bench.stream(WHOLE, {ONE: -1, TWO: 2})
    await settled()
    bench.own(0)
    opened(writing.transport)
    await settled()
    assert writing.transport.values == ["0", "2"]
    assert everything.transport.values[-1] == "2"
    assert bench.ranges[TWO] == {0, 1, 2}
