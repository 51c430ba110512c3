"""Reading again, on a real broker: how many readers there are, and how much a chunk holds."""

from typing import Any, cast

import pytest
import trio
import trio.testing
from confluent_kafka import Message, Producer

from dispatcher.kafka import reader as reader_module
from dispatcher.kafka import replay
from dispatcher.kafka.reader import Reader
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.ranges import Chunk, Range
from dispatcher.sansio.records import Records, TopicPartition
from testbed.patience import seconds
from testbed.producing import produce_numbered, produce_with_header_name
from tests.conftest import Kafka

CONCURRENCY = 2
PARTITIONS = 6


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every reader that is made."""
    readers: list[object] = []

    class Recorded(Reader):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            readers.append(self)

    monkeypatch.setattr(replay, "Reader", Recorded)
    return readers


def replays_of(kafka: Kafka, concurrency: int = CONCURRENCY) -> Replays:
    """Reads from this broker."""
    properties = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "replays"}
    return Replays(properties, concurrency=concurrency, batch_bytes=256 * 1024)


async def test_there_are_as_many_readers_as_chunks_at_a_time(kafka: Kafka, made: list[object]) -> None:
    """The README's formula counts them, whatever is asked for."""
    topic = kafka.create_topic(PARTITIONS)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 600, PARTITIONS)
    replays = replays_of(kafka)
    with trio.fail_after(seconds(60)):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for partition in range(PARTITIONS):
                    tp = TopicPartition(topic, partition)
                    nursery.start_soon(replays.read, {tp: Range(0, 100)}, 1)
                    nursery.start_soon(replays.bounds, [tp])
        await replays.close()
    assert len(made) == CONCURRENCY
    assert replays.statistics().waiting == 0


async def test_a_replay_that_gets_nothing_says_so() -> None:
    """It is asked for again after a pause, because an unreachable broker must not occupy the readers."""
    properties = {"bootstrap.servers": "127.0.0.1:9", "group.id": "replays"}
    replays = Replays(properties, concurrency=1, batch_bytes=1000)
    with trio.fail_after(seconds(30)):
        chunk = await replays.read({TopicPartition("assets", 0): Range(0, 10)}, 1000)
        await replays.close()
    assert not chunk.next_offsets
    assert replays.statistics().chunks == 0


async def test_a_client_that_leaves_while_in_line_takes_no_reader_with_it(kafka: Kafka, made: list[object]) -> None:
    """A dropped consumer would be closed by the garbage collector, in Trio's thread."""
    replays = replays_of(kafka, concurrency=1)
    async with trio.open_nursery() as nursery:
        async with replays._turns.turn(None):
            nursery.start_soon(replays.read, {TopicPartition("assets", 0): Range(0, 1)}, 1)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert made == replays._idle
    assert len(made) == 1


@pytest.mark.parametrize("what", ["tombstones", "headers"])
async def test_a_chunk_is_bounded_by_what_its_records_hold(kafka: Kafka, what: str) -> None:
    """Records without a value, keys and headers take memory, too."""
    topic = kafka.create_topic(1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    headers: list[tuple[str, str | bytes | None]] | None = [("name", bytes(1000))] if what == "headers" else None
    for number in range(2000):
        producer.produce(topic, key=str(number), value=None, headers=headers)
    await trio.to_thread.run_sync(producer.flush, 30)
    replays = replays_of(kafka)
    partition, most_bytes, place = TopicPartition(topic, 0), 20_000, 0
    with trio.fail_after(seconds(60)):
        while place < 2000:
            chunk = await replays.read({partition: Range(place, 2000)}, most_bytes)
            assert isinstance(chunk, Chunk)
            records = Records.of(record for batch in chunk.batches for record in batch.records)
            assert list(records.offsets) == list(range(place, place + len(records)))
            assert records[:-1].size_bytes < most_bytes
            # On a busy machine a read may end before the first record has come.
            place = chunk.next_offsets.get(partition, place)
        await replays.close()


async def test_a_chunk_is_bounded_when_large_records_follow_small_ones(kafka: Kafka) -> None:
    """Sizes are estimated from the last records, and surplus ones are fetched again."""
    topic = kafka.create_topic(2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(1000):
        producer.produce(topic, partition=number % 2, value=bytes(20_000 if number >= 500 else 20))
    await trio.to_thread.run_sync(producer.flush, 30)
    replays = replays_of(kafka)
    ranges = {TopicPartition(topic, partition): Range(0, 500) for partition in range(2)}
    offsets: dict[TopicPartition, list[int]] = {partition: [] for partition in ranges}
    with trio.fail_after(seconds(60)):
        while ranges:
            chunk = await replays.read(ranges, 100_000)
            assert isinstance(chunk, Chunk)
            records = [record for batch in chunk.batches for record in batch.records]
            assert Records.of(records[:-1]).size_bytes < 100_000
            for batch in chunk.batches:
                offsets[batch.partition] += batch.records.offsets
            places = {tp: chunk.next_offsets.get(tp, part.first) for tp, part in ranges.items()}
            ranges = {tp: Range(places[tp], part.end) for tp, part in ranges.items() if places[tp] < part.end}
        await replays.close()
    assert offsets == {partition: list(range(500)) for partition in offsets}


async def test_headers_that_nobody_can_read_are_left_out_here_too(kafka: Kafka) -> None:
    """Asked a second time, the client library would return a half-built result."""
    topic = kafka.create_topic(1)
    await trio.to_thread.run_sync(produce_with_header_name, kafka.bootstrap_servers, topic, b"\xff\xfe", b"unreadable")
    replays = replays_of(kafka)
    with trio.fail_after(seconds(60)):
        chunk = await replays.read({TopicPartition(topic, 0): Range(0, 1)}, 1000)
        await replays.close()
    assert isinstance(chunk, Chunk)
    (batch,) = chunk.batches
    assert [(record.value, record.headers) for record in batch.records] == [(b"unreadable", ())]


class OneRecord:
    """A consumer with a record, which it gives once."""

    def __init__(self) -> None:
        self.closed = False
        self._messages = [Message(topic="assets", partition=0, offset=0, value=b"")]

    def assign(self, _: object) -> None:
        """It stands there anyway."""

    def poll(self, _: float) -> Message | None:
        """The record, then nothing."""
        return self._messages.pop() if self._messages else None

    def close(self) -> None:
        """Note it."""
        self.closed = True


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_reader_that_fails_with_records_in_its_hands_does_not_go_on_after_them(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Its consumer is past them, so the next reader would miss them."""
    reader, consumer = Reader({}, 1000, lambda _: {}), OneRecord()
    reader._consumer = cast("Any", consumer)
    ranges = {TopicPartition("assets", 0): Range(0, 9)}

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(reader_module, "grouped", fail)
    with pytest.raises(error):
        reader.read(ranges, 1000, lambda _: False)
    assert not reader.is_positioned_at(ranges)
    assert consumer.closed
