"""Sets of offsets of one partition, in little memory whatever their pattern.

Rules of this module:

* Offsets are kept in blocks of `BLOCK_OFFSETS`. A block that is held in part is a bitmap; consecutive blocks that are
  held wholly are one run. So each set is spelled in one way only, and what is added and removed again leaves no trace.
* A set has at most one item for each block between its first and its last offset, and at most three for each of its
  ranges: it needs little for a long range, and where held and other offsets alternate, 300 bytes for 1,024 of them.
  A list of ranges would need 130 bytes for each range, 60 KiB where every second offset is held.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

OffsetRange = tuple[int, int]
"""First offset, and the one after the last."""

BLOCK_OFFSETS = 1024
"""Offsets of one block: its bitmap takes about as much as the objects around it."""

_WHOLE = (1 << BLOCK_OFFSETS) - 1


class OffsetSet:
    """A set of offsets; its length is how many items it is made of."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: list[tuple[int, int, int]] = []
        """First block, the one after the last, and the bitmap: of several blocks it is `_WHOLE`. Sorted."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def first(self) -> int:
        """The first offset.

        Raises:
            IndexError: there is none.
        """
        block, _, bits = self._items[0]
        return block * BLOCK_OFFSETS + _zeros(bits)

    @property
    def offsets(self) -> int:
        """How many there are: each item is counted."""
        return sum((last - first) * bits.bit_count() for first, last, bits in self._items)

    def add(self, start: int, end: int) -> None:
        """Add a range, of which some may be there. Costs 0.5 µs in the last block, more elsewhere."""
        block, skipped = divmod(start, BLOCK_OFFSETS)
        length = end - start
        if 0 < length < BLOCK_OFFSETS - skipped:
            self._change(block, ((1 << length) - 1) << skipped, 0)
            return
        for first, last, mask in _blocks(start, end):
            if mask == _WHOLE:
                self._cut(first, last)
                self._insert(first, last)
            else:
                self._change(first, mask, 0)

    def remove(self, start: int, end: int) -> None:
        """Remove what there is of a range. Costs as much."""
        block, skipped = divmod(start, BLOCK_OFFSETS)
        length = end - start
        if 0 < length < BLOCK_OFFSETS - skipped:
            self._change(block, 0, ((1 << length) - 1) << skipped)
            return
        for first, last, mask in _blocks(start, end):
            if mask == _WHOLE:
                self._cut(first, last)
            else:
                self._change(first, 0, mask)

    def ranges(self, start: int, end: int) -> Iterator[OffsetRange]:
        """What there is of a range: in order, disjoint, not touching."""
        open_from, open_to = -1, -1
        at = self._at(start // BLOCK_OFFSETS)
        while at < len(self._items) and self._items[at][0] * BLOCK_OFFSETS < end:
            block, after, bits = self._items[at]
            if bits != _WHOLE:
                # What is outside is not looked at: a bitmap may hold hundreds of ranges.
                base = block * BLOCK_OFFSETS
                before = max(0, start - base)
                bits = bits >> before << before & ((1 << min(end - base, BLOCK_OFFSETS)) - 1)
            for first, last in _runs(block, after, bits):
                low, high = max(first, start), min(last, end)
                if low != open_to:
                    if open_to > open_from:
                        yield open_from, open_to
                    open_from = low
                open_to = high
            at += 1
        if open_to > open_from:
            yield open_from, open_to

    def last_ranges(self, number: int) -> list[OffsetRange]:
        """The last ranges, in order; at most about this many, and those that touch at blocks may be two."""
        found: list[OffsetRange] = []
        for item in reversed(self._items):
            if len(found) >= number:
                break
            found += reversed(list(_runs(*item)))
        return found[::-1]

    def end_of(self, offset: int) -> int:
        """The first offset from this one on that is not in the set."""
        block = offset // BLOCK_OFFSETS
        at = self._at(block)
        while at < len(self._items) and self._items[at][0] <= block:
            first, last, bits = self._items[at]
            if bits != _WHOLE:
                place = offset - first * BLOCK_OFFSETS
                offset += _zeros(~(bits >> place))
                if offset < last * BLOCK_OFFSETS:
                    break
            else:
                offset = last * BLOCK_OFFSETS
            block, at = last, at + 1
        return offset

    def advance(self, offset: int) -> int:
        """Remove all before an offset, and the range that begins at it; returns where that ends, or the offset."""
        items = self._items
        if not items:
            return offset
        block, last, bits = items[0]
        place = offset - block * BLOCK_OFFSETS
        if last - block > 1 or not 0 <= place < BLOCK_OFFSETS or bits >> place == _WHOLE >> place:
            end = self.end_of(offset)
            if (first := self.first) < end:
                self.remove(first, end)
            return end
        place += _zeros(~(bits >> place))
        if left := bits >> place << place:
            items[0] = block, last, left
        else:
            del items[0]
        return block * BLOCK_OFFSETS + place

    def _at(self, block: int) -> int:
        """Where the first item is that holds a block or comes after it."""
        items = self._items
        if not items or items[-1][0] <= block:
            return len(items) - 1 if items and items[-1][1] > block else len(items)
        at = bisect_right(items, (block, math.inf, 0))
        return at - 1 if at and items[at - 1][1] > block else at

    def _change(self, block: int, added: int, removed: int) -> None:
        """Add offsets of one block and remove others."""
        items, at = self._items, self._at(block)
        if at == len(items) or items[at][0] > block:
            if added:
                items.insert(at, (block, block + 1, added))
            return
        first, last, before = items[at]
        bits = (before | added) & ~removed
        if bits == before:
            return
        if last - first == 1 and 0 < bits < _WHOLE:
            items[at] = block, last, bits
            return
        self._cut(block, block + 1)
        if bits == _WHOLE:
            self._insert(block, block + 1)
        elif bits:
            items.insert(self._at(block), (block, block + 1, bits))

    def _cut(self, first: int, last: int) -> None:
        """Remove whole blocks."""
        at = self._at(first)
        end = bisect_left(self._items, (last, 0, 0))
        left = []
        for low, high, bits in self._items[at:end]:
            left += [
                (one, other, bits) for one, other in ((low, min(high, first)), (max(low, last), high)) if one < other
            ]
        self._items[at:end] = left

    def _insert(self, first: int, last: int) -> None:
        """Put a run of whole blocks where there is none of them."""
        at = self._at(first)
        if at < len(self._items) and self._items[at][0] == last and self._items[at][2] == _WHOLE:
            last = self._items.pop(at)[1]
        if at and self._items[at - 1][1] == first and self._items[at - 1][2] == _WHOLE:
            at -= 1
            first = self._items.pop(at)[0]
        self._items.insert(at, (first, last, _WHOLE))


def _blocks(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """A range over several blocks: the first one, the one after the last, and which of their offsets."""
    first, skipped = divmod(start, BLOCK_OFFSETS)
    last, more = divmod(end, BLOCK_OFFSETS)
    if first == last:
        return
    if skipped:
        yield first, first + 1, _WHOLE - ((1 << skipped) - 1)
        first += 1
    if first < last:
        yield first, last, _WHOLE
    if more:
        yield last, last + 1, (1 << more) - 1


def _runs(first: int, last: int, bits: int) -> Iterator[OffsetRange]:
    """The ranges of one item."""
    offset = first * BLOCK_OFFSETS
    if bits == _WHOLE:
        yield offset, last * BLOCK_OFFSETS
        return
    while bits:
        skipped = _zeros(bits)
        bits >>= skipped
        offset += skipped
        length = _zeros(~bits)
        bits >>= length
        yield offset, offset + length
        offset += length


def _zeros(bits: int) -> int:
    """How many zeros its binary digits end with: it is not 0."""
    return (bits & -bits).bit_length() - 1
