"""Catching up: what has to be found out, and from where each partition goes on."""

from dispatcher.sansio.catch_up import BoundsQuestion, CatchUp, Question, ReadQuestion, TimeQuestion
from dispatcher.sansio.entries import Entry
from dispatcher.sansio.history import History
from dispatcher.sansio.position import Layout, Snapshot
from dispatcher.sansio.ranges import Bounds, Chunk, Gap, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition

A, B = TopicPartition("assets", 0), TopicPartition("assets", 1)
TOPICS = frozenset({"assets"})
SNAPSHOT = Snapshot(Layout([A]), (None,))


def batch(partition: TopicPartition, offset: int) -> Batch:
    """A batch of one record."""
    return Batch(partition, (Record(offset, None, None, b"value", ()),))


def append(history: History, partition: TopicPartition, *offsets: int) -> list[Entry]:
    """Dispatched batches of one record each."""
    entries = [history.append(batch(partition, offset), SNAPSHOT, 0) for offset in offsets]
    for entry in entries:
        history.dispatched(entry)
    return entries


def history_of(**offsets: int) -> History:
    """A history whose partitions `a` and `b` begin at these offsets, with one record each."""
    history = History(10**6)
    for name, offset in offsets.items():
        append(history, {"a": A, "b": B}[name], offset)
    return history


def sequences(history: History, catch_up: CatchUp) -> list[int]:
    """The sequences that the history hands out from where it goes on."""
    cursor = catch_up.cursor()
    handed = []
    while (entry := history.next(cursor)) is not None:
        handed.append(entry.sequence)
    return handed


def test_a_new_reader_begins_with_what_is_new() -> None:
    """Nothing has to be found out."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {}, None)
    assert (catch_up.pending, catch_up.question) == (False, None)
    append(history, A, 6)
    assert sequences(history, catch_up) == [2]


def test_what_is_missing_is_asked_for_until_it_is_there() -> None:
    """A part, and the rest; ids on the way name every partition."""
    history = history_of(a=5, b=9)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    question = catch_up.question
    assert question == ReadQuestion({A: Range(2, 5)})
    assert isinstance(question, ReadQuestion)
    found = batch(A, 2)
    gaps, batches = catch_up.read(question, Chunk([found], {A: 3}, [Gap(A, 2, 2, "expired")]))
    assert (gaps, batches) == ([Gap(A, 2, 2, "expired")], [(found, {A: 2, B: 9})])
    question = catch_up.question
    assert question == ReadQuestion({A: Range(3, 5)})
    assert isinstance(question, ReadQuestion)
    catch_up.read(question, Chunk([batch(A, 4)], {A: 5}, ()))
    assert catch_up.question is None
    assert sequences(history, catch_up) == [1], "and of the other partition what is new"


def test_an_answer_that_is_about_another_log_is_passed_over() -> None:
    """The partition began anew while it was read."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {A: 1}, None)
    question = catch_up.question
    assert isinstance(question, ReadQuestion)
    history.retire([A])
    catch_up.forget(A)
    append(history, A, 0)
    catch_up.arrived(A, None)
    assert catch_up.read(question, Chunk([batch(A, 2)], {A: 5}, [Gap(A, 3, 3, "expired")])) == ([], [])
    assert sequences(history, catch_up) == [2]


def test_a_time_is_looked_up_for_what_no_id_names_and_once() -> None:
    """Where nothing came since then, the partition begins with what is new."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {B: 3}, 1000)
    question = catch_up.question
    assert question == TimeQuestion(frozenset({A}), 1000)
    assert isinstance(question, TimeQuestion)
    assert catch_up.concerns(B, None)
    append(history, B, 9)
    catch_up.arrived(B, None)
    catch_up.placed(question, {A: 2})
    assert catch_up.question == ReadQuestion({A: Range(2, 5), B: Range(4, 9)})
    catch_up = CatchUp(history, TOPICS, {}, 1000)
    question = catch_up.question
    assert isinstance(question, TimeQuestion)
    catch_up.placed(question, {})
    assert (catch_up.question, sequences(history, catch_up)) == (None, [])
    assert not catch_up.concerns(A, None)


def test_a_partition_that_was_named_never_begins_at_the_time() -> None:
    """Neither when it leaves and comes back while its records are read, nor when it came late and comes again."""
    history = history_of(a=5, b=5)
    catch_up = CatchUp(history, TOPICS, {A: 1, B: 1}, 1000)
    question = catch_up.question
    assert question == ReadQuestion({A: Range(2, 5), B: Range(2, 5)})
    assert isinstance(question, ReadQuestion)
    history.retire([A])
    catch_up.departed([A])
    append(history, A, 5)
    catch_up.arrived(A, None)
    assert catch_up.question == question
    found = batch(A, 2)
    assert catch_up.read(question, Chunk([found], {A: 3, B: 2}, ())) == ([], [(found, {A: 2, B: 1})])
    history = history_of(b=5)
    catch_up = CatchUp(history, TOPICS, {A: 5, B: 4}, 1000)
    append(history, A, 5)
    assert catch_up.concerns(A, None)
    catch_up.arrived(A, None)
    catch_up.cursor()
    history.retire([A])
    append(history, A, 6)
    assert not catch_up.concerns(A, None)


def test_an_offset_behind_the_memory_is_doubted_until_kafka_is_asked() -> None:
    """The replica has not read so far yet, or the log is another one, which is told and read from its beginning."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {A: 7}, None)
    assert catch_up.question == BoundsQuestion(frozenset({A}))
    assert catch_up.bounded({A: Bounds(0, 8), B: Bounds(0, 0)}) == []
    assert catch_up.places == {A: 8}
    assert not catch_up.pending
    catch_up = CatchUp(history, TOPICS, {A: 7}, None)
    assert catch_up.bounded({A: Bounds(2, 6)}) == [Gap(A, 8, 1, "recreated")]
    assert catch_up.question == ReadQuestion({A: Range(2, 5)})


def test_a_partition_that_comes_back_before_its_place_is_doubted() -> None:
    """Repeats, or another log: who was there when it left has to know; nobody else is held up by it."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {}, None)
    assert not catch_up.concerns(A, None)
    assert not catch_up.concerns(A, 6)
    assert catch_up.concerns(A, 7)
    catch_up.arrived(A, 7)
    assert catch_up.question == BoundsQuestion(frozenset({A}))
    assert catch_up.bounded({A: Bounds(0, 6)}) == [Gap(A, 7, -1, "recreated")]


def test_who_leaves_the_history_goes_on_from_its_places() -> None:
    """What has left it is asked for."""
    history = history_of(a=5)
    catch_up = CatchUp(history, TOPICS, {}, None)
    catch_up.go_back({A: 3})
    assert catch_up.question == ReadQuestion({A: Range(3, 5)})


def asked(catch_up: CatchUp) -> Question | None:
    """What it asks now; a function, so that the type checker does not think that it stays the same."""
    return catch_up.question


def test_a_partition_without_an_answer_does_not_hold_up_the_others() -> None:
    """What it needs is asked for again when it may be; until then what is missing of the others is read."""
    history = history_of(a=5, b=9)
    catch_up = CatchUp(history, TOPICS, {}, 1000)
    assert asked(catch_up) == TimeQuestion(frozenset({A, B}), 1000)
    catch_up.put_off({B})
    catch_up.placed(TimeQuestion(frozenset({A}), 1000), {A: 2})
    assert asked(catch_up) == ReadQuestion({A: Range(2, 5)})
    catch_up.put_off({A})
    assert (asked(catch_up), catch_up.pending) == (None, True)
    catch_up.ask_again({A, B})
    assert asked(catch_up) == TimeQuestion(frozenset({B}), 1000)
    catch_up.placed(TimeQuestion(frozenset({B}), 1000), {B: 3})
    assert asked(catch_up) == ReadQuestion({A: Range(2, 5), B: Range(3, 9)})


def test_an_unverified_offset_that_has_no_answer_does_not_hold_up_the_others() -> None:
    """Nothing is read on from it."""
    history = history_of(a=5, b=9)
    catch_up = CatchUp(history, TOPICS, {A: 1, B: 20}, None)
    assert asked(catch_up) == BoundsQuestion(frozenset({B}))
    catch_up.put_off({B})
    assert asked(catch_up) == ReadQuestion({A: Range(2, 5)})
