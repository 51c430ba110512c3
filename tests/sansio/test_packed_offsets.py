"""Tests of offsets that are kept packed from one position to the next."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sansio.compact_position import LARGE_BYTES, read_segments, spell_compact
from dispatcher.sansio.packed_offsets import MOST_CHANGES, Chunks, PackedOffsets

OFFSETS = st.one_of(st.integers(-1, 300), st.integers(-1, 2**20), st.integers(-1, 2**63 - 1))


def read(text: str) -> dict[int, int]:
    """The partitions and offsets of all segments."""
    return {number: offset for segment in read_segments(text) for number, offset in zip(*segment[:2], strict=True)}


class Cut:
    """Offsets in chunks of ten, of which those that have not changed stay the same objects."""

    def __init__(self) -> None:
        self._chunks: Chunks = ()

    def __call__(self, offsets: Sequence[int | None]) -> Chunks:
        new = [tuple(offsets[first : first + 10]) for first in range(0, len(offsets), 10)]
        old = self._chunks or new
        self._chunks = tuple([before if before == after else after for before, after in zip(old, new, strict=True)])
        return self._chunks


@given(st.lists(st.dictionaries(st.integers(0, 44), OFFSETS, max_size=20), max_size=8), st.none() | st.integers(0, 44))
def test_whatever_moves_is_read_back(moves: list[dict[int, int]], left_out: int | None) -> None:
    """After any movement of offsets, the spelling names the current ones."""
    packed, offsets, cut = PackedOffsets(range(45)), [1000] * 45, Cut()
    for move in ({}, *moves):
        for index, offset in move.items():
            offsets[index] = offset
        assert packed.take(cut(offsets))
        rest = {index: offset for index, offset in enumerate(offsets) if index != left_out}
        assert read(packed.spell(left_out)) == rest


@given(st.lists(st.tuples(st.integers(0, 46), OFFSETS, st.booleans(), st.booleans()), max_size=20))
def test_one_that_is_named_need_not_be_looked_for(moves: list[tuple[int, int, bool, bool]]) -> None:
    """Offsets that are numbered name the one that moved, also if some were not taken, or the one is of elsewhere."""
    packed, offsets, cut = PackedOffsets(range(45)), [1000] * 45, Cut()
    for number, (index, offset, is_taken, is_numbered) in enumerate(moves, 1):
        if index < len(offsets):
            offsets[index] = offset
        if is_taken:
            for _ in range(2):
                assert packed.take(cut(offsets), *((number, index) if is_numbered else ()))
            assert read(packed.spell()) == dict(enumerate(offsets))


def test_one_that_moves_is_replaced_in_place() -> None:
    """The result equals packing everything again, and is soon as short."""
    packed, offsets, cut = PackedOffsets(range(300)), list(range(100, 400)), Cut()
    packed.take(cut(offsets))
    for index in range(300):
        offsets[index] = 500 + index
        packed.take(cut(offsets))
    offsets[-1] = 1000
    packed.take(cut(offsets))
    assert packed.spell() == spell_compact(range(300), offsets)


def test_only_chunks_that_are_other_objects_are_looked_into() -> None:
    """The cost of a record does not grow with the offsets that have not moved."""
    packed = PackedOffsets(range(4))
    first, second, third = (5, 6), (7, 8), (9, 8)
    packed.take((first, second))
    assert packed.take((first, third))
    assert packed.spell() == spell_compact(range(4), (*first, *third))


def test_more_changes_than_are_looked_for() -> None:
    """If more offsets changed, all are packed again."""
    packed, cut = PackedOffsets(range(100)), Cut()
    packed.take(cut((5,) * 99 + (9,)))
    changed = (7,) * (MOST_CHANGES + 1) + (5,) * (99 - MOST_CHANGES)
    assert packed.take(cut(changed))
    assert packed.spell() == spell_compact(range(100), changed)


@pytest.mark.parametrize("before", [(), (1, 2, 3)])
def test_an_offset_that_is_not_known(before: tuple[int, ...]) -> None:
    """It is refused, and does not spoil what follows."""
    packed = PackedOffsets(range(3))
    if before:
        packed.take((before,))
    assert not packed.take(((2, None, 3),))
    assert packed.take(((1, 2, 4),))
    assert packed.spell() == spell_compact(range(3), (1, 2, 4))


def test_few_large_offsets_among_many_small_ones() -> None:
    """Near the longest position they are spelled separately, as without packing."""
    packed, offsets = PackedOffsets(range(1000)), [7] * 1000
    offsets[3] = 2**62
    packed.take((offsets,))
    assert packed.spell() == spell_compact(range(1000), offsets)
    assert len(packed.spell()) < LARGE_BYTES
    rest = [offset for index, offset in enumerate(offsets) if index != 5]
    assert packed.spell(5) == spell_compact([number for number in range(1000) if number != 5], rest)
