"""Which dead letters are redriven, and which were."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.dead_letters import Letter, headers_of
from dispatcher.sansio.records import Record, TopicPartition
from dispatcher.sansio.redrive import METADATA_CHARACTERS, Done, Origin, Wanted, origin_of

ONE = TopicPartition("assets", 3)
OWN = (("tenant", b"t1"), ("tenant", None))


def test_a_letter_says_where_its_record_was() -> None:
    """The record's own headers are unchanged."""
    letter = Letter(ONE, Record(7, 5, None, None, OWN), "deadline")
    assert origin_of(headers_of(letter, group="g", replica="r")) == Origin(ONE, "deadline", OWN)


def test_what_is_no_letter_has_no_origin() -> None:
    """This covers foreign records and wrong headers."""
    right: dict[str, bytes | None] = {"topic": b"assets", "partition": b"3", "reason": b"nack"}
    wrong: list[dict[str, bytes | None]] = [
        {},
        {"topic": None},
        {"topic": b"\xff"},
        {"partition": b"x"},
        {"partition": None},
        {"partition": b"-1"},
        {"reason": b"\xff"},
    ]
    assert origin_of([(f"dispatcher.dlq.{name}", value) for name, value in right.items()]) is not None
    assert origin_of(OWN) is None
    for change in wrong[1:]:
        assert origin_of([(f"dispatcher.dlq.{name}", value) for name, value in {**right, **change}.items()]) is None


def test_options_leave_letters_out() -> None:
    """Letters are selected by topic, reason, and time of writing."""
    found = Origin(ONE, "nack", ())
    topics = frozenset({"assets"})
    assert Wanted(topics).has(found, 5)
    assert not Wanted(topics).has(None, 5)
    assert not Wanted(frozenset({"orders"})).has(found, 5)
    assert Wanted(topics, ("nack", "deadline")).has(found, 5)
    assert not Wanted(topics, ("deadline",)).has(found, 5)
    assert [Wanted(topics, since_ms=5, until_ms=7).has(found, at) for at in (4, 5, 6, 7)] == [False, True, True, False]


@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=30))
def test_what_was_redriven_survives_a_commit(first: int, steps: list[tuple[int, int]]) -> None:
    """Offset and metadata name exactly the letters that were added."""
    done, expected = Done(first), set(range(first))
    for start, length in steps:
        done.add(start, start + length)
        expected.update(range(start, start + length))
    read = Done(done.offset, done.metadata)
    for found in (done, read):
        assert {offset for offset in range(80) if offset in found} == expected
    assert done.offset == next(offset for offset in range(100) if offset not in expected)


def test_metadata_of_others_names_nothing_and_ours_is_bounded() -> None:
    """Other tools may commit, and brokers accept 4,096 bytes."""
    for metadata in (None, "", "x", "dispatcher-redrive;1-", "dispatcher-redrive;"):
        assert Done(3, metadata).metadata == "dispatcher-redrive;"
    assert not Done(0).is_too_long
    done = Done(0)
    for offset in range(2, 4000, 2):
        done.add(offset, offset + 1)
    assert done.is_too_long
    assert len(done.metadata) > METADATA_CHARACTERS
