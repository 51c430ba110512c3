"""One subscriber's way to the head: what is looked up before memory is read, and what changes on the way."""

from collections.abc import Iterable, Mapping

import pytest
import trio

from dispatcher.hub import resumption
from dispatcher.hub.encoder import Encoder
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.lookups import Lookups
from dispatcher.hub.resumption import Resumption
from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.entries import Entry
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import LogBounds, Lookup, OffsetsForTime, ReadRanges
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.hub.test_filtered import wanting
from tests.hub.test_hub import FEED, ONE, TWO, RecordedLog

TOPICS = frozenset({"assets"})
WHOLE = feed_of(SSE_VALUE, TOPICS, whole=True)
THREE = TopicPartition("assets", 2)


class Asked(Lookups):
    """Keeps what is asked."""

    def __init__(self) -> None:
        super().__init__(RecordedLog(), 1000)
        self.questions: list[Lookup] = []

    def ask(self, client: object, lookup: Lookup) -> None:  # noqa: ARG002
        """Keep it."""
        self.questions.append(lookup)


class Way:
    """A reader and its history, whose two partitions are in memory from offset 10 on; the third is followed."""

    def __init__(
        self,
        feed: Feed = FEED,
        position: Mapping[TopicPartition, int] | None = None,
        *,
        since_ms: int | None = None,
        history_bytes: int = 10**6,
    ) -> None:
        self.history = History(history_bytes, max_parked_ranges=10)
        self.history.lay_out([ONE, TWO, THREE], [THREE])
        self.ends = {ONE: 10, TWO: 10, THREE: 10}
        for partition in (ONE, TWO):
            self.history.reached(partition, 10)
        self.history.follow(THREE, 10)
        self.lookups, self.wakes = Asked(), 0
        self.feed = feed
        self.encoder = Encoder(self.history)
        self.begin(position or {}, since_ms)

    def begin(self, position: Mapping[TopicPartition, int], since_ms: int | None = None) -> None:
        """Another reader, of what is here now."""
        self.resumption = Resumption(
            self.history, self.encoder, self.lookups, self.feed, position=position, since_ms=since_ms, wake=self.wake
        )

    def wake(self) -> None:
        """Count it."""
        self.wakes += 1

    def publish(self, keys: str = "a", partition: TopicPartition = ONE) -> Entry:
        """One batch of records with these keys."""
        entry = self.history.append(batch(self.ends[partition], keys, partition))
        self.ends[partition] += len(keys)
        return entry

    def taken(self, write_bytes: int = 10**6) -> list[tuple[int, int]]:
        """The first and the last offset of each entry of a write."""
        return [(e.batch.first_offset, e.batch.next_offset - 1) for e, _ in self.resumption.take(write_bytes)]

    def asked(self) -> Lookup:
        """The next question."""
        self.resumption.ask()
        return self.lookups.questions[-1]

    def output(self) -> bytes:
        """Return what is to be sent of the looked-up records."""
        return b"".join(self.resumption.take_replay_output())


def batch(first: int, keys: Iterable[str], partition: TopicPartition = ONE) -> Batch:
    """Records from an offset on; their values are their offsets."""
    records = [Record(n, None, key.encode(), str(n).encode(), ()) for n, key in enumerate(keys, first)]
    return Batch(partition, records)


def chunk(ranges: Mapping[TopicPartition, Range], *batches: Batch) -> Chunk:
    """All that was asked for."""
    return Chunk(list(batches), {partition: asked.end for partition, asked in ranges.items()}, ())


async def test_what_is_missing_is_replayed_before_memory_is_read() -> None:
    """One question is open at a time, and at the end it is known whether Kafka was needed."""
    way = Way(position={ONE: 7})
    way.publish()
    reader = way.resumption
    assert (reader.pending, reader.has_more, reader.missing_records()) == (True, False, 3)
    question = way.asked()
    assert isinstance(question, ReadRanges)
    assert question.ranges == {ONE: Range(8, 10)}
    reader.ask()
    assert len(way.lookups.questions) == 1
    reader.on_chunk(question, chunk(question.ranges, batch(8, "aa")))
    assert (way.wakes, reader.pending, reader.record_count) == (1, False, 2)
    assert b"data: 8\n" in way.output()
    assert (reader.has_more, way.taken(), reader.has_more) == (True, [(10, 10)], False)
    assert (reader.go_live(), reader.go_live()) == (True, False)


async def test_an_answer_to_a_question_that_was_dropped_counts_for_nothing() -> None:
    """It may be about another log."""
    way = Way(position={ONE: 7, TWO: 99}, since_ms=5)
    reader = way.resumption
    reader.on_chunk(question := ReadRanges({ONE: Range(8, 10)}), chunk(question.ranges, batch(8, "a")))
    reader.on_log_bounds(LogBounds(TOPICS_OF), {ONE: Bounds(0, 10)})
    reader.on_offsets_for_time(OffsetsForTime(TOPICS_OF, 5), {ONE: 3})
    assert (way.wakes, way.output(), reader.pending) == (0, b"", True)


TOPICS_OF = frozenset({ONE})


async def test_where_a_time_begins_is_looked_up() -> None:
    """Records since that time are sent, from memory or from Kafka."""
    way = Way(since_ms=5)
    way.publish()
    question = way.asked()
    assert isinstance(question, OffsetsForTime)
    assert (question.partitions, way.resumption.has_start) == ({ONE, TWO}, False)
    way.resumption.on_offsets_for_time(question, {ONE: 9, TWO: None})
    assert (way.wakes, way.resumption.has_start) == (1, True)
    more = way.asked()
    assert isinstance(more, ReadRanges)
    assert more.ranges == {ONE: Range(9, 10)}


async def test_a_place_past_the_end_is_doubted_and_a_recreated_log_begins_again() -> None:
    """The client gets a gap that says so."""
    way = Way(position={ONE: 500})
    question = way.asked()
    assert isinstance(question, LogBounds)
    way.resumption.on_log_bounds(question, {ONE: Bounds(4, 12)})
    assert b"recreated" in way.output()
    assert (way.wakes, way.resumption.next_offset(ONE)) == (1, 4)


async def test_partitions_without_an_answer_are_asked_for_again() -> None:
    """The look-ups say when."""
    way = Way(position={ONE: 7})
    question = way.asked()
    assert isinstance(question, ReadRanges)
    way.resumption.on_chunk(question, Chunk([], {}, ()))
    number = len(way.lookups.questions)
    way.resumption.ask()
    assert len(way.lookups.questions) == number
    way.resumption.ask_again({ONE})
    way.resumption.ask()
    assert len(way.lookups.questions) == number + 1
    assert way.wakes >= 1


async def test_a_partition_that_leaves_ends_the_question_about_it() -> None:
    """Others in line are served sooner, and other questions continue."""
    way = Way(position={ONE: 7})
    way.asked()
    way.resumption.partitions_removing([TWO])
    way.history.remove([TWO])
    scope = way.resumption.lookup_scope
    cancelled = [scope.cancel_called]
    way.resumption.partitions_removing([ONE])
    cancelled.append(scope.cancel_called)
    assert cancelled == [False, True]
    way.history.remove([ONE])
    way.resumption.partitions_removed()
    assert (way.resumption.pending, way.wakes) == (False, 1)
    assert way.resumption.expects_partitions, "its place in it is kept"
    assert way.resumption.concerns(ONE, None)
    way.history.reached(ONE, 8)
    way.resumption.partition_added(ONE, None)
    assert (way.wakes, way.resumption.next_offset(ONE)) == (2, 8)


@pytest.mark.parametrize("next_offset", [12, None])
async def test_readers_of_a_recreated_topic_get_a_gap(next_offset: int | None) -> None:
    """A reader that got nothing of the old log just begins with the new one."""
    way = Way()
    way.resumption.partition_recreated(ONE, next_offset, 0)
    assert (b"recreated" in way.output()) is (next_offset is not None)
    assert way.wakes == 1


async def test_a_followed_partition_that_is_owned_now_is_sent_from_where_nobody_was() -> None:
    """A reader past that goes back; one whose memory begins again continues where it was."""
    way = Way(WHOLE, {ONE: 9, TWO: 9, THREE: 12})
    way.publish("aaaa", THREE)
    reader = way.resumption
    assert reader.next_offset(THREE) == 13
    way.history.own(THREE, 5, HandOver(10, []))
    reader.handed_over(THREE, 11)
    assert (reader.next_offset(THREE), way.wakes) == (11, 1)
    reader.restarted(THREE, 12, 11)
    assert (reader.next_offset(THREE), way.wakes) == (11, 2)


async def test_a_reader_waits_for_the_head_and_looks_again() -> None:
    """A reader of the whole topic may have an id newer than what is followed here."""
    way = Way(WHOLE, {ONE: 9, TWO: 9, THREE: 12})
    reader = way.resumption
    question = way.asked()
    assert isinstance(question, LogBounds)
    reader.on_log_bounds(question, {THREE: Bounds(0, 20)})
    way.history.expect({"assets": 3})
    reader.refresh()
    assert reader.awaits_head
    way.publish("aaaa", THREE)
    reader.look_again()
    assert (reader.awaits_head, reader.pending) == (False, False)
    assert way.taken() == [(10, 13)]


async def test_of_an_entry_that_it_has_had_in_part_the_rest_is_taken() -> None:
    """Of a followed partition the entry does not count as a whole, because others may lack its beginning."""
    for feed, in_part in (
        (FEED, []),
        (WHOLE, [(THREE, 12)]),
        (feed_of(SSE_VALUE, TOPICS, whole=True, counts=False), []),
    ):
        way = Way(feed)
        way.history.expect({"assets": 3})
        for partition in (ONE, THREE):
            way.history.dispatched(way.publish("aaaa", partition))
        way.begin({ONE: 11, TWO: 9, THREE: 11})
        taken = way.resumption.take(10**6)
        assert [(b"data: 11\n" in part.records, b"data: 12\n" in part.records) for _, part in taken] == [
            (False, True)
        ] * (2 if feed.whole else 1)
        assert [(entry.batch.partition, first) for entry, first in way.resumption.in_part] == in_part
        assert way.resumption.take_replayed_ranges() == [(partition, first, 14) for partition, first in in_part]


async def test_a_write_has_one_entry_at_least_and_is_bounded() -> None:
    """Writes are bounded in bytes, and for filters also in what they look at."""
    way = Way()
    for _ in range(3):
        way.publish()
    assert [way.taken(1), way.taken(), way.taken()] == [[(10, 10)], [(11, 11), (12, 12)], []]


async def test_a_search_without_a_find_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id alone avoids a second search after a resume; at the head, a heartbeat carries it."""
    monkeypatch.setattr(resumption, "LOOK_RECORDS", 4)
    monkeypatch.setattr(resumption, "SILENT_RECORDS", 8)
    way = Way(wanting("b"))
    for _ in range(10):
        way.publish("aa")
    found = []
    for _ in range(5):
        assert way.taken() == []
        found.append(way.output())
    assert [bool(output) for output in found] == [False, True, False, True, False]
    assert b"assets:0=17" in found[1]
    way.publish("b")
    assert way.taken() == [(30, 30)]


async def test_a_replay_without_a_find_says_how_far_it_is() -> None:
    """While a place is unknown, there is nothing to say."""
    way = Way(wanting("b"), {ONE: 4})
    question = way.asked()
    assert isinstance(question, ReadRanges)
    way.resumption.on_chunk(question, chunk(question.ranges, batch(5, "aaaaa")))
    assert b"id: assets:0=9" in way.output()
    nowhere = Way(feed_of(SSE_VALUE, frozenset({"none"}), wanting("b").filter))
    nowhere.resumption._say_position()
    assert nowhere.output() == b""


async def test_a_reader_that_falls_behind_gets_a_replay() -> None:
    """The next record that it needs has left memory."""
    way = Way(history_bytes=1)
    for _ in range(3):
        way.history.dispatched(way.publish())
        way.history.trim()
    assert (way.taken(), way.resumption.pending) == ([], True)
    question = way.asked()
    assert isinstance(question, ReadRanges)
    assert question.ranges == {ONE: Range(10, 13)}


async def test_a_quiet_filter_goes_to_the_head_without_a_look() -> None:
    """It wants nothing of what lies between."""
    way = Way(wanting("b"))
    way.publish()
    way.resumption.skip_to_head()
    assert not way.resumption.has_more
    assert way.resumption.next_offset(ONE) == 11


async def test_parked_records_before_its_start_are_begun_with() -> None:
    """With or without parked records, it is known that the reader has looked."""
    for starts, first in (({ONE: 4}, 4), ({}, 10)):
        way = Way()
        way.resumption.begin_at_parked(starts)
        assert (way.resumption.looks_at_parked, way.resumption.next_offset(ONE)) == (True, first)


async def test_whoever_has_left_wakes_nobody() -> None:
    """Its question is cancelled, and what was held for it is freed."""
    way = Way(position={ONE: 7})
    way.asked()
    with trio.CancelScope() as way.resumption.lookup_scope:
        way.resumption.close()
        way.resumption.look_again()
        await trio.lowlevel.checkpoint()
    assert (way.wakes, way.resumption.closed) == (0, True)
    assert way.resumption.lookup_scope.cancelled_caught
    assert way.resumption.position() == {ONE: 7, TWO: 9}


async def test_one_that_asks_waits_before_what_is_not_decoded() -> None:
    """Meanwhile it is not at the head; it continues once the record is decoded."""
    way = Way(feed_of(SSE_VALUE, TOPICS, decodes=TOPICS))
    entry = way.publish("ab")
    reader = way.resumption
    assert (way.taken(), reader.has_more, reader.is_at_head) == ([], False, False)
    way.history.decided(entry, Decoded([None] * 2, [b"1", b"2"], [b""] * 2, [b""] * 2))
    reader.decided()
    assert (way.wakes, reader.has_more) == (1, True)
    assert (way.taken(), reader.has_more, reader.is_at_head) == ([(10, 11)], False, True)
