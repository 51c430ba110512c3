"""The partitions of the history: which are here, and what is in memory of each."""

from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.entries import Cursor, Entry
from dispatcher.sansio.history import History
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.records import Batch, Record, TopicPartition

A, B, OTHER = TopicPartition("assets", 0), TopicPartition("assets", 1), TopicPartition("other", 0)
TOPICS = frozenset({"assets"})


def laid_out() -> History:
    """A history with an owned, a followed and another topic's partition; nothing was published."""
    history = History(10**6)
    history.lay_out([A, B, OTHER], [B])
    history.follow(B, 20)
    return history


def append(history: History, partition: TopicPartition, offset: int) -> Entry:
    """A batch of one record."""
    return history.append(Batch(partition, (Record(offset, None, None, b"value", ()),)))


def test_a_topic_is_complete_when_as_many_partitions_are_here_as_it_has() -> None:
    """A topic with an unknown number, or with a missing partition, is not."""
    history = laid_out()
    assert not history.is_complete(TOPICS)
    history.expect({"assets": 2})
    assert history.expected == {"assets": 2}
    assert not history.is_complete(TOPICS)
    append(history, A, 5)
    assert history.is_complete(TOPICS)
    history.remove([B, OTHER])
    assert not history.is_complete(TOPICS)
    assert not history.is_followed(B)


def test_a_followed_partition_is_known_only_to_readers_of_the_whole_topic() -> None:
    """An owned one is known to all, and an unread one to nobody."""
    history = laid_out()
    append(history, A, 5)
    assert history.is_followed(B)
    assert (history.knows(A, whole=False), history.knows(B), history.knows(B, whole=False)) == (True, True, False)
    assert not history.knows(OTHER)
    owned, whole = Cursor(TOPICS), Cursor(TOPICS, whole=True)
    assert (history.ends(owned), history.starts(owned)) == ({A: 6}, {A: 5})
    assert (history.ends(whole), history.starts(whole)) == ({A: 6, B: 20}, {A: 5, B: 20})


def test_a_cursor_lags_by_what_lies_between_its_offsets_and_the_ends() -> None:
    """Offsets before memory and past the end are found; other topics do not count."""
    history = laid_out()
    append(history, A, 5)
    append(history, OTHER, 7)
    assert (history.begin(A), history.start(A), history.end(A)) == (5, 5, 6)
    cursor = Cursor(TOPICS, whole=True)
    cursor.next_offsets = {A: 2, B: 30}
    unfinished = history.unfinished(cursor)
    assert sorted(unfinished) == [A, B]
    assert (history.behind(cursor, unfinished), history.missing_records(cursor)) == ([A], 4)
    assert (history.is_beyond(cursor, unfinished), history.is_beyond(cursor, [A])) == (True, False)


def test_a_reader_that_was_live_is_located_where_it_was_then() -> None:
    """Later entries are still to be handed to it; other readers stay where they are."""
    history = laid_out()
    append(history, A, 5)
    cursor = Cursor(TOPICS, whole=True)
    history.became_live(cursor)
    append(history, A, 6)
    cursor.next_offsets = {B: 18}
    history.locate(cursor)
    assert cursor.next_offsets == {A: 6, B: 18}
    history.locate(cursor)
    assert cursor.next_offsets == {A: 6, B: 18}


def test_what_waits_is_found_by_partition_topic_and_offset() -> None:
    """Nothing waits in absent or followed partitions."""
    history = laid_out()
    first, second = append(history, A, 5), append(history, A, 9)
    append(history, B, 20)
    assert history.waiting() == {A: first.size_bytes + second.size_bytes, B: 0}
    assert (history.waiting_records(A), history.waiting_records(OTHER)) == (2, 0)
    assert (list(history.waiting_of(A)), list(history.waiting_of(OTHER))) == ([first, second], [])
    assert (history.waiting_entries("assets"), history.waiting_entries("other")) == ([first, second], [])
    assert (history.waiting_between(A, 6, 10), history.waiting_between(OTHER, 0, 10)) == ([second], [])


def test_entries_are_followed_by_those_of_their_partition() -> None:
    """Entries of other partitions are skipped, and the number is bounded."""
    history = laid_out()
    first, _, second, third = (append(history, tp, n) for tp, n in ((A, 5), (OTHER, 0), (A, 6), (A, 9)))
    assert history.from_entry(first, 2) == [first, second]
    assert history.from_entry(second, 9) == [second, third]


def test_what_records_are_decoded_to_counts_as_memory() -> None:
    """It counts for the entry, the history, and the waiting bytes."""
    history = laid_out()
    entry = append(history, A, 5)
    size_bytes = entry.size_bytes
    asked = Decoded([None], [b'"value"'], [b""], [b""])
    history.decided(entry, asked)
    assert entry.batch.records.asked is asked
    assert entry.size_bytes == history.size_bytes == history.waiting_bytes == size_bytes + asked.size_bytes
    assert history.waiting()[A] == entry.size_bytes
    history.dispatched(entry)
    history.decided(entry, asked)
    assert (history.size_bytes, history.waiting_bytes) == (size_bytes + 2 * asked.size_bytes, 0)


def test_a_cursor_begins_before_the_oldest_entry_that_it_wants() -> None:
    """It wants none at the head, none past it, and none for offsets that are not in memory."""
    history = laid_out()
    append(history, A, 5)
    append(history, A, 6)
    append(history, B, 20)
    history.reached(A, 9)
    cursor = Cursor(TOPICS, whole=True)
    sequences = []
    for offsets in ({A: 6, B: 20}, {A: 9, B: 20}, {A: 7, B: 21}, {A: 9, B: 21}, {A: 12, B: 20}):
        cursor.next_offsets = offsets
        history.seek(cursor, history.unfinished(cursor))
        sequences.append(cursor.sequence)
    assert sequences == [1, 2, 3, 3, 2]


def test_an_entry_handed_out_later_names_the_partitions_of_then() -> None:
    """Unknown partitions have no offset; later ones have the offset before their first."""
    history = laid_out()
    entry = append(history, A, 5)
    append(history, B, 20)
    history.remove([B])
    history.lay_out([A, OTHER])
    cursor = Cursor(TOPICS)
    cursor.next_offsets = {A: 5}
    assert history.next(cursor) is entry
    assert entry.snapshot.offsets == (5, None)


def test_ends_and_what_waits_are_known_whoever_owns_the_partition() -> None:
    """A partition that changes its owner, leaves or returns is counted once."""
    history = laid_out()
    owned, whole = Cursor(TOPICS), Cursor(TOPICS, whole=True)
    entry = append(history, A, 5)
    assert (history.followed, history.waiting_in({A, B}), history.waiting_in({B})) == ({B}, [A], [])
    history.disown([A])
    history.disown([A])
    assert (history.followed, history.waiting_in({A, B})) == ({A, B}, [])
    assert (history.ends(owned), history.starts(whole)) == ({}, {A: 6, B: 20})
    assert history.own(A, 2, HandOver(5, []))
    assert (history.followed, history.waiting_in({A, B})) == ({B}, [A])
    assert (history.starts(owned), history.ends(whole)) == ({A: 5}, {A: 6, B: 20})
    history.dispatched(entry)
    assert (history.starts(owned), history.waiting_in({A, B})) == ({A: 6}, [])
    append(history, A, 6)
    history.remove([A, B])
    assert (history.starts(whole), history.followed, history.waiting_in({A, B})) == ({}, set(), [])
    history.reached(A, 9)
    assert history.starts(whole) == {A: 9}


def test_a_reader_of_several_topics_has_the_ends_of_all() -> None:
    """They are copies: what a reader does with them changes nothing here."""
    history = laid_out()
    append(history, A, 5)
    append(history, OTHER, 7)
    both = Cursor(frozenset({"assets", "other", "absent"}), whole=True)
    assert history.ends(both) == {A: 6, B: 20, OTHER: 8}
    history.ends(both).clear()
    history.ends(Cursor(TOPICS)).clear()
    assert history.ends(both) == {A: 6, B: 20, OTHER: 8}


def test_a_live_reader_keeps_the_offsets_of_partitions_that_are_elsewhere() -> None:
    """Those that are here follow from the head."""
    history = laid_out()
    append(history, A, 5)
    elsewhere = TopicPartition("assets", 9)
    cursor = Cursor(TOPICS)
    cursor.next_offsets = {A: 6, B: 3, elsewhere: 4}
    history.became_live(cursor)
    assert cursor.next_offsets == {B: 3, elsewhere: 4}
