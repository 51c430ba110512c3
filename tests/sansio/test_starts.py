"""Where a reader begins, and which partitions that has to be looked up for."""

from dispatcher.sansio.history import History
from dispatcher.sansio.ranges import NOW
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.starts import MORE_PARTITIONS, Starts, usable

A, B = TopicPartition("assets", 0), TopicPartition("assets", 1)
TOPICS = frozenset({"assets"})


def followed() -> History:
    """A history of two partitions, of which the first is followed."""
    history = History(10**6)
    history.lay_out([A, B], [A])
    history.follow(A, 3)
    return history


def test_a_reader_that_names_no_start_looks_nothing_up() -> None:
    """It begins as a new reader does."""
    starts = Starts(followed(), TOPICS, None)
    assert not starts.are_named
    assert not starts.is_unknown(A)
    assert starts.have_all()


def test_a_named_start_is_looked_up_once_for_each_partition() -> None:
    """Times and numbers of records are treated alike."""
    for starts in (Starts(followed(), TOPICS, NOW), Starts(followed(), TOPICS, None, last=10)):
        assert starts.are_named
        assert starts.is_unknown(A)
        starts.resolved.add(A)
        assert not starts.is_unknown(A)
        assert starts.is_unknown(B)


def test_a_reader_of_the_whole_topic_looks_up_followed_partitions_until_all_are_here() -> None:
    """Partitions added after that begin at their first record."""
    history = followed()
    starts = Starts(history, TOPICS, None, whole=True)
    assert starts.is_unknown(A)
    assert not starts.is_unknown(B)
    starts.resolved.add(A)
    assert not starts.have_all(), "nothing is known of the topic"
    history.expect({"assets": 1})
    assert starts.have_all()
    assert not starts.resolved
    assert not starts.is_unknown(A)


def test_only_a_reader_that_counts_begins_followed_partitions_at_their_committed_offset() -> None:
    """An observer begins exactly where it asked to."""
    counting = Starts(followed(), TOPICS, NOW, 5).lookup({A, B})
    assert (counting.partitions, counting.since_ms, counting.last) == ({A, B}, NOW, 5)
    assert (counting.committed, counting.exact) == ({A}, False)
    observing = Starts(followed(), TOPICS, NOW, counts=False).lookup({A, B})
    assert (observing.committed, observing.exact) == (frozenset(), True)


def test_what_an_id_names_beyond_its_topics_is_not_kept() -> None:
    """Recently added partitions are kept, and all while the number is unknown."""
    position = {TopicPartition(topic, number): number for topic in ("assets", "other") for number in range(8192)}
    assert len(usable(position, TOPICS, {})) == 8192
    kept = usable(position, TOPICS, {"assets": 6, "other": 6})
    assert kept == {TopicPartition("assets", number): number for number in range(6 + MORE_PARTITIONS)}
