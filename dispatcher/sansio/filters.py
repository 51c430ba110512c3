"""Filters: which records of its topics a subscriber gets.

Rules of this module:

* A filter is a tree of comparisons, `All`, `Any` and `Not`; `filter_dialect` reads it from a request or a grant.
* Everything is compared as text: keys and headers as UTF-8, a partition as its number, and what a JSON pointer finds as
  its text, which is the content of a string, or the JSON of a number, ``true``, ``false`` or ``null``.
* A missing value equals nothing. A JSON array or object exists, but has no text.
* A tree is compiled to closures once, because evaluating a tree would cost ten times as much per record.
* Trees with the same meaning are equal whatever their order, so that their subscribers share one feed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any as AnyType
from typing import NamedTuple

import orjson

from dispatcher.sansio.decoded import KEY_HEADER
from dispatcher.sansio.records import Records, TopicPartition

MISSING = object()
"""The result of a JSON pointer that finds nothing."""


class Place(NamedTuple):
    """Where a comparison looks."""

    kind: str
    """``key``, ``partition``, ``header``, ``pointer``, or ``topic`` (only in grants)."""
    name: str = ""
    """The header's name, or the JSON pointer."""

    def __str__(self) -> str:
        return {"header": f"header.{self.name}", "pointer": self.name}.get(self.kind, self.kind)


class View:
    """Shows filters one record of a batch at a time; its JSON is parsed once, and only if a filter needs it.

    For decoded topics it shows the decoded record: in a value that was not decoded, pointers find nothing, and are not
    known.

    Args:
        partition: The batch's partition.
        records: The batch's records.
    """

    __slots__ = (
        "_headers",
        "_index",
        "_json",
        "_keys",
        "_records",
        "_values",
        "headers",
        "key",
        "partition",
        "topic",
        "value",
    )

    def __init__(self, partition: TopicPartition, records: Records) -> None:
        self.topic = partition.topic
        self.partition = str(partition.partition)
        decoded = records.decoded
        self._keys = records.keys if decoded is None else list(map(_key_text, records.keys, decoded.keys))
        self._values = records.values if decoded is None else decoded.values
        self._headers = records.headers
        self._records = records
        self._index = 0
        self._json: AnyType = MISSING
        self.key: bytes | None = None
        self.value: bytes | None = None
        self.headers: Sequence[tuple[str, bytes | None]] = ()

    def at(self, index: int) -> "View":
        """Move to a record; returns this object."""
        self._index = index
        self.key, self.value, self.headers = self._keys[index], self._values[index], self._headers[index]
        self._json = None if self.value is None else _UNPARSED
        return self

    def find(self, tokens: Sequence[str]) -> AnyType:
        """Return what a JSON pointer finds in the record's value, or `MISSING` (RFC 6901, section 4)."""
        found = self._json
        if found is _UNPARSED:
            try:
                found = orjson.loads(self.value or b"")
            except orjson.JSONDecodeError:
                found = MISSING
            self._json = found
        if self.value is None:
            return MISSING
        for token in tokens:
            if isinstance(found, dict):
                found = found.get(token, MISSING)
            elif isinstance(found, list) and _is_index(token) and int(token) < len(found):
                found = found[int(token)]
            else:
                return MISSING
        return found

    @property
    def knows_fields(self) -> bool:
        """Whether it is known which fields the record has: its value is a JSON object or list, or a tombstone."""
        return self._records.values[self._index] is None or isinstance(self.find(()), (dict, list))

    @property
    def knows_key(self) -> bool:
        """Whether the record's key is not in the wire format of a schema registry, or was decoded, or is missing."""
        key, decoded = self._records.keys[self._index], self._records.decoded
        if key is None or (decoded is not None and decoded.keys[self._index] is not None):
            return True
        return key[:1] != b"\x00" and all(name != KEY_HEADER for name, _ in self.headers)


_UNPARSED = object()

Predicate = Callable[[View], bool]

_WITHOUT_VALUES = frozenset({"exists", "known"})


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison with one or several values, of which one has to match."""

    place: Place
    operator: str
    """``exact``, ``prefix``, ``suffix``, ``exists``, or ``known`` (only in grants)."""
    values: tuple[str, ...] = ()
    """The values, sorted; empty for ``exists`` and ``known``."""

    def compile(self) -> Predicate:
        """Return a predicate for records."""
        return _COMPILERS[self.place.kind](self)

    def dialect(self) -> AnyType:
        """Return the filter as JSON in the dialect."""
        if self.operator in _WITHOUT_VALUES:
            return {self.operator: {str(self.place): True}}
        if len(self.values) == 1:
            return {self.operator: {str(self.place): self.values[0]}}
        if self.operator == "exact":
            return {"in": {str(self.place): list(self.values)}}
        return {"any": [{self.operator: {str(self.place): value}} for value in self.values]}


@dataclass(frozen=True, slots=True)
class All:
    """A record has to pass every part."""

    parts: "tuple[Filter, ...]"

    def compile(self) -> Predicate:
        """Return a predicate for records."""
        return _all([part.compile() for part in self.parts])

    def dialect(self) -> AnyType:
        """Return the filter as JSON in the dialect."""
        return {"all": [part.dialect() for part in self.parts]}


@dataclass(frozen=True, slots=True)
class Any:
    """A record has to pass at least one part."""

    parts: "tuple[Filter, ...]"

    def compile(self) -> Predicate:
        """Return a predicate for records."""
        return _any([part.compile() for part in self.parts])

    def dialect(self) -> AnyType:
        """Return the filter as JSON in the dialect."""
        return {"any": [part.dialect() for part in self.parts]}


@dataclass(frozen=True, slots=True)
class Not:
    """A record must not pass the part."""

    part: "Filter"

    def compile(self) -> Predicate:
        """Return a predicate for records."""
        predicate = self.part.compile()
        return lambda view: not predicate(view)

    def dialect(self) -> AnyType:
        """Return the filter as JSON in the dialect."""
        return {"not": self.part.dialect()}


Filter = Term | All | Any | Not


def all_of(parts: "Iterable[Filter]") -> "Filter":
    """Combine filters, at least one, so that a record has to pass all of them."""
    return _joined(All, parts)


def any_of(parts: "Iterable[Filter]") -> "Filter":
    """Combine filters, at least one, so that a record has to pass one of them; merges comparisons of one place."""
    merged: dict[tuple[Place, str], set[str]] = {}
    others: list[Filter] = []
    for part in parts:
        if isinstance(part, Term) and part.operator not in _WITHOUT_VALUES:
            merged.setdefault((part.place, part.operator), set()).update(part.values)
        else:
            others.append(part)
    terms = [Term(place, operator, tuple(sorted(values))) for (place, operator), values in merged.items()]
    return _joined(Any, [*terms, *others])


def on_topic(record_filter: "Filter", topic: str) -> "Filter | bool":
    """Reduce a filter to one topic; True if all of the topic's records pass, False if none can."""
    if isinstance(record_filter, Term):
        return topic in record_filter.values if record_filter.place.kind == "topic" else record_filter
    if isinstance(record_filter, Not):
        part = on_topic(record_filter.part, topic)
        return not part if isinstance(part, bool) else Not(part)
    parts = [on_topic(part, topic) for part in record_filter.parts]
    decides = isinstance(record_filter, Any)
    if decides in parts:
        return decides
    if left := [part for part in parts if not isinstance(part, bool)]:
        return _joined(type(record_filter), left)
    return not decides


def _joined(kind: "type[All | Any]", parts: "Iterable[Filter]") -> "Filter":
    flat: dict[Filter, None] = {}
    for part in parts:
        flat.update(dict.fromkeys(part.parts if isinstance(part, kind) else (part,)))
    ordered = sorted(flat, key=repr)
    return ordered[0] if len(ordered) == 1 else kind(tuple(ordered))


def _all(predicates: Sequence[Predicate]) -> Predicate:
    if len(predicates) == 2:
        first, second = predicates
        return lambda view: first(view) and second(view)
    return lambda view: all(predicate(view) for predicate in predicates)


def _any(predicates: Sequence[Predicate]) -> Predicate:
    if len(predicates) == 2:
        first, second = predicates
        return lambda view: first(view) or second(view)
    return lambda view: any(predicate(view) for predicate in predicates)


def _compile_key(term: Term) -> Predicate:
    if term.operator == "known":
        return lambda view: view.knows_key
    if term.operator == "exists":
        return lambda view: view.key is not None
    values = tuple(value.encode() for value in term.values)
    if term.operator == "exact":
        chosen = frozenset(values)
        return lambda view: view.key in chosen
    if term.operator == "prefix":
        return lambda view: view.key is not None and view.key.startswith(values)
    return lambda view: view.key is not None and view.key.endswith(values)


def _compile_header(term: Term) -> Predicate:
    name = term.place.name
    if term.operator == "exists":
        return lambda view: any(found == name for found, _ in view.headers)
    values = tuple(value.encode() for value in term.values)
    if term.operator == "exact":
        chosen = frozenset(values)
        return lambda view: any(found == name and content in chosen for found, content in view.headers)
    if term.operator == "prefix":
        return lambda view: any(
            found == name and content is not None and content.startswith(values) for found, content in view.headers
        )
    return lambda view: any(
        found == name and content is not None and content.endswith(values) for found, content in view.headers
    )


def _compile_pointer(term: Term) -> Predicate:
    if term.operator == "known":
        return lambda view: view.knows_fields
    tokens = pointer_tokens(term.place.name)
    if term.operator == "exists":
        return lambda view: view.find(tokens) is not MISSING
    values = term.values
    if term.operator == "exact":
        chosen = frozenset(values)
        return lambda view: text_of(view.find(tokens)) in chosen
    if term.operator == "prefix":
        return lambda view: (text := text_of(view.find(tokens))) is not None and text.startswith(values)
    return lambda view: (text := text_of(view.find(tokens))) is not None and text.endswith(values)


def _compile_partition(term: Term) -> Predicate:
    chosen = frozenset(term.values)
    return lambda view: view.partition in chosen


def _compile_topic(term: Term) -> Predicate:
    chosen = frozenset(term.values)
    return lambda view: view.topic in chosen


_COMPILERS: dict[str, Callable[[Term], Predicate]] = {
    "key": _compile_key,
    "header": _compile_header,
    "pointer": _compile_pointer,
    "partition": _compile_partition,
    "topic": _compile_topic,
}


def pointer_tokens(pointer: str) -> tuple[str, ...]:
    """Return the reference tokens of a JSON pointer (RFC 6901, sections 3 and 4)."""
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])


def text_of(value: AnyType) -> str | None:
    """Return the text of a JSON value; None for an array, an object, or a missing value."""
    if isinstance(value, str):
        return value
    if value is MISSING or isinstance(value, (dict, list)):
        return None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else orjson.dumps(value).decode()


def _key_text(key: bytes | None, found: bytes | None) -> bytes | None:
    """Return a decoded key as it is compared: the content of a string, or otherwise its JSON."""
    if found is None:
        return key
    text: AnyType = orjson.loads(found) if found.startswith(b'"') else None
    return found if text is None else text.encode()


def _is_index(token: str) -> bool:
    """Whether a reference token is an array index: digits without a leading zero (RFC 6901, section 4)."""
    return token.isascii() and token.isdecimal() and (len(token) == 1 or not token.startswith("0")) and len(token) < 10
