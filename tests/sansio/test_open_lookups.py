"""What a reader has yet to look up, and which answers count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.entries import Cursor
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import LogBounds, Lookup, OffsetsForTime, ReadRanges
from dispatcher.sansio.open_lookups import OpenLookups
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.ranges import NOW, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.sansio.starts import Starts

A, B = TopicPartition("assets", 0), TopicPartition("assets", 1)
TOPICS = frozenset({"assets"})


def reader(*, counts: bool = True, **next_offsets: int) -> tuple[OpenLookups, Cursor, Starts]:
    """One of partitions `a` and `b`, each with an undispatched record at offset 5, that continues at these offsets."""
    history = History(10**6)
    history.lay_out([A, B])
    for partition in (A, B):
        history.append(Batch(partition, (Record(5, None, None, b"value", ()),)))
    cursor = Cursor(TOPICS)
    cursor.next_offsets = {{"a": A, "b": B}[name]: offset for name, offset in next_offsets.items()}
    return OpenLookups(history, cursor, counts=counts), cursor, Starts(history, TOPICS, NOW)


def asked(lookups: OpenLookups, starts: Starts) -> Lookup:
    """The next lookup."""
    lookup = lookups.ask(starts)
    assert lookup is not None
    return lookup


def test_starts_are_looked_up_before_bounds_and_bounds_before_records() -> None:
    """One look-up is open at a time, an answer ends it, and finally none is left."""
    lookups, _, starts = reader(a=2, b=2)
    assert not lookups.is_any
    lookups.find_missing([A, B])
    lookups.missing.discard(B)
    lookups.unresolved.add(B)
    lookups.unverified[B] = 9
    first = asked(lookups, starts)
    assert isinstance(first, OffsetsForTime)
    assert lookups.ask(starts) is None
    assert lookups.accept(first, {B: 5})
    lookups.unresolved.clear()
    second = asked(lookups, starts)
    assert isinstance(second, LogBounds)
    assert lookups.accept(second, {B: 5})
    lookups.unverified.clear()
    third = asked(lookups, starts)
    assert isinstance(third, ReadRanges)
    assert third.ranges == {A: Range(2, 5)}
    assert lookups.accept(third, {A: 5})
    lookups.missing.clear()
    assert lookups.ask(starts) is None
    assert not lookups.is_any


def test_an_answer_to_an_earlier_lookup_does_not_count() -> None:
    """Its partitions may have left or been recreated since."""
    lookups, _, starts = reader(a=2)
    lookups.missing.add(A)
    lookup = asked(lookups, starts)
    lookups.drop([A])
    assert lookups.lookup is None
    assert not lookups.accept(lookup, {A: 5})
    assert not lookups.is_any


def test_a_lookup_of_other_partitions_stays_when_one_leaves() -> None:
    """Only a look-up that includes the partition is repeated."""
    lookups, _, starts = reader(a=2)
    lookups.missing.add(A)
    lookup = asked(lookups, starts)
    lookups.drop([B])
    assert lookups.lookup is lookup
    lookups.lookup = None
    lookups.drop([A])
    assert lookups.lookup is None


def test_partitions_without_an_answer_are_put_off() -> None:
    """They are asked about again when allowed, and the others meanwhile."""
    lookups, _, starts = reader(a=2, b=2)
    lookups.find_missing([A, B])
    assert lookups.accept(asked(lookups, starts), {A: 5})
    assert lookups.put_off == {B}
    lookups.missing.discard(A)
    assert lookups.ask(starts) is None
    assert lookups.is_any
    lookups.put_off.clear()
    assert asked(lookups, starts).partitions == {B}


def test_a_reader_of_the_whole_topic_reads_nothing_before_all_its_partitions_are_here() -> None:
    """Its first id names all of them."""
    lookups, cursor, _ = reader(a=2)
    history = History(10**6)
    starts = Starts(history, cursor.topics, None, whole=True)
    lookups.missing.add(A)
    assert lookups.ask(starts) is None
    history.expect({"assets": 0})
    assert starts.have_all()
    assert isinstance(lookups.ask(starts), ReadRanges)


@pytest.mark.parametrize(
    ("counts", "next_offset", "continues_at", "unverified", "missing", "repeats"),
    [
        (True, 9, 9, True, False, []),
        (True, 6, 5, False, False, [(A, Range(5, 6))]),
        (False, 6, 6, False, False, []),
        (True, 2, 2, False, True, []),
    ],
)
def test_a_reader_continues_no_later_than_what_is_undispatched(
    *,
    counts: bool,
    next_offset: int,
    continues_at: int,
    unverified: bool,
    missing: bool,
    repeats: list[tuple[TopicPartition, Range]],
) -> None:
    """Observers continue where they were; offsets past the end are verified, earlier ones replayed."""
    lookups, cursor, _ = reader(counts=counts, a=next_offset)
    lookups.begin(A)
    assert cursor.next_offsets[A] == continues_at
    assert (A in lookups.unverified, A in lookups.missing) == (unverified, missing)
    assert list(lookups.repeats.take()) == repeats


def test_an_id_that_leads_to_where_a_new_reader_begins_changes_nothing() -> None:
    """The next offset of another partition is later than what is undispatched, so the reader goes back."""
    lookups, cursor, _ = reader(a=5, b=5)
    assert set(lookups.begin_all({A: 4, B: 5})) == {A, B}
    assert (cursor.next_offsets, lookups.is_any) == ({A: 5, B: 5}, False)
    assert list(lookups.repeats.take()) == [(B, Range(5, 6))]


def test_only_what_a_position_names_is_repeated() -> None:
    """A reader that asked for a time has seen nothing before it; and what leaves is not announced."""
    lookups, _, _ = reader(a=6, b=6)
    lookups.lower(A, was_seen=False)
    lookups.lower(B, was_seen=True)
    lookups.drop([B])
    assert list(lookups.repeats.take()) == []


def test_a_reader_is_taken_back_and_never_forward() -> None:
    """At a hand-over: what it skips it would never be sent."""
    lookups, cursor, _ = reader(a=9, b=3)
    lookups.repeat_from(A, 5)
    lookups.repeat_from(B, 5)
    assert cursor.next_offsets == {A: 5, B: 3}
    assert lookups.repeats.take() == [(A, Range(5, 9))]


NUMBERS = range(4)
EVENTS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(NUMBERS), st.booleans()), max_size=40)
POSITIONS = st.dictionaries(st.integers(0, 5), st.integers(-1, 12), max_size=6)


def lived(events: list[tuple[int, int, bool]]) -> History:
    """A history of two topics, in which records were read, dispatched and evicted, and partitions changed owner."""
    history = History(900)
    partitions = [TopicPartition(("assets", "other")[number % 2], number) for number in NUMBERS]
    for what, number, is_owned in events:
        tp = partitions[number]
        if what <= 2:
            if not history.knows(tp):
                history.lay_out([one for one in partitions if one == tp or history.knows(one)], history.followed)
            offset = history.end(tp) + (what == 2) if history.knows(tp) else 2
            history.append(Batch(tp, (Record(offset, None, None, b"value", ()),)))
        elif what == 3:
            for entry in list(history.waiting_of(tp))[:1]:
                history.dispatched(entry)
        elif history.knows(tp) and history.is_followed(tp) and is_owned:
            history.own(tp, 1, HandOver(history.begin(tp), []))
        elif history.knows(tp) and not history.is_followed(tp):
            history.disown([tp])
    return history


def beginning(history: History, *, counts: bool, whole: bool) -> tuple[OpenLookups, Cursor]:
    """A reader that begins as a new one does."""
    cursor = Cursor(TOPICS, whole=whole)
    cursor.next_offsets = history.starts(cursor)
    assert cursor.next_offsets == {tp: history.start(tp) for tp in cursor.next_offsets}
    return OpenLookups(history, cursor, counts=counts), cursor


@given(EVENTS, POSITIONS, st.booleans(), st.booleans())
def test_an_id_is_followed_as_if_each_partition_was_looked_at(
    events: list[tuple[int, int, bool]],
    offsets: dict[int, int],
    counts: bool,
    whole: bool,
) -> None:
    """Those where a new reader begins at the same offset need no look, whatever waits, was evicted, or is followed."""
    history = lived(events)
    position = {TopicPartition("assets", number): offset for number, offset in offsets.items()}
    lookups, cursor = beginning(history, counts=counts, whole=whole)
    unfinished = lookups.begin_all(position)
    lookups.find_missing(unfinished)
    history.seek(cursor, unfinished)

    each, expected = beginning(history, counts=counts, whole=whole)
    here = list(expected.next_offsets)
    for tp, offset in position.items():
        expected.next_offsets[tp] = offset + 1
        if tp in here:
            each.begin(tp)
    each.find_missing(here)
    history.seek(expected, here)

    assert cursor.next_offsets == expected.next_offsets
    assert (lookups.missing, lookups.unverified) == (each.missing, each.unverified)
    assert lookups.repeats.take() == each.repeats.take()
    assert cursor.sequence == expected.sequence
    assert set(unfinished) >= set(history.unfinished(cursor))


@given(EVENTS, POSITIONS, st.booleans(), st.booleans())
def test_times_lead_to_offsets_as_if_each_partition_was_looked_at(
    events: list[tuple[int, int, bool]],
    offsets: dict[int, int],
    counts: bool,
    whole: bool,
) -> None:
    """Only partitions whose undispatched records precede the time begin earlier."""
    history = lived(events)
    lookups, cursor = beginning(history, counts=counts, whole=whole)
    found = {tp: offset for n, offset in offsets.items() if (tp := TopicPartition("assets", n)) in cursor.next_offsets}
    lookups.lower_all(found)
    each, expected = beginning(history, counts=counts, whole=whole)
    for tp, offset in found.items():
        expected.next_offsets[tp] = offset
        each.lower(tp, was_seen=False)
    assert cursor.next_offsets == expected.next_offsets
    assert lookups.repeats.take() == each.repeats.take() == ()
