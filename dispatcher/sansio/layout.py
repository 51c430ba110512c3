"""An order of partitions, with what the spellings of their positions have in common."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from dispatcher.sansio import id_suffixes
from dispatcher.sansio.packed_offsets import PackedOffsets
from dispatcher.sansio.records import TopicPartition

CHUNK = 32
"""Most offsets per chunk. A record's snapshot copies one chunk and the tuple of all chunks; with 1,000 partitions both
have 32 items."""

Offsets = Sequence[int | None]
Chunks = tuple[tuple[int | None, ...], ...]
"""The offsets of a layout's partitions in chunks, each of one topic's partitions. Chunks that do not change are shared
from one snapshot to the next."""


class Span(NamedTuple):
    """The partitions of one topic, which are adjacent in the order."""

    topic: str
    first: int
    end: int
    chunks: slice
    """Their chunks."""
    next_pair: str
    """``,partition=-1`` for the partition that would be added next, if all of the topic's partitions are here."""
    packed: PackedOffsets
    """Their offsets as spelled last."""


class Chosen(NamedTuple):
    """What the spellings of some topics have in common."""

    spans: Sequence[Span]
    is_long: bool
    """Whether their positions are long with any offsets: each pair has four characters or more."""


class Layout:
    """An order of partitions that many snapshots share, with the common parts of their spellings.

    Args:
        partitions: Partitions in any order.
        followed: Which of them the replica does not own; streams of the replica's own partitions do not name these.
        counts: The least number of partitions that topics have had; None if it is unknown which partitions are all.
    """

    __slots__ = (
        "_chosen",
        "chunks",
        "indexes",
        "owned",
        "owned_indexes",
        "pairs",
        "partitions",
        "places",
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
        self.chunks: list[tuple[int, int]] = []
        """Where each chunk begins and ends."""
        self.spans: dict[str, Span] = {}
        """The partitions of each topic."""
        numbers: dict[str, list[int]] = {}
        for topic, number in self.partitions:
            numbers.setdefault(topic, []).append(number)
        first = 0
        for topic, some in numbers.items():
            end, before = first + len(some), len(self.chunks)
            self.chunks += [(start, min(start + CHUNK, end)) for start in range(first, end, CHUNK)]
            is_all = counts is not None and some[-1] == len(some) - 1 and len(some) >= counts.get(topic, 0)
            next_pair = f",{len(some)}=-1" if is_all else ""
            chunks = slice(before, len(self.chunks))
            self.spans[topic] = Span(topic, first, end, chunks, next_pair, PackedOffsets(some))
            first = end
        self.places = [(n, place) for n, (start, end) in enumerate(self.chunks) for place in range(end - start)]
        """The chunk of each partition, and the place in it."""
        self.suffixes = id_suffixes.IdSuffixes(self)
        self._chosen: dict[frozenset[str] | None, Chosen] = {}
        self.owned: Layout = self
        """The layout without the followed partitions."""
        self.owned_indexes: tuple[int, ...] = ()
        """The indexes in this layout of the partitions of `owned`, if that is another layout."""
        if followed:
            owned = [partition for partition in self.partitions if partition not in followed]
            self.owned = Layout(owned)
            self.owned_indexes = tuple(self.indexes[partition] for partition in owned)

    def cut(self, offsets: Offsets) -> Chunks:
        """Cut the offsets of all partitions into chunks."""
        return tuple([tuple(offsets[first:end]) for first, end in self.chunks])

    def chosen(self, topics: frozenset[str] | None) -> Chosen:
        """Return what the spellings of some topics have in common; of all topics for None."""
        found = self._chosen.get(topics)
        if found is None:
            if len(self._chosen) >= id_suffixes.MAX_SUFFIXES:
                self._chosen.clear()
            spans = [span for topic, span in self.spans.items() if topics is None or topic in topics]
            is_long = 4 * sum([end - first for _, first, end, *_ in spans]) > id_suffixes.SHORT_CHARACTERS
            found = self._chosen[topics] = Chosen(spans, is_long)
        return found
