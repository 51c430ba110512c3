"""What subscribers ask for: the key under which encoded bytes are shared."""

from dataclasses import dataclass
from functools import lru_cache

from dispatcher.sansio.encoding.wire import Wire


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """What subscribers asked for; those with the same one are sent the very same bytes.

    Compared by identity, because it is looked up for each entry and subscriber: get it from `feed_of`.
    """

    wire: Wire
    topics: frozenset[str]


@lru_cache(maxsize=1024)
def feed_of(wire: Wire, topics: frozenset[str]) -> Feed:
    """The one feed of this wire format and these topics."""
    return Feed(wire, topics)
