"""How the records of a topic are decoded. Without the libraries of the extras."""

from typing import NamedTuple


class Rules(NamedTuple):
    """What is set for a topic."""

    int64_strings: bool = False
    """Integers beyond 2^53 become strings."""
    avro_json: bool = False
    """Avro is written in its own JSON: unions have the names of their types."""
