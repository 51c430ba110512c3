"""Positions merged over replicas, and repeats."""

from collections.abc import Mapping

import pytest

from dispatcher.client.events import Gap, Record
from dispatcher.client.resume_position import MAX_KEPT, ResumePosition
from dispatcher.errors import MalformedPositionError
from dispatcher.sansio.compact_position import MAX_PARTITIONS
from dispatcher.sansio.position import MAX_POSITION_CHARACTERS, parse_position, shortest_position
from dispatcher.sansio.records import TopicPartition
from testbed.clients import first_pair


def record(event_id: str, topic: str = "t") -> Record:
    """A record with this id."""
    partition, offset = first_pair(event_id)
    return Record(event_id, topic, partition, offset, None, None, b"")


def test_repeats_are_known_by_the_first_pair() -> None:
    """A record at or below the highest offset of its partition is a repeat."""
    seen = ResumePosition()
    ids = ["t:0=5", "t:1=0,0=5", "t:0=5,1=0", "t:0=4,1=0", "t:0=7,1=0", "t:1=0,0=7", "t:1=1,0=7"]
    assert [seen.record(record(event_id)) for event_id in ids] == [True, True, False, False, True, False, True]


def test_partitions_of_other_replicas_are_kept() -> None:
    """An id that does not name them removes nothing."""
    seen = ResumePosition(parse_position("t:0=10,1=20"))
    seen.record(record("t:2=0"))
    seen.record(record("t:0=11,2=0"))
    assert parse_position(seen.format()) == parse_position("t:0=11,1=20,2=0")


def test_what_other_pairs_say_counts_only_upwards() -> None:
    """A replica that has just got a partition may know less about it than the client."""
    seen = ResumePosition(parse_position("t:0=10,1=-1"))
    seen.record(record("t:1=0,0=8"))
    seen.move_to("t:0=9,2=-1")
    seen.move_to("")
    assert parse_position(seen.format()) == parse_position("t:0=10,1=0,2=-1")


def test_what_only_other_pairs_named_is_no_repeat() -> None:
    """It was sent to somebody else; if a crash repeats it, this client gets it for the first time."""
    seen = ResumePosition()
    assert seen.record(record("t:0=1,1=50"))
    assert seen.record(record("t:1=49,0=1"))
    assert parse_position(seen.format()) == parse_position("t:0=1,1=50")


def test_what_was_given_back_is_a_repeat() -> None:
    """A stored position covers what this client has seen."""
    assert not ResumePosition(parse_position("t:0=1,1=50")).record(record("t:1=50,0=1"))


def test_the_same_other_pairs_of_another_topic() -> None:
    """They are read as well, because partition 1 of `u` is not that of `t`."""
    seen = ResumePosition()
    assert seen.record(record("t:0=0,1=-1"))
    assert seen.record(record("u:2=1,1=-1", "u"))
    assert parse_position(seen.format()) == parse_position("t:0=0,1=-1;u:1=-1,2=1")


def test_the_same_other_pairs_after_a_topic_was_recreated() -> None:
    """Pairs that were read once are read again when they no longer hold."""
    seen = ResumePosition()
    assert seen.record(record("t:0=500,1=7"))
    seen.gap(Gap("t", 0, 501, -1, "recreated"))
    assert parse_position(seen.format()) == parse_position("t:0=-1,1=7")
    assert seen.record(record("t:0=0,1=7"))


def test_a_gap_before_what_was_seen_takes_nothing_back() -> None:
    """Such a gap was sent again, as after a reconnect."""
    seen = ResumePosition(parse_position("t:0=10"))
    seen.gap(Gap("t", 0, 3, 9, "expired"))
    assert seen.format() == "t:0=10"


@pytest.mark.parametrize("event_id", ["t:0=12", "t:1=1", "x:0=1", "t:0=1,", "t:0=1;t", "t:0=1,0=1"])
def test_an_id_that_names_another_record(event_id: str) -> None:
    """It is refused, because nothing could be resumed from it."""
    with pytest.raises(MalformedPositionError):
        ResumePosition().record(Record(event_id, "t", 0, 1, None, None, b""))


def test_a_position_that_is_too_long_keeps_what_moved_last() -> None:
    """A position that no server accepts would be useless."""
    seen = ResumePosition({TopicPartition("a" * 200, n): 10**15 for n in range(2000)})
    seen.record(record("b:7=1", "b"))
    position = parse_position(seen.format())
    assert len(seen.format()) <= MAX_POSITION_CHARACTERS
    assert position[TopicPartition("b", 7)] == 1
    assert len(position) > 200


def test_a_position_that_is_too_long_is_spelled_in_a_few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """65,536 partitions that cannot fit do not hold up the caller's event loop."""
    spelled: list[int] = []

    def spell(position: Mapping[TopicPartition, int]) -> str:
        spelled.append(len(position))
        return shortest_position(position)

    monkeypatch.setattr("dispatcher.client.resume_position.shortest_position", spell)
    for topic, least in (("t", 1000), ("long" * 60, 30)):
        seen = ResumePosition()
        for n in range(MAX_KEPT):
            seen.record(Record(f"{topic}:{3 * n}={n % 251}", topic, 3 * n, n % 251, None, None, b""))
        spelled.clear()
        position = parse_position(seen.format())
        assert len(position) > least
        assert list(position) == [TopicPartition(topic, 3 * n) for n in range(MAX_KEPT - len(position), MAX_KEPT)]
        assert sum(spelled) < 4 * MAX_PARTITIONS
    assert ResumePosition().format() == ""


def test_new_partitions_for_ever_are_not_all_kept() -> None:
    """If a server keeps naming new partitions, the oldest are forgotten and the newest are not."""
    position = ResumePosition()
    for n in range(MAX_KEPT + 10):
        assert position.record(Record(f"t:{n}=1", "t", n, 1, None, None, b""))
        position.gap(Gap("t", MAX_KEPT * 3 - n, 0, 1, "recreated"))
    assert MAX_KEPT * 15 // 16 <= len(position) <= MAX_KEPT
    assert position.record(Record("t:0=1", "t", 0, 1, None, None, b""))
    assert not position.record(Record(f"t:{MAX_KEPT + 9}=1", "t", MAX_KEPT + 9, 1, None, None, b""))
