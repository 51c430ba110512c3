"""Holds what was offered to one live subscriber, but not taken by its socket yet.

*Thread*: Trio's.
"""

from contextlib import suppress

import trio

from dispatcher.sansio.entries import Cursor, EncodedEntry

CHANNEL_ENTRIES = 1024
"""Maximum number of entries in a channel. `subscriber_buffer_bytes` is the real bound; this one is for tiny entries."""

_open_channel = trio.open_memory_channel[EncodedEntry | None]
"""Typed once: building the type each time would make up a fifteenth of the cost of a new subscriber."""


class LiveBuffer:
    """A bounded channel of entries, which also wakes the subscriber's task for other work.

    Args:
        max_bytes: The capacity. A larger entry still fits into an empty buffer.
    """

    __slots__ = (
        "_first",
        "_largest_bytes",
        "_max_bytes",
        "_receive_channel",
        "_send_channel",
        "record_count",
        "size_bytes",
    )

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self._largest_bytes = max_bytes
        self._send_channel, self._receive_channel = _open_channel(CHANNEL_ENTRIES)
        self.size_bytes = self.record_count = 0
        self._first: EncodedEntry | None = None
        """The item that ended a wait."""

    @property
    def is_within_bound(self) -> bool:
        """Whether the size is between 0 and the bound; anything else is a bug."""
        return 0 <= self.size_bytes <= self._largest_bytes

    def put(self, item: EncodedEntry) -> bool:
        """Take an entry; returns False if the buffer is full. Never waits."""
        entry, part = item
        size_bytes = self.size_bytes + len(part)
        if size_bytes > self._max_bytes:
            if self.size_bytes:
                return False
            self._largest_bytes = max(self._largest_bytes, size_bytes)
        try:
            self._send_channel.send_nowait(item)
        except trio.WouldBlock:
            return False
        self.size_bytes = size_bytes
        self.record_count += entry.record_count
        return True

    def take(self, cursor: Cursor, write_bytes: int) -> list[EncodedEntry]:
        """The entries of one write; the cursor moves past them. Entries of partitions that have left are skipped.

        Args:
            cursor: The subscriber's cursor.
            write_bytes: Entries are joined up to this size; one entry always fits.
        """
        item, self._first = self._first, None
        taken: list[EncodedEntry] = []
        size_bytes = 0
        while True:
            if item is not None:
                entry, part = item
                self.size_bytes -= len(part)
                self.record_count -= entry.record_count
                cursor.seen, cursor.sequence = entry, entry.sequence
                if not entry.removed:
                    taken.append(item)
                    size_bytes += len(part)
            if size_bytes >= write_bytes:
                return taken
            try:
                item = self._receive_channel.receive_nowait()
            except trio.WouldBlock:
                return taken

    def wake(self) -> None:
        """End the current wait, or the next one; a task that is not waiting looks for work before it waits."""
        with suppress(trio.WouldBlock):
            self._send_channel.send_nowait(None)

    async def wait(self) -> None:
        """Return when there is an entry, or after a `wake`. *Cancellation*: safe."""
        self._first = await self._receive_channel.receive()

    def discard_first(self) -> None:
        """Drop the entry that ended a wait, if the subscriber has fallen back since: the history has it."""
        self._first = None

    def clear(self) -> None:
        """Drop everything."""
        self.size_bytes = self.record_count = 0
        with suppress(trio.WouldBlock):
            while True:
                self._receive_channel.receive_nowait()

    def close(self) -> None:
        """Close both ends: the subscriber has left."""
        self._send_channel.close()
        self._receive_channel.close()
