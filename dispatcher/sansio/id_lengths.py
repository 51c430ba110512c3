"""How long the ids of a stream may become: decided by its partitions alone, so that every replica says the same."""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

from dispatcher.errors import BadRequestError
from dispatcher.sansio.compact_position import ranges_of, spell_ranges
from dispatcher.sansio.position import MAX_POSITION_CHARACTERS

OFFSET_OCTETS = 5
"""What each offset is counted with: the offsets of a topic's partitions are taken to be less than 2^40 apart."""

_VERSION_OCTETS = 1
_LOW_OCTETS = 9
_WIDTH_OCTETS = 1
_OWN_DIGITS = 10 + 19
"""Of the largest partition and the largest offset."""


def longest_id(partitions: Mapping[str, Collection[int]]) -> int:
    """The most characters that an id takes, unless it is a short one, spelled plainly.

    A record's own pair is included, and of each topic the partition that would be added next.

    Args:
        partitions: The partitions that it names, by topic, ascending.
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
    """Refuse a stream of whole topics whose ids could not name all of its partitions.

    Args:
        topics: Those of the stream.
        counts: How many partitions topics have, as far as that is known.

    Raises:
        BadRequestError: They could not.
    """
    characters = longest_id({topic: range(counts[topic]) for topic in topics if topic in counts})
    if characters > MAX_POSITION_CHARACTERS:
        most = MAX_POSITION_CHARACTERS
        raise BadRequestError(
            f"ids could have {characters} characters, {most} fit: name fewer topics, or scope=replica"
        )
