"""What values of an Avro schema may cost at most, computed before any value is read.

A type that takes no bytes costs nothing to repeat: an array of 2^60 nulls takes ten bytes. Arrays and maps of such
types are refused, and so are types that make too many values from few bytes. JSON repeats the names of fields, symbols
and types with each value, so characters are counted as well.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from dispatcher.schemas.avro_json import tag_of
from dispatcher.schemas.framing import UndecodableError

MAX_VALUES_PER_BYTE = 16
"""How many values one byte may stand for; one or two is usual."""

MAX_VALUES_UNREPEATED = 100_000
"""How many values a schema may have outside of what its arrays and maps repeat."""

BRANCHES_PER_VALUE = 16
"""How many types of a union count as one more value: fastavro compares each of them to a word for each value."""

DIGITS_PER_VALUE = 64
"""How many decimal places count as one more value: even a decimal of no bytes has all of them."""

MAX_SCALE = 256
"""The most decimal places: all of them are written, even if the number itself takes one byte."""

MAX_SHORT_CHARACTERS = 40
"""The most characters of a number, a moment, or another value whose JSON does not depend on its length, with a
comma."""

_PRIMITIVE_BYTES = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}

Type = Any
"""A type of a parsed schema: a name, a list for a union, or a dict."""


class Cost(NamedTuple):
    """What the values of a type may cost."""

    least_bytes: int
    """How few bytes a value may have."""
    values: int = 1
    """How many values it may hold at most, not counting what arrays, maps and records within themselves repeat."""
    characters: int = MAX_SHORT_CHARACTERS
    """How many characters of JSON these may have at most, not counting those of texts and bytes."""
    depth: int = 1


class Measure:
    """Computes what decoding with a schema may cost at most, before any value is read.

    Args:
        named: All named types.
    """

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self.is_recursive = False
        self.depth = self.values = self.characters = 0
        self.values_per_byte = 1.0
        """The most values per byte of any array, map, or record that contains itself."""
        self.characters_per_byte = 1.0
        """The same for the characters of JSON."""
        self._open: set[str] = set()
        self._recursive: set[str] = set()
        self._known: dict[str, Cost] = {}
        """By named type."""

    def check(self, schema: Type) -> None:
        """Measure a whole schema.

        Raises:
            UndecodableError: a short value could stand for too many values.
        """
        _, self.values, self.characters, self.depth = self._measure(schema)
        if (values := self.values) > MAX_VALUES_UNREPEATED:
            raise UndecodableError(f"its Avro schema has {values} values in each value, too many to decode")

    def _measure(self, kind: Type) -> Cost:
        if isinstance(kind, str):
            return self._named_type(kind)
        if isinstance(kind, list):
            return self._union(kind)
        name = kind["type"]
        if name in {"record", "error"}:
            return self._record(kind)
        if name in {"array", "map"}:
            return self._repeated(kind["items"] if name == "array" else kind["values"], is_map=name == "map")
        if name == "enum":
            longest = max(map(len, kind["symbols"]), default=0)
            cost = self._known[kind["name"]] = Cost(1, characters=longest + MAX_SHORT_CHARACTERS)
        elif name == "fixed":
            cost = self._known[kind["name"]] = _decimal_cost(Cost(int(kind["size"])), kind)
        else:
            cost = _decimal_cost(self._measure(name), kind)
        return cost

    def _named_type(self, name: str) -> Cost:
        if name in _PRIMITIVE_BYTES:
            return Cost(_PRIMITIVE_BYTES[name])
        if name in self._known:
            return self._known[name]
        if name in self._open:
            # Only a union, an array or a map can end the recursion, and each of them takes a byte.
            self.is_recursive = True
            self._recursive.add(name)
            return Cost(1)
        return self._measure(self._named[name])

    def _union(self, branches: list[Type]) -> Cost:
        costs = [self._measure(branch) for branch in branches]
        longest = max((len(tag_of(branch) or "") for branch in branches), default=0)
        return Cost(
            1 + min((cost.least_bytes for cost in costs), default=0),
            1 + len(branches) // BRANCHES_PER_VALUE + max((cost.values for cost in costs), default=0),
            longest + MAX_SHORT_CHARACTERS + max((cost.characters for cost in costs), default=0),
            1 + max((cost.depth for cost in costs), default=0),
        )

    def _record(self, record: Mapping[str, Any]) -> Cost:
        name = record["name"]
        if name in self._known:
            return self._known[name]
        self._open.add(name)
        fields = [self._measure(field["type"]) for field in record["fields"]]
        self._open.remove(name)
        names = sum(len(orjson.dumps(field["name"])) + 2 for field in record["fields"])
        cost = Cost(
            sum(field.least_bytes for field in fields),
            1 + sum(field.values for field in fields),
            MAX_SHORT_CHARACTERS + names + sum(field.characters for field in fields),
            1 + max((field.depth for field in fields), default=0),
        )
        self._known[name] = cost
        if name in self._recursive:
            # As with arrays, the content says how often the record is repeated.
            self._note_repetition(cost, "a record that contains itself,")
        return cost

    def _repeated(self, items: Type, *, is_map: bool) -> Cost:
        cost = self._measure(items)
        # Each member of a map has a key, which has a length.
        least_bytes = cost.least_bytes + is_map
        if not least_bytes:
            raise UndecodableError("its Avro schema has an array of a type that takes no bytes, which has no bound")
        self._note_repetition(cost._replace(least_bytes=least_bytes), "an array")
        return Cost(1, depth=1 + cost.depth)

    def _note_repetition(self, cost: Cost, what: str) -> None:
        least, values = cost.least_bytes, cost.values
        if values > MAX_VALUES_PER_BYTE * least:
            raise UndecodableError(f"its Avro schema has {what} in which {least} bytes stand for {values} values")
        self.values_per_byte = max(self.values_per_byte, values / max(1, least))
        self.characters_per_byte = max(self.characters_per_byte, cost.characters / max(1, least))


def _decimal_cost(cost: Cost, kind: Mapping[str, Any]) -> Cost:
    """Add the decimal places of a logical type."""
    scale = kind.get("scale") if kind.get("logicalType") == "decimal" else None
    if not isinstance(scale, int):
        return cost
    digits = max(0, min(scale, MAX_SCALE))
    return cost._replace(values=cost.values + digits // DIGITS_PER_VALUE, characters=cost.characters + digits)
