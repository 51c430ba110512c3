"""The readers' judge: each fault is found, and what the protocol allows is not taken for one."""

from collections.abc import Mapping

from tests.chaos.judge import Fault, Judge, View


def view_of(judge: Judge, named: Mapping[int, int] | None = None, reader: str = "r", at: float = 1.0) -> View:
    """A connection to a replica that has partition 0."""
    view = judge.opened(reader, "a", named, at)
    view.state({0}, at)
    return view


def receive(view: View, *offsets: int) -> None:
    """Records of partition 0."""
    for offset in offsets:
        view.record(0, offset)


def faults(judge: Judge) -> dict[Fault, int]:
    """What was found, each with words about it."""
    found = {fault: number for fault, number in judge.verdict().faults.items() if number}
    assert bool(found) == bool(judge.evidence)
    return found


def test_all_is_well() -> None:
    """A stream in order, with a cut, a resume and a repeat across the cut, is judged clean."""
    judge = Judge()
    view = view_of(judge)
    receive(view, 5, 6, 7)
    view.closed({0: 7}, cut=True)
    view = view_of(judge, {0: 7})
    receive(view, 6, 7, 8)
    view.closed({0: 8}, cut=False)
    verdict = judge.verdict()
    assert faults(judge) == {}
    assert verdict.clean
    assert (verdict.connections, verdict.cuts, verdict.resumes, verdict.resumed, verdict.records) == (2, 1, 1, 1, 6)
    assert all(good for _, _, good in verdict.rows())


def test_nothing_read_or_resumed_is_not_clean() -> None:
    """Readers that read or resumed nothing prove nothing."""
    judge = Judge()
    assert not judge.verdict().clean
    view = view_of(judge)
    receive(view, 0)
    view.closed({}, cut=True)
    assert not judge.verdict().clean


def test_records_left_out() -> None:
    """Missing records are counted, and the place is named where no gap reports them."""
    judge = Judge()
    receive(view_of(judge), 0, 3, 4)
    assert faults(judge) == {Fault.LEFT_OUT: 2, Fault.UNANNOUNCED: 1}
    assert not judge.verdict().clean
    assert {name for name, _, good in judge.verdict().rows() if not good} >= {f"readers: {Fault.LEFT_OUT}"}


def test_two_records_swapped() -> None:
    """The later record leaves a hole, and the earlier one is out of order; judging continues after them."""
    judge = Judge()
    receive(view_of(judge), 0, 2, 1, 3)
    assert faults(judge) == {Fault.LEFT_OUT: 1, Fault.UNANNOUNCED: 1, Fault.OUT_OF_ORDER: 1}


def test_a_record_before_the_first() -> None:
    """A record before the first one is out of order, not a repeat: nobody got it on this connection."""
    judge = Judge()
    receive(view_of(judge), 5, 4, 6)
    assert faults(judge) == {Fault.OUT_OF_ORDER: 1}


def test_a_repeat_within_a_connection() -> None:
    """A repeat within a connection is a fault, even after a state that lists the partition."""
    judge = Judge()
    view = view_of(judge)
    receive(view, 0, 1, 1)
    view.state({0}, 2.0)
    receive(view, 1, 2)
    assert faults(judge) == {Fault.REPEATED: 2}


def test_a_hole_after_a_state_that_lists_the_partition() -> None:
    """The hole is a fault, because nobody saw the partition leave."""
    judge = Judge()
    view = view_of(judge)
    receive(view, 0)
    view.state({0}, 2.0)
    receive(view, 2)
    assert faults(judge) == {Fault.LEFT_OUT: 1, Fault.UNANNOUNCED: 1}


def test_a_partition_that_left_may_come_again_anywhere() -> None:
    """A partition that returns is judged from where it continues."""
    judge = Judge()
    view = view_of(judge)
    receive(view, 0, 1)
    view.state(set(), 2.0)
    view.state({0}, 3.0)
    receive(view, 9)
    view.state({1}, 4.0)
    view.state({0, 1}, 5.0)
    receive(view, 4, 5)
    assert faults(judge) == {}
    assert judge.verdict().unseen == 0
    receive(view, 7)
    assert faults(judge) == {Fault.LEFT_OUT: 1, Fault.UNANNOUNCED: 1}


def test_a_partition_that_was_away_unseen() -> None:
    """It may start over if another connection saw it leave and a state was sent since."""
    judge = Judge()
    view, witness = view_of(judge), view_of(judge)
    receive(view, 0, 1)
    witness.state(set(), 2.0)
    witness.state({0}, 3.0)
    late = view_of(judge, at=3.0)
    receive(late, 9, 10)
    view.state({0}, 4.0)
    receive(view, 9, 10)
    assert faults(judge) == {}
    assert judge.verdict().unseen == 1
    receive(view, 12)
    late.state({0}, 4.0)
    receive(late, 12)
    assert faults(judge) == {Fault.LEFT_OUT: 2, Fault.UNANNOUNCED: 2}


def test_a_partition_that_left_another_replica_excuses_nothing() -> None:
    """Only this replica's departures count, and only after a state."""
    judge = Judge()
    view, other, witness = judge.opened("r", "b", None, 1.0), view_of(judge), judge.opened("w", "b", None, 1.0)
    for one in (view, witness):
        one.state({0}, 1.0)
    receive(view, 0)
    other.state(set(), 2.0)
    view.state({0}, 3.0)
    receive(view, 2)
    witness.state(set(), 4.0)
    receive(view, 4)
    assert faults(judge) == {Fault.LEFT_OUT: 2, Fault.UNANNOUNCED: 2}
    view.state({0}, 5.0)
    receive(view, 5, 7)
    assert faults(judge) == {Fault.LEFT_OUT: 3, Fault.UNANNOUNCED: 3}


def test_a_hole_across_a_resume() -> None:
    """The first record after a resume must follow the id."""
    judge = Judge()
    receive(view_of(judge, {0: 7}), 9)
    assert faults(judge) == {Fault.ACROSS: 1, Fault.UNANNOUNCED: 1}


def test_a_named_partition_that_comes_later_goes_on_from_there() -> None:
    """A partition that arrives later continues from the id, until it has left once."""
    judge = Judge()
    view = judge.opened("r", "a", {0: 7, 1: 3}, 1.0)
    view.state({1}, 1.0)
    view.state({0}, 2.0)
    receive(view, 9)
    assert faults(judge) == {Fault.ACROSS: 1, Fault.UNANNOUNCED: 1}
    view.state({0, 1}, 3.0)
    view.record(1, 8)
    assert faults(judge) == {Fault.ACROSS: 1, Fault.UNANNOUNCED: 1}


def test_an_id_that_is_ahead_of_what_came() -> None:
    """A client that resumed with such an id would miss the records in between."""
    judge = Judge()
    view = view_of(judge)
    receive(view, 5, 6)
    view.closed({0: 9, 1: 4}, cut=True)
    assert faults(judge) == {Fault.ACROSS: 3, Fault.UNANNOUNCED: 1}


def test_an_id_that_is_ahead_of_the_one_before_it() -> None:
    """An id may repeat what the previous id named without records, but name nothing beyond."""
    judge = Judge()
    view = view_of(judge, {0: 7, 1: 3})
    view.closed({0: 7, 1: 3}, cut=True)
    assert faults(judge) == {}
    view = view_of(judge, {0: 7, 1: 3})
    view.closed({0: 9, 1: 2}, cut=True)
    assert faults(judge) == {Fault.ACROSS: 2, Fault.UNANNOUNCED: 1}


def test_an_id_that_is_ahead_in_a_partition_that_has_left() -> None:
    """The replica knows how far it had read, but this connection is not there yet."""
    judge = Judge()
    view = view_of(judge)
    receive(view, 5, 6)
    view.state({1}, 2.0)
    view.closed({0: 6, 1: 4}, cut=True)
    assert faults(judge) == {}
    view = view_of(judge)
    receive(view, 5, 6)
    view.state({1}, 2.0)
    view.closed({0: 9, 1: 4}, cut=True)
    assert faults(judge) == {Fault.ACROSS: 3, Fault.UNANNOUNCED: 1}


def test_an_announced_gap_is_no_hole() -> None:
    """A reported gap is no hole within a connection, after a named offset, or at the start."""
    judge = Judge()
    view = view_of(judge, {0: 2})
    view.gap(0, 3, 5, "expired")
    receive(view, 6, 7)
    view.gap(0, 8, 9, "expired")
    receive(view, 10)
    view.gap(0, 11, 3, "recreated")
    receive(view, 4)
    view.gap(1, 0, 3, "expired")
    view.record(1, 4)
    assert faults(judge) == {}
    assert judge.verdict().gaps == 4


def test_a_gap_must_say_what_is_left_out() -> None:
    """A gap that begins too late, covers later records, or ends before it begins is a fault."""
    judge = Judge()
    view = view_of(judge, {1: 2})
    receive(view, 0)
    view.gap(0, 2, 3, "expired")
    assert faults(judge) == {Fault.UNANNOUNCED: 1}
    receive(view, 6)
    assert faults(judge) == {Fault.UNANNOUNCED: 2, Fault.LEFT_OUT: 2}
    view.gap(1, 4, 5, "expired")
    assert faults(judge) == {Fault.UNANNOUNCED: 3, Fault.LEFT_OUT: 2}
    view.gap(0, 7, 3, "expired")
    assert faults(judge) == {Fault.UNANNOUNCED: 4, Fault.LEFT_OUT: 2}


def test_connections_are_counted_by_process() -> None:
    """Connections are counted per process, for the memory formula."""
    judge = Judge()
    view = view_of(judge)
    view_of(judge)
    view.closed({}, cut=False)
    assert judge.connected == {"a": 1}


def test_a_partition_that_came_back_may_be_named_where_it_began_again() -> None:
    """Ids may name where the replica took it up; otherwise only what was seen."""
    for states, expected in (((), {Fault.ACROSS: 3, Fault.UNANNOUNCED: 1}), (({0}, set()), {})):
        judge = Judge()
        view = view_of(judge)
        receive(view, 5, 6)
        for at, assigned in enumerate((set(), *states), 2):
            view.state(assigned, at)
        view.closed({0: 9}, cut=True)
        assert faults(judge) == expected


def test_a_connection_that_breaks_its_protocol() -> None:
    """It is a fault by itself, whatever records arrived."""
    judge = Judge()
    view = view_of(judge)
    receive(view, 0)
    view.broken("masked, as no server may")
    assert faults(judge) == {Fault.PROTOCOL: 1}
    assert "masked" in judge.evidence[0]


def test_the_whole_topic_goes_on_exactly_after_what_is_sent_again() -> None:
    """Repeats across connections are counted; a hole after them is a hole."""
    judge = Judge()
    view = judge.opened("r", "a", {1: 6}, 1.0, whole=True)
    view.state({0, 1}, 1.0)
    receive(view, 4, 5, 3, 4, 5, 6)
    for offset in (5, 6, 7, 8):
        view.record(1, offset)
    assert faults(judge) == {}
    assert (judge.verdict().again, judge.verdict().whole) == (5, 1)
    view.record(1, 10)
    receive(view, 2, 8)
    assert faults(judge) == {Fault.LEFT_OUT: 2, Fault.UNANNOUNCED: 2}
    view.closed({0: 9, 1: 10}, cut=True)
    assert faults(judge) == {Fault.LEFT_OUT: 2, Fault.UNANNOUNCED: 3, Fault.ACROSS: 1}


def test_a_partition_that_leaves_a_replica_excuses_nothing_of_the_whole_topic() -> None:
    """It is followed from then on, so streams of the whole topic see no difference."""
    judge = Judge()
    view = judge.opened("r", "a", None, 1.0, whole=True)
    view.state({0}, 1.0)
    receive(view, 0)
    other = view_of(judge)
    other.state({1}, 2.0)
    view.state({0}, 3.0)
    receive(view, 2)
    assert faults(judge) == {Fault.LEFT_OUT: 1, Fault.UNANNOUNCED: 1}


def test_observers_are_counted() -> None:
    """Observers are counted, and judged like everybody else."""
    judge = Judge()
    view = judge.opened("r", "a", None, 1.0, observes=True)
    view.state({0}, 1.0)
    receive(view, 0, 2)
    assert judge.verdict().observing == 1
    assert faults(judge) == {Fault.LEFT_OUT: 1, Fault.UNANNOUNCED: 1}


def even(offset: int) -> bool:
    """A filter."""
    return offset % 2 == 0


def test_a_filter_is_owed_what_matches_and_nothing_else() -> None:
    """This holds between two records, before the last id, and across a resume."""
    judge = Judge()
    view = judge.opened("r", "a", {0: 3}, 1.0, wants=even)
    view.state({0}, 1.0)
    receive(view, 4, 6)
    view.gap(0, 7, 9, "expired")
    receive(view, 10)
    view.closed({0: 11}, cut=True)
    assert faults(judge) == {}
    for named, offsets, last, expected in (
        (3, (4, 8), 9, {Fault.LEFT_OUT: 1, Fault.UNANNOUNCED: 1}),
        (3, (6,), 7, {Fault.ACROSS: 1, Fault.UNANNOUNCED: 1}),
        (3, (4,), 8, {Fault.ACROSS: 2, Fault.UNANNOUNCED: 1}),
        (3, (4, 5, 6), 7, {Fault.UNWANTED: 1}),
        (3, (4, 6, 6), 7, {Fault.REPEATED: 1}),
    ):
        judge = Judge()
        view = judge.opened("r", "a", {0: named}, 1.0, wants=even)
        view.state({0}, 1.0)
        receive(view, *offsets)
        view.closed({0: last}, cut=True)
        assert (offsets, faults(judge)) == (offsets, expected)
