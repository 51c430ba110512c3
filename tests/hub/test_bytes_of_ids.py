"""How many bytes the ids of many partitions add to what subscribers are sent."""

import random

import pytest
import trio

from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed import feed_of
from dispatcher.sansio.encoding.wire import SSE_ENVELOPE, SSE_VALUE, WEBSOCKET, Wire
from dispatcher.sansio.history import History
from dispatcher.sansio.id_suffixes import SHORT_CHARACTERS
from dispatcher.sansio.position import MAX_POSITION_CHARACTERS, parse_position
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.hub.test_hub import ONE, Bench, RecordingTransport, settle

TOPIC = "ofa_assets"
VALUE_BYTES = 200
EVEN, SPREAD, FAR = 100, 10_000, 1_000_000
"""How far apart the offsets of a topic's partitions are: written in turn, by key, and by keys of which some prevail."""
FEW, MANY = 6, 300

WIRES = pytest.mark.parametrize(
    "wire",
    [
        pytest.param(SSE_VALUE, id="SSE, value"),
        pytest.param(SSE_ENVELOPE, id="SSE, envelope"),
        pytest.param(WEBSOCKET, id="WebSocket"),
    ],
)


def written(wire: Wire, partitions: int, records: int, apart: int = SPREAD) -> bytes:
    """One write to a stream of the whole topic that has received something of every partition."""
    chance = random.Random(partitions)  # noqa: S311 - the same each time
    all_of_them = [TopicPartition(TOPIC, number) for number in range(partitions)]
    history = History(1_000_000)
    history.lay_out(all_of_them)
    seen = {partition: 1_000_000 + chance.randrange(apart) for partition in all_of_them}
    own, value = all_of_them[partitions // 2], b"x" * VALUE_BYTES
    first = seen[own] - records + 1
    batch = Batch(own, [Record(first + number, 1_700_000_000_000, None, value, ()) for number in range(records)])
    _, data = Encoder(history).replayed(feed_of(wire, frozenset({TOPIC}), whole=True), batch, seen)
    return data


@WIRES
@pytest.mark.parametrize(
    ("records", "apart", "times"),
    [(10, EVEN, 1.4), (10, SPREAD, 1.4), (10, FAR, 1.4), (1, EVEN, 3.5), (1, SPREAD, 3.8), (1, FAR, 5.2)],
)
def test_many_partitions_cost_little_more_than_few(wire: Wire, records: int, apart: int, times: float) -> None:
    """A position is sent once per write, and spelled compactly if it is long."""
    few, many = written(wire, FEW, records, apart), written(wire, MANY, records, apart)
    assert len(few) > records * VALUE_BYTES
    assert len(many) <= times * len(few)


@WIRES
def test_every_partition_is_named_all_the_same(wire: Wire) -> None:
    """A client that is cut after the write resumes every partition."""
    text = written(wire, MANY, 10).decode(errors="ignore")
    marks = ("id: ", "\n") if wire is not WEBSOCKET else ('"id":"', '"')
    position = text.rpartition(marks[0])[2].partition(marks[1])[0]
    named = parse_position(position)
    assert named.keys() == {TopicPartition(TOPIC, number) for number in range(MANY + 1)}
    assert named[TopicPartition(TOPIC, MANY)] == -1, "the one that would be added next"


async def test_a_thousand_busy_partitions_resume_exactly_over_any_replica(nursery: trio.Nursery) -> None:
    """A reader that is cut again and again gets each record once, on any replica."""
    chance = random.Random(1000)  # noqa: S311 - the same each time
    topic = ONE.topic
    partitions = [TopicPartition(topic, number) for number in range(1000)]
    ends = {partition: 1_000_000 + chance.randrange(SPREAD) for partition in partitions}
    replicas = [Bench(), Bench()]
    for replica in replicas:
        nursery.start_soon(replica.hub.run)
        replica.hub.assigned(partitions)
        replica.hub.expect({topic: len(partitions)})
        for partition, end in ends.items():
            replica.hub.reached(partition, end)
        # What somebody else has taken does not wait for the reader, whatever its id says.
        taker = RecordingTransport()
        taker.gate.set()
        await nursery.start(replica.serve, taker)
    written: list[str] = []
    received: list[str] = []
    last_id = ""

    def publish() -> None:
        for partition in chance.sample(partitions, 60):
            offset = ends[partition]
            ends[partition] += 1
            value = f"{partition.partition}={offset}"
            written.append(value)
            for replica in replicas:
                replica.hub.publish(Batch(partition, (Record(offset, None, None, value.encode(), ()),)))

    feed = feed_of(SSE_VALUE, frozenset({topic}), whole=True)
    for turn in range(4):
        transport = RecordingTransport()
        transport.gate.set()
        async with trio.open_nursery() as connection:
            position = parse_position(last_id) if last_id else None
            await connection.start(replicas[turn % 2].serve, transport, position, None, feed)
            await settle()
            publish()
            await settle()
            connection.cancel_scope.cancel()
        received += transport.values
        assert (len(received), sorted(received)) == (len(written), sorted(written))
        last_id = transport.events[-1][0]
        assert SHORT_CHARACTERS < len(last_id) < MAX_POSITION_CHARACTERS
        assert len(parse_position(last_id)) == len(partitions) + 1
        # What it is away from.
        publish()
