"""Where partitions begin, and what becomes of offsets of which the broker has no record."""

import pytest

from dispatcher.sansio.beginnings import (
    Again,
    Committed,
    Policy,
    Stamp,
    Start,
    Undecided,
    begin,
    go_on,
    other_log,
)
from dispatcher.sansio.ranges import Bounds, Gap
from dispatcher.sansio.records import TopicPartition

ONE = TopicPartition("assets", 1)
OLD, NEW = Stamp("old", 2), Stamp("new", 2)
BOUNDS = Bounds(3, 9)


ID = "AAAA+AAA/AcAA_AAA-AABw"


def test_stamps_are_read_back() -> None:
    """Stamps are parsed as they were formatted, whatever is known."""
    for stamp in (Stamp(), Stamp(ID), Stamp(ID, 3), Stamp(None, 3), Stamp(ID, 3, "cluster"), Stamp(None, None, "c")):
        assert Stamp.parse(stamp.format()) == stamp
    assert Stamp(ID, 3).format() == f"dispatcher;topic-id={ID};began-with=3"


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        "",
        "NO_METADATA",
        f"topic-id={ID};began-with=3",
        "dispatcher",
        "dispatcher;topic-id=short;began-with=x",
        f"dispatcher2;topic-id={ID}",
        "dispatcher;began-with=99999999999",
        f'{{"dispatcher": 1, "topic-id": "{ID}"}}',
    ],
)
def test_metadata_of_other_tools_says_nothing(metadata: str | None) -> None:
    """Only metadata with our mark and in our format is read."""
    assert Stamp.parse(metadata) == Stamp()


def test_a_stamp_that_was_copied_to_another_cluster_says_nothing_there() -> None:
    """The topic has another id there, which would look like a recreation."""
    stamp = Stamp(ID, 3, "here")
    assert stamp.on("there") == Stamp()
    assert stamp.on("here") == stamp.on(None) == stamp
    assert Stamp(ID, 3).on("there") == Stamp(ID, 3)


def test_only_ids_that_are_known_differ() -> None:
    """An unknown id proves nothing."""
    assert other_log(OLD, NEW)
    assert not any((other_log(OLD, OLD), other_log(Stamp(), NEW), other_log(OLD, Stamp())))


@pytest.mark.parametrize(
    ("value", "policy"),
    [("smallest", "earliest"), (None, "earliest"), ("end", "latest"), ("largest", "latest"), ("error", "error")],
)
def test_policies_have_all_of_librdkafkas_names(value: object, policy: str) -> None:
    """Names that mean neither `latest` nor `error` mean `earliest`."""
    assert Policy.of(value) is Policy(policy)


def test_a_committed_offset_of_this_log_decides() -> None:
    """This holds for every policy; its stamp is kept, and completed with what is known now."""
    for stamp in (NEW, Stamp("new", 5), Stamp()):
        start = begin(ONE, Committed(7, 4, stamp), topic=NEW, others=[], policy=Policy.ERROR, bounds=None)
        assert start == Start(
            ONE,
            7,
            4,
            committed=True,
            stamp=Stamp("new", stamp.partitions or 2),
            is_unstamped=stamp.topic_id is None,
        )
    start = begin(ONE, Committed(7, None, NEW), topic=Stamp(), others=[], policy=Policy.LATEST, bounds=None)
    assert start == Start(ONE, 7, committed=True, stamp=NEW)


def test_a_committed_offset_of_another_log_is_replaced_by_the_start_of_this_one() -> None:
    """The topic's id decides, even for partitions without a commit."""
    for committed, others, replaces in ((Committed(7, 4, OLD), [], 7), (None, [OLD], None)):
        for policy in Policy:
            arguments = {"topic": NEW, "others": others, "policy": policy}
            assert begin(ONE, committed, bounds=None, **arguments) is Undecided.NEEDS_BOUNDS  # type: ignore[arg-type]
            assert begin(ONE, committed, bounds=BOUNDS, **arguments) == Start(  # type: ignore[arg-type]
                ONE, 3, stamp=Stamp("new", 0), recreated=True, replaces=replaces, has_old_offset=committed is not None
            )


@pytest.mark.parametrize(
    ("policy", "others", "expected"),
    [
        (Policy.EARLIEST, [], 3),
        (Policy.LATEST, [], 9),
        (Policy.LATEST, [Stamp("new", 2)], 9),
        (Policy.LATEST, [Stamp("new", 1)], 3),
        (Policy.LATEST, [Stamp("new", 2), Stamp("new", 1)], 3),
        (Policy.LATEST, [Stamp()], 3),
        (Policy.LATEST, [Stamp("new", 0), Stamp("new", 2)], 3),
        (Policy.ERROR, [Stamp("new", 0)], 3),
        (Policy.ERROR, [Stamp("new", 1)], 3),
        (Policy.ERROR, [], None),
    ],
)
def test_the_policy_decides_for_partitions_that_were_there_at_first(
    policy: Policy, others: list[Stamp], expected: int | None
) -> None:
    """A partition that was added later begins at its start."""
    start = begin(ONE, None, topic=NEW, others=others, policy=policy, bounds=BOUNDS)
    if expected is None:
        assert start is Undecided.REFUSED
    else:
        assert isinstance(start, Start)
        counts = [other.partitions for other in others if other.partitions is not None]
        assert start == Start(ONE, expected, stamp=Stamp("new", min(counts, default=2)))
        assert begin(ONE, None, topic=NEW, others=others, policy=policy, bounds=None) is Undecided.NEEDS_BOUNDS


@pytest.mark.parametrize("policy", list(Policy))
def test_without_an_offset_and_the_topics_id_it_is_not_known_which_log_this_is(policy: Policy) -> None:
    """It is, where no id was ever reported, or the group has an offset: that is checked once the id is known."""
    now = Stamp(None, 2)
    assert begin(ONE, None, topic=now, others=[OLD], policy=policy, bounds=BOUNDS) is Undecided.NEEDS_TOPIC
    assert begin(ONE, None, topic=Stamp(), others=[Stamp(), NEW], policy=policy, bounds=None) is Undecided.NEEDS_TOPIC
    assert isinstance(begin(ONE, None, topic=now, others=[Stamp()], policy=policy, bounds=BOUNDS), Start)
    start = begin(ONE, Committed(7, None, OLD), topic=now, others=[OLD], policy=policy, bounds=None)
    assert isinstance(start, Start)
    assert (start.offset, start.stamp) == (7, OLD)


def test_an_offset_that_has_expired_leaves_a_gap() -> None:
    """The gap ends before the first record that exists, in the same log."""
    decision = go_on(ONE, 1, BOUNDS, before=NEW, topic=NEW, truncated=False, committed=None)
    assert decision == Again(ONE, 3, Gap(ONE, 1, 2, "expired"))


@pytest.mark.parametrize("next_offset", [3, 9])
def test_an_offset_that_is_there_is_asked_for_again(next_offset: int) -> None:
    """A leader that lagged for a moment has caught up."""
    decision = go_on(ONE, next_offset, BOUNDS, before=NEW, topic=Stamp(), truncated=False, committed=None)
    assert decision == Again(ONE, next_offset)


def test_another_log_is_read_from_its_start() -> None:
    """It is recognized by the topic's id, by an end before the offset, or by a truncation."""
    recreated = Stamp("new", 0)
    cases = ((OLD, 5, False, recreated), (NEW, 10, False, NEW), (NEW, 5, True, NEW))
    for before, next_offset, truncated, stamp in cases:
        for committed in (None, Committed(2, None, before), Committed(2, None, Stamp())):
            decision = go_on(
                ONE, next_offset, BOUNDS, before=before, topic=NEW, truncated=truncated, committed=committed
            )
            assert decision == Start(
                ONE,
                3,
                stamp=stamp,
                recreated=True,
                replaces=next_offset,
                # Of an offset that does not say that it is another log's nobody would notice anything.
                has_old_offset=committed is not None and committed.stamp == OLD,
            )
