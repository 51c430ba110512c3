"""Subscribers that ask for decoded records of a topic that the settings do not name: they wait, and nobody else."""

# Tests whose clock jumps name it, or it would not be used.
# ruff: noqa: ARG001

import random
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import orjson
import pytest
import trio
import trio.testing

from dispatcher.hub.asked_decoding import LOOK_AHEAD, AskedDecoding
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.statistics import SubscriberState
from dispatcher.kafka.held import decode_chunk
from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.encoding.wire import SSE_VALUE, WEBSOCKET
from dispatcher.sansio.entries import Entry
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.grant_filters import granted
from dispatcher.sansio.history import History
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.ranges import Chunk, Gap
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, Records, TopicPartition
from tests.hub.test_acking import AckBench, Acker
from tests.hub.test_hub import ONE, TWO, Bench, RecordingTransport, settle

TOPICS = frozenset({"assets"})
RAW = feed_of(SSE_VALUE, TOPICS)
ASKING = feed_of(SSE_VALUE, TOPICS, decodes=TOPICS)
ODD, EVEN = {"exact": {"/odd": "true"}}, {"exact": {"/odd": "false"}}


def asking(record_filter: Any = None, **more: Any) -> Feed:
    """One that asks, with a filter."""
    return feed_of(SSE_VALUE, TOPICS, read_filter(record_filter) if record_filter else None, decodes=TOPICS, **more)


class Decoder:
    """Makes an object of each number, except of those that are withheld: they wait."""

    def __init__(self) -> None:
        self.topics: frozenset[str] = frozenset()
        self.asked: frozenset[str] = frozenset()
        self.withheld: set[int] = set()
        self.undecodable: set[int] = set()
        """Numbers that are sent as Kafka delivered them."""
        self.decoded: Counter[bytes | None] = Counter()
        """How often each value was decoded."""
        self.tried = 0

    def ask(self, topics: frozenset[str]) -> None:
        """Do what `decoding_for_asking` does."""
        self.asked = topics

    def decode_now(self, records: Records) -> Records:
        """Those before the first that waits."""
        self.tried += 1
        number = next((n for n, value in enumerate(records.values) if int(value or b"") in self.withheld), len(records))
        part = records[:number]
        self.decoded.update(part.values)
        jsons = [
            None if number in self.undecodable else orjson.dumps({"n": number, "odd": bool(number % 2)})
            for number in (int(value or b"") for value in part.values)
        ]
        none, empty = [None] * number, [b""] * number
        return part.with_decoded(Decoded(none, jsons, empty, empty)) if number else NO_RECORDS

    async def decode(self, topic: str, several: Sequence[Records]) -> Sequence[Records]:
        """Nothing is begun after one that waits."""
        assert topic in self.asked
        await trio.lowlevel.checkpoint()
        found: list[Records] = []
        for records in several:
            found.append(self.decode_now(records))
            if len(found[-1]) < len(records):
                break
        return found

    async def decode_chunk(self, chunk: Chunk, topics: AbstractSet[str]) -> Chunk:
        """Do what the real one does, without its thread."""
        await trio.lowlevel.checkpoint()
        return decode_chunk(self._Now(self), chunk, topics)

    class _Now:
        """The interface of the kafka room."""

        def __init__(self, decoder: "Decoder") -> None:
            self.topics, self.asked, self._decoder = decoder.topics, decoder.asked, decoder

        def decode(self, topic: str, records: Records) -> Records:  # noqa: ARG002 - its interface
            """See `Decoder`."""
            return self._decoder.decode_now(records)


class AskedBench(Bench):
    """A hub of which subscribers may ask; values count up."""

    def __init__(self, **settings: object) -> None:
        self.decoder: Decoder = Decoder()
        super().__init__(**settings)
        self.offsets: Counter[TopicPartition] = Counter()

    def put(self, number: int = 1, partition: TopicPartition = ONE, *, polled: bool = False) -> None:
        """Publish records, decoded by the poll as far as somebody asks by then, or not at all."""
        first = self.offsets[partition]
        values = range(self.number, self.number + number)
        self.number += number
        found = [Record(first + n, None, None, b"%d" % value, ()) for n, value in enumerate(values)]
        self.replays.log += [(partition, record) for record in found]
        self.offsets[partition] += number
        records = Records.of(found)
        part = self.decoder.decode_now(records) if polled and self.decoder.asked else NO_RECORDS
        if part:
            self.hub.publish(Batch(partition, part.with_asked(part.decoded)))
        if len(part) < number:
            self.hub.publish(Batch(partition, records[len(part) :]))

    @property
    def states(self) -> list[SubscriberState]:
        """Return the states of all subscribers, in the order in which they connected."""
        return [one.state for one in self.hub.subscriber_statistics()]


@pytest.fixture
async def bench(nursery: trio.Nursery) -> AskedBench:
    """A hub that runs."""
    found = AskedBench()
    nursery.start_soon(found.hub.run)
    return found


async def connect(
    nursery: trio.Nursery, bench: Bench, feed: Feed, position: dict[TopicPartition, int] | None = None
) -> RecordingTransport:
    """A subscriber whose socket takes everything."""
    transport = RecordingTransport()
    transport.gate.set()
    await nursery.start(bench.serve, transport, position, None, feed)
    await settle()
    return transport


def numbers(transport: RecordingTransport) -> list[int]:
    """The numbers that it was sent, all decoded."""
    return [orjson.loads(value)["n"] for value in transport.values]


async def test_those_that_ask_get_json_and_the_others_what_kafka_delivered(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Records are decoded once for all that ask, in whatever format, whoever polled."""
    raw, first, second = [await connect(nursery, bench, feed) for feed in (RAW, ASKING, ASKING)]
    other = await connect(nursery, bench, asking(ODD))
    assert bench.decoder.asked == TOPICS
    bench.put(3, polled=True)
    bench.put(1, TWO, polled=True)
    await settle()
    assert raw.values == ["0", "1", "2", "3"]
    assert numbers(first) == numbers(second) == [0, 1, 2, 3]
    assert numbers(other) == [1, 3]
    assert set(bench.decoder.decoded.values()) == {1}
    assert bench.states == ["live"] * 4
    assert bench.hub.history.waiting_bytes == 0


async def test_what_was_published_before_the_first_one_asked_is_decoded_then(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """It is decoded once and kept with its entry, counting towards the entry's memory."""
    raw = await connect(nursery, bench, RAW)
    for number in (2, 1, 3):
        bench.put(number)
        bench.put(number, TWO)
    await settle()
    before, entries = bench.hub.history.size_bytes, 6
    assert not bench.decoder.tried, "while nobody asks, nothing is decoded"
    first = await connect(nursery, bench, ASKING, {ONE: -1, TWO: -1})
    await trio.sleep(1)
    assert numbers(first) == list(range(12))
    encoded = sum(map(len, first.values))
    assert bench.hub.history.size_bytes >= before + 2 * encoded + entries, "JSON, and what was encoded of it"
    second = await connect(nursery, bench, ASKING, {ONE: 1, TWO: 2})
    await trio.sleep(1)
    assert numbers(second) == [4, *range(6, 9), *range(9, 12)]
    assert set(bench.decoder.decoded.values()) == {1}
    assert raw.values == [str(n) for n in range(12)]
    assert bench.states == ["live"] * 3


async def test_a_record_that_waits_holds_those_that_ask_in_order_and_nobody_else(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """They are not live until its schema arrives, and then get everything that followed."""
    raw, first = await connect(nursery, bench, RAW), await connect(nursery, bench, ASKING)
    bench.decoder.withheld = {2}
    for _ in range(5):
        bench.put(1, polled=True)
    await trio.sleep(1)
    assert (raw.values, numbers(first)) == (["0", "1", "2", "3", "4"], [0, 1])
    assert bench.states == ["live", "catching-up"]
    tried = bench.decoder.tried
    await trio.sleep(10)
    assert bench.decoder.tried - tried <= 101, "it is tried again, ten times a second"
    late = await connect(nursery, bench, ASKING, {ONE: 2})
    await trio.sleep(1)
    assert numbers(late) == [3, 4], "it needs nothing of what waits"
    bench.decoder.withheld.clear()
    await trio.sleep(1)
    assert numbers(first) == [0, 1, 2, 3, 4]
    bench.put(1, polled=True)
    await settle()
    assert bench.states == ["live"] * 3
    assert numbers(late) == [3, 4, 5]
    assert set(bench.decoder.decoded.values()) == {1}


async def test_what_waits_is_not_dispatched_while_all_present_ask(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Neither are the records after it, even of the same batch."""
    only = await connect(nursery, bench, ASKING)
    bench.decoder.withheld = {1}
    bench.put(3, polled=True)
    bench.put(1, TWO, polled=True)
    await trio.sleep(1)
    assert (numbers(only), bench.ranges) == ([0], {ONE: {0}})
    assert bench.hub.history.statistics().waiting_records == 3
    bench.decoder.withheld.clear()
    await trio.sleep(1)
    assert (numbers(only), bench.ranges) == ([0, 1, 2, 3], {ONE: {0, 1, 2}, TWO: {0}})
    assert set(bench.decoder.decoded.values()) == {1}, "what was decoded of it is kept"
    assert bench.hub.history.waiting_bytes == 0


async def test_filters_of_those_that_ask_look_at_what_was_decoded(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Until then nothing is settled; the filters of the others see what Kafka delivered."""
    odd = await connect(nursery, bench, asking(ODD))
    raw = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, read_filter(ODD)))
    bench.decoder.withheld = {0}
    bench.put(4, polled=True)
    await trio.sleep(1)
    assert (bench.ranges, dict(bench.hub.statistics().unmatched)) == ({}, {})
    bench.decoder.withheld.clear()
    await trio.sleep(1)
    assert (numbers(odd), raw.values) == ([1, 3], [])
    assert bench.ranges == {ONE: {0, 1, 2, 3}}
    assert dict(bench.hub.statistics().unmatched) == {"assets": 2}


async def test_a_filter_that_comes_later_settles_what_waits(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Waiting records are decoded for the filter, even beyond what its socket has taken."""
    bench.put(2)
    bench.put(2)
    stuck = RecordingTransport()
    await nursery.start(bench.serve, stuck, None, None, asking(ODD))
    await trio.sleep(1)
    assert (stuck.values, bench.ranges) == ([], {ONE: {0, 2}})
    assert bench.hub.history.statistics().waiting_records == 4
    # One that is published now is decoded for the filter, though nobody gets there.
    bench.put(2)
    await trio.sleep(1)
    assert bench.ranges == {ONE: {0, 2, 4}}
    stuck.gate.set()
    await trio.sleep(1)
    assert (numbers(stuck), bench.ranges) == ([1, 3, 5], {ONE: set(range(6))})


async def test_what_a_grant_says_of_fields_is_decided_on_decoded_values(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Hidden records are parked, and replayed decoded for a client that may see them."""
    grant, other = read_filter(ODD), read_filter(EVEN)
    some = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, None, grant, decodes=TOPICS))
    bench.put(4)
    await trio.sleep(1)
    assert (numbers(some), bench.ranges) == ([1, 3], {ONE: {1, 3}})
    even = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, None, other, decodes=TOPICS))
    await trio.sleep(1)
    assert numbers(even) == [0, 2]
    assert bench.ranges == {ONE: {0, 1, 2, 3}}


async def test_a_grant_that_only_hides_a_field_allows_nothing_that_was_not_decoded(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Neither to those that ask for raw records, nor to those that ask for JSON while there is no schema."""
    grant = granted({"assets": [read_filter({"not": ODD})]})
    raw = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, None, grant))
    json = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, None, grant, decodes=TOPICS))
    bench.decoder.undecodable = {2, 3}
    bench.put(4)
    bench.put(4, TWO, polled=True)
    await trio.sleep(1)
    assert (raw.values, sorted(numbers(json))) == ([], [0, 4, 6])
    assert bench.ranges == {ONE: {0}, TWO: {0, 2}}, "the others wait for a client that may have them"
    resumed = await connect(nursery, bench, feed_of(SSE_VALUE, TOPICS, None, grant), {ONE: -1, TWO: -1})
    await trio.sleep(1)
    assert resumed.values == []


async def test_what_is_read_again_from_kafka_is_decoded_for_those_that_ask(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A waiting record ends the result of its partition only; others get the bytes."""
    bench = AskedBench(history_bytes=1000, pause_above_bytes=1000, resume_below_bytes=1)
    nursery.start_soon(bench.hub.run)
    await connect(nursery, bench, RAW)
    for _ in range(3):
        bench.put(1)
        bench.put(1, TWO)
    await settle()
    bench.decoder.withheld = {2}
    asks = await connect(nursery, bench, ASKING, {ONE: -1, TWO: -1})
    raw = await connect(nursery, bench, RAW, {ONE: -1, TWO: -1})
    await trio.sleep(5)
    assert raw.values == ["0", "1", "2", "3", "4", "5"]
    assert 2 not in numbers(asks)
    assert 4 not in numbers(asks)
    bench.decoder.withheld.clear()
    await trio.sleep(5)
    assert sorted(numbers(asks)) == [0, 1, 2, 3, 4, 5]
    assert [n for n in numbers(asks) if n % 2 == 0] == [0, 2, 4]


async def test_what_leaves_memory_while_it_waits_is_read_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """If others took it and the history evicted it, waiting readers ask Kafka for it."""
    bench = AskedBench(history_bytes=6_000, pause_above_bytes=5_000, resume_below_bytes=1000)
    nursery.start_soon(bench.hub.run)
    raw, asks = await connect(nursery, bench, RAW), await connect(nursery, bench, ASKING)
    bench.decoder.withheld = {1}
    for _ in range(20):
        bench.put(1, polled=True)
        await settle()
    await trio.sleep(2)
    assert (len(raw.values), numbers(asks)) == (20, [0])
    bench.decoder.withheld.clear()
    await trio.sleep(5)
    assert numbers(asks) == list(range(20))
    assert bench.states == ["live", "live"]


async def test_a_partition_that_leaves_while_it_waits_holds_nobody(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Those that ask continue with the rest, and get it when the partition returns."""
    asks = await connect(nursery, bench, ASKING)
    bench.decoder.withheld = {0}
    bench.put(1, polled=True)
    bench.put(1, TWO, polled=True)
    await trio.sleep(1)
    bench.hub.unassigned([ONE])
    await trio.sleep(1)
    assert numbers(asks) == [1]
    bench.hub.assigned([ONE])
    bench.offsets[ONE] = 0
    bench.decoder.withheld.clear()
    bench.hub.publish(Batch(ONE, [Record(0, None, None, b"0", ())]))
    await trio.sleep(1)
    assert numbers(asks) == [1, 0]


class Steps(trio.abc.Instrument):
    """Counts how often tasks had the loop."""

    def __init__(self) -> None:
        self.number = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - its interface
        """See `trio.abc.Instrument`."""
        self.number += 1


async def test_entries_that_leave_at_once_are_dropped_in_many_steps(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """A hundred thousand may have piled up while a registry was down, and others need the loop."""
    await connect(nursery, bench, ASKING)
    bench.decoder.withheld = {0}
    for _ in range(100 * LOOK_AHEAD):
        bench.put(1)
    await trio.sleep(1)
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    bench.hub.unassigned([ONE])
    await trio.sleep(1)
    trio.lowlevel.remove_instrument(steps)
    assert steps.number >= 100


class Looks:
    """One that waits, and looks again when it is woken."""

    def __init__(self, decoding: AskedDecoding, entry: Entry) -> None:
        self.number = 0
        self._decoding, self._entry = decoding, entry
        self.decided()

    def decided(self) -> None:
        """It is not decoded yet."""
        self.number += 1
        self._decoding.wait(self, self._entry)


async def test_a_topic_that_nobody_asks_for_is_not_decoded(bench: AskedBench) -> None:
    """This holds even for an entry published while the last subscriber that asked was leaving."""
    bench.hub.asked.ask(bench.hub.history.append(Batch(ONE, [Record(0, None, None, b"0", ())])))
    await settle()
    assert not bench.decoder.tried


async def test_a_gap_after_a_record_that_waits_wakes_nobody(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A gap holds nothing to decode, so readers need not look at the history ten times a second."""
    history, decoder = History(1_000_000), Decoder()
    history.lay_out([ONE])
    entry = history.append(Batch(ONE, Records.of([Record(0, None, None, b"0", ())])))
    history.append(Batch(ONE, NO_RECORDS, gap=Gap(ONE, 1, 5, "expired"), covers_from=1))
    decoder.withheld = {0}
    decoding = AskedDecoding(history, decoder)
    decoding.topics_changed(TOPICS)
    nursery.start_soon(decoding.run)
    one = Looks(decoding, entry)
    await trio.sleep(10)
    assert one.number == 1
    assert decoder.tried > 1


async def test_when_the_last_one_that_asks_leaves_nothing_more_is_decoded(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """Waiting entries are forgotten, also by the decoding thread."""
    scope = trio.CancelScope()

    async def visit() -> None:
        transport = RecordingTransport()
        transport.gate.set()
        with scope:
            await bench.serve(transport, feed=ASKING)

    nursery.start_soon(visit)
    await settle()
    bench.decoder.withheld = {0}
    bench.put(1)
    await trio.sleep(1)
    assert bench.decoder.tried
    scope.cancel()
    await settle()
    assert bench.decoder.asked == frozenset()
    await trio.sleep(1)
    tried = bench.decoder.tried
    bench.put(1)
    await trio.sleep(10)
    assert bench.decoder.tried == tried


def follow(bench: AskedBench) -> None:
    """Own partition 0, and follow partition 1."""
    bench.hub.unassigned([TWO])
    bench.hub.reached(ONE, 0)
    bench.hub.followed.follow(TWO, 0)
    bench.hub.expect({"assets": 2})


async def test_the_whole_topic_is_decoded_too(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """A waiting record of a followed partition holds only readers of the whole topic."""
    follow(bench)
    whole, own = await connect(nursery, bench, asking(whole=True)), await connect(nursery, bench, ASKING)
    bench.put(1, TWO, polled=True)
    bench.decoder.withheld = {1}
    bench.put(1, TWO, polled=True)
    bench.put(1, ONE, polled=True)
    await trio.sleep(1)
    assert (numbers(whole), numbers(own), bench.states) == ([0], [2], ["catching-up", "live"])
    assert bench.hub.statistics().fell_back == 1, "the other one has never left the live feed"
    bench.decoder.withheld.clear()
    await trio.sleep(1)
    assert numbers(whole) == [0, 1, 2]


async def test_a_filtered_reader_gets_what_was_not_decided_when_its_partition_became_owned(
    nursery: trio.Nursery, bench: AskedBench, autojump_clock: trio.testing.MockClock
) -> None:
    """What its filter says is unknown, so the record does not count as sent."""
    follow(bench)
    odd = await connect(nursery, bench, asking(ODD, whole=True))
    bench.decoder.withheld = {1}
    bench.put(3, TWO, polled=True)
    await trio.sleep(1)
    bench.hub.assigned([TWO])
    bench.hub.followed.own(TWO, 5, HandOver(0, []))
    await trio.sleep(1)
    bench.decoder.withheld.clear()
    await trio.sleep(1)
    assert numbers(odd) == [1]
    assert bench.ranges[TWO] == {0, 1, 2}


async def test_one_that_acknowledges_can_ask_too(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """Its window holds decoded records, and it stays before the waiting one."""

    class Acked(AckBench, AskedBench):
        """Both."""

    bench = Acked(nursery)
    acker = Acker(bench, 2, feed=feed_of(WEBSOCKET, TOPICS, acks=True, decodes=TOPICS))
    bench.decoder.withheld = {1}
    for _ in range(4):
        bench.put(1, polled=True)
    await trio.sleep(1)
    assert acker.offsets == [0]
    bench.decoder.withheld.clear()
    await trio.sleep(1)
    assert acker.offsets == [0, 1]
    acker.subscriber.acked({ONE: 1})
    await trio.sleep(1)
    assert acker.offsets == [0, 1, 2, 3]
    shown = [record["value_json"]["n"] for message in acker.messages for record in message.get("records", ())]
    assert shown == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_each_is_sent_all_of_it_in_order(
    seed: int, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Polls, schemas and readers come and go in any order, with little memory."""
    choose = random.Random(seed)  # noqa: S311 - the same each time
    memory = {
        "history_bytes": choose.choice([2_000, 20_000, 10**6]),
        "pause_above_bytes": 2_000,
        "resume_below_bytes": 1,
    }
    bench = AskedBench(**memory, subscriber_buffer_bytes=2_000)
    nursery.start_soon(bench.hub.run)
    feeds = [RAW, ASKING, ASKING, asking(ODD), asking(EVEN), feed_of(SSE_VALUE, TOPICS, counts=False, decodes=TOPICS)]
    readers: list[tuple[Feed, RecordingTransport]] = []
    for _ in range(80):
        step = choose.random()
        if step < 0.6:
            bench.put(choose.randint(1, 4), choose.choice([ONE, TWO]), polled=choose.random() < 0.7)
        elif step < 0.7 and len(readers) < 12:
            feed = choose.choice(feeds)
            readers.append((feed, await connect(nursery, bench, feed, {ONE: -1, TWO: -1})))
        elif step < 0.8:
            bench.decoder.withheld = {choose.randrange(bench.number + 8) for _ in range(choose.randint(0, 5))}
        elif step < 0.9:
            await trio.sleep(choose.random())
        else:
            await settle()
    bench.decoder.withheld.clear()
    await trio.sleep(30)
    assert bench.number
    for feed, transport in readers:
        values = [int(value) for value in transport.values] if feed is RAW else numbers(transport)
        parity = {asking(ODD): (1,), asking(EVEN): (0,)}.get(feed, (0, 1))
        for partition in (ONE, TWO):
            ours = {int(record.value or b""): n for n, (tp, record) in enumerate(bench.replays.log) if tp == partition}
            assert [n for n in values if n in ours] == [n for n in ours if n % 2 in parity]
    assert all(state is SubscriberState.LIVE for state in bench.states)
