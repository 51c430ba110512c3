"""What was written to a topic, and whether a reader has had all of it, once and in order."""

from collections import Counter
from collections.abc import Iterator

Row = tuple[str, str, bool]
"""Name, value, and whether it is as it should be."""

SHOWN = 10
"""Most holes of which the place is kept."""


class Ledger:
    """Compares a topic, which was empty at the beginning, with what one reader has received of it."""

    def __init__(self) -> None:
        self._written: dict[tuple[int, int], int] = {}
        """The number in the value of each record that a broker has stored, by partition and offset."""
        self._next: Counter[int] = Counter()
        self.repeats = 0
        self.received = 0
        self.out_of_order: list[str] = []
        """Records that came before others which precede them, or in place of others, in words."""
        self.gaps: list[str] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def wrote(self, partition: int, offset: int, number: int) -> None:
        """A broker has stored a record. *Thread*: any."""
        self._written[partition, offset] = number

    def took(self, partition: int, offset: int, number: int) -> None:
        """The reader has received a record; one that it has had before is a repeat, and is dropped."""
        self.received += 1
        if offset < self._next[partition]:
            self.repeats += 1
            if self._numbers[partition, offset] != number:
                self.out_of_order.append(f"{partition}={offset} came with another value")
            return
        if offset > self._next[partition]:
            self.out_of_order.append(f"{partition}={offset} came, {self._next[partition]} was next")
        self._next[partition] = offset + 1
        self._numbers[partition, offset] = number

    def missing(self) -> int:
        """How many records the reader has not received yet."""
        return len(self._written.keys() - self._numbers.keys())

    def rows(self) -> Iterator[Row]:
        """The verdict."""
        wrong = sum(number != self._written.get(place) for place, number in self._numbers.items())
        partitions = {partition for partition, _ in self._written}
        yield "records written", f"{len(self._written):,} in {len(partitions)} partitions", bool(self._written)
        yield "received, without repeats", f"{len(self._numbers):,}", len(self._numbers) == len(self._written)
        yield "not received", f"{self.missing():,}", not self.missing()
        yield "out of order, or after a hole", f"{len(self.out_of_order):,}", not self.out_of_order
        yield "with a value that was not written", f"{wrong:,}", not wrong
        yield "gaps", f"{len(self.gaps):,}", not self.gaps
        yield "repeats, dropped by the first pair", f"{self.repeats:,}", True

    def evidence(self) -> Iterator[str]:
        """What was not as it should be, in words."""
        yield from self.out_of_order[:SHOWN]
        yield from self.gaps[:SHOWN]
        for partition, offset in sorted(self._written.keys() - self._numbers.keys())[:SHOWN]:
            yield f"{partition}={offset} was not received"
