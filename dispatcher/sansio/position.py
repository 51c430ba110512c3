"""Positions: the last seen offset of every partition of a stream, spelled as event ids.

Grammar (docs/protocol.md, "Event ids")::

    position  = topic-pos *( ";" topic-pos )
    topic-pos = topic ":" ( pairs / compact )
    pairs     = partition "=" offset *( "," partition "=" offset )
    compact   = "~" 1*( ALPHA / DIGIT / "-" / "_" )  ; see `compact_position`
    offset    = "-1" / 1*DIGIT          ; -1: nothing seen yet, the log is read from its start

A topic may occur more than once, but each of its partitions only once. A partition whose position is not known yet is
left out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import cast

from dispatcher.errors import MalformedPositionError
from dispatcher.sansio import id_suffixes
from dispatcher.sansio.compact_position import (
    MARK,
    MAX_PARTITION,
    MAX_PARTITIONS,
    read_segments,
    spell_compact,
)
from dispatcher.sansio.layout import Chosen, Chunks, Layout, Offsets, Span
from dispatcher.sansio.plain_position import read_pairs, shown
from dispatcher.sansio.records import TopicPartition

MAX_POSITION_CHARACTERS = 8192
"""Browsers and proxies send the id back in a header, and proxies accept 8 KiB for all headers together."""

OFFSET_BYTES = 8
"""What an offset or a chunk costs in each snapshot that does not share it."""

PLAIN_CHARACTERS = 4096
"""Clients spell longer positions compactly, which leaves half of what proxies accept to the other headers."""

PARTITIONS_KEPT = 4
"""For how many compact spellings the named partitions are kept, at about 110 bytes each."""

MOST_PARTITIONS_KEPT = 2_000
"""Of spellings that name more, nothing is kept: a short one can name 8,192, and a client may send any."""

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def is_topic(text: str) -> bool:
    """Whether Kafka accepts this name for a topic."""
    return _TOPIC.fullmatch(text) is not None and text not in {".", ".."}


def parse_position(text: str) -> dict[TopicPartition, int]:
    """Read an event id back.

    Raises:
        MalformedPositionError: the text is not a position; the message says what is wrong with which part.
    """
    return parse_usable(text, lambda _: MAX_PARTITION + 1)[0]


def parse_usable(text: str, end_of: Callable[[str], int]) -> tuple[dict[TopicPartition, int], int]:
    """Read an event id back, without partitions that a compact spelling names and that nobody could use.

    A few characters can name thousands of them. They are counted, and nothing is made of them; whether one of them is
    named twice is not checked.

    Args:
        text: The id.
        end_of: Returns the number from which on partitions of a topic are left out.

    Returns:
        The position, and how many partitions it leaves out.

    Raises:
        MalformedPositionError: See `parse_position`.
    """
    if not text:
        raise MalformedPositionError("the event id is empty")
    if len(text) > MAX_POSITION_CHARACTERS:
        raise MalformedPositionError(
            f"the event id has {len(text)} characters, at most {MAX_POSITION_CHARACTERS} are allowed"
        )
    position: dict[TopicPartition, int] = {}
    left_out = 0
    for topic_position in text.split(";"):
        topic, colon, pairs = topic_position.partition(":")
        if not colon:
            raise MalformedPositionError(f"{shown(topic_position)} lacks the ':' between topic and partitions")
        if not is_topic(topic):
            raise MalformedPositionError(f"{shown(topic)} is not a topic name: use 1 to 249 of a-z A-Z 0-9 . _ -")
        if pairs.startswith(MARK):
            for numbers, offsets, others in read_segments(pairs, end_of(topic)):
                make = _partitions if len(numbers) <= MOST_PARTITIONS_KEPT else _partitions.__wrapped__
                partitions = make(topic, tuple(numbers))
                if position and (twice := position.keys() & partitions):
                    raise _named_twice(min(twice))
                position.update(zip(partitions, offsets, strict=True))
                left_out += others
        else:
            for number, offset in read_pairs(pairs):
                partition = TopicPartition(topic, number)
                if partition in position:
                    raise _named_twice(partition)
                position[partition] = offset
        if len(position) + left_out > MAX_PARTITIONS:
            raise MalformedPositionError(f"the event id names more than {MAX_PARTITIONS} partitions")
    return position, left_out


@lru_cache(maxsize=PARTITIONS_KEPT)
def _partitions(topic: str, numbers: tuple[int, ...]) -> Sequence[TopicPartition]:
    """Return partitions of a topic. Ids name the same ones again and again; to make them costs more than the rest."""
    return tuple([TopicPartition(topic, number) for number in numbers])


def _named_twice(partition: TopicPartition) -> MalformedPositionError:
    return MalformedPositionError(f"partition {partition} is named twice")


def shortest_position(position: Mapping[TopicPartition, int]) -> str:
    """Spell a position plainly if that takes at most `PLAIN_CHARACTERS`, and compactly otherwise.

    Empty if there is nothing to spell, or if it does not fit into the longest id that is accepted.
    """
    plain = format_position(position) if position else ""
    if len(plain) <= PLAIN_CHARACTERS:
        return plain
    layout = Layout(position)
    return Snapshot.of(layout, [position[partition] for partition in layout.partitions]).format()


def format_position(position: Mapping[TopicPartition, int], own: TopicPartition | None = None) -> str:
    """Spell a position plainly. The pair of ``own`` comes first, because the first pair alone names the record."""
    topics: dict[str, list[str]] = {} if own is None else {own.topic: [f"{own.partition}={position[own]}"]}
    for partition in sorted(position):
        if partition != own:
            topics.setdefault(partition.topic, []).append(f"{partition.partition}={position[partition]}")
    return ";".join(f"{topic}:{','.join(pairs)}" for topic, pairs in topics.items())


class Snapshot:
    """The offsets of a layout's partitions at one moment, in chunks that it shares with earlier snapshots.

    Args:
        layout: The order of partitions.
        chunks: The last seen offset of each partition, cut by `Layout.cut`; None if unknown.
        size_bytes: The memory of what it does not share.
        number: Counts snapshots that were taken one after the other, from 1; -1 for others.
        moved: The index of the only offset that may have moved since the snapshot before; None if that is unknown.
        owned: The same without followed partitions, if there are any and it is at hand.
    """

    __slots__ = ("_owned", "chunks", "layout", "moved", "number", "size_bytes")

    def __init__(
        self,
        layout: Layout,
        chunks: Chunks,
        size_bytes: int = 0,
        number: int = -1,
        moved: int | None = None,
        *,
        owned: "Snapshot | None" = None,
    ) -> None:
        self.layout = layout
        self.chunks = chunks
        self.size_bytes: int = size_bytes if owned is None else size_bytes + owned.size_bytes
        self._owned = owned
        self.number = number
        self.moved = moved

    @classmethod
    def of(cls, layout: Layout, offsets: Offsets, like: "Snapshot | None" = None) -> "Snapshot":
        """Return a snapshot of the offsets of all partitions, which shares equal chunks with another one."""
        chunks = layout.cut(offsets)
        if like is None or like.layout is not layout:
            return cls(layout, chunks, OFFSET_BYTES * (len(chunks) + len(offsets)))
        shared = tuple([old if old == new else new for old, new in zip(like.chunks, chunks, strict=True)])
        kept = sum([len(chunk) for old, chunk in zip(like.chunks, shared, strict=True) if chunk is not old])
        return cls(layout, shared, OFFSET_BYTES * (len(chunks) + kept))

    @property
    def offsets(self) -> tuple[int | None, ...]:
        """The last seen offset of each partition. The cost grows with their number."""
        return tuple(chain.from_iterable(self.chunks))

    def offset(self, index: int) -> int | None:
        """Return the last seen offset of the partition with this index."""
        chunk, place = self.layout.places[index]
        return self.chunks[chunk][place]

    def owned(self) -> "Snapshot":
        """The same snapshot without followed partitions."""
        layout = self.layout
        if layout.owned is layout:
            return self
        if self._owned is not None:
            return self._owned
        offsets = self.offsets
        return Snapshot.of(layout.owned, [offsets[index] for index in layout.owned_indexes])

    def ending(self, index: int, offset: int) -> "Snapshot":
        """The same snapshot with another offset of the partition with this index."""
        number, place = self.layout.places[index]
        chunk = self.chunks[number]
        moved = (*chunk[:place], offset, *chunk[place + 1 :])
        return Snapshot(self.layout, (*self.chunks[:number], moved, *self.chunks[number + 1 :]))

    def moved_to(self, next_offsets: Mapping[TopicPartition, int], topics: frozenset[str]) -> "Snapshot | None":
        """The place of a reader of some topics, with the chunks of this snapshot where it has the same offsets.

        What has been packed for this snapshot then need not be packed again, for the reader or afterwards.

        Args:
            next_offsets: The reader's next offset in each of its partitions.
            topics: The reader's topics. The offsets of others stay, and are not meant to be spelled.

        Returns:
            The snapshot; None if the layout lacks some of these partitions.
        """
        layout, chunks, left, next_offset_of = self.layout, list(self.chunks), len(next_offsets), next_offsets.get
        for span in layout.chosen(topics).spans:
            for number in range(span.chunks.start, span.chunks.stop):
                first, end = layout.chunks[number]
                wanted = map(next_offset_of, layout.partitions[first:end])
                new, old = tuple([None if offset is None else offset - 1 for offset in wanted]), chunks[number]
                left -= len(new) - new.count(None)
                if new != old:
                    chunks[number] = tuple([a if a == b else b for a, b in zip(old, new, strict=True)])
        return None if left else Snapshot(layout, tuple(chunks))

    def short_suffix(self, own: int, topics: frozenset[str] | None = None, *, whole: bool = False) -> str | None:
        """Return what follows ``topic:partition=offset`` in the ids of a batch; None if such ids would be long.

        The ids of one batch differ only in the offset of its partition, so everything else is spelled once.
        Costs 0.5 µs with 6 partitions, and 0.1 µs if there are too many (``timeit``, CPython 3.11).

        Args:
            own: The index of the batch's partition in the layout.
            topics: Only these topics; None for all.
            whole: Whether the stream has all partitions of its topics: see `starts.counts_begun_with`.
        """
        found = self.layout.suffixes.find(own, topics, whole=whole)
        if found is None:
            return None
        try:
            suffix = found.format(self.chunks)
        except TypeError:
            position = self._short(self.layout.chosen(topics), own, whole=whole)
            return None if position is None else position[found.own_characters + len(str(self.offset(own))) :]
        length = found.own_characters + len(str(self.offset(own))) + len(suffix)
        return suffix if length <= id_suffixes.SHORT_CHARACTERS else None

    def format(self, topics: frozenset[str] | None = None, own: int | None = None, *, whole: bool = False) -> str:
        """Spell the whole position: plainly if that is short, and compactly otherwise.

        Costs only what one changed offset costs: see `PackedOffsets`.

        Args:
            topics: Only these topics; None for all.
            own: The index of the partition whose pair comes first and is spelled plainly, because it names a record.
            whole: Whether the stream has all partitions of its topics: see `starts.counts_begun_with`.

        Returns:
            The position; empty if nothing is known. If it would be longer than what is accepted: the pair of `own`
            alone, or empty without an `own`.
        """
        layout, chosen = self.layout, self.layout.chosen(topics)
        if not chosen.is_long and (short := self._short(chosen, own, whole=whole)) is not None:
            return short
        head = own_pair = "" if own is None else f"{layout.partitions[own]}={self.offset(own)}"
        parts: list[str] = []
        nexts: list[str] = []
        count = len(layout.partitions)
        for span in chosen.spans:
            is_own = own is not None and span.first <= own < span.end
            spelled, is_known = self._compact(span, own if is_own else None)
            if spelled:
                parts.append(f"{span.topic}:{spelled}")
            if whole and is_known and span.next_pair:
                count += 1
                if is_own:
                    head += span.next_pair
                else:
                    nexts.append(f"{span.topic}:{span.next_pair[1:]}")
        position = ";".join([head, *parts, *nexts] if head else [*parts, *nexts])
        return position if len(position) <= MAX_POSITION_CHARACTERS and count <= MAX_PARTITIONS else own_pair

    def _short(self, chosen: Chosen, own: int | None, *, whole: bool) -> str | None:
        """Return the whole position, spelled plainly; None if that is long. Not for topics that are long anyway."""
        rest = {span.topic: self._plain(span, own, whole=whole) for span in chosen.spans}
        parts = []
        if own is not None:
            partition = self.layout.partitions[own]
            parts.append(f"{partition}={self.offset(own)}" + rest.pop(partition.topic, ""))
        position = ";".join(parts + [f"{topic}:{pairs[1:]}" for topic, pairs in rest.items() if pairs])
        return position if len(position) <= id_suffixes.SHORT_CHARACTERS else None

    def _plain(self, span: Span, own: int | None, *, whole: bool) -> str:
        """Return ``,partition=offset`` for each known offset of a topic, except that of a partition named separately.

        After them follows the partition that would be added next, if the stream is `whole` and all others are known.
        """
        pairs = self.layout.pairs[span.first : span.end]
        offsets = tuple(chain.from_iterable(self.chunks[span.chunks]))
        if own is not None and span.first <= own < span.end:
            place = own - span.first
            pairs, offsets = pairs[:place] + pairs[place + 1 :], offsets[:place] + offsets[place + 1 :]
        try:
            return "".join(pairs) % offsets + (span.next_pair if whole else "")
        except TypeError:
            # An offset is None, which is rare, so checking beforehand would cost more.
            known = [(pair, offset) for pair, offset in zip(pairs, offsets, strict=True) if offset is not None]
            return "".join([pair % offset for pair, offset in known])

    def _compact(self, span: Span, own: int | None) -> tuple[str, bool]:
        """Return the compact spelling of a topic, except one of its partitions that is named separately.

        Returns:
            The spelling; empty if nothing is left. And whether every offset is known.
        """
        _, first, end, chunks, _, packed = span
        moved = None if self.moved is None else self.moved - first
        if packed.take(self.chunks[chunks], self.number, moved):
            if own is None:
                return packed.spell(), True
            return packed.spell(own - first) if end - first > 1 else "", True
        offsets = self.offsets
        known = [n for n in range(first, end) if n != own and offsets[n] is not None]
        numbers = [self.layout.partitions[n].partition for n in known]
        return spell_compact(numbers, [cast("int", offsets[n]) for n in known]) if known else "", False
