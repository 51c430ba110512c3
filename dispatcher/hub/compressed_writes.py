"""Compressed writes, kept for other subscribers of the same feed.

A round is one write for all live subscribers whose sockets are free. The others are sent what has queued up for them,
and those that are catching up read the history, each from a different entry on. So that they can share work, all writes
are cut at the same places, wherever they begin: after each `GROUP_ENTRIES`th entry, and around large ones. The entries
between two cuts are compressed for the first subscriber that needs them.

*Thread*: Trio's.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from dispatcher.hub.feed import Feed
from dispatcher.sansio.entries import EncodedEntry, Part

GROUP_ENTRIES = 16
"""Entries that are compressed together: single records of 400 bytes shrink to a quarter that way."""

LARGE_BYTES = 16 * 1024
"""An entry of this size is compressed by itself: a larger piece would not become much smaller."""

KEPT_BYTES = 8 * 1024 * 1024
"""Maximum size of the writes that are kept, including the parts from which they were made. One write always fits."""

Join = Callable[[Feed, Sequence[EncodedEntry]], bytes]


class CompressedWrites:
    """The most recently used writes.

    Args:
        join: Makes a write.
    """

    def __init__(self, join: Join) -> None:
        self._join = join
        self._kept: OrderedDict[tuple[Feed, tuple[Part, ...]], bytes] = OrderedDict()
        """By the feed and the parts, which are the same objects for all subscribers of a feed."""
        self.size_bytes = 0

    def round(self, feed: Feed, items: Sequence[EncodedEntry]) -> bytes:
        """All items as one piece."""
        key = (feed.shared, tuple([part for _, part in items]))
        data = self._kept.get(key)
        if data is None:
            data = self._join(feed, items)
            self._keep(key, data)
        else:
            self._kept.move_to_end(key)
        return data

    def write(self, feed: Feed, items: Sequence[EncodedEntry]) -> bytes:
        """All items, in pieces that other subscribers of the feed share."""
        if len(items) == 1 or (feed.shared, tuple([part for _, part in items])) in self._kept:
            return self.round(feed, items)
        return b"".join([self.round(feed, group) for group in _groups(items)])

    def _keep(self, key: tuple[Feed, tuple[Part, ...]], data: bytes) -> None:
        self._kept[key] = data
        self.size_bytes += _size_bytes(key[1], data)
        while self.size_bytes > KEPT_BYTES and len(self._kept) > 1:
            (_, parts), oldest = self._kept.popitem(last=False)
            self.size_bytes -= _size_bytes(parts, oldest)


def _size_bytes(parts: Sequence[Part], data: bytes) -> int:
    return len(data) + sum(map(len, parts))


def _groups(items: Sequence[EncodedEntry]) -> Sequence[Sequence[EncodedEntry]]:
    groups: list[list[EncodedEntry]] = []
    last: object = None
    for item in items:
        entry, part = item
        group = (entry.sequence,) if len(part) >= LARGE_BYTES else entry.sequence // GROUP_ENTRIES
        if group != last:
            groups.append([])
            last = group
        groups[-1].append(item)
    return groups
