"""The history: what stays, what goes, and what a cursor is handed."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import FellBehindError
from dispatcher.sansio.entries import OFFSET_BYTES, Cursor, Entry
from dispatcher.sansio.history import History, HistoryStatistics
from dispatcher.sansio.position import Layout, Snapshot
from dispatcher.sansio.records import Batch, Record, TopicPartition

A, B = TopicPartition("assets", 0), TopicPartition("assets", 1)
OTHER = TopicPartition("other", 0)
ASSETS = frozenset({"assets"})
BOTH = frozenset({"assets", "other"})
SNAPSHOT = Snapshot(Layout([A]), (None,))


def batch(partition: TopicPartition, offset: int) -> Batch:
    """A batch of one record."""
    return Batch(partition, (Record(offset, None, None, b"value", ()),))


ONE_BYTES = batch(A, 0).size_bytes + OFFSET_BYTES


def append(history: History, *partitions: TopicPartition) -> list[Entry]:
    """One batch for each partition named."""
    return [history.append(batch(partition, history.head), SNAPSHOT, 0) for partition in partitions]


def cursor(history: History, topics: frozenset[str]) -> Cursor:
    """The cursor of a new subscriber."""
    return history.cursor(topics, history.ends(topics), history.ends(topics))


def read(history: History, cursor: Cursor) -> list[int]:
    """The sequences that a cursor is handed until the head."""
    seen = []
    while (entry := history.next(cursor)) is not None:
        seen.append(entry.sequence)
    return seen


def test_a_new_cursor_gets_what_nobody_has_taken() -> None:
    """From the first undispatched entry of each partition on, and everything that comes later."""
    history = History(10**6)
    first, second, third, fourth = append(history, A, B, A, B)
    for entry in (first, second, fourth):
        history.dispatched(entry)
    reader = cursor(history, ASSETS)
    assert [third.sequence] == read(history, reader)
    append(history, B, A)
    assert read(history, reader) == [5, 6]
    assert read(history, cursor(history, ASSETS)) == [3, 5, 6]


def test_a_cursor_reads_its_topics_only() -> None:
    """Entries of other topics are passed over."""
    history = History(10**6)
    append(history, OTHER, A, OTHER, A)
    assert read(history, cursor(history, ASSETS)) == [2, 4]
    assert read(history, cursor(history, BOTH)) == [1, 2, 3, 4]


def test_a_place_is_told_of_the_topics_of_a_cursor_only() -> None:
    """By partition the offset behind what it was handed, else where it began."""
    history = History(10**6)
    layout = Layout([A, B])
    reader = cursor(history, ASSETS)
    history.append(batch(OTHER, 5), SNAPSHOT, 0)
    history.append(batch(A, 7), Snapshot(layout, (7, None)), 0)
    history.append(batch(B, 9), Snapshot(layout, (7, 9)), 1)
    assert history.next(reader) is not None
    assert history.place(reader) == {A: 8, B: 9}


def test_dispatched_entries_go_when_room_is_needed() -> None:
    """Those that wait stay; who has not read what went is told so, and is moved nowhere."""
    history = History(3 * ONE_BYTES)
    first, second, *_ = append(history, A, B, A)
    reader = cursor(history, ASSETS)
    assert history.next(reader) is first
    history.dispatched(first)
    history.dispatched(second)
    append(history, A)
    assert history.bytes == 3 * ONE_BYTES, "the one that was dispatched first has gone"
    assert not first.batch.records, "and holds nothing"
    assert read(history, reader) == [2, 3, 4]
    append(history, A)
    late = Cursor(ASSETS, 0, backlog_to=0, starts={})
    with pytest.raises(FellBehindError, match="assets:0"):
        history.next(late)
    assert late.sequence == 0
    assert history.next(Cursor(frozenset({"other"}), 0, backlog_to=0, starts={})) is None


def test_an_entry_does_not_go_before_an_older_one_of_its_partition() -> None:
    """A later batch that was dispatched first stays behind the one that waits."""
    history = History(2 * ONE_BYTES)
    first, second = append(history, A, A)
    history.dispatched(second)
    append(history, B)
    assert read(history, Cursor(ASSETS, 0, backlog_to=0, starts={})) == [1, 2, 3]
    history.dispatched(first)
    assert read(history, Cursor(ASSETS, 1, backlog_to=0, starts={})) == [2, 3]


def test_those_behind_one_that_goes_go_with_it() -> None:
    """Dispatched before it, they had to wait for it."""
    history = History(ONE_BYTES)
    first, second, third = append(history, A, A, A)
    history.dispatched(third)
    history.dispatched(second)
    assert history.bytes == 3 * ONE_BYTES
    history.dispatched(first)
    assert history.bytes == ONE_BYTES


def test_an_entry_counts_the_partitions_whose_offsets_it_keeps() -> None:
    """A thousand of them are more than a small record."""
    history = History(10**6)
    layout = Layout([TopicPartition("assets", number) for number in range(1000)])
    history.append(batch(A, 0), Snapshot(layout, (None,) * 1000), 0)
    assert history.bytes == ONE_BYTES + 999 * OFFSET_BYTES


def test_encoded_bytes_are_made_once_and_counted() -> None:
    """They are part of the history's memory, and of what waits while the entry waits."""
    history = History(10**6)
    (entry,) = append(history, A)
    calls: list[Entry] = []

    def encode(entry: Entry) -> bytes:
        calls.append(entry)
        return bytes(100)

    assert history.encode(entry, "feed", encode) is history.encode(entry, "feed", encode)
    assert [entry] == calls
    assert (history.bytes, history.waiting_bytes) == (ONE_BYTES + 100, ONE_BYTES + 100)
    history.dispatched(entry)
    history.encode(entry, "other feed", encode)
    assert (history.bytes, history.waiting_bytes) == (ONE_BYTES + 200, 0)
    history.retire([A])
    history.encode(entry, "third feed", encode)
    assert HistoryStatistics(0, 0, 0, 0) == history.statistics()


def test_a_retired_partition_is_handed_to_nobody() -> None:
    """Its entries leave, dispatched or not; what is dispatched late changes nothing."""
    history = History(10**6)
    first, second, third = append(history, A, B, A)
    history.dispatched(first)
    history.retire([A])
    history.retire([A])
    assert first.retired
    assert third.retired
    assert not history.dispatched(third)
    assert [second.sequence] == read(history, Cursor(ASSETS, 0, backlog_to=0, starts={}))
    assert history.waiting() == {B: ONE_BYTES}
    assert (history.waiting_records(A), history.waiting_records(B)) == (0, 1)


def test_an_entry_is_dispatched_once() -> None:
    """The second subscriber that takes it is not the first."""
    history = History(10**6)
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
    """Under any order of append, dispatch, read and trim; a hole is an error, never silent; memory is bounded."""
    history = History(entries * ONE_BYTES)
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
        can_go = [e for e in history._dispatched if history._partitions[e.batch.partition].entries[0] is e]
        assert history.bytes <= entries * ONE_BYTES or not can_go
        assert history.statistics().waiting_bytes == len(waiting) * ONE_BYTES
    for partition, sequences in seen.items():
        assert appended[partition][: len(sequences)] == sequences


def test_sequences_of_entries_that_left_are_forgotten() -> None:
    """The index does not grow with the log."""
    history = History(10 * ONE_BYTES)
    append(history, OTHER)
    for _ in range(1000):
        (entry,) = append(history, A)
        history.dispatched(entry)
    assert len(history._sequences) < 100
    assert read(history, cursor(history, BOTH)) == [1]
    assert read(history, Cursor(ASSETS, history.head - 3, backlog_to=0, starts={})) == [999, 1000, 1001]


def test_a_retire_leaves_the_entries_that_stay_to_those_who_read_them() -> None:
    """None is looked at before: 170,000 of them held the loop for 0.2 s. What is handed out names no other."""
    history, layout = History(10**6), Layout([A, B])
    history.append(batch(A, 0), Snapshot(layout, (0, None)), 0)
    entry = history.append(batch(B, 1), Snapshot(layout, (0, 1)), 1)
    history.encode(entry, "feed", lambda entry: str(entry.snapshot.offsets).encode())
    before = entry.snapshot
    reader = cursor(history, ASSETS)
    history.retire([A])
    assert entry.snapshot is before
    assert history.next(reader) is entry
    assert entry.snapshot.offsets == (None, 1)
    assert history.encode(entry, "feed", lambda entry: str(entry.snapshot.offsets).encode()) == b"(None, 1)"
    assert history.bytes == entry.bytes


def test_an_entry_names_no_partition_that_left_and_is_back() -> None:
    """Between the two another replica had it. What is published since it came back names it."""
    history, layout = History(10**6), Layout([A, B])
    history.append(batch(A, 0), Snapshot(layout, (0, None)), 0)
    history.append(batch(B, 1), Snapshot(layout, (0, 1)), 1)
    reader = cursor(history, ASSETS)
    history.retire([A])
    history.append(batch(A, 7), Snapshot(layout, (7, 1)), 0)
    history.append(batch(B, 2), Snapshot(layout, (7, 2)), 1)
    assert [entry.snapshot.offsets for entry in history.ahead(reader)] == [(None, 1), (7, 1), (7, 2)]
    history.retire([TopicPartition("assets", 2)])
    again = history.cursor(ASSETS, {A: 7, B: 1}, ())
    assert [entry.snapshot.offsets for entry in history.ahead(again)] == [(None, 1), (7, 1), (7, 2)]
    assert history.place(again, {A}) == {A: 8}
