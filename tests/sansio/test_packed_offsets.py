"""Tests of offsets that are kept packed from one position to the next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.compact_position import (
    LARGE_BYTES,
    ranges_of,
    read_compact,
    spell_compact,
    spell_ranges,
    without,
)
from dispatcher.sansio.packed_offsets import MOST_CHANGES, PackedOffsets

OFFSETS = st.one_of(st.integers(-1, 300), st.integers(-1, 2**20), st.integers(-1, 2**63 - 1))


def spelled(packed: PackedOffsets, count: int, left_out: int | None = None) -> str:
    """What a position of partitions 0 to `count` has after its topic."""
    ranges = ranges_of(range(count))
    numbers = [number for number in range(count) if number != left_out]
    named = ranges if left_out is None else without(ranges, left_out)
    return packed.spell(spell_ranges(named), left_out, lambda: numbers)


@given(st.lists(st.dictionaries(st.integers(0, 39), OFFSETS, max_size=20), max_size=8), st.none() | st.integers(0, 39))
def test_whatever_moves_is_read_back(moves: list[dict[int, int]], left_out: int | None) -> None:
    """After any movement of offsets, the spelling names the current ones."""
    packed, offsets = PackedOffsets(), [1000] * 40
    for move in ({}, *moves):
        for index, offset in move.items():
            offsets[index] = offset
        assert packed.take(tuple(offsets))
        rest = {index: offset for index, offset in enumerate(offsets) if index != left_out}
        assert dict(read_compact(spelled(packed, 40, left_out))) == rest


@given(st.lists(st.tuples(st.integers(0, 41), OFFSETS, st.booleans(), st.booleans()), max_size=20))
def test_one_that_is_named_need_not_be_looked_for(moves: list[tuple[int, int, bool, bool]]) -> None:
    """Offsets that are numbered name the one that moved, also if some were not taken, or the one is of elsewhere."""
    packed, offsets = PackedOffsets(), [1000] * 40
    for number, (index, offset, is_taken, is_numbered) in enumerate(moves, 1):
        if index < len(offsets):
            offsets[index] = offset
        if is_taken:
            for _ in range(2):
                assert packed.take(tuple(offsets), *((number, index) if is_numbered else ()))
            assert dict(read_compact(spelled(packed, 40))) == dict(enumerate(offsets))


def test_one_that_moves_is_replaced_in_place() -> None:
    """The result equals packing everything again, and is soon as short."""
    packed, offsets = PackedOffsets(), list(range(100, 400))
    packed.take(tuple(offsets))
    for index in range(300):
        offsets[index] = 500 + index
        packed.take(tuple(offsets))
    packed.take((*offsets[:-1], 1000))
    assert spelled(packed, 300) == spell_compact(range(300), [*offsets[:-1], 1000])


def test_more_changes_than_are_looked_for() -> None:
    """If more offsets changed, all are packed again."""
    packed = PackedOffsets()
    packed.take((5,) * 100)
    changed = (7,) * (MOST_CHANGES + 1) + (5,) * (99 - MOST_CHANGES)
    assert packed.take(changed)
    assert spelled(packed, 100) == spell_compact(range(100), changed)


@pytest.mark.parametrize("before", [(), (1, 2, 3)])
def test_an_offset_that_is_not_known(before: tuple[int, ...]) -> None:
    """It is refused, and the previous offsets stay."""
    packed = PackedOffsets()
    if before:
        packed.take(before)
    assert not packed.take((1, None, 3))
    assert packed.take((1, 2, 4))
    assert spelled(packed, 3) == spell_compact(range(3), (1, 2, 4))


def test_few_large_offsets_among_many_small_ones() -> None:
    """Near the longest position they are spelled separately, as without packing."""
    packed, offsets = PackedOffsets(), [7] * 1000
    offsets[3] = 2**62
    packed.take(tuple(offsets))
    assert spelled(packed, 1000) == spell_compact(range(1000), offsets)
    assert len(spelled(packed, 1000)) < LARGE_BYTES
    rest = [offset for index, offset in enumerate(offsets) if index != 5]
    assert spelled(packed, 1000, 5) == spell_compact([number for number in range(1000) if number != 5], rest)
