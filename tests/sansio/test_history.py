"""The history: what stays, what goes, and what a cursor is handed."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import FellBehindError
from dispatcher.sansio.entries import Cursor, Entry, Part, Selection
from dispatcher.sansio.head import Head
from dispatcher.sansio.history import History, HistoryStatistics
from dispatcher.sansio.layout import CHUNK
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.position import OFFSET_BYTES, parse_position
from dispatcher.sansio.records import Batch, Record, TopicPartition

A, B = TopicPartition("assets", 0), TopicPartition("assets", 1)
OTHER = TopicPartition("other", 0)
ASSETS = frozenset({"assets"})
BOTH = frozenset({"assets", "other"})


def batch(partition: TopicPartition, offset: int) -> Batch:
    """A batch of one record."""
    return Batch(partition, (Record(offset, None, None, b"value", ()),))


ONE_BYTES = batch(A, 0).size_bytes + 4 * OFFSET_BYTES
"""Of an entry of A or B: its snapshot has the offsets of both, in one of two chunks."""


class Log(History):
    """A history with three partitions."""

    def __init__(self, history_bytes: int) -> None:
        super().__init__(history_bytes)
        self.lay_out([A, B, OTHER])


def append(history: History, *partitions: TopicPartition) -> list[Entry]:
    """One batch for each partition named; its offset is the sequence before."""
    return [history.append(batch(partition, history.head)) for partition in partitions]


def cursor(history: History, topics: frozenset[str], **next_offsets: int) -> Cursor:
    """The cursor of a new subscriber, or of one that goes on at these offsets of `a` and `b`."""
    found = Cursor(topics)
    found.next_offsets = history.starts(found) | {{"a": A, "b": B}[name]: n for name, n in next_offsets.items()}
    history.seek(found, history.unfinished(found))
    return found


def read(history: History, cursor: Cursor) -> list[int]:
    """The sequences that a cursor is handed until the head."""
    seen = []
    while (entry := history.next(cursor)) is not None:
        seen.append(entry.sequence)
    return seen


def part(records: bytes) -> Part:
    """Records as a wire joins them."""
    return Part(b"", records, has_ids=True)


MANY = [TopicPartition(topic, number) for topic in ("assets", "other") for number in range(70)]


@given(
    st.lists(st.tuples(st.sampled_from(MANY), st.none() | st.integers(-1, 2**20), st.integers(0, 3)), max_size=30),
    st.sets(st.sampled_from(MANY), max_size=100),
)
def test_the_head_of_many_partitions_is_spelled_as_it_stands(
    moves: list[tuple[TopicPartition, int | None, int]], followed: set[TopicPartition]
) -> None:
    """Its ids are made from those before, whatever moved in between, with snapshots or without, spelled or not."""
    head, stands = Head(), dict.fromkeys(MANY, 7)
    head.lay_out(MANY, followed)
    for partition in MANY:
        head.move(partition, 7)
    for partition, offset, then in moves:
        head.move(partition, offset)
        stands.pop(partition, None)
        if offset is not None:
            stands[partition] = offset
        if then:
            snapshot = head.snapshot()
        if then > 1:
            assert parse_position(snapshot.format()) == stands
            own = None if offset is None else head.layout.indexes[partition]
            spelled = parse_position(snapshot.format(frozenset({partition.topic}), own))
            assert spelled == {one: seen for one, seen in stands.items() if one.topic == partition.topic}
            owned = {one: seen for one, seen in stands.items() if one not in followed}
            assert parse_position(snapshot.owned().format()) == owned


def test_the_head_without_followed_partitions_shares_offsets_too() -> None:
    """A record costs streams of the owned partitions nothing that grows with their number; both heads count."""
    head, partitions = Head(), [TopicPartition("assets", number) for number in range(1000)]
    head.lay_out(partitions, partitions[900:])
    head.move(partitions[0], 5)
    before = head.snapshot()
    head.move(partitions[40], 6)
    after = head.snapshot()
    same = [old is new for old, new in zip(before.owned().chunks, after.owned().chunks, strict=True)]
    assert same == [True, False, *[True] * (len(same) - 2)]
    assert after.owned() is after.owned()
    assert after.size_bytes == OFFSET_BYTES * (CHUNK + len(after.chunks) + CHUNK + len(after.owned().chunks))


def test_a_new_cursor_gets_what_nobody_has_taken() -> None:
    """It begins at the first undispatched entry of each partition, and gets everything later."""
    history = Log(10**6)
    first, second, third, fourth = append(history, A, B, A, B)
    for entry in (first, second, fourth):
        history.dispatched(entry)
    reader = cursor(history, ASSETS)
    assert [third.sequence] == read(history, reader)
    append(history, B, A)
    assert read(history, reader) == [5, 6]
    assert read(history, cursor(history, ASSETS)) == [3, 5, 6]


def test_a_cursor_reads_its_topics_only() -> None:
    """Entries of other topics are skipped."""
    history = Log(10**6)
    append(history, OTHER, A, OTHER, A)
    assert read(history, cursor(history, ASSETS)) == [2, 4]
    assert read(history, cursor(history, BOTH)) == [1, 2, 3, 4]


def test_a_reader_that_was_live_stands_after_what_it_was_handed() -> None:
    """Later partitions begin at their first record, and absent ones keep their offset."""
    history = Log(10**6)
    history.reached(A, 7)
    reader = cursor(history, ASSETS)
    gone = TopicPartition("assets", 9)
    reader.next_offsets[gone] = 5
    history.became_live(reader)
    assert reader.next_offsets == {gone: 5}
    entry = history.append(batch(A, 8))
    history.append(batch(OTHER, 4))
    history.append(batch(A, 9))
    history.append(batch(B, 3))
    history.reached(B, 20)
    history.locate(reader)
    assert reader.next_offsets == {A: 7, B: 3, gone: 5}
    reader.next_offsets = {gone: 5}
    reader.seen = entry
    history.locate(reader)
    history.locate(reader)
    assert reader.next_offsets == {A: 9, B: 3, gone: 5}
    history.remove([A])
    history.lay_out([A, B])
    history.reached(A, 50)
    reader.seen, reader.next_offsets = entry, {}
    history.locate(reader)
    assert reader.next_offsets == {A: 50, B: 3}, "what it knew of the partition before it left is of no use"


def test_those_that_become_live_at_the_same_head_share_it() -> None:
    """Thousands of partitions cost a live reader nothing, and a moved head is taken again."""
    history = Log(10**6)
    history.reached(A, 6)
    history.append(batch(A, 6))
    first, second, third = (cursor(history, ASSETS) for _ in range(3))
    history.became_live(first)
    history.became_live(second)
    assert first.seen is second.seen
    history.reached(A, 8)
    history.became_live(third)
    history.locate(first)
    history.locate(third)
    assert (first.next_offsets[A], third.next_offsets[A]) == (7, 8)


def test_ids_of_entries_name_the_partitions_that_are_here_when_they_are_handed_out() -> None:
    """A later partition is named with the offset before its first."""
    history = Log(10**6)
    (first,) = append(history, A)
    history.encode(first, "feed", lambda _: part(b"old"))
    history.reached(B, 30)
    history.reached(OTHER, 40)
    others = append(history, B, A)
    history.remove([OTHER])
    history.lay_out([A, B])
    reader = cursor(history, ASSETS, a=0, b=0)
    assert history.next(reader) is first
    assert (first.snapshot.layout.partitions, first.snapshot.offsets) == ((A, B), (0, 29))
    assert not first.encoded, "its bytes had another id"
    assert first.size_bytes == ONE_BYTES - OFFSET_BYTES, "its snapshot has one chunk, of two offsets"
    assert history.size_bytes == sum(entry.size_bytes for entry in (first, *others))
    renewed = part(b"new")
    history.encode(first, "feed", lambda _: renewed)
    snapshot = first.snapshot
    reader = cursor(history, ASSETS, a=0, b=0)
    assert history.next(reader) is first
    assert (first.snapshot, first.encoded) == (snapshot, {"feed": renewed}), "once for each change"
    history.lay_out([A, B, OTHER])
    assert [entry.snapshot.offsets for entry in history.ahead(reader)] == [(0, 1, None), (2, 1, None)]


def test_a_cursor_begins_within_an_entry() -> None:
    """Some of the entry's records precede the reader's start."""
    history = Log(10**6)
    entry = history.append(Batch(A, [Record(offset, None, None, b"", ()) for offset in (4, 5, 9)]))
    reader = cursor(history, ASSETS, a=6)
    assert history.next(reader) is entry
    assert (reader.first_offset, reader.next_offsets) == (6, {A: 10})
    assert history.next(cursor(history, ASSETS, a=10)) is None


def test_dispatched_entries_go_when_room_is_needed() -> None:
    """Waiting ones stay; a reader that missed an evicted entry gets an error, and is not moved."""
    history = Log(3 * ONE_BYTES)
    first, second, *_ = append(history, A, B, A)
    reader = cursor(history, ASSETS)
    assert history.next(reader) is first
    history.dispatched(first)
    history.dispatched(second)
    append(history, A)
    assert history.size_bytes == 3 * ONE_BYTES, "the one that was dispatched first has gone"
    assert not first.batch.records, "and holds nothing"
    assert read(history, reader) == [2, 3, 4]
    append(history, A)
    late = cursor(history, ASSETS, a=0)
    late.sequence = 0
    assert history.behind(late, history.unfinished(late)) == [A]
    with pytest.raises(FellBehindError, match="assets:0"):
        history.next(late)
    assert late.sequence == 0
    assert history.next(Cursor(frozenset({"other"}))) is None


def test_what_waits_gives_way_if_nothing_else_can_go() -> None:
    """It stays in memory and waits; readers are sent it from Kafka, with the dispatched ones that follow it."""
    history = Log(2 * ONE_BYTES + 3 * OFFSET_BYTES)  # room for what entries handed out later do not share
    first, second = append(history, A, A)
    history.dispatched(second)
    assert read(history, cursor(history, ASSETS)) == [1, 2]
    reader = cursor(history, ASSETS)
    assert not history.waits_before(A)
    (other,) = append(history, B)
    reader.next_offsets[B] = 2
    with pytest.raises(FellBehindError, match="assets:0"):
        history.next(reader)
    assert read(history, cursor(history, ASSETS, a=2, b=0)) == [other.sequence]
    assert (history.start(A), history.begin(A), history.waits_before(A)) == (0, 2, True)
    assert (first.batch.records[0].offset, len(second.batch.records)) == (0, 0)
    assert history.waiting_between(A, 0, 9) == list(history.waiting_of(A)) == [first]
    assert history.size_bytes == first.size_bytes + other.size_bytes
    assert history.waiting() == {A: first.size_bytes, B: other.size_bytes}
    assert history.dispatched(first)
    assert (history.size_bytes, history.waits_before(A), history.start(A)) == (other.size_bytes, False, 2)
    assert not first.batch.records


def test_entries_after_an_evicted_one_can_be_evicted() -> None:
    """They were dispatched earlier, and had to wait for it."""
    history = Log(3 * ONE_BYTES)
    first, second, third = append(history, A, A, A)
    history.dispatched(third)
    history.dispatched(second)
    history.dispatched(first)
    assert history.size_bytes == 3 * ONE_BYTES
    history.history_bytes = ONE_BYTES
    history.trim()
    assert history.size_bytes == third.size_bytes


def test_only_as_many_give_way_as_is_needed() -> None:
    """What waits after the last dispatched entry stays for its readers, however little room there is."""
    history = Log(4 * ONE_BYTES)
    entries = append(history, A, A, A, A)
    history.dispatched(entries[1])
    history.history_bytes = 0
    history.trim()
    assert [entry.waiting for entry in entries] == [True, False, True, True]
    assert (history.begin(A), history.size_bytes) == (2, 3 * ONE_BYTES)
    assert read(history, cursor(history, ASSETS, a=2)) == [3, 4]


def test_what_was_detached_is_found_by_its_offset() -> None:
    """With what waits in memory, in order."""
    history = Log(10**6)
    entries = append(history, *[A] * 7)
    for entry in (entries[1], entries[4]):
        history.dispatched(entry)
    history.history_bytes = 0
    history.trim()
    assert history.begin(A) == 5
    assert history.waiting_between(A, 0, 7) == [entries[n] for n in (0, 2, 3, 5, 6)]
    assert history.waiting_between(A, 1, 3) == [entries[2]]
    assert history.waiting_between(A, 3, 6) == [entries[3], entries[5]]
    history.dispatched(entries[2])
    assert history.waiting_between(A, 0, 5) == [entries[0], entries[3]]


def test_what_was_detached_leaves_with_its_partition() -> None:
    """And an owner that has become a follower needs it no longer."""
    for leave in (History.remove, History.disown):
        history = Log(ONE_BYTES)
        first, second, third = append(history, A, A, B)
        history.dispatched(second)
        leave(history, [A])
        assert first.removed is (leave is History.remove)
        assert not first.batch.records
        assert (history.size_bytes, history.waiting_bytes) == (third.size_bytes, third.size_bytes)
        assert history.is_counted


def test_a_detached_entry_that_grows_is_counted() -> None:
    """It may be encoded for a subscriber that was offered it before."""
    history = Log(ONE_BYTES)
    first, second = append(history, A, A)
    history.dispatched(second)
    history.encode(first, "feed", lambda _: part(bytes(100)))
    assert history.waits_before(A)
    assert (history.size_bytes, history.waiting_bytes) == (ONE_BYTES + 100, ONE_BYTES + 100)
    history.dispatched(first)
    assert (history.size_bytes, history.waiting_bytes) == (0, 0)


def test_an_entry_counts_the_offsets_that_it_alone_keeps() -> None:
    """Of a thousand partitions, it shares all but one chunk with the entry before; each chunk that moved counts."""
    history = History(10**6)
    partitions = [TopicPartition("assets", number) for number in range(1000)]
    history.lay_out(partitions)
    first = history.append(batch(A, 0))
    assert history.size_bytes == batch(A, 0).size_bytes + OFFSET_BYTES * (CHUNK + len(history.layout.chunks))
    for partition in partitions[CHUNK:]:
        history.reached(partition, 5)
    second = history.append(batch(A, 1))
    assert second.size_bytes == batch(A, 1).size_bytes + OFFSET_BYTES * (1000 + len(history.layout.chunks))
    third = history.append(batch(A, 2))
    assert third.size_bytes == first.size_bytes
    assert all(
        before is after for before, after in zip(second.snapshot.chunks[1:], third.snapshot.chunks[1:], strict=True)
    )


def test_entries_of_earlier_partitions_share_offsets_too() -> None:
    """Handed out after a partition was added, they do not take the memory of a thousand offsets each."""
    history = History(10**6)
    partitions = [TopicPartition("assets", number) for number in range(1000)]
    history.lay_out(partitions)
    for partition in partitions:
        history.reached(partition, 5)
    entries = [history.append(batch(A, offset)) for offset in range(5, 9)]
    history.lay_out([*partitions, OTHER])
    history.reached(OTHER, 0)
    reader = cursor(history, ASSETS, a=5)
    reader.next_offsets = dict.fromkeys(partitions, 5)
    assert list(history.ahead(reader)) == entries
    chunks = len(history.layout.chunks)
    kept = [(entry.size_bytes - entry.batch.size_bytes) / OFFSET_BYTES - chunks for entry in entries]
    assert kept == [1001, CHUNK, CHUNK, CHUNK]
    assert history.size_bytes == sum(entry.size_bytes for entry in entries)


def test_encoded_bytes_are_made_once_and_counted() -> None:
    """They count as memory of the history, and of the waiting entries while the entry waits."""
    history = Log(10**6)
    (entry,) = append(history, A)
    calls: list[Entry] = []

    def encode(entry: Entry) -> Part:
        calls.append(entry)
        return part(bytes(100))

    assert history.encode(entry, "feed", encode) is history.encode(entry, "feed", encode)
    assert [entry] == calls
    assert (history.size_bytes, history.waiting_bytes) == (ONE_BYTES + 100, ONE_BYTES + 100)
    history.dispatched(entry)
    history.encode(entry, "other feed", encode)
    assert (history.size_bytes, history.waiting_bytes) == (ONE_BYTES + 200, 0)
    history.remove([A])
    history.encode(entry, "third feed", encode)
    assert HistoryStatistics(0, 0, 0, 0) == history.statistics()


def test_a_removed_partition_is_handed_to_nobody() -> None:
    """Its entries leave, dispatched or not, and late dispatches change nothing."""
    history = Log(10**6)
    first, second, third = append(history, A, B, A)
    history.dispatched(first)
    history.remove([A])
    history.remove([A])
    assert first.removed
    assert third.removed
    assert not history.dispatched(third)
    assert [second.sequence] == read(history, cursor(history, ASSETS, b=0))
    assert history.waiting() == {B: second.size_bytes}
    assert (history.waiting_records(A), history.waiting_records(B)) == (0, 1)


def test_an_entry_is_dispatched_once() -> None:
    """The second subscriber that takes it is not the first."""
    history = Log(10**6)
    (entry,) = append(history, A)
    assert history.dispatched(entry)
    assert not history.dispatched(entry)
    assert history.waiting_bytes == 0


@given(
    st.lists(st.tuples(st.sampled_from([A, B, OTHER]), st.integers(0, 3)), max_size=300),
    st.integers(1, 40),
)
def test_what_is_handed_out_is_a_run_without_hole_or_repeat(
    steps: Sequence[tuple[TopicPartition, int]], entries: int
) -> None:
    """In any order of append, dispatch, read and trim, holes raise, and memory is bounded."""
    history = Log(entries * ONE_BYTES)
    for partition in (A, B, OTHER):
        history.reached(partition, 0)
    appended: dict[TopicPartition, list[int]] = {A: [], B: [], OTHER: []}
    waiting: list[Entry] = []
    reader = cursor(history, BOTH)
    seen: dict[TopicPartition, list[int]] = {A: [], B: [], OTHER: []}
    for partition, what in steps:
        if what < 2:
            (entry,) = append(history, partition)
            appended[partition].append(entry.sequence)
            waiting.append(entry)
        elif what == 2 and waiting:
            history.dispatched(waiting.pop(len(waiting) // 2))
        else:
            try:
                found = history.next(reader)
            except FellBehindError:
                return
            if found is not None:
                seen[found.batch.partition].append(found.sequence)
        can_go = history._eviction._evictable or any(found.pinned for found in history._partitions.values())
        assert history.size_bytes <= entries * ONE_BYTES or not can_go
        assert history.statistics().waiting_bytes == sum(entry.size_bytes for entry in waiting)
        assert history.is_counted
    for partition, sequences in seen.items():
        assert appended[partition][: len(sequences)] == sequences


def test_sequences_of_entries_that_left_are_forgotten() -> None:
    """The index does not grow with the log."""
    history = Log(10 * ONE_BYTES)
    append(history, OTHER)
    for _ in range(1000):
        (entry,) = append(history, A)
        history.dispatched(entry)
    assert len(history._sequences) < 100
    assert read(history, cursor(history, BOTH)) == [1]
    assert read(history, cursor(history, ASSETS, a=history.head - 3)) == [999, 1000, 1001]


def test_the_head_is_the_newest_offset_of_each_partition() -> None:
    """Offsets without a record move it, too, and a reader before them has nothing to get."""
    history = Log(10**6)
    append(history, A)
    history.reached(A, 5)
    reader = cursor(history, ASSETS, a=1)
    assert reader.sequence == history.head
    assert history.layout.partitions == (A, B, OTHER)
    assert history.snapshot().offsets == (4, None, None)


def followed(history: History, partition: TopicPartition, offset: int) -> None:
    """Follow a partition from an offset on."""
    history.lay_out([A, B, OTHER], {partition})
    history.follow(partition, offset)


def whole(topics: frozenset[str], **next_offsets: int) -> Cursor:
    """The cursor of a reader of the whole topic."""
    found = Cursor(topics, whole=True)
    found.next_offsets = {{"a": A, "b": B}[name]: offset for name, offset in next_offsets.items()}
    return found


def test_followed_entries_wait_for_nothing_and_go_first() -> None:
    """They need not be dispatched, whatever else waits."""
    history = Log(10**6)
    followed(history, B, 0)
    (owned,) = append(history, A)
    (other,) = append(history, B)
    assert history.waiting_bytes == owned.size_bytes
    assert (other.waiting, history.is_followed(B), history.is_followed(A)) == (False, True, False)
    history.history_bytes = owned.size_bytes
    history.trim()
    assert [entry.sequence for entry in history.ahead(whole(ASSETS, a=0, b=2))] == [owned.sequence]
    assert history.begin(B) == other.batch.next_offset


def test_a_followed_entry_is_there_to_be_offered_however_much_waits() -> None:
    """It is evicted with the next entry, not in the step that appends it."""
    history = Log(1)
    followed(history, B, 0)
    append(history, A)
    (first,) = append(history, B)
    assert len(first.batch.records) == 1
    (second,) = append(history, B)
    assert (len(first.batch.records), len(second.batch.records)) == (0, 1)


def test_followed_partitions_are_for_readers_of_the_whole_topic_alone() -> None:
    """This holds for entries, positions, and everything that is known."""
    history = Log(10**6)
    followed(history, B, 0)
    first, second = append(history, A, B)
    assert read(history, cursor(history, ASSETS)) == [first.sequence]
    assert read(history, whole(ASSETS, a=0, b=0)) == [first.sequence, second.sequence]
    assert (history.knows(B), history.knows(B, whole=False)) == (True, False)
    assert set(history.ends(Cursor(ASSETS))) == {A}
    assert set(history.ends(Cursor(ASSETS, whole=True))) == {A, B}
    assert B not in second.snapshot.owned().layout.indexes
    assert second.snapshot.owned().offsets == (second.snapshot.offsets[0], None)


def test_a_partition_that_is_owned_no_more_goes_on_in_place() -> None:
    """Its entries stay without waiting; a write that ends later still counts as the first."""
    history = Log(10**6)
    first, second = append(history, A, A)
    history.dispatched(first)
    history.disown([A])
    history.lay_out([A, B, OTHER], {A})
    assert (history.waiting_bytes, history.waiting_records(A)) == (0, 0)
    assert read(history, whole(ASSETS, a=0)) == [first.sequence, second.sequence]
    assert history.dispatched(second)
    assert not history.dispatched(second)


def test_what_counts_at_a_hand_over_is_dispatched_and_the_rest_waits() -> None:
    """The rest waits in the new epoch, from the committed offset on."""
    history = Log(10**6)
    followed(history, A, 0)
    before, counted, open_, later = append(history, A, A, A, A)
    assert history.own(A, 7, HandOver(1, [(1, 2), (3, 4)]))
    assert [entry.batch.epoch for entry in (before, counted, open_, later)] == [0, 7, 7, 7]
    assert [entry.waiting for entry in (before, counted, open_, later)] == [False, False, True, False]
    assert history.start(A) == 2
    assert history.waiting_bytes == open_.size_bytes
    assert history.dispatched(open_)
    assert history.waiting_bytes == 0


def test_a_hand_over_may_begin_before_an_earlier_one() -> None:
    """An old commit that Kafka stores late moves the group back: what lies between waits, too."""
    history = Log(10**6)
    followed(history, A, 0)
    before, split, after = (
        history.append(Batch(A, [Record(first + n, None, None, b"v", ()) for n in range(10)])) for first in (0, 10, 20)
    )
    assert history.own(A, 7, HandOver(15, [(15, 30)]))
    history.disown([A])
    assert history.own(A, 8, HandOver(12, [(15, 30)]))
    assert [entry.waiting for entry in (before, split, after)] == [False, True, False]
    assert (split.batch.covers_from, split.pending) == (12, {2, 3, 4})


@pytest.mark.parametrize("counted", [[], [(1, 9)]])
def test_a_hand_over_outside_of_what_is_in_memory(counted: list[tuple[int, int]]) -> None:
    """Before the first entry or after the last one, nothing changes and the partition begins again."""
    history = Log(10**6)
    followed(history, A, 2)
    assert not history.own(A, 7, HandOver(1, counted))
    assert history.is_followed(A)


def test_a_topic_is_complete_when_all_of_its_partitions_are_here() -> None:
    """All means as many as the topic is known to have."""
    history = Log(10**6)
    assert not history.is_complete(ASSETS)
    history.expect({"assets": 2})
    append(history, A)
    assert not history.is_complete(ASSETS)
    followed(history, B, 5)
    assert history.is_complete(ASSETS)
    history.remove([B])
    assert not history.is_complete(ASSETS)
    assert history.expected == {"assets": 2}


def test_readers_may_stand_after_what_was_read() -> None:
    """They wait for it."""
    history = Log(10**6)
    followed(history, A, 0)
    append(history, A)
    assert not history.is_beyond(whole(ASSETS, a=1), [A])
    assert history.is_beyond(whole(ASSETS, a=2), [A])


def test_a_selection_leaves_with_its_entry() -> None:
    """A subscriber's channel may still hold it, but it is not sent."""
    history = Log(10**6)
    (entry,) = append(history, A)
    selection = Selection(entry, [0])
    assert not selection.removed
    history.remove([A])
    assert selection.removed


def test_what_waits_between_two_offsets_is_found() -> None:
    """Undispatched entries that overlap the range are found."""
    history = Log(10**6)
    entries = append(history, A, A, A, A)
    history.dispatched(entries[1])
    assert history.waiting_between(A, 1, 3) == [entries[2]]
    assert history.waiting_between(B, 0, 9) == []
    assert history.waiting_between(TopicPartition("assets", 7), 0, 9) == []


def test_entries_that_follow_one_in_its_partition_are_found() -> None:
    """The entry itself is included, and the number is bounded."""
    history = Log(10**6)
    first, _, second, third = append(history, A, B, A, A)
    assert history.from_entry(first, 2) == [first, second]
    assert history.from_entry(second, 9) == [second, third]
