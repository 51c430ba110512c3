"""The space between crossings, in which records collect."""

import time

WORKERS_SHARE = 2.0
"""How long the next crossing of a worker waits, as a multiple of the time that the last one took. Workers share the
cores with one another; a process by itself uses one at most, and records would arrive later."""

LONGEST_SECONDS = 0.01
"""The longest wait: a crossing takes long while the loop is busy."""

MANY = 100
"""After a crossing with this many messages the next one does not wait: it would not become cheaper per record."""


class Spacing:
    """Says when the next crossing should be made; one for all threads of a process.

    A crossing costs about the same for one record as for ten, and a thread that polls again at once makes one for each
    record. Threads that wait for the same moment cross in the same turn of the loop.

    *Thread*: any; when two threads set the time at once, one of them wins.

    Args:
        share: How long a crossing waits, as a multiple of the time that the last one took; 0: none waits.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._until = 0.0

    def wait(self) -> None:
        """Block until the next crossing is due, at most `LONGEST_SECONDS` after the last one."""
        if (left := self._until - time.monotonic()) > 0:
            time.sleep(left)

    def crossed(self, messages: int, seconds: float) -> None:
        """Take note of a crossing that has just ended: how many messages it had, and how long it took."""
        if 0 < messages < MANY:
            self._until = max(self._until, time.monotonic() + min(self._share * seconds, LONGEST_SECONDS))
