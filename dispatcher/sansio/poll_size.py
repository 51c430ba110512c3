"""How many records a poll may take, so that the event loop is not held for long when it takes them over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_TRIES = 7_500
"""How often filters should be tried on the records of one poll: at about 0.7 µs each, that takes 5 ms."""


class PollSize:
    """Limits the polls of one thread by how often filters were tried on the records of earlier ones.

    *Thread*: Trio's; `records` may be read in any.

    Args:
        at_most: The limit while that is seldom.
        tries: Returns how often filters were tried on single records, since any time.
    """

    def __init__(self, at_most: int, tries: Callable[[], int]) -> None:
        self._at_most = at_most
        self._tries = tries
        self.records = at_most
        """Maximum number of records of the next poll, at least 1."""

    @contextmanager
    def measure(self, records: int) -> Iterator[None]:
        """Count the tries while that many records of one poll are taken over."""
        before = self._tries()
        yield
        if records:
            self._took(records, self._tries() - before)

    def _took(self, records: int, tries: int) -> None:
        """The limit falls at once, and grows by a quarter with each poll of about as many records."""
        fits = max(1, records * MOST_TRIES // tries) if tries > 0 else self._at_most
        if fits < self.records:
            self.records = fits
        elif 2 * records >= self.records:
            self.records = min(self._at_most, fits, self.records + self.records // 4 + 1)
