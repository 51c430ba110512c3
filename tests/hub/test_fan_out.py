"""Rounds of the fan-out: slices, partial writes, and what holds the poller back."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from dispatcher.hub import fan_out, pace
from dispatcher.hub.fan_out import FanOut
from dispatcher.hub.feed import feed_of
from dispatcher.hub.round_times import RoundTimes
from dispatcher.hub.statistics import SubscriberState
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.encoding.wire import SSE_VALUE, WEBSOCKET
from dispatcher.sansio.health import ReplicaState
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.hub.test_filtered import KeyedBench, connect, wanting
from tests.hub.test_hub import FEED, ONE, TWO, Bench, RecordingTransport, settle


class ObservedTransport(RecordingTransport):
    """Calls back before it takes anything."""

    def __init__(self, callback: Callable[[], None]) -> None:
        super().__init__()
        self.gate.set()
        self.callback = callback

    def try_send(self, data: bytes) -> int:
        """Call back, then take all."""
        self.callback()
        return super().try_send(data)


async def test_a_partition_that_leaves_within_a_round_is_handed_to_nobody_else(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new owner sends its records, and the rest of the round continues."""
    monkeypatch.setattr(fan_out, "SLICE", 1)
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    first, second = ObservedTransport(lambda: bench.hub.unassigned([ONE])), ObservedTransport(lambda: None)
    await nursery.start(bench.serve, first)
    await nursery.start(bench.serve, second)
    await settle()
    bench.publish(ONE, TWO)
    await settle()
    assert (first.values, second.values) == (["0", "1"], ["1"])


async def test_a_partition_that_is_followed_within_a_round_is_handed_to_no_reader_of_the_replica(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers of the whole topic catch up with it, which gives its entry an id in which it is not owned."""
    monkeypatch.setattr(fan_out, "SLICE", 1)
    bench, disowned = Bench(), [[ONE]]
    nursery.start_soon(bench.hub.run)
    bench.hub.expect({"assets": 2})
    for partition in (ONE, TWO):
        bench.hub.reached(partition, 0)

    def disown() -> None:
        if disowned:
            bench.hub.unassigned([ONE], disowned.pop())

    whole = feed_of(SSE_VALUE, FEED.topics, whole=True)
    first, second, own = ObservedTransport(disown), ObservedTransport(lambda: None), ObservedTransport(lambda: None)
    for transport, feed in ((first, whole), (second, whole), (own, FEED)):
        await nursery.start(bench.serve, transport, None, None, feed)
    await settle()
    bench.publish(ONE)
    await settle()
    bench.publish(TWO)
    await settle()
    assert (first.values, second.values, own.values) == (["0", "1"], ["0", "1"], ["1"])


async def test_a_subscriber_that_leaves_within_a_round_is_offered_nothing_more(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand clients that are cut at once must not end the replica."""
    monkeypatch.setattr(fan_out, "SLICE", 1)
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    gone = RecordingTransport()
    gone.gate.set()
    async with trio.open_nursery() as leaving:
        first = ObservedTransport(leaving.cancel_scope.cancel)
        await nursery.start(bench.serve, first)
        # Between the two, so many that the last one has left when its turn comes.
        for _ in range(20):
            await nursery.start(bench.serve, ObservedTransport(lambda: None))
        await leaving.start(bench.serve, gone)
        await settle()
        bench.publish(ONE)
        await settle()
    bench.publish(TWO)
    await settle()
    assert (first.values, gone.values) == (["0", "1"], [])
    assert bench.hub.subscribers == 21


async def test_within_a_round_no_heartbeat_names_what_is_still_to_be_offered(nursery: trio.Nursery) -> None:
    """Feeds are served in turn, so the last feed's subscribers are behind until then."""
    bench, other = Bench(), feed_of(WEBSOCKET, FEED.topics)
    nursery.start_soon(bench.hub.run)
    heartbeats: list[bytes] = []
    observed = ObservedTransport(lambda: heartbeats.append(bench.hub.heartbeat_bytes(other, at_head=True)))
    last = RecordingTransport()
    last.gate.set()
    await nursery.start(bench.serve, observed)
    await nursery.start(bench.serve, last, None, None, other)
    await settle()
    bench.publish(ONE)
    await settle()
    assert heartbeats == [WEBSOCKET.heartbeat("")]
    assert bench.hub.heartbeat_bytes(other, at_head=True) == WEBSOCKET.heartbeat(f"{ONE}=0")


async def test_those_that_acknowledge_are_sent_a_round_after_the_others(nursery: trio.Nursery) -> None:
    """Their acknowledgements are read when the others have the round."""
    bench, acks = Bench(), feed_of(WEBSOCKET, FEED.topics, acks=True)
    nursery.start_soon(bench.hub.run)
    order: list[str] = []
    await nursery.start(bench.serve, ObservedTransport(lambda: order.append("acks")), None, None, acks)
    await settle()
    await nursery.start(bench.serve, ObservedTransport(lambda: order.append("plain")))
    await settle()
    order.clear()
    bench.publish(ONE)
    await settle()
    assert order == ["plain", "acks"]


async def test_publishing_waits_for_late_rounds(nursery: trio.Nursery) -> None:
    """Rounds hold a bounded number of bytes, and report when all of them are handed out."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    await bench.hub.wait_settled()
    value = b"x" * fan_out.CONGESTED_BYTES
    bench.hub.publish(Batch(ONE, (Record(0, None, None, value[:-1000], ()),)))
    busy = [bench.hub.is_congested]
    bench.hub.publish(Batch(ONE, (Record(1, None, None, value, ()),)))
    busy.append(bench.hub.is_congested)
    await bench.hub.wait_settled()
    assert [*busy, bench.hub.is_congested] == [False, True, False]
    assert [len(value) for value in transport.values] == [fan_out.CONGESTED_BYTES - 1000, fan_out.CONGESTED_BYTES]


async def test_after_a_long_round_other_tasks_get_their_share(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published meanwhile leaves together, after their share or when nobody wants the loop."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    monkeypatch.setattr(fan_out, "LONG_ROUND_SECONDS", 0)
    monkeypatch.setattr(fan_out, "YIELD_RATIO", float("inf"))
    monkeypatch.setattr(pace, "IDLE_CHECKPOINT_SECONDS", 0)
    before = len(transport.writes)
    for _ in range(3):
        bench.publish(ONE)
        await checkpoints()
    assert transport.values == ["0"]
    monkeypatch.setattr(pace, "IDLE_CHECKPOINT_SECONDS", float("inf"))
    await bench.hub.wait_settled()
    assert (transport.values, len(transport.writes) - before) == (["0", "1", "2"], 2)


async def test_what_was_gathered_is_offered_at_once_in_one_write(nursery: trio.Nursery) -> None:
    """No task has to wake for it."""
    bench, transport = Bench(), RecordingTransport()
    nursery.start_soon(bench.hub.run)
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    before = len(transport.writes)
    bench.hub.gather()
    bench.publish(ONE, TWO)
    await settle()
    assert len(transport.writes) == before
    bench.hub.hand_out()
    bench.hub.gather()
    bench.hub.hand_out()
    assert (transport.values, len(transport.writes) - before) == (["0", "1"], 1)
    assert len(bench.dispatched) == 2


async def test_a_gathered_write_that_the_socket_takes_in_part_is_finished_by_the_subscriber(
    nursery: trio.Nursery,
) -> None:
    """It counts as dispatched with its last byte."""
    bench, transport = Bench(), GreedyTransport(0)
    nursery.start_soon(bench.hub.run)
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    transport.left = 10
    bench.hub.gather()
    bench.publish(ONE)
    bench.hub.hand_out()
    assert bench.dispatched == []
    await settle()
    assert ([batch.partition for batch in bench.dispatched], transport.values) == ([ONE], ["0"])


@pytest.mark.parametrize(
    ("name", "value"), [("SLICE", 0), ("SLICE_BYTES", 1), ("LONG_ROUND_SECONDS", -1), ("linger_ms", 1)]
)
async def test_a_round_that_may_be_long_is_left_to_the_task(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    """So is one after a long round, because other tasks have to get their share first, and one that lingers."""
    bench, transport = Bench(linger_ms=value) if name == "linger_ms" else Bench(), RecordingTransport()
    nursery.start_soon(bench.hub.run)
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    if name != "linger_ms":
        monkeypatch.setattr(fan_out, name, value)
    bench.hub.gather()
    bench.publish(ONE)
    bench.hub.hand_out()
    assert transport.values == []
    await bench.hub.wait_settled()
    assert transport.values == ["0"]


async def test_a_new_state_precedes_what_was_gathered(nursery: trio.Nursery) -> None:
    """Ids name the partitions of the state before them."""
    bench, transport = Bench(), RecordingTransport()
    nursery.start_soon(bench.hub.run)
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    before = len(transport.writes)
    bench.hub.gather()
    bench.hub.set_state(ReplicaState.WAITING)
    bench.publish(ONE)
    bench.hub.hand_out()
    assert len(transport.writes) == before
    await settle()
    assert [values_of(write) for write in transport.writes[before:]] == [[], ["0"]]


async def test_what_was_gathered_waits_while_a_round_is_under_way(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every subscriber gets both rounds, in order."""
    monkeypatch.setattr(fan_out, "SLICE", 1)
    bench = Bench()

    def publish_one_more() -> None:
        if bench.number == 1:
            bench.hub.gather()
            bench.publish(TWO)
            bench.hub.hand_out()

    nursery.start_soon(bench.hub.run)
    transports = [ObservedTransport(publish_one_more), ObservedTransport(publish_one_more)]
    for transport in transports:
        await nursery.start(bench.serve, transport)
    await settle()
    bench.publish(ONE)
    await settle()
    assert [transport.values for transport in transports] == [["0", "1"]] * 2


async def checkpoints() -> None:
    """Others have the loop, and never all of them wait."""
    for _ in range(10):
        await trio.lowlevel.checkpoint()


class GreedyTransport(RecordingTransport):
    """Takes this many bytes at once, and the rest when its gate opens."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.left = most_bytes

    def try_send(self, data: bytes) -> int:
        """Take what fits."""
        taken = data[: self.left]
        self.left -= len(taken)
        if taken:
            self.writes.append(taken)
            self.kept = data[len(taken) :]
        return len(taken)


async def test_what_a_socket_takes_in_part_goes_out_first_and_whole(nursery: trio.Nursery) -> None:
    """At every cut, it counts as dispatched with its last byte, even if its partition has left."""
    whole = RecordingTransport()
    whole.gate.set()
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    await nursery.start(bench.serve, whole)
    await settle()
    before = len(whole.writes)
    bench.publish(ONE, TWO)
    await settle()
    size_bytes = len(b"".join(whole.writes[before:]))
    for most_bytes in range(1, size_bytes):
        bench = Bench()
        transport = GreedyTransport(0)
        async with trio.open_nursery() as inner:
            inner.start_soon(bench.hub.run)
            transport.gate.set()
            await inner.start(bench.serve, transport)
            await settle()
            transport.gate, transport.left = trio.Event(), most_bytes
            bench.publish(ONE, TWO)
            await settle()
            assert bench.dispatched == []
            assert bench.hub.has_first_writes_for([ONE])
            bench.hub.unassigned([ONE])
            bench.publish(TWO)
            transport.gate.set()
            await settle()
            assert [batch.partition for batch in bench.dispatched] == [ONE, TWO, TWO]
            assert not bench.hub.has_first_writes_for([ONE])
            assert transport.values == ["0", "1", "2"]
            inner.cancel_scope.cancel()


async def test_the_first_record_after_a_pause_leaves_at_once_and_those_after_it_share_a_write(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """`linger_ms` is the time between two rounds."""
    del autojump_clock
    bench = Bench(linger_ms=100, heartbeat_seconds=1000)
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await trio.sleep(1)
    for _ in range(2):
        for _ in range(4):
            bench.publish(ONE)
            await trio.sleep(0.03)
        await trio.sleep(0.5)
    assert [values_of(write) for write in transport.writes[-4:]] == [["0"], ["1", "2", "3"], ["4"], ["5", "6", "7"]]


def values_of(write: bytes) -> list[str]:
    """The values of the records in one write."""
    alone = RecordingTransport()
    alone.writes = [write]
    return alone.values


async def test_a_round_that_somebody_waits_for_does_not_linger(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """It begins at once for the poller, for many bytes, and for a new state."""
    del autojump_clock
    bench = Bench(linger_ms=1000, heartbeat_seconds=1000)
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    began = trio.current_time()
    bench.publish(ONE)
    await settle()
    bench.publish(ONE)
    await settle()
    assert transport.values == ["0"]
    bench.hub.set_state(ReplicaState.REBALANCING)
    await settle()
    assert [kind for _, kind, _ in transport.events][-1] == "state"
    assert transport.values == ["0"]
    await bench.hub.wait_settled()
    assert transport.values == ["0", "1"]
    bench.publish(ONE)
    bench.hub.publish(Batch(ONE, (Record(3, None, None, b"x" * fan_out.CONGESTED_BYTES, ()),)))
    await settle()
    assert len(transport.values) == 4
    assert trio.current_time() == began


async def test_filters_are_offered_what_they_want_and_gaps_and_the_others_all_of_it(nursery: trio.Nursery) -> None:
    """A filter that wants nothing of the round gets only its gaps."""
    bench = KeyedBench()
    nursery.start_soon(bench.hub.run)
    everything = await connect(nursery, bench, FEED)
    a, b = await connect(nursery, bench, wanting("a")), await connect(nursery, bench, wanting("b"))
    other = await connect(nursery, bench, feed_of(SSE_VALUE, frozenset({"other"}), wanting("a").filter))
    bench.publish_keys("a", "n")
    bench.publish_keys("a", gap=2)
    bench.publish_keys("n")
    await settle()
    kinds = [[kind for _, kind, _ in one.events if kind != "state"] for one in (everything, a, b, other)]
    assert kinds == [["message", "message", "gap", "message", "message"], ["message", "gap", "message"], ["gap"], []]
    assert (everything.values, a.values) == (["0", "1", "2", "3"], ["0", "2"])


async def test_a_followed_partition_is_offered_to_readers_of_the_whole_topic(nursery: trio.Nursery) -> None:
    """Other readers get nothing of it, with or without a filter."""
    bench, followed = KeyedBench(), TopicPartition("assets", 2)
    nursery.start_soon(bench.hub.run)
    bench.hub.expect({"assets": 3})
    bench.hub.followed.follow(followed, 0)
    for partition in (ONE, TWO):
        bench.hub.reached(partition, 0)
    bench.offsets[followed] = 0
    wanted = wanting("a").filter
    feeds = [FEED, wanting("a"), *(feed_of(SSE_VALUE, FEED.topics, each, whole=True) for each in (None, wanted))]
    own, own_a, whole, whole_a = [await connect(nursery, bench, feed) for feed in feeds]
    bench.publish_keys("a", "n", partition=followed)
    bench.publish_keys("n", partition=followed, gap=1)
    await settle()
    assert (own.values, own_a.values, whole.values, whole_a.values) == ([], [], ["0", "1", "2"], ["0"])
    assert [kind for _, kind, _ in own.events + own_a.events].count("gap") == 0
    assert [kind for _, kind, _ in whole.events + whole_a.events].count("gap") == 2


async def test_what_is_withdrawn_is_caught_up_with(nursery: trio.Nursery) -> None:
    """Only subscribers that have not taken all of it catch up; the others stay live."""
    bench, other = Bench(), feed_of(SSE_VALUE, frozenset({"other"}))
    nursery.start_soon(bench.hub.run)
    transports = [RecordingTransport() for _ in range(2)]
    for transport, feed in zip(transports, (FEED, other), strict=True):
        transport.gate.set()
        await nursery.start(bench.serve, transport, None, None, feed)
    await settle()
    bench.publish(ONE)
    bench.hub._fan_out.withdraw()
    assert [one.state for one in bench.hub.subscriber_statistics()] == ["catching-up", "live"]
    assert bench.hub.statistics().fan_out.published_bytes == 0
    await settle()
    assert transports[0].values == ["0"]
    bench.hub._fan_out.withdraw()
    assert [one.state for one in bench.hub.subscriber_statistics()] == ["live", "live"]


async def test_what_is_withdrawn_within_a_round_is_not_offered_again(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subscriber catches up with the writes that are left, and gets each record once."""
    monkeypatch.setattr(fan_out, "SLICE", 1)
    bench, withdrawals = Bench(write_bytes=1), [1]
    nursery.start_soon(bench.hub.run)

    async def withdraw() -> None:
        bench.hub._fan_out.withdraw()

    def withdraw_once() -> None:
        if bench.number and withdrawals:
            withdrawals.pop()
            nursery.start_soon(withdraw)

    transport = ObservedTransport(withdraw_once)
    await nursery.start(bench.serve, transport)
    await settle()
    bench.publish(ONE, TWO, ONE)
    await settle()
    assert (transport.values, withdrawals) == (["0", "1", "2"], [])


async def test_a_long_round_is_cut_into_writes(nursery: trio.Nursery) -> None:
    """Each write has a bounded number of bytes for every subscriber."""
    bench = Bench(write_bytes=1)
    nursery.start_soon(bench.hub.run)
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport)
    await settle()
    before = len(transport.writes)
    bench.publish(ONE, TWO, ONE)
    await settle()
    assert [values_of(write) for write in transport.writes[before:]] == [["0"], ["1"], ["2"]]


async def test_a_feed_is_forgotten_with_its_last_live_subscriber() -> None:
    """It stays while another live one has it; others were never in it."""
    bench = Bench()
    fan_out_ = bench.hub._fan_out
    first, second = (bench.hub.subscribe(FEED, RecordingTransport()) for _ in range(2))
    fan_out_.remove(first)
    for subscriber in (first, second):
        fan_out_.add(subscriber)
    assert fan_out_.statistics().feeds == 1
    fan_out_.remove(first)
    assert fan_out_.statistics().feeds == 1
    fan_out_.remove(second)
    assert fan_out_.statistics().feeds == 0


async def test_many_states_leave_the_loop_to_others_between_slices(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody still gets the newest state."""
    monkeypatch.setattr(fan_out, "STATE_SLICE", 1)
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    transports = [RecordingTransport() for _ in range(3)]
    for transport in transports:
        transport.gate.set()
        await nursery.start(bench.serve, transport)
    await settle()
    bench.hub.set_state(ReplicaState.REBALANCING)
    await settle()
    assert all(b"rebalancing" in transport.writes[-1] for transport in transports)


async def test_many_feeds_of_few_leave_the_loop_to_others_as_well(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each feed is offered its part, whatever ran in between."""
    monkeypatch.setattr(fan_out, "SLICE", 1)
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    feeds = [feed_of(SSE_VALUE, frozenset({"assets", str(number)})) for number in range(4)]
    transports = [RecordingTransport() for _ in feeds]
    for transport, feed in zip(transports, feeds, strict=True):
        transport.gate.set()
        await nursery.start(bench.serve, transport, None, None, feed)
    await settle()
    bench.publish(ONE)
    await settle()
    assert [transport.values for transport in transports] == [["0"]] * 4


async def test_how_long_each_write_took_to_be_offered_is_measured() -> None:
    """The time is measured if a histogram asks for it."""
    bench = Bench()
    wrote: list[float] = []

    def nothing(*_: object) -> None:
        """Nobody counts what was dispatched."""

    for measured in (False, True):
        found = (
            FanOut(bench.hub.encoder, 1000, nothing, list, on_wrote=wrote.append)
            if measured
            else FanOut(bench.hub.encoder, 1000, nothing, list)
        )
        found.add(bench.hub.subscribe(FEED, RecordingTransport()))
        found.publish(bench.hub.history.append(Batch(ONE, (Record(int(measured), None, None, b"", ()),))))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.run)
            await found.wait_settled()
            nursery.cancel_scope.cancel()
    assert len(wrote) == 1


class FilteredFeed:
    """One of very many that ask for nothing to be decoded; counts who wants to know."""

    wanted = whole = topics = True
    asked = 0

    @property
    def decodes(self) -> frozenset[str]:
        """Topics that are decoded for it."""
        self.asked += 1
        return frozenset()


def test_what_is_not_decoded_yet_costs_nothing_for_those_that_do_not_ask() -> None:
    """While a registry is down that is every record, with thousands of feeds."""
    bench = Bench()
    found = FanOut(bench.hub.encoder, 1000, lambda *_: None, list)
    feeds = [FilteredFeed() for _ in range(10)]
    for number, feed in enumerate(feeds):
        found.add(cast("Subscriber", SimpleNamespace(feed=feed, number=number)))
    before = [feed.asked for feed in feeds]
    found.hold_back("assets", followed=False)
    assert [feed.asked for feed in feeds] == before


async def test_those_that_ask_read_what_is_not_decoded_yet_from_the_history() -> None:
    """This holds for topics that they ask for, and for followed partitions of whole topics."""
    bench, topics = Bench(), FEED.topics
    fan_out = FanOut(bench.hub.encoder, 1000, lambda *_: None, list)
    feeds = [FEED, feed_of(SSE_VALUE, topics, decodes=topics), feed_of(SSE_VALUE, topics, whole=True, decodes=topics)]
    subscribers = [bench.hub.subscribe(feed, RecordingTransport()) for feed in feeds]

    def sent_back(topic: str, *, followed: bool) -> list[bool]:
        for subscriber in subscribers:
            subscriber.state = SubscriberState.LIVE
            fan_out.add(subscriber)
        fan_out.hold_back(topic, followed=followed)
        return [subscriber.state is SubscriberState.CATCHING_UP for subscriber in subscribers]

    assert sent_back("other", followed=False) == [False, False, False]
    assert sent_back("assets", followed=True) == [False, False, True]
    assert sent_back("assets", followed=False) == [False, True, True]


async def test_the_hub_says_how_late_its_rounds_were(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record waits from its publication until everybody was offered it, in slices or in one piece."""
    bench, clock = Bench(), [1000.0]
    fan_out_of_bench = bench.hub._fan_out
    fan_out_of_bench.times = RoundTimes(now=lambda: clock[0])
    nursery.start_soon(bench.hub.run)

    def take_a_second() -> None:
        clock[0] += 1

    for _ in range(3):
        await nursery.start(bench.serve, ObservedTransport(take_a_second))
    await settle()
    assert bench.hub.take_late_seconds() == 0
    for most in (1, fan_out.SLICE):
        monkeypatch.setattr(fan_out, "SLICE", most)
        bench.publish(ONE)
        clock[0] += 0.5
        await settle()
        assert [bench.hub.take_late_seconds(), bench.hub.take_late_seconds()] == [3.5, 0]
    bench.publish(ONE)
    clock[0] += 0.5
    bench.hub.unassigned([ONE])
    await settle()
    assert bench.hub.take_late_seconds() == 0
