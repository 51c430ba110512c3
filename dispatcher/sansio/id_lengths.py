"""How long the ids of a stream may become. Only its partitions decide that, so every replica gives the same answer."""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

from dispatcher.errors import BadRequestError
from dispatcher.sansio.compact_position import ranges_of, spell_ranges
from dispatcher.sansio.position import MAX_POSITION_CHARACTERS

OFFSET_OCTETS = 5
"""The size of an offset in this estimate: the offsets of a topic's partitions are assumed to be less than 2^40
apart."""

_VERSION_OCTETS = 1
_LOW_OCTETS = 9
_WIDTH_OCTETS = 1
_OWN_DIGITS = 10 + 19
"""The digits of the largest partition and the largest offset."""


def longest_id(partitions: Mapping[str, Collection[int]]) -> int:
    """Return the most characters that an id takes, unless it is short and spelled plainly.

    Includes a record's own pair and, for each topic, the partition that would be added next.

    Args:
        partitions: The partitions that the id names, by topic, in ascending order.
    """
    characters = 0
    for topic, numbers in partitions.items():
        if numbers:
            octets = _VERSION_OCTETS + len(spell_ranges(ranges_of(tuple(numbers)))) + _LOW_OCTETS + _WIDTH_OCTETS
            octets += OFFSET_OCTETS * len(numbers)
            characters += len(f";{topic}:~") + (4 * octets + 2) // 3 + len(f";{topic}:{max(numbers) + 1}=-1")
    return characters + max(map(len, partitions), default=0) + len(":=") + _OWN_DIGITS


def ids_fit(partitions: Mapping[str, Collection[int]]) -> bool:
    """Whether ids can name all of these partitions."""
    return longest_id(partitions) <= MAX_POSITION_CHARACTERS


def check_whole_topics(topics: AbstractSet[str], counts: Mapping[str, int]) -> None:
    """Refuse a stream of whole topics if ids could not name all of their partitions.

    Args:
        topics: The stream's topics.
        counts: How many partitions topics have, if that is known.

    Raises:
        BadRequestError: ids could not name them all.
    """
    characters = longest_id({topic: range(counts[topic]) for topic in topics if topic in counts})
    if characters > MAX_POSITION_CHARACTERS:
        most = MAX_POSITION_CHARACTERS
        raise BadRequestError(
            f"ids could have {characters} characters, {most} fit: name fewer topics, or scope=replica"
        )
