"""What follows a record's own pair in its id: a template for each partition, because only the offsets change."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dispatcher.sansio.layout import Layout, Span

SHORT_CHARACTERS = 256
"""Longer positions are spelled compactly, and only once per write."""

MAX_SUFFIXES = 1024
"""Clients choose the topics, so there can be more combinations than are worth keeping."""


class Suffix(NamedTuple):
    """The suffix of the ids of one partition while every offset is known."""

    template: str
    """The pairs, with a place for each offset."""
    places: Sequence[tuple[int, int]]
    """Where these offsets are among the chunks of a layout (`Layout.places`)."""
    own_characters: int
    """The length of what precedes the suffix, without the record's own offset."""

    def format(self, chunks: Sequence[Sequence[int | None]]) -> str:
        """Return the suffix for the offsets in these chunks.

        Raises:
            TypeError: an offset is None.
        """
        return self.template % tuple([chunks[chunk][place] for chunk, place in self.places])


class IdSuffixes:
    """The suffixes for one order of partitions, each made when it is first asked for.

    Args:
        layout: The order.
    """

    __slots__ = ("_found", "_layout")

    def __init__(self, layout: "Layout") -> None:
        self._layout = layout
        self._found: dict[tuple[int, frozenset[str] | None, bool], Suffix] = {}

    def find(self, own: int, topics: frozenset[str] | None, *, whole: bool) -> Suffix | None:
        """Return the suffix for a partition's records; None if their ids would be long with any offsets.

        Args:
            own: The index of the partition.
            topics: Only these topics, the partition's own among them; None for all.
            whole: Whether the stream has all partitions of its topics.
        """
        chosen = self._layout.chosen(topics)
        if chosen.is_long:
            return None
        key = own, topics, whole
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= MAX_SUFFIXES:
                self._found.clear()
            found = self._found[key] = self._make(own, chosen.spans, whole=whole)
        return found

    def _make(self, own: int, spans: Sequence["Span"], *, whole: bool) -> Suffix:
        layout = self._layout
        own_partition = layout.partitions[own]
        template, places = "", list[tuple[int, int]]()
        for span in sorted(spans, key=lambda span: span.topic != own_partition.topic):
            indexes = [index for index in range(span.first, span.end) if index != own]
            pairs = "".join([layout.pairs[index] for index in indexes]) + (span.next_pair if whole else "")
            template += pairs if span.topic == own_partition.topic else f";{span.topic}:{pairs[1:]}"
            places += [layout.places[index] for index in indexes]
        return Suffix(template, places, len(f"{own_partition}="))
