"""When fetching is paused and when it goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.flow import FlowControl, FlowDecision, FlowStatistics
from dispatcher.sansio.records import TopicPartition

A, B, C, D = (TopicPartition("assets", n) for n in range(4))
NONE: frozenset[TopicPartition] = frozenset()


def everything(_: TopicPartition) -> bool:
    """Somebody reads each partition."""
    return True


def nothing(_: TopicPartition) -> bool:
    """Nobody reads any."""
    return False


def test_all_flows_up_to_the_mark() -> None:
    """Above the mark, partitions that hold more than their share are paused."""
    flow = FlowControl(100, 50)
    flow.assigned([A, B])
    assert flow.decide({A: 60, B: 40}, 100, everything) is None
    assert (frozenset(), False) == (flow.paused, flow.is_pausing)
    assert FlowDecision(frozenset({A, B}), NONE) == flow.decide({A: 61, B: 40}, 101, everything)
    assert (frozenset({A, B}), True) == (flow.paused, flow.is_pausing)
    assert flow.decide({A: 61, B: 40}, 101, everything) is None


def test_all_flow_again_below_the_mark() -> None:
    """They resume only once the waiting bytes are below `resume_below`."""
    flow = FlowControl(100, 50)
    flow.assigned([A])
    flow.decide({A: 101}, 101, everything)
    assert flow.decide({A: 50}, 50, everything) is None
    assert FlowDecision(NONE, frozenset({A})) == flow.decide({A: 49}, 49, everything)
    assert flow.paused == NONE


def test_a_topic_without_listeners_does_not_stop_one_with_listeners() -> None:
    """A partition whose records are taken stays below its share, and is never paused."""
    flow = FlowControl(100, 40)
    flow.assigned([A, B])
    assert FlowDecision(frozenset({A}), NONE) == flow.decide({A: 110, B: 5}, 115, everything)
    assert flow.decide({A: 110, B: 20}, 130, everything) is None
    assert FlowDecision(frozenset({B}), NONE) == flow.decide({A: 110, B: 21}, 131, everything)
    assert FlowDecision(NONE, frozenset({B})) == flow.decide({A: 110, B: 10}, 120, everything)


def test_what_nobody_reads_is_paused_above_the_ceiling() -> None:
    """One poll of each of many partitions does not add up; below it the small ones flow."""
    flow = FlowControl(100, 40)
    flow.assigned([A, B, C])
    assert flow.decide({A: 130}, 130, nothing) == FlowDecision(frozenset({A}), NONE)
    assert flow.decide({A: 130, B: 11}, 141, nothing) == FlowDecision(frozenset({B, C}), NONE)
    assert flow.decide({A: 130, B: 7}, 137, nothing) == FlowDecision(NONE, frozenset({C}))


def test_what_nobody_reads_never_stops_what_somebody_reads() -> None:
    """Even above both ceilings, a read partition gets one poll at a time."""
    flow = FlowControl(100, 40)
    flow.assigned([A, B])

    def is_read(partition: TopicPartition) -> bool:
        return partition == B

    assert flow.decide({A: 300}, 300, is_read) == FlowDecision(frozenset({A}), NONE)
    assert flow.decide({A: 300, B: 1}, 301, is_read) == FlowDecision(frozenset({B}), NONE)
    assert flow.decide({A: 300, B: 0}, 300, is_read) == FlowDecision(NONE, frozenset({B}))
    flow.decide({A: 150, B: 20}, 170, is_read)
    assert flow.paused == {A}


def test_an_assignment_forgets_what_was_paused_before() -> None:
    """A partition that was paused, revoked and assigned again flows, without a resume (librdkafka #1849)."""
    flow = FlowControl(100, 50)
    flow.assigned([A])
    flow.decide({A: 101}, 101, everything)
    flow.unassigned([A])
    assert flow.paused == NONE
    flow.assigned([A])
    assert flow.paused == NONE
    assert flow.decide({}, 0, everything) is None


def test_marks_must_be_in_order() -> None:
    """`resume_below` above `pause_above` would pause and resume endlessly."""
    with pytest.raises(ValueError, match="not within"):
        FlowControl(10, 11)


@given(
    st.lists(st.tuples(st.sampled_from([A, B, C, D]), st.integers(0, 60)), max_size=60),
    st.sets(st.sampled_from([A, B, C, D])),
)
def test_what_waits_is_bounded_and_never_stuck(
    steps: list[tuple[TopicPartition, int]], read: set[TopicPartition]
) -> None:
    """In any sequence the bound holds, decisions match the state, and an empty partition flows."""
    flow = FlowControl(100, 50)
    flow.assigned([A, B, C, D])
    waiting = dict.fromkeys([A, B, C, D], 0)
    paused: set[TopicPartition] = set()
    for partition, number in steps:
        if number == 0:
            waiting[partition] = 0
        elif partition not in paused:
            waiting[partition] += number
        decision = flow.decide(waiting, sum(waiting.values()), read.__contains__)
        if decision is not None:
            assert not decision.pause & decision.resume
            assert decision.resume <= paused
            paused = (paused | decision.pause) - decision.resume
        assert paused == flow.paused
        # Of each partition that is read one poll may come when nothing else may.
        assert sum(waiting.values()) <= 100 + 50 + 60 + (50 + 60 * len(read) if read else 0)
        total = sum(waiting.values())
        assert all(waiting[p] for p in paused & read) or total == 0 or not decision
    waiting = dict.fromkeys(waiting, 0)
    flow.decide(waiting, 0, nothing)
    assert flow.paused == NONE


def test_what_is_held_is_paused_once_and_for_good() -> None:
    """While the replica stops, a partition that returns is held again."""
    flow = FlowControl(100, 50)
    flow.assigned([A, B])
    flow.decide({A: 101}, 101, everything)
    assert frozenset({B}) == flow.hold([B])
    assert flow.hold([B]) == NONE
    assert frozenset({A, B}) == flow.not_fetched
    assert FlowStatistics(flowing=1, paused=1, held=1) == flow.statistics()
    flow.unassigned([B])
    flow.assigned([B])
    assert frozenset({B}) == flow.hold([B])
