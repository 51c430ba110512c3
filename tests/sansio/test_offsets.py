"""OffsetTracker against a plain model, and the usual faults put in on purpose."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from dispatcher.sansio.offsets import Commit, OffsetTracker, PartitionStatistics
from dispatcher.sansio.records import TopicPartition

PARTITIONS = [TopicPartition("assets", 0), TopicPartition("assets", 1)]
FIRST_OFFSET = 10
ONE = PARTITIONS[0]


class Model:
    """One assignment, as plainly as it can be said: which offsets came, which of them were dispatched."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.came: list[int] = []
        self.dispatched: set[int] = set()
        self.batches: list[tuple[int, int, list[int]]] = []
        self.sent: list[Commit] = []
        self.confirmed = -1

    def committable(self) -> int | None:
        """Offset behind the longest dispatched run of records, None when there is none."""
        run = 0
        while run < len(self.came) and self.came[run] in self.dispatched:
            run += 1
        return self.came[run - 1] + 1 if run else None


def machine(make_tracker: Callable[[], OffsetTracker]) -> type[RuleBasedStateMachine]:
    """The state machine for a kind of tracker."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.tracker = make_tracker()
            self.models: dict[TopicPartition, Model] = {}
            self.old: list[tuple[TopicPartition, Model]] = []

        @precondition(lambda self: len(self.models) < len(PARTITIONS) or self.rich())
        @rule(partition=st.sampled_from(PARTITIONS))
        def assigned(self, partition: TopicPartition) -> None:
            """Also a partition that is assigned already: then it begins anew."""
            self.forget([partition])
            self.models[partition] = Model(self.tracker.assigned(partition))

        @precondition(lambda self: self.models)
        @rule(data=st.data(), gap=st.integers(0, 3), inner=st.integers(0, 2), number=st.integers(1, 4))
        def received(self, data: st.DataObject, gap: int, inner: int, number: int) -> None:
            """Records come, with offsets left out before them and between them."""
            partition = data.draw(st.sampled_from(sorted(self.models)))
            model = self.models[partition]
            first = (model.came[-1] + 1 if model.came else FIRST_OFFSET) + gap
            offsets = [first + n * (inner + 1) for n in range(number)]
            start = self.tracker.received(partition, first, offsets[-1] + 1)
            assert start == (model.came[-1] + 1 if model.came else first)
            model.came += offsets
            model.batches.append((start, offsets[-1] + 1, offsets))

        @precondition(lambda self: self.models)
        @rule(data=st.data(), gap=st.integers(-1, 3))
        def ended(self, data: st.DataObject, gap: int) -> None:
            """The end of the log comes, with or without offsets before it that have no record."""
            partition = data.draw(st.sampled_from(sorted(self.models)))
            model = self.models[partition]
            last = model.came[-1] if model.came else FIRST_OFFSET - 1
            self.tracker.ended(partition, last + 1 + gap)
            if gap > 0 or not model.came:
                # To the model it is a record that is dispatched already.
                model.came.append(last + gap)
                model.dispatched.add(last + gap)

        @precondition(lambda self: any(model.batches for model in self.models.values()))
        @rule(data=st.data())
        def dispatched(self, data: st.DataObject) -> None:
            """Any batch is dispatched, in any order, also again."""
            partition = data.draw(st.sampled_from(sorted(tp for tp, model in self.models.items() if model.batches)))
            model = self.models[partition]
            start, end, offsets = data.draw(st.sampled_from(model.batches))
            self.tracker.dispatched(partition, model.epoch, start, end)
            model.dispatched |= set(offsets)

        @precondition(lambda self: any(model.batches for model in self.models.values()))
        @rule()
        def dispatched_in_order(self) -> None:
            """As it is with one healthy subscriber: the oldest batch that was not dispatched."""
            for partition, model in self.models.items():
                for start, end, offsets in model.batches:
                    if not model.dispatched.issuperset(offsets):
                        self.tracker.dispatched(partition, model.epoch, start, end)
                        model.dispatched |= set(offsets)
                        break

        @precondition(lambda self: any(model.batches for _, model in self.old))
        @rule(data=st.data())
        def dispatched_late(self, data: st.DataObject) -> None:
            """A batch of an earlier assignment is dispatched: that changes nothing."""
            partition, model = data.draw(st.sampled_from([(tp, m) for tp, m in self.old if m.batches]))
            start, end, _ = data.draw(st.sampled_from(model.batches))
            self.tracker.dispatched(partition, model.epoch, start, end)

        @rule()
        def commit(self) -> None:
            """What is committable is sent."""
            commits = self.tracker.committable()
            self.check(commits, lambda model: max([model.confirmed, *(commit.offset for commit in model.sent)]))
            self.tracker.sent(commits)
            for commit in commits:
                self.models[commit.partition].sent = [commit]

        @precondition(lambda self: any(model.sent for model in self.models.values()))
        @rule(data=st.data(), stored=st.booleans())
        def answered(self, data: st.DataObject, stored: bool) -> None:
            partition = data.draw(st.sampled_from(sorted(tp for tp, model in self.models.items() if model.sent)))
            model = self.models[partition]
            (commit,) = model.sent
            model.sent = []
            if stored:
                self.tracker.confirmed(commit)
                model.confirmed = commit.offset
            else:
                self.tracker.refused(commit)

        @precondition(lambda self: self.rich())
        @rule(partitions=st.sets(st.sampled_from(PARTITIONS), min_size=1))
        def revoked(self, partitions: set[TopicPartition]) -> None:
            left = {tp: model for tp, model in self.models.items() if tp in partitions}
            commits = self.tracker.revoked(sorted(partitions))
            self.check(commits, lambda model: model.confirmed, left)
            self.forget(partitions)

        @precondition(lambda self: self.rich())
        @rule(partition=st.sampled_from(PARTITIONS))
        def lost(self, partition: TopicPartition) -> None:
            self.tracker.lost([partition])
            self.forget([partition])

        def rich(self) -> bool:
            """Whether there is something to lose: else most runs would only come and go."""
            return sum(len(model.batches) for model in self.models.values()) > 2

        def forget(self, partitions: Sequence[TopicPartition] | set[TopicPartition]) -> None:
            for partition in partitions:
                model = self.models.pop(partition, None)
                if model is not None:
                    self.old.append((partition, model))

        def check(
            self,
            commits: Sequence[Commit],
            known: Callable[[Model], int],
            models: dict[TopicPartition, Model] | None = None,
        ) -> None:
            """The commits are those of the model, beyond what is known already."""
            expected = {}
            for partition, model in (self.models if models is None else models).items():
                offset = model.committable()
                if offset is not None and offset > known(model):
                    expected[partition] = (model.epoch, offset)
            assert expected == {commit.partition: (commit.epoch, commit.offset) for commit in commits}

    return Machine


def run(make_tracker: Callable[[], OffsetTracker], *, examples: int, same_each_time: bool) -> None:
    """Drive a tracker with every order of events that Hypothesis thinks of."""
    run_state_machine_as_test(
        machine(make_tracker),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            derandomize=same_each_time,
            deadline=None,
            report_multiple_bugs=False,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_an_end_that_was_told_of_no_present_assignment_changes_nothing() -> None:
    """It may come in the same poll as the revoke."""
    tracker = OffsetTracker()
    tracker.ended(ONE, 7)
    assert tracker.committable() == []


def test_every_order_of_events_commits_what_the_model_commits() -> None:
    """Assigned, received, dispatched, sent, answered, revoked, lost, reassigned: the same offsets as the model."""
    run(OffsetTracker, examples=200, same_each_time=False)


class CommitsLast(OffsetTracker):
    """Commits the last offset, not the one behind it."""

    def committable(self) -> list[Commit]:
        return [commit._replace(offset=commit.offset - 1) for commit in super().committable()]


class CommitsPastHoles(OffsetTracker):
    """Takes the end of what was dispatched for the end of the run."""

    def dispatched(self, partition: TopicPartition, epoch: int, start: int, end: int) -> None:
        super().dispatched(partition, epoch, min(start, FIRST_OFFSET), end)
        assignment = self._assignments.get(partition)
        if assignment is not None and assignment.epoch == epoch:
            assignment.dispatched_to = max(assignment.dispatched_to, end)


class TakesLateDispatches(OffsetTracker):
    """Takes what is told of an earlier assignment for news of this one."""

    def dispatched(self, partition: TopicPartition, epoch: int, start: int, end: int) -> None:
        super().dispatched(partition, self.epoch(partition) or epoch, start, end)


class ForgetsGaps(OffsetTracker):
    """Takes offsets without a record for records that were not dispatched."""

    def received(
        self, partition: TopicPartition, first_offset: int, next_offset: int, leader_epoch: int | None = None
    ) -> int:
        super().received(partition, first_offset, next_offset, leader_epoch)
        return first_offset


class ForgetsRefusals(OffsetTracker):
    """A refused commit is never sent again."""

    def refused(self, commit: Commit) -> None:
        pass


@pytest.mark.parametrize(
    "fault",
    [CommitsLast, CommitsPastHoles, TakesLateDispatches, ForgetsGaps, ForgetsRefusals],
    ids=lambda f: f.__name__,
)
def test_the_model_finds_faults_that_are_put_in_on_purpose(fault: type[OffsetTracker]) -> None:
    """The property test above fails for a tracker with a usual fault."""
    with pytest.raises((AssertionError, ValueError)):
        run(fault, examples=500, same_each_time=True)


def test_nothing_received_is_nothing_to_commit() -> None:
    """An assigned partition without a record has nothing to tell."""
    tracker = OffsetTracker()
    epoch = tracker.assigned(ONE)
    assert [] == tracker.committable() == tracker.revoked([ONE])
    tracker.assigned(ONE)
    assert {ONE: PartitionStatistics(epoch + 1, None, None, None)} == tracker.statistics()
    assert frozenset({ONE}) == tracker.partitions


def test_received_and_nothing_dispatched_commits_nothing() -> None:
    """The offset of the first record is not a commit: nobody took anything."""
    tracker = OffsetTracker()
    tracker.assigned(ONE)
    tracker.received(ONE, 5, 9)
    assert tracker.committable() == []


def test_runs_join_when_the_hole_between_them_is_filled() -> None:
    """Ranges that come out of order, touch and overlap become one run."""
    tracker = OffsetTracker()
    epoch = tracker.assigned(ONE)
    tracker.received(ONE, 0, 100)
    for start, end in ((40, 50), (10, 20), (60, 70), (20, 40), (45, 65), (5, 12), (90, 100)):
        tracker.dispatched(ONE, epoch, start, end)
    assert tracker.committable() == []
    tracker.dispatched(ONE, epoch, 0, 5)
    assert [commit.offset for commit in tracker.committable()] == [70]


def test_offsets_that_go_backwards_begin_a_new_epoch() -> None:
    """A recreated topic: what was dispatched of the old one says nothing about the new one."""
    tracker = OffsetTracker()
    old = tracker.assigned(ONE)
    tracker.received(ONE, 100, 110)
    tracker.received(ONE, 0, 10)
    assert tracker.epoch(ONE) != old
    tracker.dispatched(ONE, old, 100, 110)
    assert tracker.committable() == []


def test_commits_carry_the_leader_epoch_of_the_last_dispatched_record() -> None:
    """KIP-320: the leader epoch belongs to the record before the committed offset."""
    tracker = OffsetTracker()
    epoch = tracker.assigned(ONE)
    tracker.received(ONE, 0, 10, leader_epoch=1)
    tracker.received(ONE, 10, 20, leader_epoch=1)
    tracker.received(ONE, 20, 30, leader_epoch=2)
    tracker.dispatched(ONE, epoch, 0, 20)
    assert [Commit(ONE, epoch, 20, 1)] == tracker.committable()
    tracker.dispatched(ONE, epoch, 20, 30)
    assert [Commit(ONE, epoch, 30, 2)] == tracker.committable()


def test_answers_of_an_earlier_assignment_change_nothing() -> None:
    """A commit that is answered after the partition came back is not this assignment's."""
    tracker = OffsetTracker()
    epoch = tracker.assigned(ONE)
    tracker.received(ONE, 0, 10)
    tracker.dispatched(ONE, epoch, 0, 10)
    (commit,) = tracker.committable()
    new = tracker.assigned(ONE)
    tracker.sent([commit])
    tracker.confirmed(commit)
    tracker.refused(commit)
    assert {ONE: PartitionStatistics(new, None, None, None)} == tracker.statistics()


@pytest.mark.parametrize(("first", "end"), [(5, 5), (6, 5), (-1, 3)])
def test_an_illegal_range_raises_and_changes_nothing(first: int, end: int) -> None:
    """An empty, reversed or negative range is refused."""
    tracker = OffsetTracker()
    tracker.assigned(ONE)
    with pytest.raises(ValueError, match="not a range"):
        tracker.received(ONE, first, end)
    assert tracker.statistics()[ONE].received_to is None


@pytest.mark.parametrize(("start", "end"), [(0, 11), (5, 5), (-1, 3)])
def test_what_was_never_received_cannot_be_dispatched(start: int, end: int) -> None:
    """A range outside of what came is refused."""
    tracker = OffsetTracker()
    epoch = tracker.assigned(ONE)
    with pytest.raises(ValueError, match="was not received"):
        tracker.dispatched(ONE, epoch, 0, 1)
    tracker.received(ONE, 0, 10)
    with pytest.raises(ValueError, match="was not received"):
        tracker.dispatched(ONE, epoch, start, end)
    assert tracker.committable() == []


def test_a_partition_that_is_not_assigned() -> None:
    """It has no epoch, and records of it are an error."""
    tracker = OffsetTracker()
    assert tracker.epoch(ONE) is None
    with pytest.raises(KeyError):
        tracker.received(ONE, 0, 1)
