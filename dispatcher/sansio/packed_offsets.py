"""The offsets of many partitions in the spelling of compact positions, kept from one position to the next.

A record changes the offset of one partition. Its number is replaced in place, and the others are copied as bytes: with
1,000 partitions that costs a tenth of packing all of them again.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, count
from operator import is_not

from dispatcher.sansio.compact_position import (
    LARGE_BYTES,
    Ranges,
    pack,
    ranges_of,
    spell_offsets,
    spell_ranges,
    spell_segments,
    spell_varint,
    without,
)

MOST_CHANGES = 32
"""If more offsets than this have changed, they are not replaced one by one: all are packed again."""

Chunks = Sequence[Sequence[int | None]]


class PackedOffsets:
    """The numbers of one segment (`compact_position`), with the offsets that they represent.

    Args:
        partitions: The numbers of the partitions, in ascending order; at least one.
    """

    __slots__ = (
        "_chunks",
        "_low",
        "_low_and_width",
        "_most",
        "_number",
        "_numbers",
        "_partitions",
        "_ranges",
        "_replaced",
        "_spelled_ranges",
        "_width",
    )

    def __init__(self, partitions: Sequence[int]) -> None:
        self._partitions = partitions
        self._ranges: Ranges = ()
        self._spelled_ranges: dict[int | None, bytes] = {}
        """By the index of the partition that they leave out. Each is left out in turn, so all are kept: a few bytes
        each."""
        self._chunks: Chunks = ()
        """The offsets; empty if the numbers are not those of any offsets."""
        self._numbers = bytearray()
        self._low = self._width = self._most = 0
        self._low_and_width = b""
        self._replaced = 0
        """How many numbers have been replaced since all were packed."""
        self._number = -1

    def take(self, chunks: Chunks, number: int = -1, moved: int | None = None) -> bool:
        """Set the offsets; if one is None, return False: then they cannot be spelled.

        Args:
            chunks: The last seen offset of each partition, -1 if nothing was seen. All chunks but the last are equally
                long. Those that have not changed should be the same objects: the others are looked into.
            number: Counts offsets that follow one another, from 1; -1 for others.
            moved: The index of the only one that may differ from the offsets with the number before; any other index
                says that none does, and None that it is unknown.
        """
        if number == self._number > 0:
            return True
        if number != self._number + 1 or moved is None:
            changed: Iterable[int] = _changed(self._chunks, chunks)
        else:
            changed = (moved,) if 0 <= moved < len(self._partitions) else ()
        taken = self._replace(chunks, changed) or self._pack(chunks)
        self._number = number if taken else -1
        return taken

    def spell(self, left_out: int | None = None) -> str:
        """Spell the offsets, with ``~`` in front.

        Args:
            left_out: The index of a partition that is named separately; not the only one.
        """
        numbers = self._numbers
        if left_out is not None:
            at = left_out * self._width
            numbers = numbers[:at] + numbers[at + self._width :]
        ranges = self._spelled_ranges.get(left_out) or self._spell_ranges(left_out)
        data = b"".join((ranges, self._low_and_width, numbers))
        if len(data) <= LARGE_BYTES:
            return spell_segments(data)
        every = enumerate(chain.from_iterable(self._chunks))
        offsets = [offset for index, offset in every if index != left_out and offset is not None]
        return spell_offsets(ranges, offsets, [n for i, n in enumerate(self._partitions) if i != left_out])

    def _spell_ranges(self, left_out: int | None) -> bytes:
        ranges = self._ranges = self._ranges or ranges_of(self._partitions)
        named = ranges if left_out is None else without(ranges, self._partitions[left_out])
        spelled = self._spelled_ranges[left_out] = spell_ranges(named)
        return spelled

    def _replace(self, chunks: Chunks, changed: Iterable[int]) -> bool:
        """Replace the numbers that have changed; returns False if too many have, or if they do not fit.

        Args:
            chunks: The new offsets.
            changed: The indexes of those that may have changed.
        """
        # As the lowest offset rises, numbers become wider than necessary, so all are packed again now and then.
        if not self._chunks or self._replaced >= len(self._partitions):
            return False
        low, width, length, most = self._low, self._width, len(chunks[0]), self._replaced + MOST_CHANGES
        for index in changed:
            offset = chunks[index // length][index % length]
            if offset is None or not 0 <= offset - low <= self._most or self._replaced >= most:
                return False
            self._numbers[index * width : (index + 1) * width] = (offset - low).to_bytes(width, "big")
            self._replaced += 1
        self._chunks = chunks
        return True

    def _pack(self, chunks: Chunks) -> bool:
        known = [offset for offset in chain.from_iterable(chunks) if offset is not None]
        if len(known) < len(self._partitions):
            self._chunks = ()
            return False
        self._low, self._width, self._numbers = pack(known)
        self._low_and_width = spell_varint(self._low + 1) + bytes((self._width,))
        self._most = 256**self._width - 1
        self._chunks, self._replaced = chunks, 0
        return True


def _changed(old: Chunks, new: Chunks) -> Iterator[int]:
    """Yield the indexes at which offsets may differ: those that are other objects, which costs least to find out."""
    for number in compress(count(), map(is_not, old, new)):
        first = number * len(new[0])
        yield from compress(count(first), map(is_not, old[number], new[number]))
