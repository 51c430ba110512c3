"""Finds the filters that want a record; the cost depends on how many these are, not on how many there are in all.

The anchor of a filter is the most selective exact comparison that a record has to pass. Filters are looked up by the
record's key, headers and JSON values, and by the prefixes of its key. The rest of a filter is evaluated only for
records that pass its anchor. Filters without an anchor are evaluated for every record.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from dispatcher.sansio.filters import All, Any, Filter, Predicate, Term
from dispatcher.sansio.record_view import View, pointer_tokens
from dispatcher.sansio.records import Records, TopicPartition

Owner = TypeVar("Owner", bound=Hashable)
Key = TypeVar("Key")
Outer = TypeVar("Outer")

CROWD = 8
"""From how many filters on the records that pass their common anchor are noted once: below, it would cost more."""

_RANKS = {
    ("key", "exact"): 0,
    ("header", "exact"): 1,
    ("pointer", "exact"): 2,
    ("key", "prefix"): 3,
    ("partition", "exact"): 4,
}
"""How selective comparisons are; the most selective come first."""


def anchors(record_filter: Filter) -> Sequence[Term]:
    """Return comparisons of which a record must pass one to be wanted; empty if there are none to name."""
    if isinstance(record_filter, Term):
        return [record_filter] if (record_filter.place.kind, record_filter.operator) in _RANKS else ()
    if isinstance(record_filter, All):
        found = [terms for part in record_filter.parts if (terms := anchors(part))]
        return min(found, key=_selectivity, default=())
    if isinstance(record_filter, Any):
        parts = [anchors(part) for part in record_filter.parts]
        return [term for terms in parts for term in terms] if all(parts) else ()
    return ()


def _selectivity(terms: Sequence[Term]) -> tuple[int, int]:
    return max(_RANKS[term.place.kind, term.operator] for term in terms), sum(len(term.values) for term in terms)


class _Indexed(Generic[Owner]):
    """A filter in the index, with its owners."""

    __slots__ = ("anchors", "owners", "predicate")

    def __init__(self, record_filter: Filter) -> None:
        self.owners: dict[Owner, None] = {}
        self.anchors = anchors(record_filter)
        self.predicate: Predicate | None = None
        """The rest of the filter; None if a record only has to pass the anchor."""
        if not (isinstance(record_filter, Term) and self.anchors):
            self.predicate = record_filter.compile()


class _Crowd(Generic[Owner]):
    """Many filters with the same anchor: the records that pass it are noted once for all that ask for nothing else."""

    __slots__ = ("indexes", "satisfied", "undecided")

    def __init__(self, found: Iterable[_Indexed[Owner]]) -> None:
        self.satisfied = [indexed for indexed in found if indexed.predicate is None]
        self.undecided = [indexed for indexed in found if indexed.predicate is not None]
        self.indexes: list[int] = []


class IndexStatistics(NamedTuple):
    """A snapshot of an index."""

    filters: int
    unindexed: int
    """Filters that are evaluated for every record."""


class FilterIndex(Generic[Owner]):
    """The distinct filters for the records of one topic, each with its owners."""

    def __init__(self) -> None:
        self._filters: dict[Filter, _Indexed[Owner]] = {}
        self._keys: dict[bytes, dict[_Indexed[Owner], None]] = {}
        self._prefixes: dict[int, dict[bytes, dict[_Indexed[Owner], None]]] = {}
        """By length, then by prefix."""
        self._headers: dict[str, dict[bytes, dict[_Indexed[Owner], None]]] = {}
        self._pointers: dict[str, dict[str, dict[_Indexed[Owner], None]]] = {}
        self._tokens: dict[str, tuple[str, ...]] = {}
        self._partitions: dict[str, dict[_Indexed[Owner], None]] = {}
        self._rest: dict[_Indexed[Owner], None] = {}
        self.tried = 0
        """How often a filter was tried on a record, since the start: most of what `match` costs."""
        self.tried_singly = 0
        """How much of that grows with the records of a batch: filters that share an anchor are tried on a batch."""

    def __len__(self) -> int:
        return len(self._filters)

    def add(self, record_filter: Filter, owner: Owner) -> None:
        """Add an owner's filter."""
        indexed = self._filters.get(record_filter)
        if indexed is not None:
            indexed.owners[owner] = None
            return
        indexed = self._filters[record_filter] = _Indexed(record_filter)
        indexed.owners[owner] = None
        if not indexed.anchors:
            self._rest[indexed] = None
        for term in indexed.anchors:
            name = term.place.name
            for value in term.values:
                found: dict[_Indexed[Owner], None]
                if term.operator == "prefix":
                    prefix = value.encode()
                    found = self._prefixes.setdefault(len(prefix), {}).setdefault(prefix, {})
                elif term.place.kind == "key":
                    found = self._keys.setdefault(value.encode(), {})
                elif term.place.kind == "header":
                    found = self._headers.setdefault(name, {}).setdefault(value.encode(), {})
                elif term.place.kind == "pointer":
                    self._tokens[name] = pointer_tokens(name)
                    found = self._pointers.setdefault(name, {}).setdefault(value, {})
                else:
                    found = self._partitions.setdefault(value, {})
                found[indexed] = None

    def remove(self, record_filter: Filter, owner: Owner) -> None:
        """Remove an owner, and with the last owner the filter.

        Raises:
            KeyError: there is no such filter, or it does not have this owner.
        """
        indexed = self._filters[record_filter]
        del indexed.owners[owner]
        if indexed.owners:
            return
        del self._filters[record_filter]
        self._rest.pop(indexed, None)
        for term in indexed.anchors:
            for value in term.values:
                if term.operator == "prefix":
                    prefix = value.encode()
                    _forget_under(self._prefixes, len(prefix), prefix, indexed)
                elif term.place.kind == "key":
                    _forget(self._keys, value.encode(), indexed)
                elif term.place.kind == "header":
                    _forget_under(self._headers, term.place.name, value.encode(), indexed)
                elif term.place.kind == "pointer":
                    _forget_under(self._pointers, term.place.name, value, indexed)
                    if term.place.name not in self._pointers:
                        self._tokens.pop(term.place.name, None)
                else:
                    _forget(self._partitions, value, indexed)

    @property
    def owners(self) -> Iterable[Owner]:
        """Return everybody who has a filter here."""
        return {owner: None for indexed in self._filters.values() for owner in indexed.owners}

    def match(
        self, partition: TopicPartition, records: Records, part: range | None = None
    ) -> list[tuple[Iterable[Owner], Sequence[int]]]:
        """Return the owners whose filters want records of a batch, with the indexes of these records in order.

        Filters that want the same records may share the list of the indexes.

        Args:
            partition: The batch's partition.
            records: The batch's records.
            part: The indexes of the records that are looked at; None: all.
        """
        view, pass_ = View(partition, records), _Pass[Owner]()
        everywhere = [*self._rest, *self._partitions.get(view.partition, ())]
        for index in range(len(records)) if part is None else part:
            view.at(index)
            if everywhere:
                pass_.take(everywhere, view, index)
            if view.key is not None:
                if found := self._keys.get(view.key):
                    pass_.take(found, view, index)
                for length, prefixes in self._prefixes.items():
                    if found := prefixes.get(view.key[:length]):
                        pass_.take(found, view, index)
            if self._headers:
                for name, content in view.headers:
                    values = self._headers.get(name)
                    if values and content is not None and (found := values.get(content)):
                        pass_.take(found, view, index)
            for pointer, texts in self._pointers.items():
                text = view.text(self._tokens[pointer])
                if text is not None and (found := texts.get(text)):
                    pass_.take(found, view, index)
        self.tried_singly += pass_.tried
        matches = pass_.matches()
        self.tried += pass_.tried
        return [(indexed.owners, indexes) for indexed, indexes in matches.items()]

    def statistics(self) -> IndexStatistics:
        """A snapshot."""
        return IndexStatistics(len(self._filters), len(self._rest))


class _Pass(Generic[Owner]):
    """One pass over records, and what it finds."""

    __slots__ = ("_crowds", "_matches", "tried")

    def __init__(self) -> None:
        self._matches: dict[_Indexed[Owner], list[int]] = {}
        self._crowds: dict[int, _Crowd[Owner]] = {}
        """By the identity of the filters with one anchor, which do not change meanwhile."""
        self.tried = 0

    def take(self, found: Collection[_Indexed[Owner]], view: View, index: int) -> None:
        """Try filters on a record that passes their common anchor."""
        tried = found
        if len(found) >= CROWD:
            crowd = self._crowds.get(id(found))
            if crowd is None:
                crowd = self._crowds[id(found)] = _Crowd(found)
            # A header may be repeated.
            if not crowd.indexes or crowd.indexes[-1] != index:
                crowd.indexes.append(index)
            tried = crowd.undecided
        self.tried += len(tried)
        for indexed in tried:
            if indexed.predicate is None or indexed.predicate(view):
                indexes = self._matches.setdefault(indexed, [])
                # Two anchors may have led to the same filter.
                if not indexes or indexes[-1] != index:
                    indexes.append(index)

    def matches(self) -> dict[_Indexed[Owner], list[int]]:
        """Return the filters that want records, with the indexes of these, at the end of the pass."""
        matches = self._matches
        for crowd in self._crowds.values():
            self.tried += len(crowd.satisfied)
            for indexed in crowd.satisfied:
                known = matches.get(indexed)
                # Filters that want the same records share the list.
                matches[indexed] = crowd.indexes if known is None else sorted({*known, *crowd.indexes})
        return matches


def _forget(mapping: dict[Key, dict[_Indexed[Owner], None]], key: Key, indexed: _Indexed[Owner]) -> None:
    """Remove an entry and the mapping that it leaves empty, because clients choose the keys."""
    found = mapping.get(key)
    if found is not None:
        found.pop(indexed, None)
        if not found:
            del mapping[key]


def _forget_under(
    mapping: dict[Outer, dict[Key, dict[_Indexed[Owner], None]]], outer: Outer, key: Key, indexed: _Indexed[Owner]
) -> None:
    if outer in mapping:
        _forget(mapping[outer], key, indexed)
        if not mapping[outer]:
            del mapping[outer]
