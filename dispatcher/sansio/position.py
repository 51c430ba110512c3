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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from dispatcher.errors import MalformedPositionError
from dispatcher.sansio import id_suffixes
from dispatcher.sansio.compact_position import (
    MARK,
    MAX_OFFSET,
    MAX_PARTITION,
    MAX_PARTITIONS,
    read_compact,
    spell_compact,
)
from dispatcher.sansio.layout import Layout
from dispatcher.sansio.records import TopicPartition

MAX_POSITION_CHARACTERS = 8192
"""Browsers and proxies send the id back in a header, and proxies accept 8 KiB for all headers together."""

PLAIN_CHARACTERS = 4096
"""Clients spell longer positions compactly, which leaves half of what proxies accept to the other headers."""

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_SMALL_PAIR = r"(?:0|[1-9][0-9]{0,5})=(?:-1|0|[1-9][0-9]{0,17})"
_SMALL_PAIRS = re.compile(f"{_SMALL_PAIR}(?:,{_SMALL_PAIR})*")
"""Pairs that need no further check, because each number is below its bound. Most are; acknowledgements name many
pairs."""


def is_topic(text: str) -> bool:
    """Whether Kafka accepts this name for a topic."""
    return _TOPIC.fullmatch(text) is not None and text not in {".", ".."}


def parse_position(text: str) -> dict[TopicPartition, int]:
    """Read an event id back.

    Raises:
        MalformedPositionError: the text is not a position; the message says what is wrong with which part.
    """
    if not text:
        raise MalformedPositionError("the event id is empty")
    if len(text) > MAX_POSITION_CHARACTERS:
        raise MalformedPositionError(
            f"the event id has {len(text)} characters, at most {MAX_POSITION_CHARACTERS} are allowed"
        )
    position: dict[TopicPartition, int] = {}
    for topic_position in text.split(";"):
        topic, colon, pairs = topic_position.partition(":")
        if not colon:
            raise MalformedPositionError(f"{_shown(topic_position)} lacks the ':' between topic and partitions")
        if not is_topic(topic):
            raise MalformedPositionError(f"{_shown(topic)} is not a topic name: use 1 to 249 of a-z A-Z 0-9 . _ -")
        for number, offset in read_compact(pairs) if pairs.startswith(MARK) else _plain_pairs(pairs):
            partition = TopicPartition(topic, number)
            if partition in position:
                raise MalformedPositionError(f"partition {partition} is named twice")
            position[partition] = offset
        if len(position) > MAX_PARTITIONS:
            raise MalformedPositionError(f"the event id names more than {MAX_PARTITIONS} partitions")
    return position


def _plain_pairs(pairs: str) -> Iterable[tuple[int, int]]:
    if _SMALL_PAIRS.fullmatch(pairs):
        return [(int(number), int(offset)) for number, _, offset in [pair.partition("=") for pair in pairs.split(",")]]
    return _checked_pairs(pairs)


def _checked_pairs(pairs: str) -> Iterator[tuple[int, int]]:
    for pair in pairs.split(","):
        number, equals, offset = pair.partition("=")
        if not equals:
            raise MalformedPositionError(f"{_shown(pair)} lacks the '=' between partition and offset")
        partition = _number(number, "a partition: use 0", MAX_PARTITION)
        yield partition, -1 if offset == "-1" else _number(offset, "an offset: use -1, or 0", MAX_OFFSET)


def counts_begun_with(position: Mapping[TopicPartition, int]) -> dict[str, int]:
    """Return how many partitions topics had when this position was spelled, for topics about which it says so.

    After all partitions of a topic, ids of the whole topic name the one that would be added next, as not seen yet.
    Other ids lack some of the first partitions, or have an offset of the last one.
    """
    last: dict[str, int] = {}
    named = Counter(topic for topic, _ in position)
    for topic, number in position:
        last[topic] = max(number, last.get(topic, 0))
    # If there are as many different partitions as the last number requires, all of them are there.
    return {
        topic: number
        for topic, number in last.items()
        if 0 < number == named[topic] - 1 and position[TopicPartition(topic, number)] == -1
    }


def shortest_position(position: Mapping[TopicPartition, int]) -> str:
    """Spell a position plainly if that takes at most `PLAIN_CHARACTERS`, and compactly otherwise.

    Empty if there is nothing to spell, or if it does not fit into the longest id that is accepted.
    """
    plain = format_position(position) if position else ""
    if len(plain) <= PLAIN_CHARACTERS:
        return plain
    layout = Layout(position)
    return Snapshot(layout, tuple(position[partition] for partition in layout.partitions)).format()


def format_position(position: Mapping[TopicPartition, int], own: TopicPartition | None = None) -> str:
    """Spell a position plainly. The pair of ``own`` comes first, because the first pair alone names the record."""
    topics: dict[str, list[str]] = {} if own is None else {own.topic: [f"{own.partition}={position[own]}"]}
    for partition in sorted(position):
        if partition != own:
            topics.setdefault(partition.topic, []).append(f"{partition.partition}={position[partition]}")
    return ";".join(f"{topic}:{','.join(pairs)}" for topic, pairs in topics.items())


class Snapshot:
    """The offsets of a layout's partitions at one moment. Taking a snapshot only copies a tuple.

    Args:
        layout: The order of partitions.
        offsets: The last seen offset of each partition; None if unknown.
        number: Counts snapshots that were taken one after the other, from 1; -1 for others.
        moved: The index of the only offset that may have moved since the snapshot before; None if that is unknown.
    """

    __slots__ = ("layout", "moved", "number", "offsets")

    def __init__(
        self,
        layout: Layout,
        offsets: tuple[int | None, ...],
        number: int = -1,
        moved: int | None = None,
    ) -> None:
        self.layout = layout
        self.offsets = offsets
        self.number = number
        self.moved = moved

    def owned(self) -> "Snapshot":
        """The same snapshot without followed partitions."""
        layout = self.layout
        if layout.owned is layout:
            return self
        return Snapshot(layout.owned, tuple([self.offsets[index] for index in layout.owned_indexes]))

    def short_suffix(self, own: int, topics: frozenset[str] | None = None, *, whole: bool = False) -> str | None:
        """Return what follows ``topic:partition=offset`` in the ids of a batch; None if such ids would be long.

        The ids of one batch differ only in the offset of its partition, so everything else is spelled once.
        Costs 0.5 µs with 6 partitions, and 0.1 µs if there are too many (``timeit``, CPython 3.11).

        Args:
            own: The index of the batch's partition in the layout.
            topics: Only these topics; None for all.
            whole: Whether the stream has all partitions of its topics: see `counts_begun_with`.
        """
        found = self.layout.suffixes.find(own, topics, whole=whole)
        if found is None:
            return None
        try:
            suffix = found.format(self.offsets)
        except TypeError:
            position = self._short(topics, own, whole=whole)
            return None if position is None else position[found.own_characters + len(str(self.offsets[own])) :]
        length = found.own_characters + len(str(self.offsets[own])) + len(suffix)
        return suffix if length <= id_suffixes.SHORT_CHARACTERS else None

    def format(self, topics: frozenset[str] | None = None, own: int | None = None, *, whole: bool = False) -> str:
        """Spell the whole position: plainly if that is short, and compactly otherwise.

        Costs only what one changed offset costs: see `PackedOffsets`.

        Args:
            topics: Only these topics; None for all.
            own: The index of the partition whose pair comes first and is spelled plainly, because it names a record.
            whole: Whether the stream has all partitions of its topics: see `counts_begun_with`.

        Returns:
            The position; empty if nothing is known. If it would be longer than what is accepted: the pair of `own`
            alone, or empty without an `own`.
        """
        if (short := self._short(topics, own, whole=whole)) is not None:
            return short
        layout = self.layout
        own_topic = None if own is None else layout.partitions[own].topic
        own_pair = "" if own is None else f"{layout.partitions[own]}={self.offsets[own]}"
        wanted = {topic: span for topic, span in layout.spans.items() if topics is None or topic in topics}
        parts = [f"{topic}:{spelled}" for topic, span in wanted.items() if (spelled := self._compact(*span, own))]
        nexts = {topic: pair for topic in wanted if whole and (pair := self._next(topic))}
        others = [f"{topic}:{pair[1:]}" for topic, pair in nexts.items() if topic != own_topic]
        parts = [*parts, *others] if own is None else [own_pair + nexts.get(own_topic or "", ""), *parts, *others]
        position = ";".join(parts)
        fits = len(position) <= MAX_POSITION_CHARACTERS and len(layout.partitions) + len(nexts) <= MAX_PARTITIONS
        return position if fits else own_pair

    def _short(self, topics: frozenset[str] | None, own: int | None, *, whole: bool) -> str | None:
        """Return the whole position, spelled plainly; None if that is long."""
        layout = self.layout
        wanted = {topic: span for topic, span in layout.spans.items() if topics is None or topic in topics}
        if 4 * sum([end - first for first, end in wanted.values()]) > id_suffixes.SHORT_CHARACTERS:
            return None
        rest = {topic: self._plain(*span, own) + (self._next(topic) if whole else "") for topic, span in wanted.items()}
        parts = []
        if own is not None:
            partition = layout.partitions[own]
            parts.append(f"{partition}={self.offsets[own]}" + rest.pop(partition.topic, ""))
        position = ";".join(parts + [f"{topic}:{pairs[1:]}" for topic, pairs in rest.items() if pairs])
        return position if len(position) <= id_suffixes.SHORT_CHARACTERS else None

    def _next(self, topic: str) -> str:
        """Return ``,partition=-1`` for the partition that would be added next; empty unless all others are known."""
        first, end = self.layout.spans[topic]
        return "" if None in self.offsets[first:end] else self.layout.next_pairs.get(topic, "")

    def _plain(self, first: int, end: int, own: int | None) -> str:
        """Return ``,partition=offset`` for each known offset in a span, except that of a partition named separately."""
        pairs, offsets = self.layout.pairs[first:end], self.offsets[first:end]
        if own is not None and first <= own < end:
            pairs, offsets = (
                pairs[: own - first] + pairs[own - first + 1 :],
                offsets[: own - first] + offsets[own - first + 1 :],
            )
        try:
            return "".join(pairs) % offsets
        except TypeError:
            # An offset is None, which is rare, so checking beforehand would cost more.
            known = [(pair, offset) for pair, offset in zip(pairs, offsets, strict=True) if offset is not None]
            return "".join([pair % offset for pair, offset in known])

    def _compact(self, first: int, end: int, own: int | None) -> str:
        """Return the compact spelling of a span, except one partition named separately; empty if nothing is left."""
        if own is not None and not first <= own < end:
            own = None
        if end - first == (own is not None):
            return ""
        layout, offsets = self.layout, self.offsets[first:end]
        packed = layout.packed(first)
        moved = None if self.moved is None else self.moved - first
        if not packed.take(offsets, self.number, moved):
            known = [i for i in range(first, end) if i != own and self.offsets[i] is not None]
            numbers = [layout.partitions[i].partition for i in known]
            return spell_compact(numbers, [cast("int", self.offsets[i]) for i in known]) if known else ""
        left_out = None if own is None else own - first
        return packed.spell(layout.compact(first, end, own), left_out, lambda: layout.numbers(first, end, own))


def _number(text: str, what: str, most: int) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise MalformedPositionError(f"{_shown(text)} is not {what} to {most}, without leading zeros")
    return int(text)


def _shown(text: str) -> str:
    """Quote a part of an id for an error message, shortened because clients choose its length."""
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
