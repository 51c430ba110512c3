"""How many records a poll may take, so that the event loop is not held for long when it takes them over."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_STEP_SECONDS = 0.005
"""How much CPU time the loop should need for the records of a poll. With thousands of distinct filters it needs
hundreds of microseconds for one record, and with none one or two."""


class PollSize:
    """Limits the polls of one thread by what the records of earlier ones cost.

    *Thread*: Trio's; `records` may be read in any.

    Args:
        at_most: The limit while records cost little.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self.records = at_most
        """Maximum number of records of the next poll, at least 1."""

    @contextmanager
    def measure(self, records: int) -> Iterator[None]:
        """Measure the CPU time in which this thread takes over that many records of one poll."""
        began = time.thread_time()
        yield
        self.took(records, time.thread_time() - began)

    def took(self, records: int, seconds: float) -> None:
        """Take note of what the loop needed for the records of one poll.

        The limit falls at once, and doubles with each poll of at least half as many records that was short enough.

        Args:
            records: How many they were.
            seconds: CPU time, so that other processes do not count.
        """
        if seconds > LONGEST_STEP_SECONDS:
            self.records = max(1, min(self.records, int(records * LONGEST_STEP_SECONDS / seconds)))
        elif 2 * records >= self.records and 2 * seconds <= LONGEST_STEP_SECONDS:
            self.records = min(self._at_most, 2 * self.records)
