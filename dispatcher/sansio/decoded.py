"""What keys and values of records were decoded to, by column, beside the bytes that Kafka delivered."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

DECODED_OVERHEAD_BYTES = 80
"""What the columns cost for each record besides JSON: two ``bytes`` headers (66), and slots."""


class Decoded(NamedTuple):
    """Columns, each as long as its records."""

    keys: Sequence[bytes | None]
    """As JSON on one line; None where it was not decoded."""
    values: Sequence[bytes | None]
    """The same."""
    key_notes: Sequence[bytes]
    """Members of the envelope that say how the key was decoded, or why not: each with a comma before it, or empty."""
    value_notes: Sequence[bytes]
    """The same of the value."""

    @property
    def size_bytes(self) -> int:
        """Memory that they hold. Notes are shared."""
        return DECODED_OVERHEAD_BYTES * len(self.values) + _length(self.keys) + _length(self.values)

    def part(self, index: slice) -> "Decoded":
        """Those of a slice of the records."""
        return Decoded(*(column[index] for column in self))  # type: ignore[arg-type] # each of its own type

    def take(self, indexes: Sequence[int]) -> "Decoded":
        """Those of some records."""
        return Decoded(*([column[index] for index in indexes] for column in self))  # type: ignore[arg-type] # as above


def joined(parts: Sequence[Decoded]) -> Decoded:
    """What consecutive records were decoded to, in parts, as one."""
    if len(parts) == 1:
        return parts[0]
    return Decoded(*(list(chain.from_iterable(columns)) for columns in zip(*parts, strict=True)))


def _length(column: Iterable[bytes | None]) -> int:
    return sum(map(len, filter(None, column)))
