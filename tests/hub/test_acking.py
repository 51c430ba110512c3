"""Subscribers that acknowledge: what they are sent before they do, what is committed after, and what ends them."""

import struct
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from unittest.mock import Mock

import orjson
import pytest
import trio
import trio.testing

from dispatcher.errors import SubscriberGoneError
from dispatcher.hub.acked_subscriber import AckedSubscriber, AckWindow
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.goodbyes import Goodbye, restart
from dispatcher.hub.statistics import SubscriberState
from dispatcher.sansio.acknowledgements import STEP_DELIVERIES
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.sansio.entries import Round
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import Chunk, Gap, Range, recreated
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, TopicPartition
from tests.hub.test_hub import ONE, TWO, Bench, RecordedLog, RecordingTransport, settle

TOPICS = frozenset({"assets"})
ACKS = feed_of(WEBSOCKET, TOPICS, acks=True)
RARE, OFTEN = (feed_of(WEBSOCKET, TOPICS, read_filter({"exact": {"key": key}}), acks=True) for key in "10")
SMALL = {"history_bytes": 20_000, "pause_above_bytes": 10_000, "resume_below_bytes": 5_000}
ACKED = {"topics": ["assets"], "topic_tables": {"assets": {"commit_on": "acked"}}}


def messages(data: bytes) -> Iterator[dict[str, Any]]:
    """The text messages among a server's frames (RFC 6455, section 5.2)."""
    while data:
        opcode, length, start = data[0] & 15, data[1], 2
        if length == 126:
            length, start = struct.unpack(">H", data[2:4])[0], 4
        elif length == 127:
            length, start = struct.unpack(">Q", data[2:10])[0], 10
        if opcode == 1:
            yield orjson.loads(data[start : start + length])
        data = data[start + length :]


class Letters:
    """A dead-letter topic that stores a record when the test says so."""

    def __init__(self, *topics: str) -> None:
        self.topics = topics
        self.has_room = True
        self.remembered: set[tuple[TopicPartition, int]] = set()
        self.sent: list[tuple[TopicPartition, Record, str]] = []
        self.store: list[Callable[[], None]] = []

    def takes(self, topic: str) -> bool:
        """Those that were named."""
        return topic in self.topics

    def remembers(self, partition: TopicPartition, offset: int) -> bool:
        """Those that the test has named."""
        return (partition, offset) in self.remembered

    def send(self, partition: TopicPartition, record: Record, reason: str, on_stored: Callable[[], None]) -> None:
        """Keep it."""
        self.sent.append((partition, record, reason))
        self.store.append(on_stored)


class Acker:
    """One client of the bench."""

    def __init__(
        self,
        bench: "AckBench",
        window: int,
        size_bytes: int = 10**6,
        *,
        position: Mapping[TopicPartition, int] | None = None,
        feed: Feed = ACKS,
        timeout_seconds: float = 30,
    ) -> None:
        self.transport = RecordingTransport()
        self.transport.gate.set()
        self.bench = bench
        self.goodbye: Goodbye | None = None
        self.gone = False
        self.scope = trio.CancelScope()
        subscriber = bench.hub.subscribe(
            feed, self.transport, position, window=AckWindow(window, size_bytes, timeout_seconds, drain_seconds=2)
        )
        assert isinstance(subscriber, AckedSubscriber)
        self.subscriber = subscriber
        bench.nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope, suppress(SubscriberGoneError):
            self.goodbye = await self.subscriber.run()
        self.leave()

    def leave(self) -> None:
        """The connection is over."""
        self.gone = True
        self.scope.cancel()
        self.bench.hub.unsubscribe(self.subscriber)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that it was sent."""
        return list(messages(b"".join(self.transport.writes)))

    @property
    def offsets(self) -> list[int]:
        """Of the records that it was sent, in order."""
        return [record["offset"] for message in self.messages for record in message.get("records", ())]

    @property
    def last_id(self) -> str:
        """The newest position."""
        return str([message["id"] for message in self.messages if message["type"] == "records"][-1])

    async def ack(self, **offsets: int) -> None:
        """Acknowledge up to offsets, by the number of the partition: ``p0=5``."""
        self.subscriber.acked({TopicPartition("assets", int(name[1:])): at for name, at in offsets.items()})
        await settle()


class AckBench(Bench):
    """A bench whose batches have offsets of their own partition."""

    def __init__(self, nursery: trio.Nursery, **settings: object) -> None:
        super().__init__(**{**ACKED, **settings})
        self.nursery = nursery
        self.ends = {ONE: 0, TWO: 0}
        nursery.start_soon(self.hub.run)

    def recreate(self, *offsets: int) -> None:
        """The topic's new log begins at 0, and has one batch of these records; nobody has heard of it yet."""
        self.hub.partition_recreated(ONE, 0, 50)
        self.hub.reached(ONE, 0)
        records = [Record(offset, None, None, b"x", ()) for offset in offsets]
        self.hub.publish(Batch(ONE, records, epoch=1, covers_from=0, gap=recreated(ONE, 50, 0)))

    def batch(
        self, count: int, partition: TopicPartition = ONE, *, gap: int = 0, size: int = 1, epoch: int = 1
    ) -> None:
        """One batch of this many records, with a gap before them."""
        first = self.ends[partition]
        records = [Record(first + gap + n, None, str(n % 2).encode(), b"x" * size, ()) for n in range(count)]
        self.replays.log += [(partition, record) for record in records]
        lost = Gap(partition, first, first + gap - 1, "expired") if gap else None
        self.ends[partition] = first + gap + count
        self.hub.publish(Batch(partition, records or NO_RECORDS, covers_from=first, gap=lost, epoch=epoch))

    def done(self, partition: TopicPartition = ONE) -> list[int]:
        """The offsets that a commit may pass."""
        return sorted(self.ranges.get(partition, ()))


Make = Callable[..., AckBench]


@pytest.fixture
def make(nursery: trio.Nursery) -> Make:
    """Makes a bench with settings; its hub runs until the test ends."""
    return partial(AckBench, nursery)


def following(make: Make) -> AckBench:
    """A hub that owns the first partition, and follows the second from its start."""
    bench = make()
    bench.hub.unassigned([TWO])
    bench.hub.reached(ONE, 0)
    bench.hub.followed.follow(TWO, 0)
    bench.hub.expect({"assets": 2})
    return bench


async def test_what_was_sent_is_not_dispatched_and_what_was_acknowledged_is(make: Make) -> None:
    """With ``commit_on = "acked"``, acknowledged offsets count per partition, even within a batch."""
    bench = make()
    acker = Acker(bench, 100)
    await settle()
    bench.batch(5)
    bench.batch(3, TWO)
    await settle()
    assert acker.offsets == [0, 1, 2, 3, 4, 0, 1, 2]
    assert bench.done() == bench.done(TWO) == []
    await acker.ack(p0=2)
    assert (bench.done(), bench.done(TWO)) == ([0, 1, 2], [])
    await acker.ack(p0=4, p1=9)
    assert (bench.done(), bench.done(TWO)) == ([0, 1, 2, 3, 4], [0, 1, 2])
    statistics = bench.hub.statistics()
    assert (statistics.dispatched_records, statistics.acking.acked_records, statistics.acking.passed_over) == (8, 8, 1)
    assert statistics.history.waiting_records == 0


async def test_an_acknowledgement_that_covers_much_is_taken_in_steps_and_as_a_whole_when_the_subscriber_leaves(
    make: Make,
) -> None:
    """A step leaves the rest outstanding; acknowledgements from before the client left count."""
    bench = make()
    acker = Acker(bench, 10 * STEP_DELIVERIES)
    await settle()
    for _ in range(3 * STEP_DELIVERIES):
        bench.batch(1)
    await settle()
    await acker.ack(p0=3 * STEP_DELIVERIES - 1)
    assert bench.done() == list(range(STEP_DELIVERIES))
    assert acker.subscriber.go_on()
    assert bench.done() == list(range(2 * STEP_DELIVERIES))
    acker.leave()
    assert bench.done() == list(range(3 * STEP_DELIVERIES))
    assert not acker.subscriber.go_on()


async def test_a_fault_while_the_last_acknowledgement_is_counted_leaves_nothing_of_the_subscriber(make: Make) -> None:
    """It has left nevertheless: its buffer is closed, and its place is free."""
    bench = make()
    acker = Acker(bench, 10 * STEP_DELIVERIES)
    await settle()
    for _ in range(2 * STEP_DELIVERIES):
        bench.batch(1)
    await settle()
    await acker.ack(p0=2 * STEP_DELIVERIES - 1)
    counted = bench.hub.acking.done
    bench.hub.acking.done = Mock(side_effect=ZeroDivisionError)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        acker.leave()
    bench.hub.acking.done = counted  # type: ignore[method-assign]
    assert acker.subscriber.closed
    assert bench.hub.subscribers == 0
    assert bench.hub.statistics().feeds.feeds == 0


async def test_what_another_connection_was_sent_is_not_acknowledged(make: Make) -> None:
    """Another client's id counts up to what this client was sent; the other window is unchanged."""
    bench = make()
    wide, narrow = Acker(bench, 10), Acker(bench, 1)
    await settle()
    bench.batch(5)
    await settle()
    assert (wide.offsets, narrow.offsets) == ([0, 1, 2, 3, 4], [0])
    await narrow.ack(p0=4)
    assert bench.done() == [0]
    assert narrow.offsets == [0, 1]
    assert wide.subscriber.acks.outstanding_records == 5
    assert bench.hub.statistics().acking.passed_over == 1


async def test_the_window_is_kept_to_the_record(make: Make) -> None:
    """A batch is sent in parts, live and from the history, and each message's id covers its last record."""
    bench = make()
    acker = Acker(bench, 3)
    await settle()
    bench.batch(2)
    await settle()
    assert acker.offsets == [0, 1]
    bench.batch(8)
    await settle()
    assert acker.offsets == [0, 1, 2]
    assert acker.last_id == "assets:0=2"
    for at in range(3, 10):
        await acker.ack(p0=at - 3)
        assert acker.offsets == list(range(at + 1))
        assert acker.last_id == f"assets:0={at}"
        assert bench.done() == list(range(at - 2))
    await acker.ack(p0=9)
    assert bench.done() == list(range(10))
    bench.batch(1)
    await settle()
    assert acker.offsets == list(range(11))
    states = [message["state"] for message in acker.messages if message["type"] == "state"]
    assert set(states[1:]) <= {"streaming"}, "a full window is no catching up"


async def test_the_window_is_kept_in_bytes(make: Make) -> None:
    """At most that many bytes are outstanding, except for a single larger record."""
    bench = make()
    acker = Acker(bench, 1000, 2000)
    await settle()
    bench.batch(50, size=100)
    await settle()
    assert 1 <= len(acker.offsets) < 20
    assert acker.subscriber.acks.outstanding_bytes <= 2000
    while len(acker.offsets) < 50:
        before = len(acker.offsets)
        await acker.ack(p0=before - 1)
        assert len(acker.offsets) > before
    await acker.ack(p0=49)
    bench.batch(1, size=50_000)
    bench.batch(1, size=50_000)
    await settle()
    assert len(acker.offsets) == 51
    await acker.ack(p0=50)
    assert len(acker.offsets) == 52


async def test_what_nobody_acknowledged_is_sent_to_the_next_one_and_nothing_before(make: Make) -> None:
    """This holds if the first one stopped within a batch, and if the new one's id names less."""
    bench = make()
    first = Acker(bench, 100)
    await settle()
    bench.batch(10)
    await settle()
    await first.ack(p0=3)
    first.leave()
    second = Acker(bench, 100)
    third = Acker(bench, 100, position={ONE: 8})
    await settle()
    assert second.offsets == third.offsets == [4, 5, 6, 7, 8, 9]
    await third.ack(p0=9)
    assert bench.done() == list(range(10))


async def test_an_observer_moves_nothing_and_keeps_no_partition_fetched(make: Make) -> None:
    """This holds for declared observers, and for those that only read other topics, too."""
    bench = make()
    for feed in (
        feed_of(WEBSOCKET, TOPICS, acks=True, counts=False),
        feed_of(WEBSOCKET, frozenset({"assets", "other"}), observed=TOPICS),
    ):
        acker = Acker(bench, 100, feed=feed)
        await settle()
        assert not bench.hub.has_readers("assets")
        bench.batch(2)
        await settle()
        await acker.ack(p0=bench.ends[ONE])
        assert bench.done() == []
        acker.leave()
    assert bench.hub.statistics().history.waiting_records == 4


async def test_where_what_is_written_counts_acknowledgements_move_the_window_alone(make: Make) -> None:
    """By default a record is dispatched when the socket took it, also in parts."""
    bench = make(topic_tables={})
    acker = Acker(bench, 3)
    await settle()
    bench.batch(5)
    await settle()
    assert acker.offsets == bench.done() == [0, 1, 2]
    await acker.ack(p0=0)
    assert acker.offsets == bench.done() == [0, 1, 2, 3]


async def test_a_gap_needs_no_acknowledgement(make: Make) -> None:
    """A gap counts when it is sent, because nobody can process it."""
    bench = make()
    acker = Acker(bench, 2)
    await settle()
    bench.batch(0, gap=3)
    bench.batch(3, gap=2)
    await settle()
    assert [message["to"] for message in acker.messages if message["type"] == "gap"] == [2, 4]
    assert acker.offsets == [5, 6]
    assert bench.done() == [0, 1, 2, 3, 4]
    await acker.ack(p0=6)
    await acker.ack(p0=7)
    assert bench.done() == list(range(8))


async def test_a_filter_acknowledges_what_it_was_sent_and_the_rest_is_settled(make: Make) -> None:
    """Unwanted records count at once; sent ones wait for their acknowledgement."""
    bench = make()
    acker = Acker(bench, 2, feed=feed_of(WEBSOCKET, TOPICS, read_filter({"exact": {"key": "1"}}), acks=True))
    await settle()
    bench.batch(8)
    await settle()
    assert acker.offsets == [1, 3]
    assert bench.done() == [0, 2, 4, 6]
    await acker.ack(p0=1)
    assert acker.offsets == [1, 3, 5]
    await acker.ack(p0=5)
    assert acker.offsets == [1, 3, 5, 7]
    await acker.ack(p0=7)
    assert bench.done() == list(range(8))


async def test_what_is_parked_and_not_acknowledged_goes_to_the_next_one(make: Make) -> None:
    """This holds even while another subscriber with the same request, which began later, stays."""
    table = {"commit_on": "acked", "unmatched": "park"}
    bench = make(topic_tables={"assets": table}, history_bytes=4096, pause_above_bytes=4096, resume_below_bytes=4096)
    odd = feed_of(WEBSOCKET, TOPICS, read_filter({"exact": {"key": "1"}}), acks=True)
    present = Acker(bench, 1000, feed=feed_of(WEBSOCKET, TOPICS, read_filter({"exact": {"key": "0"}}), acks=True))
    await settle()
    for _ in range(6):
        bench.batch(2, size=500)
        await settle()
    await present.ack(p0=bench.ends[ONE] - 1)
    assert bench.hub.statistics().parked[ONE].first_offset == 1
    first, stays = Acker(bench, 1000, feed=odd), Acker(bench, 1000, feed=odd, position={ONE: bench.ends[ONE] - 1})
    await settle()
    assert (first.offsets, stays.offsets) == ([1, 3, 5, 7, 9, 11], [])
    first.leave()
    await settle()
    following = Acker(bench, 1000, feed=odd)
    await settle()
    assert following.offsets == [1, 3, 5, 7, 9, 11]
    await following.ack(p0=11)
    assert bench.done() == list(range(12))


async def test_a_replay_keeps_to_the_window(make: Make) -> None:
    """Records read from Kafka are held until there is room, and the history follows without a hole."""
    bench = make(history_bytes=4096, pause_above_bytes=4096, resume_below_bytes=4096)
    first = Acker(bench, 1000)
    await settle()
    for _ in range(20):
        bench.batch(1, size=500)
        await settle()
        await first.ack(p0=bench.ends[ONE] - 1)
    second = Acker(bench, 1, position={ONE: -1})
    await settle()
    for at in range(20):
        assert second.offsets == list(range(at + 1))
        await second.ack(p0=at)
    bench.batch(1)
    await settle()
    assert second.offsets == list(range(21))
    assert bench.hub.statistics().acking.passed_over == 0


async def test_what_is_held_and_given_back_does_not_count_as_sent(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another partition leaves during a replay, held records are looked up again."""
    bench = make(topic_tables={}, history_bytes=4096, pause_above_bytes=4096, resume_below_bytes=4096)
    counted: set[int] = set()
    monkeypatch.setattr(bench.hub, "_on_replayed", lambda _partition, first, end: counted.update(range(first, end)))
    bench.hub.unassigned([TWO])
    bench.replays.log += [(TWO, Record(offset, None, None, b"x", ())) for offset in range(12)]
    bench.hub.reached(ONE, 0)
    bench.hub.followed.follow(TWO, 12)
    bench.hub.expect({"assets": 2})
    feed = feed_of(WEBSOCKET, TOPICS, acks=True, whole=True)
    acker = Acker(bench, 4, feed=feed, position={ONE: -1, TWO: -1})
    await settle()
    assert acker.offsets == [0, 1, 2, 3]
    bench.hub.unassigned([ONE])
    await settle()
    for at in (3, 7):
        assert counted <= set(acker.offsets), "those that wait for room were sent to nobody"
        await acker.ack(p1=at)
    bench.hub.assigned([ONE])
    bench.hub.reached(ONE, 0)
    await settle()
    assert counted <= set(acker.offsets)
    while acker.offsets[-1] < 11:
        await acker.ack(p1=acker.offsets[-1])
    assert acker.offsets == list(range(12))
    assert counted == set(range(12))


async def test_what_a_filter_left_out_is_not_under_way_when_a_partition_becomes_owned(make: Make) -> None:
    """Records that the filter left out go to a reader past them."""
    bench = following(make)
    bench.batch(4, TWO, epoch=0)
    even = feed_of(WEBSOCKET, TOPICS, read_filter({"exact": {"key": "0"}}), acks=True, whole=True)
    everything = feed_of(WEBSOCKET, TOPICS, acks=True, whole=True)
    chosen = Acker(bench, 10, feed=even, position={ONE: -1, TWO: -1})
    after = Acker(bench, 10, feed=everything, position={ONE: -1, TWO: 3})
    await settle()
    assert (chosen.offsets, after.offsets) == ([0, 2], [])
    bench.hub.assigned([TWO])
    bench.hub.followed.own(TWO, 5, HandOver(0, []))
    await settle()
    assert after.offsets == [1, 2, 3]
    await chosen.ack(p1=2)
    await after.ack(p1=3)
    assert bench.done(TWO) == [0, 1, 2, 3]


async def test_what_is_acknowledged_of_a_batch_that_was_handed_over_in_the_middle_is_sent_to_nobody_else(
    make: Make,
) -> None:
    """The first part of the batch is committed: no client has to acknowledge it here, and it holds up nothing."""
    bench = following(make)
    bench.batch(6, TWO, epoch=0)
    reader = Acker(bench, 10, feed=feed_of(WEBSOCKET, TOPICS, acks=True, whole=True), position={ONE: -1, TWO: 1})
    await settle()
    assert reader.offsets == [2, 3, 4, 5]
    bench.hub.assigned([TWO])
    bench.hub.followed.own(TWO, 5, HandOver(2, []))
    await reader.ack(p1=3)
    half = Acker(bench, 10)
    await reader.ack(p1=5)
    whole = Acker(bench, 10)
    await settle()
    assert bench.done(TWO) == [2, 3, 4, 5]
    assert (half.offsets, whole.offsets) == ([4, 5], [])
    assert bench.hub.history.waiting_records(TWO) == 0


@pytest.mark.parametrize("filtered", [False, True])
async def test_a_partition_that_becomes_owned_moves_no_id_of_a_reader_back(make: Make, *, filtered: bool) -> None:
    """Not even if only a part of an entry fits into its window; it begins where the group does."""
    bench = following(make)
    bench.batch(6, TWO, epoch=0)
    acker = Acker(bench, 2, feed=RARE if filtered else ACKS)
    await settle()
    for _ in range(5):
        bench.batch(2)
        await settle()
        await acker.ack(p0=bench.ends[ONE] - 1)
    bench.hub.assigned([TWO])
    bench.hub.followed.own(TWO, 5, HandOver(1, []))
    await settle()
    for offset in range(1, 6):
        await acker.ack(p1=offset)
    ones, twos = ([1, 3, 5, 7, 9], [1, 3, 5]) if filtered else (list(range(10)), [1, 2, 3, 4, 5])
    assert acker.offsets == [*ones, *twos]
    ids = [
        parse_position(message["id"]) for message in acker.messages if TWO in parse_position(message.get("id", "a:0=0"))
    ]
    assert [(position[ONE], position[TWO]) for position in ids][-1] == (9, 5)
    assert {position[ONE] for position in ids} == {9}
    assert len(ids) > 1


async def test_silence_ends_the_stream(
    make: Make,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - makes time jump
) -> None:
    """Without progress the stream ends with 4408, even if the window has room; a quiet topic ends nothing."""
    bench = make()
    acker = Acker(bench, 100, timeout_seconds=3)
    await settle()
    await trio.sleep(10)
    bench.batch(2)
    await settle()
    await trio.sleep(2)
    await acker.ack(p0=0)
    await trio.sleep(2.9)
    assert not acker.gone
    await trio.sleep(0.2)
    assert acker.goodbye is not None
    assert (acker.goodbye.code, acker.goodbye.retry_ms) == (4408, 0)
    assert acker.messages[-1]["type"] == "goodbye"
    assert bench.done() == [0]
    assert bench.hub.statistics().acking.timeouts == 1


async def test_partitions_that_leave_are_acknowledged_for_a_moment(make: Make) -> None:
    """Acknowledgements count until the partitions are released, and are ignored afterwards."""
    bench = make()
    acker = Acker(bench, 4)
    await settle()
    bench.batch(4)
    await settle()
    bench.hub.unassigned([ONE])
    assert bench.hub.acking.are_awaited([ONE])
    assert not bench.hub.acking.are_awaited([TWO])
    await acker.ack(p0=1)
    assert bench.done() == [0, 1]
    bench.batch(4, TWO)
    await settle()
    assert acker.offsets == [0, 1, 2, 3, 0, 1, 2, 3], "what has left takes no room"
    await acker.ack(p0=3)
    assert bench.done() == [0, 1, 2, 3]
    assert not bench.hub.acking.are_awaited([ONE])
    bench.hub.unassigned([TWO])
    bench.hub.acking.released([ONE, TWO])
    await acker.ack(p1=3)
    assert bench.done(TWO) == []
    bench.ends[TWO] = 0
    bench.hub.assigned([TWO])
    bench.batch(4, TWO, epoch=2)
    await settle()
    assert acker.offsets[8:] == [0, 1, 2, 3]
    await acker.ack(p1=2)
    assert bench.done(TWO) == [0, 1, 2]


async def test_a_partition_that_is_followed_from_now_on_takes_no_room_of_clients_that_do_not_read_it_any_more(
    make: Make,
) -> None:
    """It has left their streams; for clients of the whole topic it goes on, and stays outstanding."""
    bench = make()
    acker = Acker(bench, 2)
    whole = Acker(bench, 2, feed=feed_of(WEBSOCKET, TOPICS, acks=True, whole=True))
    bench.hub.expect({"assets": 2})
    bench.hub.reached(ONE, 0)
    bench.hub.reached(TWO, 0)
    await settle()
    bench.batch(2)
    await settle()
    bench.hub.unassigned([ONE], [ONE])
    assert [one.subscriber.acks.outstanding_records for one in (acker, whole)] == [0, 2]
    assert bench.hub.acking.are_awaited([ONE])
    bench.batch(2, TWO)
    await settle()
    assert [one.offsets for one in (acker, whole)] == [[0, 1, 0, 1], [0, 1]]
    await acker.ack(p0=0)
    assert bench.done() == [0], "until the partition is released"
    bench.hub.acking.released([ONE])
    await acker.ack(p0=1)
    assert bench.done() == [0]
    await whole.ack(p0=1)
    assert whole.offsets == [0, 1, 0, 1]


async def test_a_stop_waits_for_what_is_outstanding_and_sends_nothing_more(
    make: Make,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - makes time jump
) -> None:
    """Clients leave as they acknowledge, and the others after `ack_drain_seconds`."""
    bench = make()
    prompt, slow = Acker(bench, 10), Acker(bench, 10)
    await settle()
    bench.batch(2)
    await settle()
    bench.hub.say_goodbye(restart)
    bench.batch(2)
    await settle()
    assert prompt.offsets == slow.offsets == [0, 1]
    assert (prompt.gone, slow.gone) == (False, False)
    await prompt.ack(p0=1)
    assert (prompt.gone, slow.gone) == (True, False)
    assert bench.done() == [0, 1]
    await trio.sleep(2.1)
    assert slow.goodbye is not None
    assert slow.goodbye.code == 1012


async def test_a_refused_record_goes_to_the_dead_letters_and_then_it_is_done(make: Make) -> None:
    """A later acknowledgement does not cover it, and the client is answered."""
    bench = make()
    acker = Acker(bench, 10)
    letters = bench.hub.acking.dead_letters = Letters("assets")
    answers: list[bool] = []
    await settle()
    bench.batch(3)
    await settle()
    assert acker.subscriber.nacked(ONE, 1, "too long " * 1000, answers.append)
    assert acker.subscriber.nacked(ONE, 1, "again", answers.append)
    assert acker.subscriber.nacked(ONE, 77, "never sent", answers.append)
    assert answers == [False], "it is not outstanding"
    [(partition, record, reason)] = letters.sent
    assert (partition, record.offset, len(reason)) == (ONE, 1, 1000)
    await acker.ack(p0=2)
    assert bench.done() == [0, 2]
    assert bench.hub.statistics().history.waiting_records == 3
    acker.leave()
    letters.store[0]()
    assert bench.done() == [0, 1, 2]
    assert answers == [False, True]
    assert bench.hub.statistics().history.waiting_records == 0


async def test_a_refusal_is_answered_although_its_partition_leaves_and_covers_the_record(make: Make) -> None:
    """The next owner decides about it: it is not acknowledged with later ones while the partition is being revoked."""
    bench = make()
    letters = bench.hub.acking.dead_letters = Letters("assets")
    acker, answers = Acker(bench, 10), list[bool]()
    await settle()
    bench.batch(3)
    await settle()
    bench.hub.unassigned([ONE])
    assert acker.subscriber.nacked(ONE, 1, "", answers.append)
    assert answers == [False]
    await acker.ack(p0=2)
    assert (bench.done(), letters.sent) == ([0, 2], [])
    bench.hub.acking.released([ONE])
    assert acker.subscriber.nacked(ONE, 0, "", answers.append)
    assert answers == [False, False]


async def test_a_record_that_is_refused_again_before_its_letter_is_stored_has_one_letter(make: Make) -> None:
    """All present clients that refused it are answered."""
    bench = make()
    letters = bench.hub.acking.dead_letters = Letters("assets")
    answers: list[str] = []

    def refuse(acker: Acker, name: str) -> None:
        assert acker.subscriber.nacked(ONE, 0, name, lambda is_letter: answers.append(f"{name} {is_letter}"))

    first, second = Acker(bench, 10), Acker(bench, 10)
    await settle()
    bench.batch(2)
    await settle()
    refuse(first, "first")
    refuse(second, "second")
    first.leave()
    second.leave()
    for number in range(5):
        again = Acker(bench, 10)
        await settle()
        assert again.offsets == [0, 1]
        refuse(again, f"again {number}")
        if number < 4:
            again.leave()
    assert [record.offset for _, record, _ in letters.sent] == [0]
    letters.store[0]()
    assert answers == ["again 4 True"]
    assert bench.done() == [0]
    await again.ack(p0=1)
    assert bench.done() == [0, 1]


async def test_a_letter_of_a_partition_that_leaves_holds_up_no_later_one(make: Make) -> None:
    """Its fate is unknown, so a refusal in a later assignment gets another letter."""
    bench = make()
    letters = bench.hub.acking.dead_letters = Letters("assets")
    acker = Acker(bench, 10)
    await settle()
    bench.batch(1)
    await settle()
    assert acker.subscriber.nacked(ONE, 0, "", lambda _: None)
    bench.hub.unassigned([ONE])
    bench.hub.acking.released([ONE])
    bench.hub.assigned([ONE])
    bench.ends[ONE] = 0
    bench.ranges.clear()
    bench.batch(1, epoch=2)
    await settle()
    assert acker.subscriber.nacked(ONE, 0, "", lambda _: None)
    assert len(letters.sent) == 2
    letters.store[1]()
    assert bench.done() == [0]


async def test_letters_of_those_that_left_are_bounded(make: Make) -> None:
    """Clients that refuse, leave and return cannot fill memory while no letter is stored."""
    bench = make(topic_tables={})
    letters = bench.hub.acking.dead_letters = Letters("assets")
    gone, stays = Acker(bench, 10), Acker(bench, 10)
    await settle()
    bench.batch(4)
    await settle()
    letters.has_room = False
    assert gone.subscriber.nacked(ONE, 0, "", lambda _: None)
    assert stays.subscriber.nacked(ONE, 1, "", lambda _: None)
    assert len(letters.sent) == 2, "what windows bound needs no other bound"
    gone.leave()
    assert stays.subscriber.nacked(ONE, 0, "", lambda _: None)
    assert stays.subscriber.nacked(ONE, 2, "", lambda _: None)
    assert [record.offset for _, record, _ in letters.sent] == [0, 1, 2]
    stays.leave()
    returned = Acker(bench, 10, position={ONE: 2})
    await settle()
    assert returned.offsets == [3]
    assert returned.subscriber.nacked(ONE, 3, "", lambda _: None)
    await settle()
    assert returned.goodbye is not None
    assert returned.goodbye.code == 1013
    assert len(letters.sent) == 3


async def test_a_letter_that_is_stored_takes_no_room(make: Make) -> None:
    """A client that refuses such a record again is answered, even if no other letter fits."""
    bench = make(topic_tables={})
    letters = bench.hub.acking.dead_letters = Letters("assets")
    gone, stays = Acker(bench, 10), Acker(bench, 10)
    await settle()
    bench.batch(2)
    await settle()
    letters.has_room = False
    assert gone.subscriber.nacked(ONE, 0, "", lambda _: None)
    gone.leave()
    letters.remembered = {(ONE, 1)}
    answers: list[bool] = []
    assert stays.subscriber.nacked(ONE, 1, "", answers.append)
    letters.store[1]()
    await settle()
    assert (answers, stays.gone) == ([True], False)


async def test_the_time_until_a_silent_client_is_ended_moves_without_a_new_timer(
    make: Make,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - makes time jump
) -> None:
    """One timer is reset when it fires too early: one per acknowledgement would cost a tenth."""
    bench = make()
    acker = Acker(bench, 10, timeout_seconds=10)
    await settle()
    bench.batch(2)
    await settle()
    scope = acker.subscriber._buffer._scope
    assert scope is not None
    first = scope.deadline
    await trio.sleep(6)
    await acker.ack(p0=0)
    assert scope.deadline == first
    await trio.sleep(6)
    assert not acker.gone, "it has made progress 6 s ago"
    await trio.sleep(5)
    assert acker.goodbye is not None
    assert acker.goodbye.code == 4408


async def test_a_refusal_without_a_place_to_go_is_none(make: Make) -> None:
    """Nothing changes; an observer is answered that there is no dead letter, and its window moves on."""
    bench = make()
    acker = Acker(bench, 10)
    observer = Acker(bench, 1, feed=feed_of(WEBSOCKET, TOPICS, acks=True, counts=False))
    answers: list[bool] = []
    await settle()
    bench.batch(2)
    await settle()
    assert not acker.subscriber.nacked(ONE, 1, "", answers.append)
    bench.hub.acking.dead_letters = Letters("another")
    assert not acker.subscriber.nacked(ONE, 1, "", answers.append)
    assert observer.subscriber.nacked(ONE, 0, "", answers.append)
    await settle()
    assert answers == [False]
    assert observer.offsets == [0, 1]
    assert bench.done() == []


async def test_records_that_the_history_let_go_of_are_read_again(make: Make) -> None:
    """A live client whose buffer outlives the history may refuse any of its records."""
    bench = make(topic_tables={}, history_bytes=4096, pause_above_bytes=4096, resume_below_bytes=4096)
    slow, fast = Acker(bench, 1000), Acker(bench, 1000)
    await settle()
    slow.transport.gate = trio.Event()
    for _ in range(12):
        bench.batch(1, size=1000)
        await settle()
        await fast.ack(p0=bench.ends[ONE] - 1)
    slow.transport.gate.set()
    await settle()
    assert slow.offsets == fast.offsets == list(range(12))
    assert slow.subscriber.acks.nacked(ONE, 5, 0) is not None


async def test_a_partition_that_leaves_during_a_replay_goes_on_where_it_was(make: Make) -> None:
    """Held records are looked up again: none is left out, and none repeated."""
    bench = make(history_bytes=4096, pause_above_bytes=4096, resume_below_bytes=4096)
    first = Acker(bench, 1000)
    await settle()
    for _ in range(12):
        bench.batch(1, size=500)
        await settle()
        await first.ack(p0=bench.ends[ONE] - 1)
    second = Acker(bench, 1, position={ONE: -1})
    await settle()
    for at in range(3):
        await second.ack(p0=at)
    assert second.offsets == [0, 1, 2, 3]
    assert second.subscriber.resumption.is_held
    bench.hub.unassigned([ONE])
    bench.hub.acking.released([ONE])
    await settle()
    bench.hub.assigned([ONE])
    bench.batch(1, epoch=2)
    await settle()
    for at in range(4, 13):
        assert second.offsets == list(range(at + 1))
        await second.ack(p0=at)
    assert second.offsets == list(range(13))


class Gapped(RecordedLog):
    """What precedes offset 10: three records, two after what has expired, and a compacted end."""

    async def read(
        self,
        ranges: Mapping[TopicPartition, Range],
        max_bytes: int,  # noqa: ARG002
        client: Hashable = None,  # noqa: ARG002
    ) -> Chunk:
        """All of it that was asked for."""
        first = ranges[ONE].first
        records = [Record(n, None, b"%d" % (n % 2), b"x", ()) for n in (0, 1, 2, 6, 7) if n >= first]
        before, after = [one for one in records if one.offset < 3], [one for one in records if one.offset > 5]
        batches = [Batch(ONE, before)] if before else []
        batches.append(Batch(ONE, after, gap=Gap(ONE, max(3, first), 5, "expired")))
        return Chunk(batches, {ONE: 10}, [Gap(ONE, 8, 9, "expired")])


class GappedBench(AckBench):
    """Partition 0 is in memory from offset 10 on."""

    log = Gapped

    def __init__(self, nursery: trio.Nursery, **settings: object) -> None:
        super().__init__(nursery, **settings)
        self.ends[ONE] = 10
        self.batch(1)


def seen(acker: Acker) -> list[object]:
    """Offsets of records, and the ends of gaps, in the order in which they came."""
    found: list[object] = []
    for message in acker.messages:
        if message["type"] == "gap":
            found.append(f"to {message['to']}")
        found += [record["offset"] for record in message.get("records", ())]
    return found


@pytest.mark.parametrize("commit_on", ["acked", "written"])
@pytest.mark.parametrize("window", [1, 2, 100])
async def test_whoever_is_first_after_a_recreation_is_sent_the_gap_once_whatever_its_window(
    nursery: trio.Nursery, commit_on: str, window: int
) -> None:
    """It goes with the first record, and nothing waits at the end."""
    bench = AckBench(nursery, topic_tables={"assets": {"commit_on": commit_on}})
    bench.recreate(2, 3, 4)
    acker = Acker(bench, window)
    await settle()
    for offset in (2, 3, 4):
        await acker.ack(p0=offset)
    sent = [message for message in acker.messages if message["type"] in {"gap", "records"}]
    assert [message["type"] for message in sent].index("records") == 1
    assert [(m["from"], m["to"], m["reason"]) for m in sent if m["type"] == "gap"] == [(50, -1, "recreated")]
    assert acker.offsets == [2, 3, 4]
    assert bench.ranges == {ONE: set(range(5))}
    assert (bench.hub.history.start(ONE), bench.hub.history.waiting_bytes) == (5, 0)


@pytest.mark.parametrize("has_gap", [True, False])
async def test_a_gap_whose_partition_leaves_during_its_write_takes_no_record_with_it(
    nursery: trio.Nursery, has_gap: bool
) -> None:
    """By the end of the write the history has dropped the records, which nobody has acknowledged."""
    bench = AckBench(nursery)
    if has_gap:
        bench.recreate(2, 3, 4)
    else:
        bench.batch(5)
    acker = Acker(bench, 100)
    acker.transport.gate = trio.Event()
    await settle()
    assert acker.subscriber.in_flight
    bench.hub.unassigned([ONE])
    acker.transport.gate.set()
    await settle()
    assert len(acker.offsets) == (3 if has_gap else 5)
    assert bench.ranges == ({ONE: {0, 1}} if has_gap else {})


async def test_a_replay_is_cut_to_the_window_and_its_gaps_keep_their_place(nursery: trio.Nursery) -> None:
    """A gap is sent after the records before it, and the position agrees."""
    bench = GappedBench(nursery)
    acker = Acker(bench, 2, position={ONE: -1})
    await settle()
    assert seen(acker) == [0, 1]
    resumption = acker.subscriber.resumption
    assert (resumption.next_offset(ONE), resumption.position()[ONE]) == (2, 1)
    await acker.ack(p0=0)
    assert seen(acker) == [0, 1, 2, "to 5"]
    await acker.ack(p0=2)
    assert seen(acker) == [0, 1, 2, "to 5", 6, 7, "to 9"]
    await acker.ack(p0=7)
    assert seen(acker) == [0, 1, 2, "to 5", 6, 7, "to 9", 10]
    await acker.ack(p0=10)
    assert acker.subscriber.statistics().outstanding_records == 0
    assert bench.hub.statistics().acking.passed_over == 0


async def test_a_topic_that_is_recreated_during_a_replay_begins_again(nursery: trio.Nursery) -> None:
    """Held records of the old log are dropped, and the client learns where the new one begins."""
    bench = GappedBench(nursery)
    acker = Acker(bench, 2, position={ONE: -1})
    await settle()
    bench.hub.partition_recreated(ONE, 0)
    bench.ends[ONE] = 0
    bench.batch(1, epoch=2)
    await settle()
    [gap] = [message for message in acker.messages if message["type"] == "gap"]
    assert (gap["from"], gap["reason"]) == (2, "recreated")
    assert acker.offsets == [0, 1, 0]


async def test_a_replay_that_a_filter_wants_nothing_of_says_how_far_it_is(nursery: trio.Nursery) -> None:
    """A resume need not search all of it again, and held records are not skipped."""
    bench = GappedBench(nursery)
    never, odd = (
        Acker(bench, 1, position={ONE: -1}, feed=feed_of(WEBSOCKET, TOPICS, read_filter(wanted), acks=True))
        for wanted in ({"exact": {"key": "never"}}, {"exact": {"key": "1"}})
    )
    await settle()
    assert (never.offsets, odd.offsets) == ([], [1])
    assert seen(never) == ["to 5", "to 9"]
    heartbeats = [message["id"] for message in odd.messages if message["type"] == "heartbeat"]
    assert heartbeats == []
    await odd.ack(p0=1)
    assert odd.offsets == [1, 7]


async def test_of_memory_a_filter_passes_over_what_it_does_not_want(make: Make) -> None:
    """Unwanted records are skipped whatever the window."""
    bench = make()
    for _ in range(3):
        bench.batch(1)
    bench.batch(2)
    wanted = feed_of(WEBSOCKET, TOPICS, read_filter({"exact": {"key": "1"}}), acks=True)
    odd = Acker(bench, 1, position={ONE: 2}, feed=wanted)
    await settle()
    assert odd.offsets == [4]


async def test_a_record_larger_than_the_window_goes_alone_out_of_a_batch(make: Make) -> None:
    """Otherwise nothing would ever be sent."""
    bench = make()
    acker = Acker(bench, 10, 2000)
    await settle()
    bench.batch(2, size=50_000)
    await settle()
    assert acker.offsets == [0]
    await acker.ack(p0=0)
    assert acker.offsets == [0, 1]


async def test_a_write_out_of_memory_ends_at_its_bound(make: Make) -> None:
    """The next write continues there."""
    bench = make(write_bytes=1)
    for _ in range(3):
        bench.batch(1)
    acker = Acker(bench, 10)
    await settle()
    assert acker.offsets == [0, 1, 2]
    assert [len(message["records"]) for message in acker.messages if message["type"] == "records"] == [1, 1, 1]


async def test_an_acknowledgement_of_what_precedes_the_stream_is_no_error(make: Make) -> None:
    """Clients name every partition of their last id; absent ones are ignored."""
    bench = make()
    bench.hub.reached(TWO, 3)
    acker = Acker(bench, 10)
    await settle()
    bench.batch(1)
    await settle()
    await acker.ack(p0=0, p1=2)
    assert bench.hub.statistics().acking.passed_over == 0
    await acker.ack(p1=3, p7=2)
    assert bench.hub.statistics().acking.passed_over == 2


async def test_while_a_replay_holds_nothing_a_quiet_filter_is_sent_its_position(make: Make) -> None:
    """A resume then need not search all of it again."""
    bench = make(history_bytes=4096, pause_above_bytes=4096, resume_below_bytes=4096)
    first = Acker(bench, 1000)
    await settle()
    for _ in range(20):
        bench.batch(1, size=500)
        await settle()
        await first.ack(p0=bench.ends[ONE] - 1)
    never = feed_of(WEBSOCKET, TOPICS, read_filter({"exact": {"key": "never"}}), acks=True)
    quiet = Acker(bench, 1, position={ONE: -1}, feed=never)
    await settle()
    assert quiet.offsets == []
    assert [message["id"] for message in quiet.messages if message["type"] == "heartbeat"][:1] == ["assets:0=1"]


async def test_a_round_comes_too_late_for_one_that_is_not_live_and_too_soon_for_none(make: Make) -> None:
    """A round that was already taken finds a full window, and moves nothing."""
    bench = make()
    acker = Acker(bench, 1)
    await settle()
    bench.batch(1)
    await settle()
    subscriber = acker.subscriber
    entry = next(iter(bench.hub.history._entries.values()))
    item = entry, bench.hub.encoder.entry(ACKS, entry)
    again = Round([item], bench.hub.encoder.round(ACKS, [item]))
    assert (subscriber.offer(again), subscriber.state) == (False, SubscriberState.LIVE)
    subscriber.fall_back()
    assert (subscriber.offer(again), subscriber.state) == (False, SubscriberState.CATCHING_UP)
    await settle()
    assert acker.offsets == [0]


async def test_what_is_outstanding_is_under_way_where_acknowledgements_count(nursery: trio.Nursery) -> None:
    """Without records that a filter left out; elsewhere only unfinished writes count."""
    bench = GappedBench(nursery)
    odd = feed_of(WEBSOCKET, TOPICS, read_filter({"exact": {"key": "1"}}), acks=True)
    everything, chosen, observing = (
        Acker(bench, 10, position={ONE: -1}, feed=feed)
        for feed in (ACKS, odd, feed_of(WEBSOCKET, TOPICS, acks=True, counts=False))
    )
    await settle()

    def under_way(acker: Acker) -> set[int]:
        return {n for first, end in acker.subscriber.under_way(ONE) for n in range(first, end)}

    assert {0, 1, 2, 6, 7, 10} <= under_way(everything)
    assert (under_way(chosen), under_way(observing)) == ({1, 7}, set())
    written = AckBench(nursery, topic_tables={})
    acker = Acker(written, 10)
    await settle()
    written.batch(1)
    await settle()
    assert list(acker.subscriber.under_way(ONE)) == []


async def test_a_goodbye_that_asks_nobody_to_return_waits_for_nothing(make: Make) -> None:
    """Neither does a second goodbye, and a wait that ends too early ends no stream."""
    bench = make()
    refused, twice = Acker(bench, 10), Acker(bench, 10)
    await settle()
    bench.batch(1)
    await settle()
    twice.subscriber._on_time()
    twice.subscriber.end(restart())
    await settle()
    assert not twice.gone
    twice.subscriber.end(restart())
    refused.subscriber.end(Goodbye(4403, "no more", 0))
    await settle()
    assert (twice.gone, refused.gone) == (True, True)


async def test_of_a_followed_partition_that_leaves_nothing_is_acknowledged(make: Make) -> None:
    """Its new owner sends its records, and the window has room again."""
    bench = following(make)
    acker = Acker(bench, 2, feed=feed_of(WEBSOCKET, TOPICS, acks=True, whole=True))
    await settle()
    bench.batch(2, TWO, epoch=0)
    await settle()
    assert acker.subscriber.acks.outstanding_records == 2
    bench.hub.followed.drop([TWO])
    assert acker.subscriber.acks.outstanding_records == 0
    await acker.ack(p1=1)
    assert bench.done(TWO) == []


async def test_a_followed_partition_that_begins_again_during_a_replay_is_sent_once(make: Make) -> None:
    """Held records are looked up again when its owned start is not in memory."""
    bench = make(history_bytes=4096, pause_above_bytes=4096, resume_below_bytes=4096)
    bench.hub.unassigned([TWO])
    bench.replays.log += [(TWO, Record(offset, None, None, b"x", ())) for offset in range(12)]
    bench.hub.reached(ONE, 0)
    bench.hub.followed.follow(TWO, 12)
    bench.hub.expect({"assets": 2})
    acker = Acker(bench, 3, feed=feed_of(WEBSOCKET, TOPICS, acks=True, whole=True), position={ONE: -1, TWO: -1})
    await settle()
    assert acker.offsets == [0, 1, 2]
    bench.hub.assigned([TWO])
    bench.hub.followed.own(TWO, 5, HandOver(3, []))
    bench.ends[TWO] = 3
    bench.batch(9, TWO, epoch=5)
    await settle()
    while acker.offsets[-1] < 11:
        await acker.ack(p1=acker.offsets[-1])
    assert acker.offsets == list(range(12))


@pytest.mark.parametrize("is_in_memory", [True, False], ids=["from memory", "replayed"])
async def test_what_was_sent_before_a_followed_partition_began_again_is_acknowledged_all_the_same(
    make: Make, is_in_memory: bool
) -> None:
    """Its records are read again, and another entry, or none, was sent."""
    bench = make(history_bytes=4096, pause_above_bytes=4096, resume_below_bytes=4096)
    bench.hub.unassigned([TWO])
    bench.hub.reached(ONE, 0)
    if not is_in_memory:
        bench.replays.log += [(TWO, Record(offset, None, None, b"x", ())) for offset in range(3, 7)]
    bench.ends[TWO] = 3 if is_in_memory else 7
    bench.hub.followed.follow(TWO, bench.ends[TWO])
    bench.hub.expect({"assets": 2})
    acker = Acker(bench, 4, feed=feed_of(WEBSOCKET, TOPICS, acks=True, whole=True), position={ONE: -1, TWO: 2})
    await settle()
    if is_in_memory:
        bench.batch(4, TWO, epoch=0)
    await settle()
    assert acker.offsets == [3, 4, 5, 6]
    bench.batch(1, TWO, size=5000, epoch=0)
    assert bench.hub.history.begin(TWO) == 7
    bench.hub.assigned([TWO])
    bench.hub.followed.own(TWO, 5, HandOver(3, []))
    bench.ends[TWO] = 3
    bench.batch(5, TWO, epoch=5)
    await acker.ack(p1=6)
    assert bench.done(TWO) == [3, 4, 5, 6]
    later = Acker(bench, 10)
    await settle()
    assert later.offsets == [7]


async def test_a_letter_that_is_stored_late_counts_for_no_record_of_another_log(make: Make) -> None:
    """The partition was recreated since, and the new log has a record at the same offset."""
    bench = make()
    letters = bench.hub.acking.dead_letters = Letters("assets")
    bench.hub.assigned([ONE])
    bench.batch(1)
    acker = Acker(bench, 10)
    await settle()
    assert acker.subscriber.nacked(ONE, 0, "", lambda _: None)
    bench.hub.partition_recreated(ONE, 0)
    bench.ends[ONE] = 0
    bench.batch(1, epoch=2)
    letters.store[0]()
    assert [batch.epoch for batch in bench.dispatched] == [1]
    assert bench.hub.history.waiting_records(ONE) == 1


async def test_a_letter_that_is_stored_after_its_partition_has_left_is_answered_all_the_same(make: Make) -> None:
    """The refused record is in the dead-letter topic, so its client is answered."""
    bench = make()
    letters = bench.hub.acking.dead_letters = Letters("assets")
    acker, answers = Acker(bench, 10), list[bool]()
    plain = bench.hub.subscribe(feed_of(WEBSOCKET, TOPICS), RecordingTransport())
    await settle()
    bench.batch(1)
    await settle()
    assert acker.subscriber.nacked(ONE, 0, "", answers.append)
    bench.hub.unsubscribe(plain)
    bench.hub.unassigned([ONE])
    bench.hub.acking.released([ONE])
    letters.store[0]()
    assert answers == [True]
    assert [batch.epoch for batch in bench.dispatched] == [1], "it counts in the assignment in which it was read"


async def test_a_refused_record_without_its_letter_does_not_keep_later_ones_in_memory(make: Make) -> None:
    """It waits, and memory stays within its bound. Stored at last, it is done."""
    bench = make(**SMALL)
    acker = Acker(bench, 1000)
    letters = bench.hub.acking.dead_letters = Letters("assets")
    await settle()
    bench.batch(1)
    await settle()
    assert acker.subscriber.nacked(ONE, 0, "poison", lambda _: None)
    for number in range(1, 300):
        bench.batch(1)
        if number % 10 == 9:
            await settle()
            await acker.ack(p0=number)
    history = bench.hub.history
    assert bench.done() == list(range(1, 300))
    assert (history.waiting_records(ONE), history.size_bytes <= 20_000) == (1, True)
    newcomer = Acker(bench, 1000)
    await settle()
    assert newcomer.offsets == list(range(300)), "from Kafka"
    newcomer.leave()
    letters.store[0]()
    assert bench.done() == list(range(300))
    assert (history.waiting_bytes, history.waits_before(ONE)) == (0, False)


@pytest.mark.parametrize("tables", [ACKED["topic_tables"], {}], ids=["acked", "written"])
async def test_a_client_that_is_slow_to_acknowledge_keeps_only_its_own_records_in_memory(
    make: Make, tables: dict[str, Any]
) -> None:
    """Another, with other keys, goes on. What the slow one is sent from Kafka later counts as from memory."""
    bench = make(**SMALL, topic_tables=tables)
    often = Acker(bench, 1000, feed=OFTEN)
    slow = Acker(bench, 1, feed=RARE)
    await settle()
    bench.batch(4)  # of the two that the slow one wants, only one fits into its window
    for _ in range(100):
        bench.batch(1)
        await settle()
        await often.ack(p0=bench.ends[ONE])
    history = bench.hub.history
    assert (history.waiting_records(ONE), history.waits_before(ONE), history.size_bytes <= 20_000) == (4, True, True)
    for offset in (1, 3):
        assert slow.offsets[-1] == offset
        await slow.ack(p0=offset)
    assert slow.offsets == [1, 3]
    assert bench.done() == list(range(104))
    assert bench.replays.asked
    assert history.waiting_bytes == 0


async def test_a_gap_in_the_place_of_what_was_not_acknowledged_counts(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention has deleted it: nobody can acknowledge it any more, and commits go on."""
    bench = make(**SMALL)
    often = Acker(bench, 1000, feed=OFTEN)
    slow = Acker(bench, 1, feed=RARE)
    await settle()
    bench.batch(4)
    for _ in range(100):
        bench.batch(1)
        await settle()
        await often.ack(p0=bench.ends[ONE])

    async def expired(ranges: Mapping[TopicPartition, Range], *_: object) -> Chunk:
        part = ranges[ONE]
        return Chunk((), {ONE: part.end}, [Gap(ONE, part.first, part.end - 1, "expired")])

    monkeypatch.setattr(bench.replays, "read", expired)
    await slow.ack(p0=1)
    assert [message["type"] for message in slow.messages if message["type"] == "gap"] == ["gap"]
    assert bench.done() == list(range(104))
    assert bench.hub.history.waiting_bytes == 0


@pytest.mark.parametrize("unmatched", ["settle", "park"])
async def test_a_gap_that_waits_for_room_counts_once_it_is_sent(
    make: Make, monkeypatch: pytest.MonkeyPatch, unmatched: str
) -> None:
    """If its client leaves before that, the next one is sent it. So it is for waiting records and for parked ones."""
    bench = make(**SMALL, topic_tables={"assets": {"commit_on": "acked", "unmatched": unmatched}})
    often = Acker(bench, 1000, feed=OFTEN)
    if unmatched == "settle":
        Acker(bench, 1, feed=RARE)  # for it, the rare ones wait
    await settle()
    bench.batch(2)
    bench.batch(4, TWO)
    for _ in range(100):
        bench.batch(1)
        bench.batch(1, TWO)
        await settle()
        await often.ack(p0=bench.ends[ONE], p1=bench.ends[TWO])
    assert set(range(102)).difference(bench.done()) == {1}

    async def one_expired(ranges: Mapping[TopicPartition, Range], *_: object) -> Chunk:
        kept = [Batch(tp, (record,)) for tp, record in bench.replays.log if tp == TWO and record.offset < 4]
        gaps = [Gap(ONE, ranges[ONE].first, ranges[ONE].end - 1, "expired")] if ONE in ranges else []
        return Chunk(kept, {tp: each.end for tp, each in ranges.items()}, gaps)

    monkeypatch.setattr(bench.replays, "read", one_expired)
    first = Acker(bench, 1, feed=RARE)
    await settle()
    assert (seen(first), first.subscriber.resumption.is_held) == ([1], True)
    assert 1 not in bench.done()
    first.leave()
    await settle()
    following = Acker(bench, 1000, feed=RARE)
    await settle()
    assert seen(following) == [1, 3, f"to {bench.hub.history.begin(ONE) - 1}"]
    assert bench.done() == list(range(102))
    assert {1, 3}.isdisjoint(bench.done(TWO))
    await following.ack(p1=3)
    assert bench.done(TWO) == list(range(104))


async def sent_from_kafka(bench: AckBench, monkeypatch: pytest.MonkeyPatch) -> Acker:
    """A client that was sent two waiting records, of two entries, in one batch from Kafka."""
    often = Acker(bench, 1000, feed=OFTEN)
    stuck = Acker(bench, 1, feed=RARE)
    await settle()
    for count in (2, 2, *[1] * 100):
        bench.batch(count)
        await settle()
        await often.ack(p0=bench.ends[ONE])
    assert stuck.offsets == [1]
    stuck.leave()

    async def joined(ranges: Mapping[TopicPartition, Range], *_: object) -> Chunk:
        records = [record for tp, record in bench.replays.log if tp == ONE and record.offset in range(*ranges[ONE])]
        return Chunk([Batch(ONE, records)], {ONE: ranges[ONE].end}, ())

    monkeypatch.setattr(bench.replays, "read", joined)
    slow = Acker(bench, 1000, feed=RARE)
    await settle()
    assert slow.offsets == [1, 3]
    assert set(range(104)).difference(bench.done()) == {1, 3}
    return slow


@pytest.mark.parametrize("disowned", [[], [ONE]], ids=["gone", "followed"])
async def test_what_was_sent_from_kafka_is_acknowledged_while_its_partition_leaves(
    make: Make, monkeypatch: pytest.MonkeyPatch, disowned: list[TopicPartition]
) -> None:
    """The history has dropped what waited for it, and the revoke waits for the client nevertheless."""
    bench = make(**SMALL)
    slow = await sent_from_kafka(bench, monkeypatch)
    bench.hub.unassigned([ONE], disowned)
    await settle()
    assert bench.hub.acking.are_awaited([ONE])
    await slow.ack(p0=1)
    assert set(range(104)).difference(bench.done()) == {3}
    assert bench.hub.acking.are_awaited([ONE])
    await slow.ack(p0=3)
    assert bench.done() == list(range(104))
    assert not bench.hub.acking.are_awaited([ONE])


async def test_what_another_client_has_acknowledged_is_not_awaited_while_its_partition_leaves(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were sent it from Kafka. After the release nothing counts."""
    bench = make(**SMALL)
    slow = await sent_from_kafka(bench, monkeypatch)
    other = Acker(bench, 1000, feed=RARE)
    await settle()
    assert other.offsets == [1, 3]
    await other.ack(p0=1)
    bench.hub.unassigned([ONE])
    await other.ack(p0=3)
    assert bench.done() == list(range(104))
    assert not bench.hub.acking.are_awaited([ONE])
    bench.hub.acking.released([ONE])
    bench.ranges.clear()
    await slow.ack(p0=3)
    assert bench.done() == []


async def test_a_letter_of_what_was_sent_from_kafka_counts_while_its_partition_leaves(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if an acknowledgement has covered the refused record meanwhile."""
    bench = make(**SMALL)
    letters = bench.hub.acking.dead_letters = Letters("assets")
    slow = await sent_from_kafka(bench, monkeypatch)
    assert slow.subscriber.nacked(ONE, 1, "poison", lambda _: None)
    await slow.ack(p0=3)
    assert set(range(104)).difference(bench.done()) == {1}
    bench.hub.unassigned([ONE])
    letters.store[0]()
    assert bench.done() == list(range(104))


@pytest.mark.parametrize("tables", [ACKED["topic_tables"], {}], ids=["acked", "written"])
@pytest.mark.parametrize("feed", [ACKS, RARE], ids=["all", "filtered"])
async def test_what_was_not_acknowledged_and_was_compacted_is_passed_by_commits(
    make: Make, tables: dict[str, Any], feed: Feed
) -> None:
    """Nobody can acknowledge it any more. What is left still waits until it is acknowledged, whatever the window."""
    bench = make(**SMALL, topic_tables=tables)
    often = Acker(bench, 1000, feed=OFTEN)
    slow = Acker(bench, 1, feed=RARE)
    await settle()
    for _ in range(3):
        bench.batch(4)
    for _ in range(100):
        bench.batch(1)
        await settle()
        await often.ack(p0=bench.ends[ONE])
    slow.leave()
    history = bench.hub.history
    assert history.waits_before(ONE)
    compacted = {1, 3, 7}
    bench.replays.log = [(tp, record) for tp, record in bench.replays.log if record.offset not in compacted]
    newcomer = Acker(bench, 1, feed=feed)
    await settle()
    assert len(newcomer.offsets) == 1
    if tables:
        assert not {5, 9, 11} & set(bench.done()), "not acknowledged yet"
    for _ in range(130):
        await newcomer.ack(p0=newcomer.offsets[-1])
    assert set(newcomer.offsets).intersection({5, 9, 11} | compacted) == {5, 9, 11}
    assert bench.done() == list(range(112))
    assert (history.waiting_bytes, history.waits_before(ONE)) == (0, False)
