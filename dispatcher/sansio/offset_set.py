"""Sets of offsets of one partition that need little memory, whatever their pattern.

Rules of this module:

* Offsets are stored in blocks of `BLOCK_OFFSETS`. A block that is partly in the set is a bitmap; consecutive blocks
  that are wholly in it form one run. So every set has exactly one representation, and adding and removing the same
  offsets leaves no trace.
* A set has at most one item per block between its first and its last offset, and at most three per range. A long range
  needs little memory; where every second offset is in the set, 1,024 offsets take 300 bytes. A list of ranges would
  take 130 bytes per range, which is 60 KiB in that case.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

OffsetRange = tuple[int, int]
"""The first offset, and the one after the last."""

BLOCK_OFFSETS = 1024
"""How many offsets a block spans: its bitmap takes about as much memory as the objects around it."""

_WHOLE = (1 << BLOCK_OFFSETS) - 1


class OffsetSet:
    """A set of offsets; its length is the number of its items."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: list[tuple[int, int, int]] = []
        """First block, the block after the last, and the bitmap, which is `_WHOLE` for several blocks. Sorted."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def first(self) -> int:
        """The first offset.

        Raises:
            IndexError: the set is empty.
        """
        block, _, bits = self._items[0]
        return block * BLOCK_OFFSETS + _zeros(bits)

    @property
    def offsets(self) -> int:
        """How many offsets are in the set; costs the number of items."""
        return sum((last - first) * bits.bit_count() for first, last, bits in self._items)

    def add(self, start: int, end: int) -> None:
        """Add a range that may overlap the set. Costs 0.5 µs in the last block, more elsewhere."""
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
        """Remove a range; costs the same as adding one."""
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
        """Yield the parts of a range that are in the set: in order, disjoint, not touching."""
        open_from, open_to = -1, -1
        at = self._at(start // BLOCK_OFFSETS)
        while at < len(self._items) and self._items[at][0] * BLOCK_OFFSETS < end:
            block, after, bits = self._items[at]
            if bits != _WHOLE:
                # Cut off what is outside first: a bitmap may hold hundreds of ranges.
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
        """Return about this many last ranges, in order; ranges that touch between blocks may count twice."""
        found: list[OffsetRange] = []
        for item in reversed(self._items):
            if len(found) >= number:
                break
            found += reversed(list(_runs(*item)))
        return found[::-1]

    def end_of(self, offset: int) -> int:
        """Return the first offset from this one on that is not in the set."""
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
        """Remove everything before an offset, and the range that begins there; returns its end, or else the offset."""
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
        """Return the index of the first item that holds this block or a later one."""
        items = self._items
        if not items or items[-1][0] <= block:
            return len(items) - 1 if items and items[-1][1] > block else len(items)
        at = bisect_right(items, (block, math.inf, 0))
        return at - 1 if at and items[at - 1][1] > block else at

    def _change(self, block: int, added: int, removed: int) -> None:
        """Add some offsets of one block and remove others."""
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
        """Insert a run of whole blocks of which the set has none."""
        at = self._at(first)
        if at < len(self._items) and self._items[at][0] == last and self._items[at][2] == _WHOLE:
            last = self._items.pop(at)[1]
        if at and self._items[at - 1][1] == first and self._items[at - 1][2] == _WHOLE:
            at -= 1
            first = self._items.pop(at)[0]
        self._items.insert(at, (first, last, _WHOLE))


def _blocks(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Split a range into blocks: yields the first block, the block after the last, and a bitmap."""
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
    """Yield the ranges of one item."""
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
    """Count the trailing zeros of a number's binary digits; the number must not be 0."""
    return (bits & -bits).bit_length() - 1
