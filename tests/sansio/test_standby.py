"""When a replica leaves its group and joins it again, and that groups of such replicas are never empty."""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dispatcher.sansio.standby import (
    GROWN_SECONDS,
    LEAVES_SECONDS,
    SETTLED_SECONDS,
    STAYED_SECONDS,
    Seen,
    Standby,
    StandbyStatistics,
    Step,
)

IDLE, VISIBLE = 10.0, 2.0
HALF = Seen(owned=3, partitions=6, assignment=1)
"""A settled member that has half of the partitions, and no subscriber."""


def standby(share: float = 0.0) -> Standby:
    """One with a known delay."""
    return Standby(IDLE, VISIBLE, lambda: share)


def after_leaving(machine: Standby, now: float = 0.0) -> float:
    """The time at which it has left."""
    while machine.observe(now, HALF) is None:
        now += 1.0
    return now


def first_step(machine: Standby, seen: Callable[[float], Seen], until: float = 100.0) -> tuple[float, Step] | None:
    """When a machine that looks every half second takes a step, and which."""
    for number in range(int(2 * until)):
        if step := machine.observe(number / 2, seen(number / 2)):
            return number / 2, step
    return None


@pytest.mark.parametrize(("share", "at"), [(0.0, IDLE), (0.5, IDLE + 2.5), (1.0, IDLE + 5.0)])
def test_an_idle_replica_leaves_after_the_idle_time_and_a_random_delay(share: float, at: float) -> None:
    """The delay is spread over half of the idle time."""
    assert first_step(standby(share), lambda _: HALF) == (at, Step.LEAVE)


def test_the_owner_of_the_first_partition_leaves_when_the_others_have_had_time_to() -> None:
    """It leaves later than any other could, and than their rebalances."""
    assert first_step(standby(), lambda _: HALF._replace(owns_first=True)) == (IDLE * 1.5 + VISIBLE, Step.LEAVE)
    rebalanced = first_step(standby(), lambda now: HALF._replace(owns_first=True, assignment=now >= 12.0))
    assert rebalanced == (IDLE * 1.5 + VISIBLE, Step.LEAVE)
    # Others may see it later, settle, and leave, which is seen later again.
    late = first_step(standby(), lambda now: HALF._replace(owns_first=True, assignment=now >= 16.0))
    assert late == (16.0 + VISIBLE + SETTLED_SECONDS + VISIBLE, Step.LEAVE)


@pytest.mark.parametrize(
    "seen",
    [
        HALF._replace(owned=6),
        HALF._replace(partitions=None),
        HALF._replace(settled=False),
        HALF._replace(taker=1),
    ],
    ids=["owns everything", "knows too little", "unsettled", "has a subscriber"],
)
def test_what_keeps_a_replica_in_the_group(seen: Seen) -> None:
    """Owning everything, not knowing so, a rebalance, or a subscriber that counts."""
    assert first_step(standby(), lambda _: seen) is None
    machine = standby()
    first_step(machine, lambda _: seen)
    assert not machine.is_standby


def test_a_rebalance_under_way_is_awaited() -> None:
    """It may be about to give this replica everything."""
    moving = first_step(standby(), lambda now: HALF._replace(settled=not 9.0 <= now < 20.0))
    assert moving == (20.0 + SETTLED_SECONDS, Step.LEAVE)
    changed = first_step(standby(), lambda now: HALF._replace(assignment=int(now) if now < 20.0 else 20))
    assert changed == (20.0 + SETTLED_SECONDS, Step.LEAVE)


def test_a_subscriber_starts_the_idle_time_over() -> None:
    """Idle time is counted from when the last one left."""
    seen = first_step(standby(), lambda now: HALF._replace(taker=1 if 5.0 <= now < 7.0 else None))
    assert seen == (7.0 + IDLE, Step.LEAVE)


def test_a_topic_that_has_grown_keeps_a_replica_for_a_while() -> None:
    """The new partition is visible before the group assigns it."""
    everything = Seen(owned=6, partitions=6)
    grown = first_step(standby(), lambda now: everything._replace(partitions=6 if now < 30.0 else 7))
    assert grown == (30.0 + GROWN_SECONDS, Step.LEAVE)
    unknown = first_step(standby(), lambda now: HALF._replace(partitions=None if now < 30.0 else 6))
    assert unknown == (30.0, Step.LEAVE)


def test_a_replica_joins_with_the_first_subscriber_that_has_stayed() -> None:
    """Short visits move no partition, even one after another."""
    machine = standby()
    now = after_leaving(machine)
    assert machine.statistics() == StandbyStatistics(is_standby=True, leaves=1)
    for visitor in range(5):
        now += STAYED_SECONDS / 2
        assert machine.observe(now, Seen(taker=visitor)) is None
        now += STAYED_SECONDS / 4
        assert machine.observe(now, Seen(taker=visitor)) is None
    assert machine.observe(now, Seen()) is None
    assert machine.observe(now, Seen(taker=7)) is None
    assert machine.observe(now + STAYED_SECONDS, Seen(taker=7)) is Step.JOIN
    assert machine.statistics() == StandbyStatistics(is_standby=False, leaves=1)
    assert machine.observe(now + STAYED_SECONDS, Seen(taker=7)) is None


def test_a_replica_joins_a_group_that_is_empty() -> None:
    """Otherwise its offsets would expire; a member does nothing."""
    machine = standby()
    assert machine.group_is_empty(0.0) is None
    now = after_leaving(machine)
    assert machine.group_is_empty(now) is Step.JOIN
    assert not machine.is_standby
    assert after_leaving(machine, now) == now + IDLE


def test_after_three_leaves_in_ten_minutes_a_replica_stays_for_ten() -> None:
    """Each leave moves partitions."""
    machine = standby()
    now = 0.0
    for _ in range(3):
        now = after_leaving(machine, now)
        machine.observe(now, Seen(taker=1))
        assert machine.observe(now + STAYED_SECONDS, Seen(taker=1)) is Step.JOIN
        joined_at = now + STAYED_SECONDS
        now = joined_at
    assert after_leaving(machine, now) == joined_at + LEAVES_SECONDS
    # Three leaves in a longer time are no reason to stay.
    for _ in range(3):
        now += LEAVES_SECONDS
        machine.observe(now, Seen(taker=1))
        machine.observe(now + STAYED_SECONDS, Seen(taker=1))
        now = after_leaving(machine, now + STAYED_SECONDS)
        assert now < joined_at + LEAVES_SECONDS * 6


class Group:
    """Replicas that share six partitions; members notice a change after up to `VISIBLE` seconds."""

    def __init__(self, shares: list[float], delays: list[float]) -> None:
        self.machines = [Standby(IDLE, VISIBLE, lambda share=share: share) for share in shares]  # type: ignore[misc]
        self.members = list(range(len(shares)))
        self._seen = [(0, tuple(self.members))] * len(shares)
        self._delays = delays
        self._changes: list[tuple[float, int, tuple[int, ...]]] = []
        self._generation = 0

    def step(self, now: float, takers: list[int | None]) -> None:
        """Let every replica look once."""
        for number, machine in enumerate(self.machines):
            for at, generation, members in self._changes:
                if at + self._delays[number] <= now and generation > self._seen[number][0]:
                    self._seen[number] = (generation, members)
            generation, members = self._seen[number]
            owned = [p for p in range(6) if members and members[p % len(members)] == number]
            step = machine.observe(
                now,
                Seen(takers[number], number in members, generation, len(owned), 6, owns_first=0 in owned),
            )
            if step is not None:
                self.members = sorted({*self.members} ^ {number})
                self._generation += 1
                self._changes.append((now, self._generation, tuple(self.members)))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, VISIBLE - 0.5), st.floats(0, 0.4)), min_size=2, max_size=5),
    st.floats(0, 20),
)
@example([(0.0, 1.5, 0.0), (1.0, 1.25, 0.0), (0.75, 0.0, 0.0)], 0.0)
def test_a_group_whose_subscribers_all_leave_at_once_is_never_empty(
    replicas: list[tuple[float, float, float]], until: float
) -> None:
    """For any delays and views of the members, one owns everything in the end."""
    group = Group([share for share, _, _ in replicas], [delay for _, delay, _ in replicas])
    now = 0.0
    while now < until + 60.0:
        takers = [1 if now < until + at else None for _, _, at in replicas]
        group.step(now, list(takers))
        assert group.members
        now += 0.25
    assert len(group.members) == 1


def test_without_the_rule_of_the_first_partition_a_group_would_become_empty() -> None:
    """The model finds two half-owners that leave together."""
    group = Group([0.5, 0.5], [1.0, 1.0])
    for machine in group.machines:
        decide = machine.observe
        machine.observe = lambda now, seen, decide=decide: decide(now, seen._replace(owns_first=False))  # type: ignore[method-assign, misc]
    now = 0.0
    while now < 30.0 and group.members:
        group.step(now, [None, None])
        now += 0.25
    assert not group.members
