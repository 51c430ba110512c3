"""The bytes of records: encoded once for many, or for one subscriber; what an id names, and where a gap stands."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.hub.encoder import Encoder, wanted_indexes
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.hub.statistics import CompressionStatistics
from dispatcher.sansio import records
from dispatcher.sansio.catch_up import CatchUp
from dispatcher.sansio.encoding.compression import Compression
from dispatcher.sansio.encoding.wire import SSE_VALUE, WEBSOCKET, Wire
from dispatcher.sansio.entries import GAP, Cursor, EncodedEntry, Entry, Part, Selection, covered
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.history import History
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import Gap, recreated
from dispatcher.sansio.record_view import View
from dispatcher.sansio.records import NO_RECORDS, Batch, Record, TopicPartition
from dispatcher.sansio.spelling import Spelling
from tests.hub.test_acking import messages
from tests.hub.test_hub import FEED, ONE, TWO, unchunked
from tests.sansio.test_wire import EventSource

TOPICS = frozenset({"assets"})
FOLLOWED = TopicPartition("assets", 2)
A = read_filter({"exact": {"key": "a"}})


class Desk:
    """An encoder and the history whose entries it encodes: two partitions of its own, and a followed one."""

    def __init__(self, compression: Compression | None = None, spelling: Spelling | None = None) -> None:
        self.history = History(10**6, max_parked_ranges=10)
        self.history.lay_out([ONE, TWO, FOLLOWED], [FOLLOWED])
        self.history.follow(FOLLOWED, 5)
        self.encoder = Encoder(self.history, compression, None if spelling is None else {"assets": spelling})
        self.ends = {ONE: 0, TWO: 0, FOLLOWED: 5}

    def entry(self, keys: str, partition: TopicPartition = ONE, *, gap: int = 0) -> Entry:
        """Records with these keys, each of one letter, whose values are their offsets."""
        return self.history.append(self.batch(keys, partition, gap=gap))

    def batch(self, keys: str, partition: TopicPartition = ONE, *, gap: int = 0) -> Batch:
        """The same, read again."""
        first = self.ends[partition]
        records = [
            Record(first + gap + n, None, key.encode(), str(first + gap + n).encode(), ()) for n, key in enumerate(keys)
        ]
        self.ends[partition] = first + gap + len(keys)
        lost = Gap(partition, first, first + gap - 1, "expired") if gap else None
        return Batch(partition, records or NO_RECORDS, covers_from=first, gap=lost)

    def events(self, feed: Feed, *items: EncodedEntry) -> list[tuple[str, str]]:
        """A write, as an EventSource has it: the values of records, the first offsets of gaps, and their ids."""
        return events(self.encoder.write(feed, items))


def events(data: bytes) -> list[tuple[str, str]]:
    """Id, and value or the first offset of a gap."""
    found = EventSource().feed(unchunked(data)).events
    return [(i, d if kind == "message" else f"gap {orjson.loads(d)['from']}") for i, kind, d in found]


def frames(data: bytes) -> list[dict[str, Any]]:
    """The messages of a WebSocket."""
    return list(messages(data))


def test_an_entry_is_encoded_once_for_all_whose_bytes_are_the_same() -> None:
    """Observers without a filter share bytes with the others; another format does not."""
    desk = Desk()
    entry = desk.entry("ab")
    part = desk.encoder.entry(FEED, entry)
    assert desk.encoder.entry(feed_of(SSE_VALUE, TOPICS, counts=False), entry) is part
    assert desk.encoder.entry(feed_of(WEBSOCKET, TOPICS), entry) is not part
    assert desk.encoder.statistics().entries == 2
    assert desk.events(FEED, (entry, part)) == [("assets:0=0", "0"), ("assets:0=1", "1")]


def test_ids_name_followed_partitions_for_readers_of_the_whole_topic_alone() -> None:
    """Other readers could not resume there."""
    desk = Desk()
    entry = desk.entry("a")
    for whole, names in ((False, False), (True, True)):
        for wire in (SSE_VALUE, WEBSOCKET):
            feed = feed_of(wire, TOPICS, whole=whole)
            data = desk.encoder.write(feed, [(entry, desk.encoder.entry(feed, entry))])
            [event_id] = [i for i, _ in events(data)] if wire is SSE_VALUE else [m["id"] for m in frames(data)]
            assert ("2=4" in event_id) is names


def test_the_place_of_a_subscriber_has_the_chunks_of_the_head() -> None:
    """Followed partitions belong to it if it reads the whole topic; others than the assigned ones cannot be named."""
    desk = Desk()
    desk.entry("a", ONE)
    desk.entry("ab", TWO)
    for whole, position in ((False, "assets:0=0,1=0"), (True, "assets:0=0,1=0,2=4")):
        feed, cursor = feed_of(SSE_VALUE, TOPICS, whole=whole), Cursor(TOPICS, whole=whole)
        cursor.next_offsets = {**desk.history.ends(cursor), TWO: 1}
        place = desk.encoder.place(feed, cursor)
        assert place is not None
        assert place.format(TOPICS) == position
        cursor.next_offsets[TopicPartition("assets", 9)] = 3
        assert desk.encoder.place(feed, cursor) is None


MANY = [TopicPartition(topic, number) for topic, count in (("assets", 70), ("other", 3)) for number in range(count)]


@given(
    st.tuples(st.sets(st.sampled_from(MANY), max_size=6), st.sets(st.sampled_from(MANY), max_size=6)),
    st.dictionaries(st.sampled_from([*MANY, TopicPartition("assets", 99)]), st.integers(-1, 12), max_size=8),
    st.sampled_from([frozenset({"assets"}), frozenset({"other"}), frozenset({"assets", "other"})]),
    st.sampled_from([(False, True), (True, True), (True, False)]),
    st.booleans(),
)
def test_a_place_is_the_one_that_a_look_at_each_partition_finds(
    unlike: tuple[set[TopicPartition], set[TopicPartition]],
    named: dict[TopicPartition, int],
    topics: frozenset[str],
    kind: tuple[bool, bool],
    goes_live: bool,
) -> None:
    """Whatever an id names, with partitions that are followed, not read yet, or elsewhere, live or not."""
    history = History(10**6)
    followed, unread = unlike
    history.expect({"assets": 70, "other": 3})
    history.lay_out(MANY, followed)
    for partition in followed:
        history.follow(partition, 4)
    for partition in MANY:
        if partition not in unread:
            history.append(Batch(partition, (Record(5, None, None, b"value", ()),), covers_from=4))
    encoder, (whole, counts) = Encoder(history), kind
    feed = feed_of(SSE_VALUE, topics, whole=whole, counts=counts)
    position = {tp: offset for tp, offset in named.items() if tp.topic in topics}
    fast, slow = (CatchUp(history, topics, position, None, whole=whole, counts=counts) for _ in range(2))
    if goes_live:
        for one in (fast, slow):
            history.became_live(one.cursor)
        history.append(Batch(MANY[0], (Record(9, None, None, b"value", ()),)))
    place = encoder.place(feed, fast.cursor)
    if place is None:
        here = set(MANY) if whole else set(MANY) - followed
        assert not position.keys() <= here
    elif fast.has_start:
        spelled = place.format(topics, whole=whole)
        expected = encoder.snapshot(slow.position(here=False)).format(whole=whole)
        assert (spelled and parse_position(spelled)) == (expected and parse_position(expected))


def test_entries_share_a_write_and_a_gap_stands_between_the_records() -> None:
    """A WebSocket message ends at a gap, and has the position up to it."""
    desk = Desk()
    entries = [desk.entry("a"), desk.entry("b"), desk.entry("c", gap=2), desk.entry("", gap=1)]
    for wire in (SSE_VALUE, WEBSOCKET):
        feed = feed_of(wire, TOPICS)
        data = desk.encoder.round(feed, [(entry, desk.encoder.entry(feed, entry)) for entry in entries])
        if wire is SSE_VALUE:
            assert [what for _, what in events(data)] == ["0", "1", "gap 2", "4", "gap 5"]
        else:
            found = [(m["type"], len(m.get("records", ())), m.get("id")) for m in frames(data)]
            assert [(kind, number) for kind, number, _ in found] == [
                ("records", 2),
                ("gap", 0),
                ("records", 1),
                ("gap", 0),
            ]
            assert [i for kind, _, i in found if kind == "records"] == ["assets:0=1", "assets:0=4"]


def test_the_rest_of_an_entry_begins_where_its_reader_stands() -> None:
    """A reader may be after any record, or within a gap."""
    desk = Desk()
    entry = desk.entry("abc", gap=3)
    found = [[what for _, what in desk.events(FEED, desk.encoder.rest(FEED, entry, at))] for at in (0, 2, 3, 5)]
    assert found == [["gap 0", "3", "4", "5"], ["gap 2", "3", "4", "5"], ["3", "4", "5"], ["5"]]
    plain = desk.entry("a")
    assert [what for _, what in desk.events(FEED, desk.encoder.rest(FEED, plain, 6))] == ["6"]
    assert desk.encoder.statistics().parts == 5


def test_with_the_rest_of_an_entry_nothing_before_it_counts() -> None:
    """Offsets without a record count with the record after them, and a gap counts with its entry's only part."""
    desk = Desk()
    desk.entry("ab")
    compacted = Batch(ONE, [Record(n, None, None, b"", ()) for n in (4, 5, 9, 11)], covers_from=2)
    entry = desk.history.append(compacted)
    found = [(each.ranges, each.record_count) for each, _ in (desk.encoder.rest(FEED, entry, at) for at in (5, 7, 9))]
    assert found == [([(5, 12)], 3), ([(6, 12)], 2), ([(6, 12)], 2)]
    desk.ends[ONE] = 12
    only_gap, _ = desk.encoder.rest(FEED, desk.entry("", gap=3), 13)
    assert (only_gap.ranges, only_gap.record_count) == ([(12, 15)], 0)


def test_a_filter_is_sent_what_it_wants_of_an_entry_and_every_gap() -> None:
    """Encoding begins at its reader's offset, and is empty if nothing is wanted."""
    desk = Desk()
    feed = feed_of(SSE_VALUE, TOPICS, A)

    def wanted(entry: Entry, at: int) -> list[str] | None:
        item = desk.encoder.wanted(feed, entry, at)
        return None if item is None else [what for _, what in desk.events(feed, item)]

    plain, lost = desk.entry("aba"), desk.entry("ba", gap=2)
    assert [wanted(plain, at) for at in (0, 1, 3)] == [["0", "2"], ["2"], None]
    assert [wanted(lost, at) for at in (3, 4, 5, 6, 7)] == [
        ["gap 3", "6"],
        ["gap 4", "6"],
        ["6"],
        ["6"],
        None,
    ]
    only_gap = desk.entry("b", gap=1)
    assert wanted(only_gap, 7) == ["gap 7"]
    item = desk.encoder.wanted(feed, only_gap, 7)
    assert item is not None
    assert isinstance(item[0], Selection)
    assert item[0].indexes == [GAP]


@pytest.mark.parametrize("old_end", [0, 1, 50])
def test_the_gap_of_a_recreated_topic_goes_with_the_first_record_of_the_new_log(old_end: int) -> None:
    """However the offsets of both logs compare; a reader that has had that record is not sent the gap again."""
    desk = Desk()
    records = [Record(n, None, b"a", str(n).encode(), ()) for n in (3, 4, 5)]
    entry = desk.history.append(Batch(ONE, records, covers_from=1, gap=recreated(ONE, old_end, 1)))
    feed = feed_of(SSE_VALUE, TOPICS, A)
    for at, expected in ((1, [GAP, 0, 1, 2]), (3, [GAP, 0, 1, 2]), (4, [1, 2])):
        found = [desk.encoder.wanted(feed, entry, at)]
        found.append(desk.encoder.some(FEED, entry, [n for n in expected if n != GAP], at, is_last=True))
        found += [desk.encoder.rest(FEED, entry, at)] if at > 3 else []
        for item in found:
            assert item is not None
            assert isinstance(item[0], Selection)
            assert list(item[0].indexes) == expected
            values = [f"gap {old_end}" if n == GAP else str(n + 3) for n in expected]
            assert [what for _, what in desk.events(FEED, item)] == values


def test_filters_share_what_was_encoded_of_the_records_that_some_of_them_want() -> None:
    """Each gets its own records of it, after the gap; those that want the same ones get the same bytes."""
    desk = Desk()
    two = [feed_of(SSE_VALUE, TOPICS, read_filter({"in": {"key": ["a", "c", more]}})) for more in ("x", "y")]
    one, other = feed_of(SSE_VALUE, TOPICS, A), feed_of(WEBSOCKET, TOPICS, A)
    for gap, before, first in ((1, ["gap 0"], 1), (0, [], 4)):
        entry = desk.entry("abc", gap=gap)
        shared = [0, 2]
        found = {
            feed: (selection, part)
            for feed, selection, part in desk.encoder.selections(
                entry, {two[0]: shared, two[1]: shared, one: [0], other: [0]}
            )
        }
        assert [[what for _, what in desk.events(feed, found[feed])] for feed in (*two, one)] == [
            [*before, str(first), str(first + 2)],
            [*before, str(first), str(first + 2)],
            [*before, str(first)],
        ]
        assert found[two[0]][1] is found[two[1]][1]
        assert found[two[0]][0] is not found[two[1]][0], "each is dispatched by itself"
        assert [selection.ranges for selection, _ in found.values()] == [
            covered(entry.batch, selection.indexes) for selection, _ in found.values()
        ]
        assert len({id(part) for _, part in found.values()}) == 3
    nothing = desk.encoder.choose(FEED, entry.batch, entry.snapshot, [])
    assert nothing.part(one, [], b"").records == b""


def test_the_position_of_some_records_is_that_of_the_last_one_unless_the_entry_ends_with_them() -> None:
    """The id must not name records that are sent later."""
    desk = Desk()
    desk.entry("z", TWO)
    entry, feed = desk.entry("abc", gap=1), feed_of(WEBSOCKET, TOPICS)

    def some(indexes: Sequence[int], at: int, *, is_last: bool) -> tuple[list[str], str]:
        item = desk.encoder.some(feed, entry, indexes, at, is_last=is_last)
        found = frames(desk.encoder.write(feed, [item]))
        return [m["type"] for m in found], found[-1]["id"]

    assert some([0, 1], 0, is_last=False) == (["gap", "records"], "assets:0=2,1=0")
    assert some([2], 3, is_last=True) == (["records"], "assets:0=3,1=0")
    assert some([0], 1, is_last=True) == (["records"], "assets:0=3,1=0")


def test_what_was_replayed_has_a_position_of_its_own() -> None:
    """It covers what the subscriber has seen of other partitions, even of those that left since."""
    desk = Desk()
    gone = TopicPartition("assets", 7)
    batch = desk.batch("ab", gap=1)
    indexes, data = desk.encoder.replayed(FEED, batch, {ONE: 2, gone: 9})
    assert (list(indexes), events(data)[1:]) == ([0, 1], [("assets:0=1,7=9", "1"), ("assets:0=2,7=9", "2")])
    feed = feed_of(SSE_VALUE, TOPICS, A)
    indexes, data = desk.encoder.replayed(feed, batch, {ONE: 2})
    assert (list(indexes), [what for _, what in events(data)]) == ([0], ["gap 0", "1"])
    assert desk.encoder.replayed(feed, desk.batch("b"), {ONE: 3}) == ([], b"")
    assert [what for _, what in events(desk.encoder.chosen(feed, desk.batch("a"), {ONE: 4}))] == ["4"]
    assert desk.encoder.statistics().replayed == 4


def test_keys_and_values_are_written_as_their_topic_says() -> None:
    """This holds live and for single subscribers; a batch without records is unchanged."""
    desk = Desk(spelling=Spelling(value="base64"))
    feed = feed_of(WEBSOCKET, TOPICS)
    entry = desk.entry("a")
    for item in ((entry, desk.encoder.entry(feed, entry)), desk.encoder.rest(feed, entry, 0)):
        [message] = frames(desk.encoder.write(feed, [item]))
        assert message["records"][0]["value_base64"] == "MA=="
    empty = desk.batch("", gap=1)
    assert desk.encoder.shown(feed, empty) is empty


def test_a_batch_that_goes_out_record_by_record_is_written_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a small window would make each record cost a batch."""
    written: list[int] = []

    def write_out(column: Sequence[bytes | None]) -> Sequence[bytes | None]:
        written.append(len(column))
        return column

    monkeypatch.setattr(records, "as_text", write_out)
    desk = Desk(spelling=Spelling("text", "text"))
    feed, entry = feed_of(WEBSOCKET, TOPICS), desk.entry("abcdefghij")
    for index in range(10):
        desk.encoder.some(feed, entry, [index], index, is_last=index == 9)
    assert written == [1] * 20


def test_no_more_records_are_looked_at_than_are_wanted() -> None:
    """Otherwise a small window and a filter would make each record cost a batch."""
    looked_at: list[object] = []
    wanting = feed_of(SSE_VALUE, TOPICS, A)
    assert wanting.predicate is not None
    predicate = wanting.predicate

    def look_at(view: View) -> bool:
        looked_at.append(view)
        return predicate(view)

    feed = replace(wanting, predicate=look_at)
    batch = Desk().batch("abacada")
    assert wanted_indexes(feed, batch, 1, 2) == [2, 4]
    assert len(looked_at) == 4
    assert wanted_indexes(feed, batch, 0) == [0, 2, 4, 6]


def test_a_compressed_write_is_made_once_for_all_its_subscribers() -> None:
    """The savings are counted; without compression there is nothing to report."""
    compression = Compression(6, 1)
    desk = Desk(compression)
    wire: Wire = compression.websocket
    feed = feed_of(wire, TOPICS)
    items: list[EncodedEntry] = [(entry, desk.encoder.entry(feed, entry)) for entry in (desk.entry("a" * 50),)]
    assert isinstance(items[0][1], Part)
    round_ = desk.encoder.round(feed, items)
    assert desk.encoder.write(feed, items) == round_
    found = desk.encoder.statistics().compression
    assert isinstance(found, CompressionStatistics)
    assert found.input_bytes > found.output_bytes
    assert found.kept_bytes >= len(round_)
    assert Desk().encoder.statistics().compression is None
