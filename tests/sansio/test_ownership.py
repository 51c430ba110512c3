"""Owned, followed, neither; and what counts when a followed partition becomes owned."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio import ownership
from dispatcher.sansio.entries import GAP
from dispatcher.sansio.ownership import HandOver, Ownership, Role
from dispatcher.sansio.ranges import Gap, recreated
from dispatcher.sansio.records import Batch, Record, TopicPartition

A, B = TopicPartition("assets", 0), TopicPartition("assets", 1)


def test_a_partition_has_one_role_at_a_time() -> None:
    """A new role replaces any earlier one."""
    roles = Ownership()
    assert roles.role(A) is Role.NEITHER
    roles.own(A)
    assert (roles.role(A), set(roles.owned), set(roles.followed)) == (Role.OWNED, {A}, set())
    roles.follow(A)
    assert (roles.role(A), set(roles.owned), set(roles.followed)) == (Role.FOLLOWED, set(), {A})
    roles.hand_over(A, 0)
    assert roles.role(A) is Role.OWNED
    roles.drop([A, B])
    assert roles.role(A) is Role.NEITHER


def test_each_time_it_is_followed_is_an_epoch_of_its_own() -> None:
    """Records that were read in an earlier epoch are recognized."""
    roles = Ownership()
    assert roles.epoch(A) is None
    first = roles.follow(A)
    assert roles.epoch(A) == first
    roles.drop([A])
    assert roles.epoch(A) is None
    assert roles.follow(A) > first


def test_what_has_to_be_followed() -> None:
    """Every partition of the topics that is not owned, assigned or followed here."""
    roles = Ownership()
    roles.own(A)
    c, d = TopicPartition("assets", 2), TopicPartition("assets", 3)
    roles.follow(B)
    assert roles.to_follow({"assets": 4}, [c]) == {d}
    assert roles.to_follow({}, []) == set()


def test_what_was_sent_from_the_committed_offset_on_counts() -> None:
    """This includes what was sent while it was owned; earlier offsets do not matter."""
    roles = Ownership()
    roles.follow(A, [(0, 5)])
    roles.taken(A, 5, 8)
    roles.taken(A, 10, 12)
    roles.taken(A, 12, 12)
    roles.taken(B, 0, 99)
    hand_over = roles.hand_over(A, 3)
    assert hand_over == HandOver(3, [(3, 8), (10, 12)])
    assert hand_over.counted_to == 8
    assert hand_over.counts(4, 8)
    assert hand_over.counts(0, 3)
    assert not hand_over.counts(7, 9)


def test_what_was_sent_after_a_hole_counts_nothing_before_it() -> None:
    """Nobody was sent the committed offset itself, so reading continues there."""
    roles = Ownership()
    roles.follow(A)
    roles.taken(A, 7, 9)
    assert roles.hand_over(A, 5).counted_to == 5
    roles.follow(B)
    assert roles.hand_over(B, 5).counted_to == 5


def test_a_write_under_way_is_not_sent_again() -> None:
    """It counts when it ends; readers past what nobody was handed go back."""
    hand_over = HandOver(3, [(3, 5), (9, 10)])
    assert hand_over.handed_to([]) == 5
    assert hand_over.handed_to([(0, 3), (5, 7)]) == 7
    assert hand_over.handed_to([(5, 9)]) == 10
    assert hand_over.handed_to([(6, 9)]) == 5


def test_what_the_owner_has_committed_is_forgotten() -> None:
    """Nothing is kept of partitions that are not followed."""
    roles = Ownership()
    roles.follow(A)
    roles.taken(A, 0, 10)
    roles.committed(A, 4)
    roles.committed(B, 4)
    assert roles.hand_over(A, 0).counted == [(4, 10)]


def test_ranges_are_bounded() -> None:
    """The lowest are forgotten, which at worst repeats records."""
    roles = Ownership()
    roles.follow(A)
    for number in range(ownership.MAX_RANGES + 5):
        roles.taken(A, 2 * number, 2 * number + 1)
    counted = roles.hand_over(A, 0).counted
    assert len(counted) == ownership.MAX_RANGES
    assert counted[0] == (10, 11)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), max_size=20),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), max_size=3),
    st.integers(0, 40),
)
def test_counting_is_set_arithmetic(
    taken: list[tuple[int, int]], under_way: list[tuple[int, int]], committed: int
) -> None:
    """Results agree with sets of offsets."""
    roles = Ownership()
    roles.follow(A)
    sent: set[int] = set()
    for start, length in taken:
        roles.taken(A, start, start + length)
        sent.update(range(start, start + length))
    hand_over = roles.hand_over(A, committed)
    counted = {offset for first, end in hand_over.counted for offset in range(first, end)}
    assert counted == {offset for offset in sent if offset >= committed}
    assert hand_over.counted_to == next(n for n in range(committed, 99) if n not in sent)
    handed = sent | {n for start, length in under_way for n in range(start, start + length)}
    ranges = [(start, start + length) for start, length in under_way]
    assert hand_over.handed_to(ranges) == next(n for n in range(committed, 99) if n not in handed)


def test_of_a_batch_that_counts_in_part_the_rest_is_pending() -> None:
    """Each record includes the empty offsets before it, from the committed offset on."""
    batch = Batch(A, [Record(offset, None, None, None, ()) for offset in (2, 3, 6, 7)], covers_from=1)
    assert HandOver(0, [(20, 30)]).pending(batch) is None
    assert HandOver(0, [(3, 4), (5, 7)]).pending(batch) == {0, 2, 3}
    assert HandOver(0, [(1, 3), (4, 8)]).pending(batch) == {1}
    batch.covers_from = 4
    assert HandOver(4, [(7, 9)]).pending(batch) == {2}
    assert HandOver(4, []).pending(batch) == {2, 3}, "earlier records are committed: nobody has to be sent them"
    batch.covers_from = 6
    assert HandOver(6, [(20, 30)]).pending(batch) == {2, 3}
    batch.covers_from, batch.gap = 0, Gap(A, 0, 1, "expired")
    assert HandOver(0, [(2, 9)]).pending(batch) == {GAP}
    assert HandOver(0, [(0, 2), (3, 4)]).pending(batch) == {0, 2, 3}
    assert HandOver(0, []).pending(batch) is None
    batch.covers_from, batch.gap = 3, recreated(A, 50, 0)
    assert HandOver(3, []).pending(batch) == {1, 2, 3}, "the offset of the old log is no place in the new one"
    batch.covers_from, batch.gap = 0, Gap(A, 0, 1, "expired")
    for committed, gap_waits in ((1, True), (2, False)):
        batch.covers_from = committed
        pending = HandOver(committed, []).pending(batch)
        assert pending == {0, 1, 2, 3, *({GAP} if gap_waits else ())}, "a part of the gap is reported like all of it"
