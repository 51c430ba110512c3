"""The offsets of many partitions in the spelling of compact positions, kept from one position to the next.

A record changes the offset of one partition. Its number is replaced in place, and the others are copied as bytes: with
1,000 partitions that costs a third of packing all of them again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from dispatcher.sansio.compact_position import (
    LARGE_BYTES,
    octets_of,
    pack,
    spell_offsets,
    spell_segments,
    spell_varint,
)

MOST_CHANGES = 4
"""If more offsets than this have changed, they are not replaced one by one: all are packed again."""


class PackedOffsets:
    """The numbers of one segment (`compact_position`), with the offsets that they represent."""

    __slots__ = ("_low", "_number", "_numbers", "_offsets", "_replaced", "_width")

    def __init__(self) -> None:
        self._offsets: Sequence[int | None] = ()
        self._numbers = bytearray()
        self._low = self._width = 0
        self._replaced = 0
        """How many numbers have been replaced since all were packed."""
        self._number = -1

    def take(self, offsets: Sequence[int | None], number: int = -1, moved: int | None = None) -> bool:
        """Set the offsets; if one is None, return False and keep the old ones.

        Args:
            offsets: The last seen offset of each partition, -1 if nothing was seen; at least one.
            number: Counts offsets that follow one another, from 1; -1 for others.
            moved: The index of the only one that may differ from the offsets with the number before; any other index
                says that none does, and None that it is unknown.
        """
        if number == self._number > 0:
            return True
        changed: Iterable[int] | None = None
        if number == self._number + 1 and moved is not None:
            changed = (moved,) if 0 <= moved < len(offsets) else ()
        taken = self._replace(offsets, changed) or self._pack(offsets)
        if taken:
            self._number = number
        return taken

    def spell(self, ranges: bytes, left_out: int | None, partitions: Callable[[], Sequence[int]]) -> str:
        """Spell the offsets, with ``~`` in front.

        Args:
            ranges: `spell_ranges` of the partitions, except the one that is left out.
            left_out: The index of a partition that is named separately.
            partitions: Returns the numbers of the others in ascending order; see `spell_offsets`.
        """
        numbers, width = self._numbers, self._width
        if left_out is not None:
            numbers = numbers[: left_out * width] + numbers[(left_out + 1) * width :]
        data = ranges + spell_varint(self._low + 1) + bytes([width]) + numbers
        if len(data) <= LARGE_BYTES:
            return spell_segments(data)
        offsets = [offset for index, offset in enumerate(self._offsets) if index != left_out and offset is not None]
        return spell_offsets(ranges, offsets, partitions)

    def _replace(self, offsets: Sequence[int | None], changed: Iterable[int] | None) -> bool:
        """Replace the numbers that have changed; returns False if too many have, or if they do not fit.

        Args:
            offsets: The new offsets.
            changed: The indexes of those that may have changed; None if they are to be looked for.
        """
        # As the lowest offset rises, numbers become wider than necessary, so all are packed again now and then.
        if len(offsets) != len(self._offsets) or self._replaced >= len(offsets):
            return False
        low, width = self._low, self._width
        new: list[tuple[int, int]] = []
        for index in _changed(self._offsets, offsets) if changed is None else changed:
            offset = offsets[index]
            if offset is None or offset < low or octets_of(offset - low) > width or len(new) >= MOST_CHANGES:
                return False
            new.append((index * width, offset - low))
        for at, number in new:
            self._numbers[at : at + width] = number.to_bytes(width, "big")
        self._offsets = offsets
        self._replaced += len(new)
        return True

    def _pack(self, offsets: Sequence[int | None]) -> bool:
        known = [offset for offset in offsets if offset is not None]
        if len(known) < len(offsets):
            return False
        self._low, self._width, self._numbers = pack(known)
        self._offsets, self._replaced = offsets, 0
        return True


def _changed(old: Sequence[object], new: Sequence[object]) -> Iterator[int]:
    """Yield the indexes at which two sequences of equal length differ.

    Halves them: most items are identical objects.
    """
    first, end = 0, len(old)
    while old[first:] != new[first:]:
        low, high = first, end
        while high - low > 1:
            middle = (low + high) // 2
            if old[low:middle] == new[low:middle]:
                low = middle
            else:
                high = middle
        yield low
        first = low + 1
