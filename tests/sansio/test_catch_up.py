"""Catching up: what has to be looked up, and from where each partition goes on."""

from typing import cast

import pytest

from dispatcher.sansio.catch_up import CatchUp
from dispatcher.sansio.entries import Entry
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import LogBounds, Lookup, OffsetsForTime, ReadRanges
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.ranges import NOW, Bounds, Chunk, Gap, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition

A, B = TopicPartition("assets", 0), TopicPartition("assets", 1)
TOPICS = frozenset({"assets"})


def batch(partition: TopicPartition, offset: int) -> Batch:
    """A batch of one record."""
    return Batch(partition, (Record(offset, None, None, b"value", ()),))


def append(history: History, partition: TopicPartition, *offsets: int, dispatch: bool = True) -> list[Entry]:
    """Batches of one record each."""
    entries = [history.append(batch(partition, offset)) for offset in offsets]
    for entry in entries if dispatch else ():
        history.dispatched(entry)
    return entries


def laid_out(history_bytes: int = 10**6) -> History:
    """A history of two partitions of which nothing is known."""
    history = History(history_bytes)
    history.lay_out([A, B])
    return history


def history_of(**offsets: int) -> History:
    """A history whose partitions `a` and `b` begin at these offsets, with one record each."""
    history = laid_out()
    for name, offset in offsets.items():
        append(history, {"a": A, "b": B}[name], offset)
    return history


def leave(history: History, catch_up: CatchUp, *partitions: TopicPartition) -> None:
    """Partitions leave the replica."""
    catch_up.partitions_removing(partitions)
    history.remove(partitions)
    catch_up.partitions_removed()


def read_lookup(catch_up: CatchUp) -> ReadRanges:
    """The next lookup, which is what to read."""
    lookup = catch_up.ask()
    assert isinstance(lookup, ReadRanges)
    return lookup


def time_lookup(catch_up: CatchUp) -> OffsetsForTime:
    """The next lookup, which is about a time."""
    lookup = catch_up.ask()
    assert isinstance(lookup, OffsetsForTime)
    return lookup


def bounds_lookup(catch_up: CatchUp) -> LogBounds:
    """The next lookup, which is about bounds."""
    lookup = catch_up.ask()
    assert isinstance(lookup, LogBounds)
    return lookup


def sequences(history: History, catch_up: CatchUp) -> list[int]:
    """The sequences that the history hands out from where it goes on."""
    assert not catch_up.pending
    return [entry.sequence for entry in history.ahead(catch_up.cursor)]


def test_a_new_reader_begins_with_what_is_new() -> None:
    """Nothing has to be looked up, and its position is known before its first record."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {}, None)
    assert (catch_up.pending, catch_up.ask()) == (False, None)
    assert catch_up.position(here=True) == {A: 5}
    append(history, A, 6)
    assert (catch_up.next_offset(A), catch_up.missing_records()) == (6, 1)
    assert sequences(history, catch_up) == [2]


def test_what_is_missing_is_asked_for_until_it_is_there() -> None:
    """It arrives in parts, and ids on the way name every partition."""
    history = history_of(a=5, b=9)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    lookup = read_lookup(catch_up)
    assert lookup.ranges == {A: Range(2, 5)}
    assert catch_up.ask() is None, "one at a time"
    found = batch(A, 2)
    chunk = Chunk([found], {A: 3}, [Gap(A, 2, 2, "expired")])
    assert catch_up.on_chunk(lookup, chunk) == ([Gap(A, 2, 2, "expired")], [(found, {A: 2, B: 9})])
    lookup = read_lookup(catch_up)
    assert lookup.ranges == {A: Range(3, 5)}
    assert catch_up.on_chunk(lookup, Chunk((), {}, ())) == ([], [])
    assert catch_up.on_chunk(lookup, Chunk((), {}, ())) is None, "it is no longer the one under way"
    catch_up.ask_again({A})
    lookup = read_lookup(catch_up)
    catch_up.on_chunk(lookup, Chunk([batch(A, 4)], {A: 5}, ()))
    assert catch_up.ask() is None
    assert sequences(history, catch_up) == [1], "and of the other partition what is new"


def test_ids_name_nothing_of_what_waits() -> None:
    """A client that is cut during a replay returns for waiting records, even if others took them."""
    history = history_of(a=5, b=9)
    waiting = append(history, B, 10, 11, dispatch=False)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    lookup = read_lookup(catch_up)
    for entry in waiting:
        history.dispatched(entry)
    found = catch_up.on_chunk(lookup, Chunk([batch(A, 4)], {A: 5}, ()))
    assert found is not None
    assert [seen for _, seen in found[1]] == [{A: 4, B: 9}]
    assert sequences(history, catch_up) == [1, 3, 4], "and it gets it, as it would have at once"


def test_what_leaves_the_memory_while_something_is_looked_up_is_asked_for() -> None:
    """The reader's start was fixed when it arrived."""
    history = laid_out(1)
    append(history, A, 5)
    (waiting,) = append(history, B, 9, dispatch=False)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    lookup = read_lookup(catch_up)
    history.dispatched(waiting)
    catch_up.on_chunk(lookup, Chunk([], {A: 6}, ()))
    lookup = read_lookup(catch_up)
    assert lookup.ranges == {B: Range(9, 10)}
    catch_up.on_chunk(lookup, Chunk([batch(B, 9)], {B: 10}, ()))
    assert sequences(history, catch_up) == []


def test_an_answer_that_is_about_another_log_is_ignored() -> None:
    """The topic was recreated while it was read."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    lookup = read_lookup(catch_up)
    catch_up.partitions_removing([A])
    history.remove([A])
    catch_up.partition_recreated(A)
    append(history, A, 0, dispatch=False)
    catch_up.partition_added(A, None)
    assert catch_up.on_chunk(lookup, Chunk([batch(A, 2)], {A: 5}, [Gap(A, 3, 3, "expired")])) is None
    assert sequences(history, catch_up) == [2]


def test_answers_are_ignored_when_their_partition_has_left_and_is_back() -> None:
    """The log may be another one by then, with another end."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {A: 7}, None)
    stale = bounds_lookup(catch_up)
    leave(history, catch_up, A)
    assert not catch_up.pending
    append(history, A, 6)
    catch_up.partition_added(A, None)
    lookup = bounds_lookup(catch_up)
    assert catch_up.on_log_bounds(stale, {A: Bounds(0, 100)}) is None
    assert catch_up.next_offset(A) == 8, "still unverified"
    assert catch_up.on_log_bounds(lookup, {A: Bounds(0, 7)}) == [Gap(A, 8, -1, "recreated")]

    catch_up = CatchUp(history, TOPICS, {}, 1000)
    late = time_lookup(catch_up)
    leave(history, catch_up, A)
    append(history, A, 9)
    catch_up.partition_added(A, None)
    assert not catch_up.on_offsets_for_time(late, {A: 2})
    assert catch_up.on_offsets_for_time(time_lookup(catch_up), {A: 4})
    assert read_lookup(catch_up).ranges == {A: Range(4, 9)}


def test_a_question_about_others_goes_on_when_a_partition_leaves() -> None:
    """It need not be asked again."""
    history = history_of(a=5, b=9)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    lookup = read_lookup(catch_up)
    leave(history, catch_up, B, TopicPartition("assets", 7))
    found = batch(A, 4)
    assert catch_up.on_chunk(lookup, Chunk([found], {A: 5}, ())) == ([], [(found, {A: 4})])
    assert sequences(history, catch_up) == [1]


def test_a_time_is_looked_up_for_what_no_id_names_and_once() -> None:
    """A partition without later records begins with new ones; until the answer, ids leave it out."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {B: 3}, 1000)
    lookup = time_lookup(catch_up)
    assert (lookup.partitions, lookup.since_ms) == ({A}, 1000)
    assert catch_up.position(here=False) == {B: 3}
    assert catch_up.position(here=True) == {}
    assert catch_up.next_offset(A) is None
    assert catch_up.concerns(B, None)
    append(history, B, 9)
    catch_up.partition_added(B, None)
    assert catch_up.on_offsets_for_time(lookup, {A: 2})
    assert read_lookup(catch_up).ranges == {A: Range(2, 5), B: Range(4, 9)}
    catch_up = CatchUp(history, TOPICS, {}, 1000)
    catch_up.on_offsets_for_time(time_lookup(catch_up), {A: None, B: None})
    assert (catch_up.ask(), sequences(history, catch_up)) == (None, [])
    history.became_live(catch_up.cursor)
    assert not catch_up.concerns(A, None)


def test_a_time_passes_over_nothing_that_waits() -> None:
    """Waiting records, and those newer than memory, are not skipped."""
    history = history_of(a=5)
    append(history, A, 6, dispatch=False)
    for offset in (7, 100):
        catch_up = CatchUp(history, TOPICS, {}, 1000)
        catch_up.on_offsets_for_time(time_lookup(catch_up), {A: offset})
        assert sequences(history, catch_up) == [2]


def test_a_partition_that_was_named_never_begins_at_the_time() -> None:
    """Not when it leaves and returns during a read, and not when it arrives late or again."""
    history = history_of(a=5, b=5)
    catch_up = CatchUp(history, TOPICS, {A: 1, B: 1}, 1000)
    assert read_lookup(catch_up).ranges == {A: Range(2, 5), B: Range(2, 5)}
    leave(history, catch_up, A)
    append(history, A, 5)
    catch_up.partition_added(A, None)
    lookup = read_lookup(catch_up)
    assert lookup.ranges == {A: Range(2, 5), B: Range(2, 5)}
    found = batch(A, 2)
    assert catch_up.on_chunk(lookup, Chunk([found], {A: 3, B: 2}, ())) == ([], [(found, {A: 2, B: 1})])
    history = history_of(b=5)
    catch_up = CatchUp(history, TOPICS, {A: 5, B: 4}, 1000)
    append(history, A, 5, dispatch=False)
    assert catch_up.concerns(A, None)
    catch_up.partition_added(A, None)
    assert sequences(history, catch_up) == [1, 2]
    history.became_live(catch_up.cursor)
    history.remove([A])
    append(history, A, 6)
    assert not catch_up.concerns(A, None)


def test_an_offset_past_the_memory_is_unverified_until_kafka_is_asked() -> None:
    """The replica may lag, or the topic was recreated, and is then read from its start."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {A: 7}, None)
    lookup = bounds_lookup(catch_up)
    assert lookup.partitions == {A}
    assert catch_up.on_log_bounds(lookup, {A: Bounds(0, 8), B: Bounds(0, 0)}) == []
    assert catch_up.next_offset(A) == 6, "what comes next has to be sent, to be committed"
    assert not catch_up.pending
    assert catch_up.repeats.take() == [(A, Range(6, 8))], "although its id names it"
    catch_up = CatchUp(history, TOPICS, {A: 7}, None)
    assert catch_up.on_log_bounds(bounds_lookup(catch_up), {A: Bounds(2, 6)}) == [Gap(A, 8, 1, "recreated")]
    assert list(catch_up.repeats.take()) == [], "these are other records"
    assert read_lookup(catch_up).ranges == {A: Range(2, 5)}


def test_a_partition_that_comes_back_before_its_end_is_unverified() -> None:
    """Only readers that were there when it left have to know whether it is another log."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {}, None)
    history.became_live(catch_up.cursor)
    assert not catch_up.concerns(A, None)
    assert not catch_up.concerns(A, 6)
    assert catch_up.concerns(A, 7)
    catch_up.partition_added(A, 7)
    assert catch_up.on_log_bounds(bounds_lookup(catch_up), {A: Bounds(0, 6)}) == [Gap(A, 7, -1, "recreated")]


def test_a_reader_that_is_owed_something_goes_on_there_if_the_log_is_the_same() -> None:
    """Otherwise the gap begins where the reader was."""
    for ends_at, gaps, first in ((7, [], 3), (4, [Gap(A, 3, -1, "recreated")], 0)):
        history = history_of(a=3)
        append(history, A, 6)
        catch_up = CatchUp(history, TOPICS, {A: 2}, None)
        leave(history, catch_up, A)
        history.reached(A, 4)
        catch_up.partition_added(A, 7)
        lookup = bounds_lookup(catch_up)
        assert catch_up.on_log_bounds(lookup, {A: Bounds(0, ends_at)}) == gaps
        assert read_lookup(catch_up).ranges == {A: Range(first, 4)}


def test_a_reader_that_had_all_of_a_partition_begins_it_again_as_a_new_one() -> None:
    """Its new owner sent the rest, or this replica does so from the group's offset."""
    history = history_of(a=5, b=5)
    catch_up = CatchUp(history, TOPICS, {}, None)
    leave(history, catch_up, A)
    assert catch_up.position(here=False) == {B: 5}
    append(history, A, 20, dispatch=False)
    catch_up.partition_added(A, 6)
    assert (catch_up.pending, sequences(history, catch_up)) == (False, [3])


def test_a_reader_that_fell_behind_continues_from_its_vector() -> None:
    """Evicted records are looked up; a live reader's vector comes from its last entry."""
    history = laid_out(1)
    (seen,) = append(history, A, 5)
    catch_up = CatchUp(history, TOPICS, {}, None)
    catch_up.cursor.seen = seen
    append(history, A, 6)
    catch_up.fell_behind()
    assert read_lookup(catch_up).ranges == {A: Range(6, 7)}


def test_a_partition_that_is_added_while_something_is_looked_up_begins_with_its_first() -> None:
    """Others may take its records meanwhile."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    lookup: Lookup = read_lookup(catch_up)
    history.reached(B, 7)
    catch_up.partition_added(B, None)
    append(history, B, 8)
    found = catch_up.on_chunk(cast("ReadRanges", lookup), Chunk([batch(A, 4)], {A: 5}, ()))
    assert found is not None
    assert [seen for _, seen in found[1]] == [{A: 4, B: 6}]
    assert sequences(history, catch_up) == [1, 2]


def test_a_partition_without_an_answer_does_not_hold_up_the_others() -> None:
    """It is asked about again when allowed, and the others are read meanwhile."""
    history = history_of(a=5, b=9)
    catch_up = CatchUp(history, TOPICS, {}, 1000)
    lookup = time_lookup(catch_up)
    assert lookup.partitions == {A, B}
    assert catch_up.on_offsets_for_time(lookup, {A: 2})
    assert read_lookup(catch_up).ranges == {A: Range(2, 5)}
    assert catch_up.on_chunk(cast("ReadRanges", catch_up.lookup), Chunk((), {}, ())) == ([], [])
    assert (catch_up.ask(), catch_up.pending) == (None, True)
    catch_up.ask_again({A, B})
    lookup = time_lookup(catch_up)
    assert lookup.partitions == {B}
    assert catch_up.on_offsets_for_time(lookup, {B: 3})
    assert read_lookup(catch_up).ranges == {A: Range(2, 5), B: Range(3, 9)}


def test_an_unverified_offset_that_has_no_answer_does_not_hold_up_the_others() -> None:
    """It is not read on from before Kafka has said to which log it belongs."""
    history = history_of(a=5, b=9)
    catch_up = CatchUp(history, TOPICS, {A: 1, B: 20}, None)
    lookup = bounds_lookup(catch_up)
    assert lookup.partitions == {B}
    assert catch_up.on_log_bounds(lookup, {}) == []
    assert read_lookup(catch_up).ranges == {A: Range(2, 5)}


def test_what_is_put_off_may_leave() -> None:
    """It is asked about at once when it returns."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    catch_up.on_chunk(read_lookup(catch_up), Chunk((), {}, ()))
    assert catch_up.ask() is None
    leave(history, catch_up, A)
    history.reached(A, 5)
    catch_up.partition_added(A, None)
    assert read_lookup(catch_up).ranges == {A: Range(2, 5)}


def follow(history: History, partition: TopicPartition, offset: int, *others: TopicPartition) -> None:
    """Follow a partition, beside others that are followed."""
    history.lay_out([A, B], {partition, *others})
    history.follow(partition, offset)


def of_the_whole(history: History, position: dict[TopicPartition, int] | None = None, **more: bool) -> CatchUp:
    """A reader of the whole topic."""
    return CatchUp(history, TOPICS, position or {}, None, whole=True, **more)


def test_a_reader_of_the_whole_topic_waits_for_all_of_its_partitions() -> None:
    """Its first id names all of them, so nothing is replayed earlier."""
    history = history_of(a=5)
    history.expect({"assets": 2})
    catch_up = of_the_whole(history, {A: 1})
    assert (catch_up.pending, catch_up.ask(), catch_up.has_start) == (True, None, False)
    catch_up.look_again()
    assert catch_up.pending
    follow(history, B, 3)
    catch_up.partition_added(B, None)
    lookup = time_lookup(catch_up)
    assert (lookup.partitions, lookup.committed, lookup.since_ms, lookup.exact) == ({B}, {B}, None, False)
    assert catch_up.on_offsets_for_time(lookup, {B: 2})
    assert catch_up.has_start
    assert catch_up.position(here=True) == {A: 1, B: 1}
    assert read_lookup(catch_up).ranges == {A: Range(2, 5), B: Range(2, 3)}


def test_a_partition_that_is_added_later_begins_at_its_start() -> None:
    """This holds for any named time; a live reader continues unless its start is not in memory."""
    history = history_of(a=5)
    history.expect({"assets": 1})
    catch_up = CatchUp(history, TOPICS, {A: 5}, 1_000, whole=True)
    assert (catch_up.pending, catch_up.has_start) == (False, True)
    history.became_live(catch_up.cursor)
    assert not catch_up.cursor.next_offsets
    assert catch_up.expects_partitions
    follow(history, B, 0)
    assert not catch_up.concerns(B, None)
    append(history, B, 0, dispatch=False)
    history.locate(catch_up.cursor)
    assert catch_up.cursor.next_offsets == {A: 6, B: 0}


@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("since_ms", [None, NOW])
def test_a_partition_that_was_added_since_an_id_begins_at_the_start_of_its_log(
    owned: bool, since_ms: int | None
) -> None:
    """An id that does not count its partitions looks the start up."""
    history = history_of(a=5)
    history.expect({"assets": 2})
    late = CatchUp(history, TOPICS, {A: 5, B: -1}, since_ms, whole=True, counts=False)
    assert (late.has_start, late.ask()) == (False, None)
    if owned:
        append(history, B, 7, 8)
    else:
        follow(history, B, 7)
    late.partition_added(B, None)
    early = CatchUp(history, TOPICS, {A: 5, B: -1}, since_ms, whole=True, counts=False)
    for catch_up in (late, early):
        lookup = catch_up.ask()
        assert isinstance(lookup, ReadRanges)
        assert lookup.ranges == {B: Range(0, 7)}
        assert catch_up.position(here=True) == {A: 5, B: -1}
    unsaid = CatchUp(history, TOPICS, {A: 5}, NOW, whole=True, counts=False).ask()
    assert isinstance(unsaid, OffsetsForTime)
    assert unsaid.partitions == {B}


def test_a_live_reader_goes_back_for_what_it_lacks_of_a_partition_that_is_added() -> None:
    """Others may have consumed its first records before; it is new only once."""
    history = history_of(a=5)
    history.expect({"assets": 1})
    catch_up = of_the_whole(history, {A: 5})
    history.became_live(catch_up.cursor)
    append(history, B, 7, 8)
    assert catch_up.concerns(B, None)
    catch_up.partition_added(B, None)
    lookup = catch_up.ask()
    assert isinstance(lookup, ReadRanges)
    assert lookup.ranges == {B: Range(0, 7)}
    history.remove([B])
    del catch_up.cursor.next_offsets[B]
    append(history, B, 9)
    assert not catch_up.concerns(B, None)


def test_an_id_that_is_newer_than_what_is_followed_waits_for_it() -> None:
    """The log must be certain to be the same, and the id never moves back."""
    history = laid_out()
    history.expect({"assets": 1})
    follow(history, A, 4)
    catch_up = of_the_whole(history, {A: 6})
    lookup = catch_up.ask()
    assert isinstance(lookup, LogBounds)
    assert catch_up.on_log_bounds(lookup, {A: Bounds(0, 9)}) == []
    assert (catch_up.pending, catch_up.awaits_head, catch_up.ask()) == (True, True, None)
    append(history, A, 4, 5, 6)
    catch_up.look_again()
    assert not catch_up.pending
    assert catch_up.position(here=True) == {A: 6}


def test_an_observer_begins_exactly_where_it_says() -> None:
    """It is not moved to undispatched records, and may be past what was read here."""
    history = laid_out()
    append(history, A, 0, 1, dispatch=False)
    catch_up = CatchUp(history, TOPICS, {}, None, last=1, counts=False)
    lookup = time_lookup(catch_up)
    assert (lookup.last, lookup.committed, lookup.exact) == (1, frozenset(), True)
    assert catch_up.on_offsets_for_time(lookup, {A: 3})
    assert catch_up.awaits_head
    append(history, A, 2, dispatch=False)
    catch_up.look_again()
    assert (catch_up.pending, catch_up.position(here=True)) == (False, {A: 2})


def handed_over(counts: bool) -> tuple[History, CatchUp]:
    """A reader whose id named 2, of a partition that is followed from 0 and was read to 4."""
    history = laid_out()
    history.expect({"assets": 1})
    follow(history, A, 0)
    append(history, A, 0, 1, 2, 3, dispatch=False)
    return history, of_the_whole(history, {A: 2}, counts=counts)


def test_whoever_counts_goes_back_to_what_nobody_was_sent() -> None:
    """At a hand-over, observers and earlier readers stay where they are."""
    for counts, expected in ((True, 1), (False, 3)):
        history, catch_up = handed_over(counts)
        assert history.own(A, 1, HandOver(0, [(0, 1)]))
        catch_up.handed_over(A, 1)
        assert catch_up.cursor.next_offsets == {A: expected}
        catch_up.handed_over(A, 3)
        assert catch_up.cursor.next_offsets == {A: expected}
        assert list(catch_up.repeats.take()) == ([(A, Range(1, 3))] if counts else [])


def test_a_partition_that_begins_again_at_a_hand_over() -> None:
    """Past what was read here, the rest is replayed; before it, counting readers go back."""
    for first, counts, missing, waits in (
        (6, True, {A: Range(3, 6)}, False),
        (1, True, {}, False),
        (1, False, {}, True),
    ):
        history, catch_up = handed_over(counts)
        next_offset = catch_up.next_offset(A)
        history.remove([A])
        history.lay_out([A, B])
        history.reached(A, first)
        catch_up.restarted(A, next_offset, first)
        lookup = catch_up.ask()
        assert (lookup.ranges if isinstance(lookup, ReadRanges) else {}) == missing
        assert catch_up.awaits_head is waits
        assert catch_up.cursor.next_offsets[A] == (min(3, first) if counts else 3)
        assert list(catch_up.repeats.take()) == ([(A, Range(1, 3))] if counts and first == 1 else [])


def test_a_start_that_is_being_looked_up_stays_so_when_the_partition_begins_again() -> None:
    """The question is repeated, because the answer could be about another place."""
    history = laid_out()
    history.expect({"assets": 1})
    follow(history, A, 0)
    catch_up = of_the_whole(history)
    before = time_lookup(catch_up)
    catch_up.handed_over(A, 0)
    history.remove([A])
    history.lay_out([A, B])
    history.reached(A, 5)
    catch_up.restarted(A, catch_up.next_offset(A), 5)
    after = time_lookup(catch_up)
    assert not catch_up.on_offsets_for_time(before, {A: 0})
    assert catch_up.on_offsets_for_time(after, {A: 4})
    assert catch_up.cursor.next_offsets == {A: 4}


def test_what_was_looked_up_and_not_sent_is_looked_up_again() -> None:
    """It begins at the first unsent offset; an absent partition keeps its place."""
    history = history_of(a=10, b=10)
    catch_up = CatchUp(history, TOPICS, {A: 4}, None)
    lookup = read_lookup(catch_up)
    catch_up.on_chunk(lookup, Chunk([batch(A, offset) for offset in range(5, 10)], {A: 10}, ()))
    assert catch_up.ask() is None
    catch_up.go_back({A: 7})
    assert read_lookup(catch_up).ranges == {A: Range(7, 10)}
    catch_up.on_chunk(cast("ReadRanges", catch_up.lookup), Chunk([batch(A, 7)], {A: 10}, ()))
    catch_up.go_back({A: 10, TopicPartition("assets", 7): 3})
    assert catch_up.ask() is None
    assert catch_up.next_offset(TopicPartition("assets", 7)) == 3


def test_a_reader_begins_earlier_where_that_is_known_and_before_its_own_start() -> None:
    """Absent partitions and starts being looked up are left alone."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {}, None)
    catch_up.begin_earlier({A: 8, B: 1})
    assert (catch_up.pending, catch_up.next_offset(A)) == (False, 6)
    catch_up.begin_earlier({A: 2})
    assert catch_up.next_offset(A) == 2
    assert read_lookup(catch_up).ranges == {A: Range(2, 5)}
    unresolved = CatchUp(history, TOPICS, {}, 1000)
    unresolved.begin_earlier({A: 2})
    assert unresolved.next_offset(A) is None
