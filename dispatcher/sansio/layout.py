"""An order of partitions, with what the spellings of their positions have in common."""

from collections.abc import Collection, Iterable, Mapping

from dispatcher.sansio import id_suffixes
from dispatcher.sansio.compact_position import Ranges, ranges_of, spell_ranges, without
from dispatcher.sansio.packed_offsets import PackedOffsets
from dispatcher.sansio.records import TopicPartition


class Layout:
    """An order of partitions that many snapshots share, with the common parts of their spellings.

    Args:
        partitions: Partitions in any order.
        followed: Which of them the replica does not own; streams of the replica's own partitions do not name these.
        counts: The least number of partitions that topics have had; None if it is unknown which partitions are all.
    """

    __slots__ = (
        "_compact",
        "_packed",
        "_ranges",
        "indexes",
        "next_pairs",
        "owned",
        "owned_indexes",
        "pairs",
        "partitions",
        "spans",
        "suffixes",
    )

    def __init__(
        self,
        partitions: Iterable[TopicPartition],
        followed: Collection[TopicPartition] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self.partitions = tuple(sorted(partitions))
        self.indexes = {partition: index for index, partition in enumerate(self.partitions)}
        self.pairs = tuple(f",{partition.partition}=%d" for partition in self.partitions)
        """The spelling of each partition, with a place for its offset."""
        self.spans: dict[str, tuple[int, int]] = {}
        """Where each topic's partitions begin and end; they are sorted, so a topic's are adjacent."""
        for index, (topic, _) in enumerate(self.partitions):
            self.spans[topic] = (self.spans.get(topic, (index, 0))[0], index + 1)
        self.next_pairs: dict[str, str] = {}
        """For topics whose partitions are all here: the spelling of the partition that would be added next."""
        if counts is not None:
            for topic, (first, end) in self.spans.items():
                if self.partitions[end - 1].partition == end - first - 1 and end - first >= counts.get(topic, 0):
                    self.next_pairs[topic] = f",{end - first}=-1"
        self.suffixes = id_suffixes.IdSuffixes(self.partitions, self.spans, self.next_pairs)
        self._ranges: dict[int, Ranges] = {}
        self._compact: dict[tuple[int, int | None], bytes] = {}
        self._packed: dict[int, PackedOffsets] = {}
        """By the first partition of a span."""
        self.owned: Layout = self
        """The layout without the followed partitions."""
        self.owned_indexes: tuple[int, ...] = ()
        """The indexes in this layout of the partitions of `owned`, if that is another layout."""
        if followed:
            owned = [partition for partition in self.partitions if partition not in followed]
            self.owned = Layout(owned)
            self.owned_indexes = tuple(self.indexes[partition] for partition in owned)

    def numbers(self, first: int, end: int, own: int | None) -> list[int]:
        """Return the numbers of a span's partitions, except one that is named separately."""
        return [self.partitions[index].partition for index in range(first, end) if index != own]

    def compact(self, first: int, end: int, own: int | None) -> bytes:
        """Return how compact spellings name the partitions of a span, except one that is named separately.

        Each partition is named separately in turn, so all these are kept: a few bytes for each.
        """
        found = self._compact.get((first, own))
        if found is None:
            ranges = self._ranges.get(first)
            if ranges is None:
                ranges = self._ranges[first] = ranges_of(self.numbers(first, end, None))
            left = ranges if own is None else without(ranges, self.partitions[own].partition)
            found = self._compact[first, own] = spell_ranges(left)
        return found

    def packed(self, first: int) -> PackedOffsets:
        """Return the offsets, as spelled last, of the span that begins at this partition."""
        packed = self._packed.get(first)
        if packed is None:
            packed = self._packed[first] = PackedOffsets()
        return packed
