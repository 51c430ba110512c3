"""A reader at the ends of logs, with a consumer that says what a broker may say: no false gap, and nobody waits."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, cast

import pytest
import trio
import trio.testing
from confluent_kafka import KafkaError, Message

from dispatcher.kafka import reader as reader_module
from dispatcher.kafka import replay
from dispatcher.kafka.reader import CHUNK_SECONDS, Reader
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.ranges import Bounds, Chunk, Gap, Range
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.unreadable import PATIENCE_SECONDS
from testbed.patience import seconds

ONE, TWO = (TopicPartition("assets", number) for number in range(2))


def record(offset: int) -> Message:
    """A record of the first partition."""
    return Message(topic="assets", partition=0, offset=offset, value=b"")


def event(code: int, offset: int) -> Message:
    """Return an event of librdkafka about the first partition."""
    return Message(topic="assets", partition=0, offset=offset, error=KafkaError(code, "so it is"))


class Scripted:
    """A consumer that returns these messages, one for each poll, then nothing.

    Args:
        messages: The messages.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = iter(messages)
        self.assigned: list[tuple[int, int]] = []

    def poll(self, _: float) -> Message | None:
        """The next message."""
        return next(self._messages, None)

    def consume(self, _number: int, _timeout: float) -> list[Message]:
        """One message at a time is enough."""
        return []

    def assign(self, partitions: Iterable[Any]) -> None:
        """Note where it is to read."""
        self.assigned = [(partition.partition, partition.offset) for partition in partitions]

    def incremental_assign(self, partitions: Iterable[Any]) -> None:
        """Note where it is to read as well."""
        self.assigned += [(partition.partition, partition.offset) for partition in partitions]

    def incremental_unassign(self, partitions: Collection[Any]) -> None:
        """Nothing more comes of these anyway."""


def read(bounds: Bounds | None, *messages: Message) -> tuple[Chunk, Scripted]:
    """Read records 0 to 9 with these messages; the leader answers with these bounds, or not at all."""
    reader = Reader({}, 1000, lambda partitions: {tp: bounds for tp in partitions if bounds is not None})
    consumer = Scripted(messages)
    reader._consumer = cast("Any", consumer)
    return reader.read({ONE: Range(0, 10)}, 1000, lambda _: False), consumer


EOF = KafkaError._PARTITION_EOF
GONE = KafkaError._AUTO_OFFSET_RESET


@pytest.mark.parametrize(
    ("bounds", "gaps", "next_offset"),
    [
        (Bounds(0, 10), [], 2),
        (None, [], 2),
        (Bounds(0, 2), [Gap(ONE, 2, 9, "truncated")], 10),
    ],
    ids=["the leader has more", "the leader does not answer", "the leader has no more"],
)
def test_an_early_end_is_a_truncated_log_only_if_the_leader_says_so(
    bounds: Bounds | None, gaps: list[Gap], next_offset: int
) -> None:
    """A replay near the end meets new leaders whose high watermark lags."""
    chunk, _ = read(bounds, record(0), record(1), event(EOF, 2))
    assert [list(batch.records.offsets) for batch in chunk.batches] == [[0], [1]]
    assert (chunk.gaps, chunk.next_offsets) == (gaps, {ONE: next_offset})


@pytest.mark.parametrize(
    ("bounds", "gaps", "next_offsets"),
    [
        (Bounds(0, 10), [], {}),
        (None, [], {}),
        (Bounds(0, 0), [], {}),
        (Bounds(4, 10), [Gap(ONE, 0, 3, "expired")], {ONE: 4}),
        (Bounds(20, 30), [Gap(ONE, 0, 9, "expired")], {ONE: 10}),
    ],
    ids=["the broker lags", "the leader does not answer", "an empty log", "some expired", "all expired"],
)
def test_an_offset_out_of_range_is_a_gap_only_if_the_leader_says_so(
    bounds: Bounds | None, gaps: list[Gap], next_offsets: Mapping[TopicPartition, int]
) -> None:
    """Existing records are requested again, and expired ones become a gap."""
    chunk, consumer = read(bounds, event(GONE, 0))
    assert (chunk.gaps, chunk.next_offsets) == (gaps, next_offsets)
    assert consumer.assigned[1:] == ([(0, 4)] if next_offsets == {ONE: 4} else [])


def test_an_offset_past_the_end_is_a_truncated_log() -> None:
    """The log was cut below what had been read of it."""
    chunk, _ = read(Bounds(0, 1), record(0), record(1), event(GONE, 2))
    assert (chunk.gaps, chunk.next_offsets) == ([Gap(ONE, 2, 9, "truncated")], {ONE: 10})


class Burst(Scripted):
    """One that has a small record, and then many large ones at once."""

    def consume(self, _number: int, _timeout: float) -> list[Message]:
        """All that is left."""
        return [*self._messages]

    def unassign(self) -> None:
        """It reads nothing more."""
        self.assigned = []

    def close(self) -> None:
        """It is replaced."""


def test_a_reader_that_took_too_much_fetches_nothing_while_it_rests() -> None:
    """It used to fetch on, and discard a queue of records per second."""
    large = [Message(topic="assets", partition=0, offset=number, value=b"x" * 1000) for number in (1, 2, 3)]
    reader = Reader({}, 1000, lambda _: {})
    consumer = Burst([record(0), *large])
    reader._consumer = cast("Any", consumer)
    chunk = reader.read({ONE: Range(0, 10)}, 1500, lambda _: False)
    assert 0 < chunk.next_offsets[ONE] < 4
    assert not reader.is_positioned
    assert consumer.assigned == [(0, 0)]
    reader.rest()
    assert consumer.assigned == []


def test_a_consumer_that_yields_nothing_is_replaced_unless_it_rested_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it did for another subscriber, long ago, says nothing about it now."""
    monkeypatch.setattr(reader_module, "VAIN_SECONDS", (0.0, 0.0))
    reader = Reader({}, 1000, lambda _: {})
    reader._consumer = consumer = cast("Any", Burst([]))
    ranges = {ONE: Range(0, 10)}
    for _ in range(2):
        reader.read(ranges, 1500, lambda _: False)
        reader.rest()
        assert reader._consumer is consumer
    for is_kept in (True, False):
        reader.read(ranges, 1500, lambda _: False)
        assert (reader._consumer is consumer) is is_kept


WAITS = (0.0, PATIENCE_SECONDS * 0.9, PATIENCE_SECONDS * 1.1, CHUNK_SECONDS * 0.9, CHUNK_SECONDS * 1.1)
"""Seconds that a reader may have waited for a first record."""


class Stuck:
    """A reader that gets nothing of the first partition, and waits for it as long as it may."""

    def __init__(self) -> None:
        self.began, self.goes_on = trio.Event(), trio.Event()
        self.waited: list[float] = []
        """By chunk, the longest of `WAITS` after which it was to wait on."""

    def is_positioned_at(self, _: object) -> bool:
        """It has read nothing yet."""
        return False

    def read(self, ranges: Collection[TopicPartition], _: int, may_wait: Callable[[float], bool]) -> Chunk:
        """In a worker thread, like every read."""
        if ONE not in ranges:
            return Chunk((), {TWO: 1}, ())
        trio.from_thread.run_sync(self.began.set)
        trio.from_thread.run(self.goes_on.wait)
        self.waited.append(max(filter(may_wait, WAITS), default=-1.0))
        return Chunk((), {}, ())


@pytest.mark.parametrize(("others", "longest"), [(0, WAITS[3]), (1, WAITS[1])])
async def test_an_empty_poll_gives_the_reader_back_while_others_are_in_line(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, others: int, longest: float
) -> None:
    """Within 50 ms it is free, and the partition rests and occupies no reader."""
    stuck = Stuck()
    monkeypatch.setattr(replay, "Reader", lambda *_: stuck)
    replays = Replays({"bootstrap.servers": "127.0.0.1:9"}, concurrency=1, batch_bytes=1000)
    with trio.fail_after(seconds(20)):
        async with trio.open_nursery() as reading:
            reading.start_soon(replays.read, {ONE: Range(0, 1)}, 1000, "stuck")
            await stuck.began.wait()
            for number in range(others):
                nursery.start_soon(replays.read, {TWO: Range(0, 1)}, 1000, number)
            await trio.testing.wait_all_tasks_blocked()
            assert replays.statistics().waiting == others
            stuck.goes_on.set()
        assert await replays.read({ONE: Range(0, 1)}, 1000, "stuck") == replay.NOTHING
    assert stuck.waited == [longest]
