"""What was offered to one live subscriber and its socket has not taken yet.

*Thread*: Trio's.
"""

from collections import deque

import trio

from dispatcher.sansio.entries import Cursor, EncodedEntry

MAX_ENTRIES = 1024
"""Most entries that wait; the real bound is `subscriber_buffer_bytes`, this one keeps tiny entries bounded."""


class LiveBuffer:
    """A bounded queue of entries, which also wakes the subscriber's task for other work.

    No memory channel of Trio's: its two ends, their bookkeeping and the lot in which one task would ever wait were a
    twentieth of what it costs to take a subscriber.

    Args:
        max_bytes: Bound of what it holds. An entry that is larger than all of it fits into an empty one.
    """

    __slots__ = ("_entries", "_max_bytes", "_waiting", "_woken", "record_count", "size_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: deque[EncodedEntry] | None = None
        """None until the first one waits: an idle subscriber's never do."""
        self.size_bytes = self.record_count = 0
        self._waiting: trio.lowlevel.Task | None = None
        self._woken = False

    def put(self, item: EncodedEntry) -> bool:
        """Take an entry; False when it is full. Never waits."""
        entry, part = item
        if self.size_bytes and self.size_bytes + len(part) > self._max_bytes:
            return False
        if self._entries is None:
            self._entries = deque()
        elif len(self._entries) >= MAX_ENTRIES:
            return False
        self._entries.append(item)
        self.size_bytes += len(part)
        self.record_count += entry.record_count
        self._reschedule()
        return True

    def take(self, cursor: Cursor, write_bytes: int) -> list[EncodedEntry]:
        """The entries of one write, past which the cursor moves; those of partitions that have left are skipped.

        Args:
            cursor: Of the subscriber.
            write_bytes: Entries are joined up to this size; one entry always fits.
        """
        taken: list[EncodedEntry] = []
        size_bytes = 0
        entries = self._entries
        while entries and size_bytes < write_bytes:
            item = entry, part = entries.popleft()
            self.size_bytes -= len(part)
            self.record_count -= entry.record_count
            cursor.seen, cursor.sequence = entry, entry.sequence
            if not entry.removed:
                taken.append(item)
                size_bytes += len(part)
        if not entries:
            self._entries = None
        return taken

    def wake(self) -> None:
        """End the wait under way, or the next one; a task that does not wait looks for work before it does."""
        self._woken = True
        self._reschedule()

    async def wait(self) -> None:
        """Return when there is an entry, or after `wake`; one task waits. *Cancellation*: safe."""
        if self._entries or self._woken:
            await trio.lowlevel.checkpoint()
        else:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._woken = False

    def clear(self) -> None:
        """Let go of all that it holds."""
        self.size_bytes = self.record_count = 0
        self._entries = None

    def _reschedule(self) -> None:
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED
