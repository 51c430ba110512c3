"""Filters: which records of its topics a subscriber gets.

Rules of this module:

* A filter is a tree of comparisons, `All`, `Any` and `Not`; `filter_dialect` reads it from a request or a grant.
* Everything is compared as text: keys and headers as UTF-8, a partition as its number, and what a JSON pointer finds as
  its text, which is the content of a string, or a number as it is written, ``true``, ``false`` or ``null``.
* A missing value equals nothing. A JSON array or object exists, but has no text.
* A tree is compiled to closures once, because evaluating a tree would cost ten times as much per record.
* Trees with the same meaning are equal whatever their order, so that their subscribers share one feed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any as AnyType
from typing import NamedTuple

from dispatcher.sansio.record_view import MISSING, View, pointer_tokens


class Place(NamedTuple):
    """Where a comparison looks."""

    kind: str
    """``key``, ``partition``, ``header``, ``pointer``, or ``topic`` (only in grants)."""
    name: str = ""
    """The header's name, or the JSON pointer."""

    def __str__(self) -> str:
        return {"header": f"header.{self.name}", "pointer": self.name}.get(self.kind, self.kind)


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
        return lambda view: view.text(tokens) in chosen
    if term.operator == "prefix":
        return lambda view: (text := view.text(tokens)) is not None and text.startswith(values)
    return lambda view: (text := view.text(tokens)) is not None and text.endswith(values)


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
