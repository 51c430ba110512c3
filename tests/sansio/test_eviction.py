"""Which entries leave the history, in which order, and at what cost."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from dispatcher.sansio.entries import GAP
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.ranges import Gap
from dispatcher.sansio.records import Batch, Record
from tests.sansio.test_history import ONE_BYTES, A, B, Log, append, batch, followed


def steps(call: Callable[[], object]) -> int:
    """How many lines of Python a call takes."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


def test_an_entry_with_a_gap_is_not_detached_before_somebody_was_sent_the_gap() -> None:
    """A gap cannot be read again. Other partitions make room meanwhile."""
    history = Log(10**6)
    gap = Gap(A, 0, 4, "expired")
    first = history.append(Batch(A, (Record(5, None, None, b"value", ()),), covers_from=0, gap=gap))
    second = history.append(batch(A, 6))
    third, fourth = append(history, B, B)
    history.dispatched(second)
    history.dispatched(fourth)
    history.history_bytes = 0
    history.trim()
    assert (history.waits_before(A), history.waits_before(B)) == (False, True)
    assert history.size_bytes == first.size_bytes + second.size_bytes + third.size_bytes
    first.settle([GAP])
    (last,) = append(history, A)
    history.dispatched(last)
    assert history.waits_before(A)
    assert history.size_bytes == first.size_bytes + third.size_bytes


def test_what_waits_again_after_a_hand_over_is_not_evicted() -> None:
    """What precedes it goes first; then it gives way to what follows it."""
    history = Log(10**6)
    followed(history, A, 0)
    entries = append(history, A, A, A)
    (other,) = append(history, B)
    history.dispatched(other)
    assert history.own(A, 7, HandOver(1, [(2, 3)]))
    history.history_bytes = history.size_bytes - 1
    history.trim()
    assert (history.begin(A), history.waits_before(A), bool(other.batch.records)) == (1, False, True)
    history.history_bytes = 0
    history.trim()
    assert (history.begin(A), history.waits_before(A)) == (3, True)
    assert history.size_bytes == history.waiting_bytes == entries[1].size_bytes


def test_a_hand_over_after_which_nothing_waits_evicts_in_the_same_order() -> None:
    """All of it was sent to somebody who counts."""
    history = Log(10**6)
    followed(history, A, 0)
    append(history, A, B, A)
    assert history.own(A, 7, HandOver(0, [(0, 3)]))
    history.history_bytes = ONE_BYTES
    history.trim()
    assert (history.begin(A), history.size_bytes) == (3, history.waiting_bytes)


def test_one_that_waits_costs_those_that_follow_nothing() -> None:
    """However many of them come and go: neither memory nor work."""
    history = Log(50 * ONE_BYTES)
    append(history, A)

    def publish() -> None:
        (entry,) = append(history, A)
        history.dispatched(entry)

    for _ in range(200):
        publish()
    before = max(steps(publish) for _ in range(100))
    for _ in range(5000):
        publish()
    assert max(steps(publish) for _ in range(100)) == before
    assert history.size_bytes <= 50 * ONE_BYTES
    assert history.waiting_records(A) == 1


def test_many_that_wait_cost_no_work_while_nothing_can_go() -> None:
    """Nothing is looked through again with each record."""
    history = Log(1)
    append(history, *[A] * 10)
    before = max(steps(lambda: append(history, A)) for _ in range(100))
    append(history, *[A] * 5000)
    assert max(steps(lambda: append(history, A)) for _ in range(100)) == before
