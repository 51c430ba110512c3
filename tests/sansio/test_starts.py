"""Where a reader begins, and which partitions that has to be looked up for."""

from typing import Any

import pytest

from dispatcher.sansio.history import History
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import NOW
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.starts import MORE_PARTITIONS, Starts, counts_begun_with, names_more, usable, usable_end

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


def test_what_an_id_names_is_taken_as_it_is_if_all_of_it_is_used() -> None:
    """A copy would cost more than the look."""
    position = {A: 3, B: 4}
    assert usable(position, TOPICS, {"assets": 2, "other": 0}) is position
    assert usable({}, TOPICS, {"assets": 2}) == {}


def test_an_id_of_the_whole_topic_says_which_partitions_are_new() -> None:
    """Those begin at their first record, and the one that it names as the next is not taken for one that was there."""
    starts = Starts(followed(), TOPICS, None, whole=True)
    assert starts.named({A: 3, B: -1}, {A, B}) == {A: 3, B: -1}
    third = TopicPartition("assets", 2)
    assert starts.named({A: 3, B: 4, third: -1}, {A, B, third}) == {A: 3, B: 4, third: -1}
    assert starts.named({A: 3, B: 4, third: -1}, {A, B}) == {A: 3, B: 4}
    position = {A: 3, B: 4}
    assert Starts(followed(), TOPICS, NOW).named(position, {A, B}) is position


def test_a_partition_that_is_new_to_a_reader_begins_at_its_first_record() -> None:
    """One that it has left continues there, and once all have been here, later ones are new."""
    history = followed()
    starts = Starts(history, TOPICS, None, whole=True)
    starts.named({A: 3, B: -1}, {A})
    offsets: dict[TopicPartition, int] = {}
    assert (starts.added(A, offsets, None), offsets) == (None, {})
    assert (starts.added(B, offsets, 7), offsets) == (7, {})
    assert (starts.added(B, offsets, None), offsets) == (0, {B: 0})
    history.reached(B, 0)
    assert (starts.is_elsewhere(A), starts.is_elsewhere(B)) == (True, False)
    history.expect({"assets": 2})
    assert starts.have_all()
    third = TopicPartition("assets", 2)
    assert (starts.added(B, offsets, None), starts.is_new(B), starts.is_new(third)) == (0, False, True)


def test_a_partition_that_was_here_before_metadata_named_it_is_new_to_a_reader_that_comes_after_it_has_left() -> None:
    """The replica owned it for a moment, and follows it once it knows that there is one more."""
    history = History(10**6)
    history.expect({"assets": 1})
    history.lay_out([A, B], [A])
    history.follow(A, 3)
    history.reached(B, 0)
    starts = Starts(history, TOPICS, None, whole=True)
    assert starts.have_all()
    assert not starts.is_new(B)
    history.remove([B])
    starts = Starts(history, TOPICS, None, whole=True)
    assert starts.have_all()
    assert starts.is_new(B)


def test_where_a_reader_begins_is_unknown_at_first_if_it_named_a_time_or_partitions_are_followed() -> None:
    """This is what is known of each partition alone."""
    for starts in (Starts(followed(), TOPICS, NOW), Starts(followed(), TOPICS, NOW, whole=True)):
        assert starts.unknown_of({A, B}) == {tp for tp in (A, B) if starts.is_unknown(tp)} == {A, B}
    starts = Starts(followed(), TOPICS, None, whole=True)
    assert starts.unknown_of({A, B}) == {tp for tp in (A, B) if starts.is_unknown(tp)} == {A}


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("a:0=5,1=-1", {"a": 1}),
        ("a:0=-1,1=-1,2=-1", {"a": 2}),
        ("a:0=5,1=5;b:0=1,1=-1", {"b": 1}),
        ("a:0=-1", {}),
        ("a:0=5,2=-1", {}),
        ("a:1=-1,2=5;b:0=1,1=-1", {"b": 1}),
        ("a:1=5,2=-1", {}),
        ("a:2147483647=-1", {}),
    ],
)
def test_an_id_says_how_many_partitions_there_were_or_not(text: str, counts: dict[str, int]) -> None:
    """It does if it names all from the first on, and the last as not seen yet."""
    assert counts_begun_with(parse_position(text)) == counts


class Asked(dict[TopicPartition, int]):
    """A position that counts how often it is asked for a partition."""

    asked = 0

    def __contains__(self, partition: object) -> bool:
        self.asked += 1
        return super().__contains__(partition)

    def __getitem__(self, partition: TopicPartition) -> int:
        self.asked += 1
        return super().__getitem__(partition)

    def get(self, *asked: Any) -> Any:
        """Count it."""
        self.asked += 1
        return super().get(*asked)


def test_what_an_id_says_of_counts_costs_what_the_id_is_long() -> None:
    """A hostile id may name one high partition for each of many topics."""
    position = Asked({TopicPartition(f"t{number}", 9_000): -1 for number in range(50)})
    position.update({TopicPartition("long", number): 5 for number in range(1_000)})
    assert counts_begun_with(position) == {}
    assert position.asked <= len(position)


def test_of_other_topics_a_reader_can_use_nothing() -> None:
    """Of its own, more partitions than are known to be there: some may have been added."""
    assert usable_end(TOPICS, {"assets": 2}, "others") == 0
    assert usable_end(TOPICS, {"assets": 2}, "assets") == 2 + MORE_PARTITIONS
    assert usable_end(TOPICS, {}, "assets") > 8192


def test_an_id_may_name_records_of_a_partition_that_is_not_known_to_be_there() -> None:
    """Of the partition that would be added next, ids say only that nothing was sent."""
    assert names_more({A: 3, B: 0}, {"assets": 1})
    assert not names_more({A: 3, B: -1}, {"assets": 1})
    assert not names_more({A: 3, B: 0}, {"assets": 2})
    assert not names_more({A: 3}, {})
