"""One subscriber: what its socket takes at once or later, where it is, and how its stream ends."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from dispatcher.errors import SubscriberGoneError, SubscriberStalledError
from dispatcher.hub.feed import feed_of
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.parts import CATCH_UP_WRITES_PER_TURN
from dispatcher.hub.statistics import SubscriberState
from dispatcher.hub.subscriber import FIRST_WRITE_BYTES, Subscriber
from dispatcher.invariants import invariants
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.entries import Entry, Round
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.hub.test_fan_out import GreedyTransport
from tests.hub.test_filtered import KeyedBench, wanting
from tests.hub.test_hub import FEED, GOODBYE, ONE, TWO, Bench, RecordingTransport, settle
from tests.hub.test_parking import PARKS, SMALL

TOPICS = frozenset({"assets"})
WHOLE = feed_of(SSE_VALUE, TOPICS, whole=True)
OBSERVING = feed_of(SSE_VALUE, TOPICS, counts=False)


class Stream:
    """A subscriber and its task."""

    def __init__(
        self,
        bench: Bench,
        nursery: trio.Nursery,
        transport: RecordingTransport | None = None,
        feed: object = FEED,
        **where: object,
    ) -> None:
        self.transport = transport or RecordingTransport()
        self.bench = bench
        self.ended: list[Goodbye | BaseException | None] = []
        self.subscriber: Subscriber = bench.hub.subscribe(feed, self.transport, **where)  # type: ignore[arg-type]
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            self.ended.append(await self.subscriber.run())
        except (SubscriberGoneError, SubscriberStalledError) as error:
            self.ended.append(error)
        self.bench.hub.unsubscribe(self.subscriber)


def opened(transport: RecordingTransport | None = None) -> RecordingTransport:
    """One whose socket takes all."""
    transport = transport or RecordingTransport()
    transport.gate.set()
    return transport


def round_of(bench: Bench, subscriber: Subscriber, *entries: Entry) -> Round:
    """Return what the fan-out would offer."""
    encoder = bench.hub.encoder
    items = [(entry, encoder.entry(subscriber.feed, entry)) for entry in entries]
    return Round(items, encoder.round(subscriber.feed, items))


def appended(bench: Bench, partition: TopicPartition = ONE, *, value: bytes = b"v") -> Entry:
    """A record that the fan-out has not been handed."""
    number, bench.number = bench.number, bench.number + 1
    return bench.hub.history.append(Batch(partition, (Record(number, None, None, value, ()),)))


async def test_a_round_goes_to_a_free_socket_at_once(nursery: trio.Nursery) -> None:
    """The task does not wake, and nothing is held."""
    bench = Bench()
    stream = Stream(bench, nursery, opened())
    await settle()
    subscriber = stream.subscriber
    assert subscriber.state is SubscriberState.LIVE
    entry = appended(bench)
    before = len(stream.transport.writes)
    assert subscriber.offer(round_of(bench, subscriber, entry))
    assert (len(stream.transport.writes) - before, subscriber.buffered_bytes, subscriber.record_count) == (1, 0, 1)
    assert not subscriber.offer(round_of(bench, subscriber, entry)), "what it has had is not offered twice"
    assert (len(stream.transport.writes) - before, subscriber.buffered_bytes) == (1, 0)
    assert subscriber.statistics().records == 1
    nursery.cancel_scope.cancel()


async def test_what_a_socket_takes_in_part_is_finished_by_the_task(nursery: trio.Nursery) -> None:
    """It counts as dispatched with its last byte, and not earlier."""
    bench = Bench()
    transport = GreedyTransport(10**6)
    stream = Stream(bench, nursery, opened(transport))
    await settle()
    entry = appended(bench)
    transport.gate, transport.left = trio.Event(), 5
    assert not stream.subscriber.offer(round_of(bench, stream.subscriber, entry))
    assert (list(stream.subscriber.under_way(ONE)), bench.dispatched) == ([(0, 1)], [])
    opened(transport)
    await settle()
    assert bench.dispatched == [entry.batch]
    assert (stream.transport.values, list(stream.subscriber.under_way(ONE))) == (["v"], [])
    nursery.cancel_scope.cancel()


async def test_a_busy_socket_is_offered_through_the_channel_until_that_is_full(nursery: trio.Nursery) -> None:
    """Then it catches up from where it is, without loss or repeat."""
    bench = Bench(subscriber_buffer_bytes=200)
    stream = Stream(bench, nursery, opened())
    await settle()
    subscriber = stream.subscriber
    stream.transport.gate = trio.Event()
    first, second, third = (appended(bench, value=b"x" * 60) for _ in range(3))
    assert not subscriber.offer(round_of(bench, subscriber, first))
    assert (subscriber.buffered_records, subscriber.behind_records()) == (1, 1)
    assert subscriber.buffered_bytes > 0
    for entry in (second, third):
        subscriber.offer(round_of(bench, subscriber, entry))
    assert (subscriber.state, subscriber.buffered_bytes) == (SubscriberState.CATCHING_UP, 0)
    opened(stream.transport)
    await settle()
    assert [len(value) for value in stream.transport.values] == [60] * 3
    assert subscriber.state is SubscriberState.LIVE
    nursery.cancel_scope.cancel()


async def test_one_that_catches_up_takes_no_offer(nursery: trio.Nursery) -> None:
    """It reads the history, and its lag is counted in offsets."""
    bench = Bench()
    stream = Stream(bench, nursery)
    bench.publish(ONE, TWO)
    await settle()
    subscriber = stream.subscriber
    assert subscriber.state is SubscriberState.CATCHING_UP
    assert not subscriber.offer(round_of(bench, subscriber, appended(bench)))
    assert (subscriber.buffered_records, subscriber.replaying) == (0, False)
    assert subscriber.behind_records() == 2, "of partition 0 one with a record, and one without"
    nursery.cancel_scope.cancel()


async def test_where_it_is_can_be_asked_at_any_time(nursery: trio.Nursery) -> None:
    """A live subscriber is at the end of each log; any other is where its cursor says."""
    bench = Bench()
    bench.publish(ONE)
    gone = TopicPartition("assets", 7)
    stream = Stream(bench, nursery, opened(), position={ONE: 0, gone: 4})
    assert stream.subscriber.next_offset(ONE) in {0, 1}
    await settle()
    appended(bench)
    assert [stream.subscriber.next_offset(partition) for partition in (ONE, gone)] == [2, 5]
    nursery.cancel_scope.cancel()


async def test_a_partition_that_concerns_a_live_one_sends_it_back(nursery: trio.Nursery) -> None:
    """Only a partition that it named does; others are in the next round."""
    bench = Bench()
    bench.hub.unassigned([TWO])
    stream = Stream(bench, nursery, opened(), position={TWO: 4})
    await settle()
    subscriber = stream.subscriber
    found = [subscriber.state]
    subscriber.partition_added(ONE, None)
    found.append(subscriber.state)
    bench.hub.assigned([TWO])
    bench.hub.history.reached(TWO, 3)
    subscriber.partition_added(TWO, None)
    found.append(subscriber.state)
    subscriber.leave_live()
    found.append(subscriber.state)
    assert found == [SubscriberState.LIVE] * 2 + [SubscriberState.CATCHING_UP] * 2
    nursery.cancel_scope.cancel()


async def test_one_that_is_sent_back_goes_live_again_without_a_repeat(nursery: trio.Nursery) -> None:
    """Offers that it has not taken are in the history."""
    bench = Bench()
    nursery.start_soon(bench.hub.run)
    stream = Stream(bench, nursery, opened())
    bench.publish(ONE)
    await settle()
    stream.subscriber.leave_live()
    found = [stream.subscriber.state]
    bench.publish(ONE)
    await settle()
    found.append(stream.subscriber.state)
    assert found == [SubscriberState.CATCHING_UP, SubscriberState.LIVE]
    assert stream.transport.values == ["0", "1"]


async def test_what_is_under_way_is_what_would_be_dispatched(nursery: trio.Nursery) -> None:
    """Only of present partitions, by a subscriber that counts, and only what its filter wants."""
    bench = KeyedBench()
    nursery.start_soon(bench.hub.run)
    bench.publish_keys("a", "b", "a")
    bench.publish_keys("a", partition=TWO)
    streams = [Stream(bench, nursery, feed=feed) for feed in (FEED, OBSERVING, wanting("a"))]
    await settle()

    def under_way(partition: TopicPartition) -> list[list[tuple[int, int]]]:
        return [sorted(stream.subscriber.under_way(partition)) for stream in streams]

    assert under_way(ONE) == [[(0, 3)], [], [(0, 1), (2, 3)]]
    bench.hub.unassigned([ONE])
    assert (under_way(ONE), under_way(TWO)) == ([[], [], []], [[(0, 1)], [], [(0, 1)]])
    nursery.cancel_scope.cancel()


async def test_a_client_that_leaves_ends_its_stream_without_a_word(nursery: trio.Nursery) -> None:
    """The write under way is finished, and no goodbye is sent."""
    bench = Bench()
    stream = Stream(bench, nursery)
    bench.publish(ONE)
    await settle()
    stream.subscriber.leave()
    opened(stream.transport)
    await settle()
    assert (stream.ended, stream.transport.values) == ([None], ["0"])
    assert "goodbye" not in [kind for _, kind, _ in stream.transport.events]
    stream.subscriber.end(GOODBYE)
    stream.subscriber.leave_live()
    assert stream.ended == [None]


async def test_the_first_reason_to_end_counts(nursery: trio.Nursery) -> None:
    """The client gets one goodbye, which the server also reports."""
    bench = Bench()
    stream = Stream(bench, nursery, opened())
    await settle()
    stream.subscriber.end(GOODBYE)
    stream.subscriber.end(Goodbye(4403, "later", 0))
    await settle()
    assert stream.ended == [GOODBYE]
    assert [kind for _, kind, _ in stream.transport.events].count("goodbye") == 1


class Ending(RecordingTransport):
    """Ends while it is written to: as a client that vanishes, or one that takes nothing for too long."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.gate.set()
        self.error = error

    def try_send(self, data: bytes) -> int:  # noqa: ARG002
        """Never at once."""
        return 0

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """End after it has said that it took the bytes."""
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        await super().send_all(buffers)
        self.ended = True


async def test_what_a_stalled_client_was_given_is_not_dispatched(nursery: trio.Nursery) -> None:
    """The client is disconnected and counted."""
    bench = Bench()
    bench.publish(ONE)
    stream = Stream(bench, nursery, Ending(SubscriberStalledError("too slow")))
    await settle()
    assert [type(end) for end in stream.ended] == [SubscriberStalledError]
    assert (bench.hub.statistics().stalled, bench.dispatched) == (1, [])


async def test_nothing_is_dispatched_by_a_transport_that_has_ended(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invariant is checked whatever the transport says about the write, and the stream is over."""
    violated: list[object] = []
    monkeypatch.setattr(invariants, "violated", lambda invariant, **_more: violated.append(invariant))
    bench = Bench()
    bench.publish(ONE)
    stream = Stream(bench, nursery, Ending())
    await settle()
    assert [type(end) for end in stream.ended] == [SubscriberGoneError]
    assert (len(violated), bench.dispatched) == (1, [])


async def test_of_a_followed_partition_the_end_of_an_entry_counts_as_a_replay(nursery: trio.Nursery) -> None:
    """Others may lack its beginning; once the partition is owned, all the rest counts."""
    for owned in (False, True):
        bench = Bench()
        replayed: list[tuple[TopicPartition, int, int]] = []
        bench.hub._on_replayed = lambda *one, found=replayed: found.append(one)
        bench.hub.unassigned([TWO])
        bench.hub.expect({"assets": 2})
        bench.hub.reached(ONE, 0)
        bench.hub.followed.follow(TWO, 0)
        records = [Record(n, None, None, b"%d" % n, ()) for n in range(4)]
        bench.hub.publish(Batch(TWO, records))
        stream = Stream(bench, nursery, feed=WHOLE, position={ONE: -1, TWO: 1})
        nursery.start_soon(bench.hub.lookups.run)
        await settle()
        if owned:
            bench.hub.assigned([TWO])
            bench.hub.followed.own(TWO, 5, HandOver(2, []))
        stream.subscriber.handing_over(ONE)
        opened(stream.transport)
        await settle()
        assert stream.transport.values == ["2", "3"]
        assert replayed == [(TWO, 2, 4)]
        assert bench.ranges.get(TWO, set()) == ({2, 3} if owned else set())
    nursery.cancel_scope.cancel()


async def test_a_stream_of_the_whole_topic_begins_when_all_its_partitions_are_here(nursery: trio.Nursery) -> None:
    """Its first id names all of them, so nothing is sent before that."""
    bench, third = Bench(), TopicPartition("assets", 2)
    nursery.start_soon(bench.hub.run)
    bench.hub.expect({"assets": 3})
    bench.publish(ONE, TWO)
    stream = Stream(bench, nursery, opened(), feed=WHOLE)
    await settle()
    assert stream.transport.events == []
    bench.hub.followed.follow(third, 0)
    bench.hub.reached(third, 0)
    await settle()
    assert stream.transport.values == ["0", "1"]
    assert stream.transport.events[0][0] == "assets:0=-1,1=0,2=-1,3=-1"


async def test_a_filter_that_looks_at_much_leaves_the_loop_to_others(nursery: trio.Nursery) -> None:
    """It finds what it wants in the end."""
    bench = KeyedBench()
    for _ in range(8):
        bench.publish_keys(*"n" * 300)
    bench.publish_keys("a", partition=TWO)
    stream = Stream(bench, nursery, opened(), feed=wanting("a"))
    await settle()
    assert stream.transport.values == [str(bench.number - 1)]
    nursery.cancel_scope.cancel()


async def test_what_was_parked_is_parked_no_more_once_its_socket_took_it(nursery: trio.Nursery) -> None:
    """Reading it is not enough."""
    bench = KeyedBench(**SMALL, **PARKS)
    nursery.start_soon(bench.hub.run)
    Stream(bench, nursery, opened(), feed=wanting("a"))
    for _ in range(30):
        bench.publish_keys("a", "n")
        await settle()
    late = Stream(bench, nursery, feed=wanting("n"))
    await settle()
    assert bench.hub.statistics().parked[ONE].offsets == 30
    opened(late.transport)
    await settle()
    assert len(late.transport.values) == 30
    assert bench.hub.statistics().parked == {}


async def test_one_that_has_more_to_read_lets_others_go_first_after_each_write(nursery: trio.Nursery) -> None:
    """When its turn is used up, it waits for the next one."""
    bench = Bench()
    size = bench.settings.write_bytes
    for number in range(2 * CATCH_UP_WRITES_PER_TURN):
        bench.hub.publish(Batch(ONE, (Record(number, None, None, b"x" * size, ()),)))
    stream = Stream(bench, nursery, opened(), position={ONE: -1})
    await settle()
    assert len(stream.transport.values) == 1 + CATCH_UP_WRITES_PER_TURN, "no other turn has begun"
    nursery.start_soon(bench.hub.run)
    await settle()
    assert len(stream.transport.values) == 2 * CATCH_UP_WRITES_PER_TURN


@pytest.mark.parametrize(("write_bytes", "expected"), [(262_144, [4, 16]), (8_192, [2] * 10)])
async def test_the_first_records_of_one_that_catches_up_are_a_small_write(
    nursery: trio.Nursery, write_bytes: int, expected: list[int]
) -> None:
    """Others that return at the same time have theirs sooner; all the rest shares a write."""
    bench = Bench(write_bytes=write_bytes)
    size = FIRST_WRITE_BYTES // 4
    for number in range(20):
        bench.hub.publish(Batch(ONE, (Record(number, None, None, b"x" * size, ()),)))
    stream = Stream(bench, nursery, opened(), position={ONE: -1})
    nursery.start_soon(bench.hub.run)
    await settle()
    writes = [number for write in stream.transport.writes if (number := write.count(b"data: xxx"))]
    assert writes == expected
