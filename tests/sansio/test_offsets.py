"""OffsetTracker against a plain model of one member and its coordinator, and the usual faults put in on purpose."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from dispatcher.sansio.commit_book import Commit
from dispatcher.sansio.offsets import RECOMMIT_SECONDS, OffsetTracker, PartitionStatistics, merge
from dispatcher.sansio.records import TopicPartition

PARTITIONS = [TopicPartition("assets", 0), TopicPartition("assets", 1)]
FIRST_OFFSET = 10
ONE = PARTITIONS[0]


class Model:
    """One assignment, as plainly as it can be said: which offsets came, which of them were dispatched."""

    def __init__(self, epoch: int, *, committed: bool, commit_beginning: bool) -> None:
        self.epoch = epoch
        self.came: list[int] = []
        self.dispatched: set[int] = set()
        self.batches: list[tuple[int, int, list[int]]] = []
        self.confirmed = FIRST_OFFSET if committed else None
        self.owes_beginning = commit_beginning and not committed

    @property
    def end(self) -> int:
        """Where the next record may be."""
        return self.came[-1] + 1 if self.came else FIRST_OFFSET

    def committable(self) -> int:
        """Offset after the longest dispatched run of records."""
        run = 0
        while run < len(self.came) and self.came[run] in self.dispatched:
            run += 1
        return self.came[run - 1] + 1 if run else FIRST_OFFSET

    def has_news(self) -> bool:
        """Whether the group has to hear of it."""
        if self.confirmed is None:
            return self.owes_beginning or self.committable() > FIRST_OFFSET
        return self.committable() > self.confirmed


def machine(make_tracker: Callable[[], OffsetTracker]) -> type[RuleBasedStateMachine]:
    """The state machine for a kind of tracker."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.tracker = make_tracker()
            self.now = 0.0
            self.models: dict[TopicPartition, Model] = {}
            self.old: list[tuple[TopicPartition, Model]] = []
            self.broker: dict[TopicPartition, int] = {}
            self.under_way: list[Commit] = []
            self.given_up: list[Commit] = []
            """Commits that the client has given up, and that may still arrive."""

        @precondition(lambda self: len(self.models) < len(PARTITIONS) or self.rich())
        @rule(partition=st.sampled_from(PARTITIONS), committed=st.booleans(), commit_beginning=st.booleans())
        def assigned(self, partition: TopicPartition, committed: bool, commit_beginning: bool) -> None:
            """Also a partition that is assigned already: then it begins again."""
            self.forget([partition])
            self.tracker.assigned(partition)
            epoch = self.tracker.began(
                partition, FIRST_OFFSET, committed=committed, commit_beginning=commit_beginning, metadata="m"
            )
            self.models[partition] = Model(epoch, committed=committed, commit_beginning=commit_beginning)
            if committed:
                self.broker[partition] = FIRST_OFFSET

        @precondition(lambda self: self.models)
        @rule(data=st.data(), gap=st.integers(0, 3), inner=st.integers(0, 2), number=st.integers(1, 4))
        def received(self, data: st.DataObject, gap: int, inner: int, number: int) -> None:
            """Records come, with offsets left out before them and between them."""
            partition = data.draw(st.sampled_from(sorted(self.models)))
            model = self.models[partition]
            first = model.end + gap
            offsets = [first + n * (inner + 1) for n in range(number)]
            start = self.tracker.received(partition, first, offsets[-1] + 1)
            assert start == model.end
            model.came += offsets
            model.batches.append((start, offsets[-1] + 1, offsets))

        @precondition(lambda self: self.models)
        @rule(data=st.data(), gap=st.integers(-1, 3))
        def ended(self, data: st.DataObject, gap: int) -> None:
            """The end of the log comes, with or without offsets before it that have no record."""
            partition = data.draw(st.sampled_from(sorted(self.models)))
            model = self.models[partition]
            end = model.end + gap
            self.tracker.ended(partition, end)
            if gap > 0:
                # To the model it is a record that is dispatched already.
                model.came.append(end - 1)
                model.dispatched.add(end - 1)

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

        @rule(seconds=st.sampled_from([0.0, RECOMMIT_SECONDS]))
        def commit(self, seconds: float) -> None:
            """What is committable is sent: all that is new, and nothing else but what is confirmed already."""
            self.now += seconds
            if seconds:
                self.given_up.clear()
            commits = self.tracker.committable(self.now)
            mine = {commit.partition for commit in self.under_way if self.is_present(commit)}
            new = {tp for tp, model in self.models.items() if model.has_news() and tp not in mine}
            assert new <= {commit.partition for commit in commits} <= self.models.keys() - mine
            self.send(commits)

        @precondition(lambda self: self.under_way)
        @rule(data=st.data(), answer=st.sampled_from(["stored", "refused", "given up"]))
        def answered(self, data: st.DataObject, answer: str) -> None:
            """Any commit is answered; an offset that is under way twice belongs to the older one."""
            self.answer(data.draw(st.sampled_from(self.under_way)), answer)

        @precondition(lambda self: self.given_up)
        @rule(data=st.data())
        def arrived(self, data: st.DataObject) -> None:
            """A commit arrives that the client has given up."""
            commit = self.given_up.pop(data.draw(st.integers(0, len(self.given_up) - 1)))
            self.broker[commit.partition] = commit.offset

        @rule()
        def settled(self) -> None:
            """In the end all is answered, and the group has what was dispatched, whatever arrived late."""
            for commit in tuple(self.under_way):
                self.answer(commit, "stored")
            for commit in self.given_up:
                self.broker[commit.partition] = commit.offset
            self.given_up.clear()
            for _ in range(3):
                self.now += RECOMMIT_SECONDS
                self.send(self.tracker.committable(self.now))
                for commit in tuple(self.under_way):
                    self.answer(commit, "stored")
            assert not self.tracker.committable(self.now)
            for partition, model in self.models.items():
                if model.confirmed is not None or model.owes_beginning or model.committable() > FIRST_OFFSET:
                    assert self.broker[partition] == model.committable()

        @precondition(lambda self: self.rich())
        @rule(partitions=st.sets(st.sampled_from(PARTITIONS), min_size=1))
        def revoked(self, partitions: set[TopicPartition]) -> None:
            """What is not confirmed is committed once more before partitions are let go."""
            left = {tp for tp, model in self.models.items() if tp in partitions and model.has_news()}
            commits = self.tracker.revoked(sorted(partitions))
            assert left <= {commit.partition for commit in commits} <= self.models.keys() & partitions
            self.send(commits)
            self.forget(partitions)

        @precondition(lambda self: self.rich())
        @rule(partition=st.sampled_from(PARTITIONS))
        def lost(self, partition: TopicPartition) -> None:
            self.tracker.lost([partition])
            self.forget([partition])

        @precondition(lambda self: self.rich())
        @rule()
        def rebuilt(self) -> None:
            """The consumer is gone, and with it every answer."""
            self.tracker.forget_answers()
            self.under_way.clear()

        def rich(self) -> bool:
            """Whether there is something to lose: else most runs would only come and go."""
            return sum(len(model.batches) for model in self.models.values()) > 2

        def forget(self, partitions: Sequence[TopicPartition] | set[TopicPartition]) -> None:
            for partition in partitions:
                model = self.models.pop(partition, None)
                if model is not None:
                    self.old.append((partition, model))

        def is_present(self, commit: Commit) -> bool:
            model = self.models.get(commit.partition)
            return model is not None and model.epoch == commit.epoch

        def send(self, commits: Iterable[Commit]) -> None:
            """Each is what the model would commit, and never below what is confirmed."""
            commits = list(commits)
            for commit in commits:
                model = self.models[commit.partition]
                assert (model.epoch, model.committable(), "m") == (commit.epoch, commit.offset, commit.metadata)
                assert model.confirmed is None or commit.offset >= model.confirmed
            self.tracker.sent(commits, self.now)
            self.under_way += commits
            assert sorted(self.under_way) == sorted(self.tracker.book.under_way)

        def answer(self, commit: Commit, answer: str) -> None:
            oldest = next(c for c in self.under_way if (c.partition, c.offset) == (commit.partition, commit.offset))
            self.under_way.remove(oldest)
            stored = answer == "stored"
            given_up = answer == "given up"
            found = self.tracker.answered(commit.partition, commit.offset, self.now, stored=stored, may_arrive=given_up)
            assert found == oldest
            if stored:
                self.broker[oldest.partition] = oldest.offset
                if self.is_present(oldest):
                    self.models[oldest.partition].confirmed = oldest.offset
            elif given_up:
                self.given_up.append(oldest)

    return Machine


def run(make_tracker: Callable[[], OffsetTracker], *, examples: int, number: int | None = None) -> None:
    """Drive a tracker with every order of events that Hypothesis thinks of, from a seed if one is given."""
    tried = machine(make_tracker)
    run_state_machine_as_test(
        tried if number is None else seed(number)(tried),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            report_multiple_bugs=False,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
            # To find a planted fault is enough; making its example small takes ten times as long.
            phases=list(Phase) if number is None else [Phase.generate],
        ),
    )


def run_some(make_tracker: Callable[[], OffsetTracker]) -> None:
    """The same from several seeds: what one of them draws depends on which modules are loaded."""
    for number in range(10):
        run(make_tracker, examples=500, number=number)


def begun(offset: int = 0, *, committed: bool = False, commit_beginning: bool = True) -> tuple[OffsetTracker, int]:
    """A tracker with one partition that begins at an offset, and its epoch."""
    tracker = OffsetTracker()
    tracker.assigned(ONE)
    return tracker, tracker.began(ONE, offset, committed=committed, commit_beginning=commit_beginning)


def test_an_end_without_a_present_assignment_changes_nothing() -> None:
    """It may arrive in the same poll as the revoke, or before the start is known."""
    tracker = OffsetTracker()
    tracker.ended(ONE, 7)
    tracker.assigned(ONE)
    tracker.ended(ONE, 7)
    assert tracker.committable(0) == []


def test_every_order_of_events_commits_what_the_model_commits() -> None:
    """For any sequence of events, the offsets are those of the model."""
    run(OffsetTracker, examples=200)


class CommitsLast(OffsetTracker):
    """Commits the last offset, not the one after it."""

    def committable(self, now: float) -> list[Commit]:
        return [commit._replace(offset=commit.offset - 1) for commit in super().committable(now)]


class CommitsPastHoles(OffsetTracker):
    """Takes the end of what was dispatched for the end of the run."""

    def dispatched(self, partition: TopicPartition, epoch: int, start: int, end: int) -> None:
        super().dispatched(partition, epoch, min(start, FIRST_OFFSET), end)
        assignment = self._assignments.get(partition)
        if assignment is not None and assignment.epoch == epoch:
            assignment.dispatched_to = max(assignment.dispatched_to, end)


class TakesLateDispatches(OffsetTracker):
    """Takes what is reported of an earlier assignment for news of this one."""

    def dispatched(self, partition: TopicPartition, epoch: int, start: int, end: int) -> None:
        super().dispatched(partition, self.epoch(partition) or epoch, start, end)


class ForgetsGaps(OffsetTracker):
    """Takes offsets without a record for records that were not dispatched."""

    def received(
        self, partition: TopicPartition, first_offset: int, next_offset: int, leader_epoch: int | None = None
    ) -> int:
        super().received(partition, first_offset, next_offset, leader_epoch)
        return first_offset


class Answers(OffsetTracker):
    """Takes answers in another way."""

    def answered(
        self, partition: TopicPartition, offset: int, now: float, *, stored: bool, may_arrive: bool = False
    ) -> Commit | None:
        commit = super().answered(partition, offset, now, stored=stored, may_arrive=may_arrive)
        if commit is not None:
            self.taken(commit, stored=stored)
        return commit

    def taken(self, commit: Commit, *, stored: bool) -> None:
        """What it does wrong."""


class ForgetsRefusals(Answers):
    """A refused commit is never sent again."""

    def taken(self, commit: Commit, *, stored: bool) -> None:
        if not stored:
            self._changed.pop(commit.partition, None)


class ForgetsWhatMayArrive(Answers):
    """A commit that was given up, or is of an earlier assignment, sets the offset back for good."""

    def taken(self, commit: Commit, *, stored: bool) -> None:
        assert stored in {True, False}
        self._again.pop(commit.partition, None)


class TakesAnyEpoch(Answers):
    """Takes the answer to a commit of an earlier assignment for one of this assignment."""

    def taken(self, commit: Commit, *, stored: bool) -> None:
        assignment = self._assignments.get(commit.partition)
        if stored and assignment is not None:
            assignment.committed = commit.offset
            self._again.pop(commit.partition, None)


class WaitsForAll(OffsetTracker):
    """Sends nothing while any commit is unanswered, such as one of a partition that was lost."""

    def committable(self, now: float) -> list[Commit]:
        return [] if self.book.under_way else super().committable(now)


class KeepsBeginnings(OffsetTracker):
    """Never commits where an assignment began."""

    def began(
        self,
        partition: TopicPartition,
        offset: int,
        *,
        commit_beginning: bool = True,
        **more: Any,
    ) -> int:
        assert commit_beginning is not None
        return super().began(partition, offset, commit_beginning=False, **more)


@pytest.mark.parametrize(
    "fault",
    [
        CommitsLast,
        CommitsPastHoles,
        TakesLateDispatches,
        ForgetsGaps,
        ForgetsRefusals,
        ForgetsWhatMayArrive,
        TakesAnyEpoch,
        WaitsForAll,
        KeepsBeginnings,
    ],
    ids=lambda f: f.__name__,
)
def test_the_model_finds_faults_that_are_put_in_on_purpose(fault: type[OffsetTracker]) -> None:
    """The property test above fails for trackers with common faults."""
    with pytest.raises((AssertionError, ValueError, KeyError)):
        run_some(fault)


def test_a_partition_begins_at_the_given_offset() -> None:
    """Nothing is known before; then its start is what is to be committed, once."""
    tracker = OffsetTracker()
    epoch = tracker.assigned(ONE)
    assert [] == tracker.committable(0) == tracker.revoked([ONE])
    tracker.assigned(ONE)
    assert {ONE: PartitionStatistics(epoch + 1, None, None, None)} == tracker.statistics()
    assert frozenset({ONE}) == tracker.partitions
    assert frozenset() == tracker.begun
    assert tracker.epoch(ONE) is None
    with pytest.raises(KeyError):
        tracker.received(ONE, 0, 1)
    epoch = tracker.began(ONE, 5, metadata="m")
    assert frozenset({ONE}) == tracker.begun
    assert {ONE: PartitionStatistics(epoch, 5, 5, None)} == tracker.statistics()
    commits = tracker.committable(0)
    assert [Commit(ONE, epoch, 5, None, "m")] == commits
    tracker.sent(commits, 0)
    assert tracker.answered(ONE, 5, 0, stored=True) == commits[0]
    assert tracker.committed(ONE) == 5
    assert [] == tracker.committable(0) == tracker.revoked([ONE])
    assert tracker.committed(ONE) is None


def test_a_beginning_is_committed_until_the_broker_takes_it() -> None:
    """Neither a refusal in a rebalance nor a revoke makes the tracker forget it."""
    tracker, epoch = begun(5)
    tracker.sent(tracker.committable(0), 0)
    tracker.answered(ONE, 5, 0, stored=False)
    assert [Commit(ONE, epoch, 5, None)] == tracker.committable(0)
    assert [Commit(ONE, epoch, 5, None)] == tracker.revoked([ONE])


def test_a_beginning_that_replaces_an_offset_of_another_log_waits_for_a_dispatch() -> None:
    """Until then, the old offset lets the next owner notice the recreation."""
    tracker, epoch = begun(commit_beginning=False)
    tracker.received(ONE, 0, 2)
    assert tracker.committable(0) == []
    tracker.dispatched(ONE, epoch, 0, 1)
    assert [Commit(ONE, epoch, 1, None)] == tracker.committable(0)


def test_received_and_nothing_dispatched_commits_nothing() -> None:
    """Records that nobody took are not committed."""
    tracker, _ = begun(5, committed=True)
    tracker.received(ONE, 5, 9)
    assert tracker.committable(0) == []


def test_runs_join_when_the_hole_between_them_is_filled() -> None:
    """Ranges that arrive out of order, touch or overlap become one run."""
    tracker, epoch = begun(committed=True)
    tracker.received(ONE, 0, 100)
    for start, end in ((40, 50), (10, 20), (60, 70), (20, 40), (45, 65), (5, 12), (90, 100)):
        tracker.dispatched(ONE, epoch, start, end)
    assert tracker.committable(0) == []
    tracker.dispatched(ONE, epoch, 0, 5)
    assert [commit.offset for commit in tracker.committable(0)] == [70]


def test_offsets_that_go_backwards_begin_a_new_epoch() -> None:
    """The topic was recreated, so dispatches of the old log say nothing about the new one."""
    tracker, old = begun(100, committed=True)
    tracker.received(ONE, 100, 110)
    tracker.received(ONE, 0, 10)
    assert tracker.epoch(ONE) != old
    tracker.dispatched(ONE, old, 100, 110)
    assert [commit.offset for commit in tracker.committable(0)] == [0]


def test_commits_carry_the_leader_epoch_of_the_last_dispatched_record() -> None:
    """It belongs to the record before the committed offset (KIP-320)."""
    tracker, epoch = begun(committed=True)
    tracker.described(ONE, "m")
    tracker.received(ONE, 0, 10, leader_epoch=1)
    tracker.received(ONE, 10, 20, leader_epoch=1)
    tracker.received(ONE, 20, 30, leader_epoch=2)
    tracker.dispatched(ONE, epoch, 0, 20)
    assert [Commit(ONE, epoch, 20, 1, "m")] == tracker.committable(0)
    tracker.dispatched(ONE, epoch, 20, 30)
    assert [Commit(ONE, epoch, 30, 2, "m")] == tracker.committable(0)


def test_a_commit_without_its_metadata_is_sent_once_more() -> None:
    """This holds at any stage of the first commit, but not if the metadata is the same."""
    tracker = OffsetTracker()
    tracker.assigned(ONE)
    epoch = tracker.began(ONE, 5, leader_epoch=3, committed=True, commit_again=True, metadata="m")
    commits = tracker.committable(0)
    assert commits == [Commit(ONE, epoch, 5, 3, "m")] == tracker.revoked([ONE])
    tracker, epoch = begun(5)
    before = tracker.committable(0)
    tracker.sent(before, 0)
    tracker.described(ONE, "m")
    assert tracker.committable(0) == []
    tracker.answered(ONE, 5, 0, stored=True)
    again = tracker.committable(0)
    assert (before, again) == ([Commit(ONE, epoch, 5, None)], [Commit(ONE, epoch, 5, None, "m")])
    tracker.sent(again, 0)
    tracker.answered(ONE, 5, 0, stored=True)
    tracker.described(ONE, "m")
    assert tracker.committable(0) == []


def test_what_an_earlier_assignment_committed_late_is_set_right() -> None:
    """If it is stored after the new commit, the new one is sent again."""
    tracker, old = begun(committed=True)
    tracker.received(ONE, 0, 5)
    tracker.dispatched(ONE, old, 0, 5)
    tracker.sent(tracker.committable(0), 0)
    tracker.lost([ONE])
    tracker.assigned(ONE)
    new = tracker.began(ONE, 8)
    commits = tracker.committable(0)
    assert [Commit(ONE, new, 8, None)] == commits
    tracker.sent(commits, 0)
    tracker.answered(ONE, 8, 0, stored=True)
    assert tracker.committable(0) == []
    tracker.answered(ONE, 5, 0, stored=True)
    assert [Commit(ONE, new, 8, None)] == tracker.committable(0)
    tracker.sent(commits, 0)
    tracker.answered(ONE, 8, 0, stored=False)
    assert [Commit(ONE, new, 8, None)] == tracker.committable(0) == tracker.revoked([ONE])


def test_a_commit_that_was_given_up_is_followed_by_another_some_seconds_later() -> None:
    """It may still arrive after its successor, and set the offset back."""
    tracker, epoch = begun(5)
    tracker.sent(tracker.committable(0), 0)
    tracker.answered(ONE, 5, 0, stored=False, may_arrive=True)
    tracker.received(ONE, 5, 7)
    tracker.dispatched(ONE, epoch, 5, 7)
    tracker.sent(tracker.committable(1), 1)
    tracker.answered(ONE, 7, 1, stored=True)
    assert tracker.committable(RECOMMIT_SECONDS - 1) == []
    commits = tracker.committable(RECOMMIT_SECONDS)
    assert [Commit(ONE, epoch, 7, None)] == commits
    tracker.sent(commits, RECOMMIT_SECONDS)
    assert tracker.committable(2 * RECOMMIT_SECONDS) == []


def test_answers_that_fit_no_commit_change_nothing() -> None:
    """They name another offset, a departed partition, or a dead consumer."""
    tracker, epoch = begun(5)
    assert tracker.answered(ONE, 5, 0, stored=True) is None
    tracker.sent(tracker.committable(0), 0)
    assert tracker.answered(ONE, 6, 0, stored=True) is None
    tracker.lost([ONE])
    assert tracker.answered(ONE, 5, 0, stored=True) == Commit(ONE, epoch, 5, None)
    assert tracker.book.under_way == []
    tracker.described(ONE, "m")


@pytest.mark.parametrize(("first", "end"), [(5, 5), (6, 5), (-1, 3)])
def test_an_illegal_range_raises_and_changes_nothing(first: int, end: int) -> None:
    """Empty, reversed and negative ranges are refused."""
    tracker, _ = begun()
    with pytest.raises(ValueError, match="not a range"):
        tracker.received(ONE, first, end)
    assert tracker.statistics()[ONE].received_to == 0


@pytest.mark.parametrize(("start", "end"), [(0, 11), (5, 5), (-1, 3)])
def test_what_was_never_received_cannot_be_dispatched(start: int, end: int) -> None:
    """A range that was not received is refused."""
    tracker, epoch = begun(committed=True)
    with pytest.raises(ValueError, match="was not received"):
        tracker.dispatched(ONE, epoch, 0, 1)
    tracker.received(ONE, 0, 10)
    with pytest.raises(ValueError, match="was not received"):
        tracker.dispatched(ONE, epoch, start, end)
    assert tracker.committable(0) == []


def test_a_partition_that_is_not_assigned() -> None:
    """It has no epoch, and a start or records of it raise."""
    tracker = OffsetTracker()
    assert tracker.epoch(ONE) is None
    assert tracker.is_empty
    assert not tracker.is_assigned(ONE)
    with pytest.raises(KeyError):
        tracker.received(ONE, 0, 1)
    with pytest.raises(KeyError):
        tracker.began(ONE, 0)
    tracker.assigned(ONE)
    with pytest.raises(ValueError, match="not an offset"):
        tracker.began(ONE, -1)


def test_what_was_dispatched_of_a_partition_that_is_not_here_is_nothing() -> None:
    """This holds before it is assigned, and before its start is known."""
    tracker = OffsetTracker()
    assert tracker.dispatched_ranges(ONE) == ()
    assert tracker.dispatched_to(ONE) is None
    tracker.assigned(ONE)
    assert tracker.dispatched_ranges(ONE) == ()
    assert tracker.dispatched_to(ONE) is None


def test_what_was_dispatched_is_the_run_from_the_beginning_and_those_after_it() -> None:
    """Runs are in order, each with the offset after its last record."""
    tracker = OffsetTracker()
    tracker.assigned(ONE)
    epoch = tracker.began(ONE, 3)
    tracker.received(ONE, 3, 9)
    tracker.dispatched(ONE, epoch, 3, 5)
    tracker.dispatched(ONE, epoch, 7, 8)
    assert tracker.dispatched_ranges(ONE) == [(3, 5), (7, 8)]
    assert tracker.dispatched_to(ONE) == 5


@pytest.mark.parametrize(
    ("added", "runs"),
    [
        ((0, 2), [(0, 2), (5, 8), (10, 12)]),
        ((8, 10), [(5, 12)]),
        ((6, 7), [(5, 8), (10, 12)]),
        ((3, 5), [(3, 8), (10, 12)]),
        ((12, 13), [(5, 8), (10, 13)]),
        ((0, 20), [(0, 20)]),
        ((14, 15), [(5, 8), (10, 12), (14, 15)]),
    ],
)
def test_a_range_joins_those_that_it_touches(added: tuple[int, int], runs: list[tuple[int, int]]) -> None:
    """So ranges stay few, ordered and apart."""
    found = [(5, 8), (10, 12)]
    merge(found, *added)
    assert found == runs


def test_a_partition_that_is_revoked_twice_has_nothing_more_to_commit() -> None:
    """A member that leaves has given it up when its consumer is closed."""
    tracker = OffsetTracker()
    tracker.assigned(ONE)
    epoch = tracker.began(ONE, 5)
    tracker.received(ONE, 5, 6)
    tracker.dispatched(ONE, epoch, 5, 6)
    assert [commit.offset for commit in tracker.revoked([ONE])] == [6]
    assert tracker.revoked([ONE]) == []
