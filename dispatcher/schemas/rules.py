"""How the records of a topic are decoded. Needs no library of the extras."""

from typing import NamedTuple


class Rules(NamedTuple):
    """The rules for one topic."""

    int64_strings: bool = False
    """Integers beyond 2^53 become strings."""
    avro_json: bool = False
    """Avro values are written as Avro's own JSON: unions have the names of their types."""
