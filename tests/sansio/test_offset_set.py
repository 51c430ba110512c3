"""Sets of offsets: what is in them after any order of adding and removing, and that one set has one spelling."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sansio.offset_set import BLOCK_OFFSETS, OffsetSet

OFFSETS = st.builds(
    lambda block, within: block * BLOCK_OFFSETS + within, st.integers(0, 5), st.sampled_from((0, 1, 2, 500, 1022, 1023))
)
LENGTHS = st.sampled_from((1, 2, 3, 700, 1023, 1024, 1025, 3000))
STEPS = st.lists(st.tuples(st.booleans(), OFFSETS, LENGTHS), min_size=1, max_size=8)


def spelled(offsets: set[int]) -> list[tuple[int, int]]:
    """The ranges of a set."""
    found: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if found and found[-1][1] == offset:
            found[-1] = found[-1][0], offset + 1
        else:
            found.append((offset, offset + 1))
    return found


@given(steps=STEPS, window=st.tuples(OFFSETS, LENGTHS))
@settings(max_examples=60)
def test_a_set_holds_what_was_added_and_not_removed(
    steps: list[tuple[bool, int, int]], window: tuple[int, int]
) -> None:
    """In any order, with few items, its ranges are those of the offsets."""
    found, expected = OffsetSet(), set[int]()
    for adds, start, length in steps:
        offsets = range(start, start + length)
        if adds:
            found.add(start, start + length)
            expected.update(offsets)
        else:
            found.remove(start, start + length)
            expected.difference_update(offsets)
        assert found.offsets == len(expected)
    assert len(found) <= len({offset // BLOCK_OFFSETS for offset in expected})
    assert len(found) <= 3 * len(spelled(expected))
    assert list(found.ranges(0, 20 * BLOCK_OFFSETS)) == spelled(expected)
    start, end = window[0], sum(window)
    assert list(found.ranges(start, end)) == spelled(expected & set(range(start, end)))
    assert found.end_of(start) == next(offset for offset in range(start, 20 * BLOCK_OFFSETS) if offset not in expected)
    if expected:
        assert found.first == min(expected)
    last = found.last_ranges(100)
    assert [offset for one in last for offset in range(*one)] == sorted(expected)
    again = OffsetSet()
    for first, after in reversed(spelled(expected)):
        again.add(first, after)
    assert again._items == found._items, "one set has one spelling"
    end = found.end_of(start)
    assert again.advance(start) == end
    found.remove(0, end)
    assert again._items == found._items
    assert again.advance(30 * BLOCK_OFFSETS) == 30 * BLOCK_OFFSETS
    assert not again


def test_a_range_of_any_length_is_little() -> None:
    """Offsets removed by compaction are inside ranges; a million of millions costs as much as three."""
    found = OffsetSet()
    found.add(5, 10**12 + 3)
    assert (len(found), found.offsets, found.first) == (3, 10**12 - 2, 5)
    assert found.end_of(7) == 10**12 + 3
    found.remove(10**6, 10**6 + 1)
    assert list(found.ranges(0, 10**13)) == [(5, 10**6), (10**6 + 1, 10**12 + 3)]
    found.remove(0, 10**13)
    assert (len(found), found.offsets) == (0, 0)


def test_nothing_is_added_of_a_range_without_offsets() -> None:
    """A position that has not moved gives an empty range."""
    found = OffsetSet()
    found.add(7, 7)
    found.remove(7, 7)
    assert not found
    assert found.end_of(7) == 7
    assert list(found.ranges(0, 100)) == found.last_ranges(10) == []
    assert found.advance(7) == 7


def test_a_set_is_used_up_from_its_beginning() -> None:
    """Dispatching removes offsets up to the end of a block, and into the next one."""
    found, end = OffsetSet(), BLOCK_OFFSETS
    for first, after in ((2, 4), (6, 8), (end - 2, end + 2), (end + 5, end + 6)):
        found.add(first, after)
    assert [found.advance(offset) for offset in (1, 2, 5, 7, end - 3)] == [1, 4, 5, 8, end - 3]
    assert found.advance(end - 2) == end + 2
    found.add(3 * end, 3 * end + 1)
    found.remove(3 * end, 3 * end + 1)
    assert found.advance(0) == 0
    assert list(found.ranges(0, 2 * end)) == [(end + 5, end + 6)]
    assert found.advance(end + 5) == end + 6
    assert not found


def test_the_last_ranges_are_the_newest() -> None:
    """About the requested number is returned, because no block is cut."""
    found = OffsetSet()
    for block in range(10):
        found.add(block * BLOCK_OFFSETS + 1, block * BLOCK_OFFSETS + 2)
    assert found.last_ranges(2) == [
        (8 * BLOCK_OFFSETS + 1, 8 * BLOCK_OFFSETS + 2),
        (9 * BLOCK_OFFSETS + 1, 9 * BLOCK_OFFSETS + 2),
    ]
    assert len(found.last_ranges(100)) == 10


def test_what_an_offset_set_is_made_of() -> None:
    """Whole blocks form one item, partial ones each another, and repeats change nothing."""
    found, block = OffsetSet(), BLOCK_OFFSETS
    found.add(1, block)
    found.add(0, 1)
    found.add(0, 1)
    assert len(found) == 1
    found.add(2 * block, 3 * block)
    found.add(block, 2 * block)
    assert len(found) == 1, "joined with what is before it, and after it"
    found.add(block + 5, block + 7)
    assert (len(found), found.offsets) == (1, 3 * block)
    found.remove(block + 5, block + 6)
    found.remove(block + 5, block + 6)
    assert (len(found), found.offsets) == (3, 3 * block - 1)
    found.remove(block, 2 * block - 1)
    assert list(found.ranges(10, 2 * block + 5)) == [(10, block), (2 * block - 1, 2 * block + 5)]
    found.remove(2 * block - 1, 2 * block)
    assert len(found) == 2
    found.add(block + 1, block + 2)
    found.remove(block + 1, block + 2)
    found.remove(5 * block, 5 * block + 1)
    assert found.end_of(0) == block
    assert list(found.ranges(block, 2 * block)) == []
