"""Lookups: each client is handed what it asked for."""

import itertools
from collections.abc import Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet

import pytest
import trio

from dispatcher.hub import lookups
from dispatcher.hub.lookups import Lookups
from dispatcher.sansio.lookups import LogBounds, OffsetsForTime, ReadRanges
from dispatcher.sansio.ranges import Bounds, Chunk
from dispatcher.sansio.records import TopicPartition
from tests.hub.test_hub import ONE, TWO, RecordedLog, settle


class Doubter:
    """Doubts where partitions end, and keeps what it is told."""

    def __init__(self) -> None:
        self.owner: Hashable = None
        self.lookup_scope = trio.CancelScope()
        self.closed = False
        self.told: list[Mapping[TopicPartition, Bounds]] = []
        self.again: list[AbstractSet[TopicPartition]] = []
        self.may_ask_again = trio.Event()

    def on_log_bounds(self, lookup: LogBounds, bounds: Mapping[TopicPartition, Bounds]) -> None:  # noqa: ARG002
        """Keep it."""
        self.told.append(bounds)

    def on_chunk(self, lookup: ReadRanges, chunk: Chunk) -> None:
        """Not asked for."""
        raise AssertionError(lookup, chunk)

    def on_offsets_for_time(self, lookup: OffsetsForTime, offsets: Mapping[TopicPartition, int | None]) -> None:
        """Not asked for."""
        raise AssertionError(lookup, offsets)

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Keep what may be asked again."""
        self.again.append(partitions)
        self.may_ask_again.set()


class Ends(RecordedLog):
    """Every log ends at 10."""

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """The same for all."""
        return {partition: Bounds(0, 10) for partition in partitions}


async def test_who_doubts_is_told_of_no_partition_that_it_has_not_asked_about(nursery: trio.Nursery) -> None:
    """By the time it is told it may stand behind that end, in a partition that has come meanwhile: no other log."""
    answers, first, second = Lookups(Ends(), 1000), Doubter(), Doubter()
    nursery.start_soon(answers.run)
    answers.ask(first, LogBounds(frozenset({ONE})))
    answers.ask(second, LogBounds(frozenset({TWO})))
    await settle()
    assert (first.told, second.told) == ([{ONE: Bounds(0, 10)}], [{TWO: Bounds(0, 10)}])
    nursery.cancel_scope.cancel()


class Half(RecordedLog):
    """Of partition 1 there is no answer."""

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Those of the others."""
        return {partition: Bounds(0, 10) for partition in partitions if partition != TWO}


async def test_a_partition_without_an_answer_keeps_no_other_waiting(nursery: trio.Nursery) -> None:
    """Whoever asked for both has the one answer, and may ask for the other again after a pause."""
    answers, both, one = Lookups(Half(), 1000), Doubter(), Doubter()
    nursery.start_soon(answers.run)
    answers.ask(both, LogBounds(frozenset({ONE, TWO})))
    answers.ask(one, LogBounds(frozenset({ONE})))
    await settle()
    assert both.told == one.told == [{ONE: Bounds(0, 10)}]
    assert (both.again, one.again) == ([], [])
    await both.may_ask_again.wait()
    assert both.again == [{TWO}]
    nursery.cancel_scope.cancel()


async def test_between_two_turns_of_others_a_slice_is_answered(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart everybody asks at once: ten thousand with a hundred partitions each held the loop for 1.1 s."""
    monkeypatch.setattr(lookups, "ANSWER_SLICE", 10)
    answers, askers = Lookups(Ends(), 1000), [Doubter() for _ in range(50)]
    nursery.start_soon(answers.run)
    for client in askers:
        answers.ask(client, LogBounds(frozenset({ONE, TWO})))
    turns = [0]
    while turns[-1] < len(askers):
        await trio.lowlevel.checkpoint()
        turns.append(sum(len(client.told) for client in askers))
    # Trio runs tasks in any order, so there may be two slices between two turns of one task.
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 10
    nursery.cancel_scope.cancel()
