"""The decoded keys and values of records, in columns, beside the bytes that Kafka delivered."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

KEY_HEADER = "__key_schema_id"
"""The header of a record that names the schema of its key, if the key does not begin with it."""

DECODED_OVERHEAD_BYTES = 80
"""What the columns cost per record besides the JSON: two ``bytes`` headers (66), and slots."""


class Decoded(NamedTuple):
    """Columns of decoded data, each as long as the number of records."""

    keys: Sequence[bytes | None]
    """Each key as JSON on one line; None if it was not decoded."""
    values: Sequence[bytes | None]
    """Each value as JSON on one line; None if it was not decoded."""
    key_notes: Sequence[bytes]
    """Members of the envelope that say how the key was decoded, or why not; each begins with a comma, or is empty."""
    value_notes: Sequence[bytes]
    """Likewise for the value."""

    @property
    def size_bytes(self) -> int:
        """Memory that the columns take, without the notes, which are shared."""
        return DECODED_OVERHEAD_BYTES * len(self.values) + _length(self.keys) + _length(self.values)

    def part(self, index: slice) -> "Decoded":
        """Return the columns of a slice of the records."""
        return Decoded(*(column[index] for column in self))  # type: ignore[arg-type] # each of its own type

    def take(self, indexes: Sequence[int]) -> "Decoded":
        """Return the columns of some records."""
        return Decoded(*([column[index] for index in indexes] for column in self))  # type: ignore[arg-type] # as above


def joined(parts: Sequence[Decoded]) -> Decoded:
    """Join the decoded parts of consecutive records."""
    if len(parts) == 1:
        return parts[0]
    return Decoded(*(list(chain.from_iterable(columns)) for columns in zip(*parts, strict=True)))


def _length(column: Iterable[bytes | None]) -> int:
    return sum(map(len, filter(None, column)))
