"""What grants allow, as one filter that lets nothing pass which it cannot judge.

Rules of this module:

* A field is known if the value is a JSON object or list, or a tombstone, which has no fields. In other values, such as
  Avro that was not decoded, it may have any content: comparisons with it are neither true nor false.
* A key in the wire format of a schema registry is likewise unknown until it is decoded.
* Three-valued logic decides: ``not`` of unknown is unknown, one true alternative of ``any`` is enough, and one false
  part of ``all``. Unknown is not allowed.
* It is decided before any record arrives: each ``not`` moves down to the comparisons (De Morgan's laws hold for three
  values as well), and is joined there with the condition that the place is known. So records are still matched with
  two values.
"""

from collections.abc import Sequence

from dispatcher.sansio.filters import All, Any, Filter, Not, Place, Term, all_of, any_of

_KNOWN = {kind: Term(Place(kind), "known") for kind in ("key", "pointer")}
"""That the key is known, or every field."""


def granted(filters: dict[str, Sequence[Filter]]) -> Filter | None:
    """Combine what grants allow into one filter.

    Args:
        filters: By topic, the filters of which a record must pass at least one; if empty, every record of it is
            allowed.
    """
    if not any(filters.values()):
        return None
    return any_of(
        all_of([Term(Place("topic"), "exact", (topic,)), *([any_of(map(certain, parts))] if parts else [])])
        for topic, parts in filters.items()
    )


def certain(record_filter: Filter) -> Filter:
    """Return the filter that passes the records of which it is certain that they pass another one."""
    return _certain(record_filter, passes=True)


def _certain(record_filter: Filter, *, passes: bool) -> Filter:
    """Return the filter for the records of which it is certain that they pass, or that they do not."""
    if isinstance(record_filter, Not):
        return _certain(record_filter.part, passes=not passes)
    if isinstance(record_filter, All | Any):
        parts = [_certain(part, passes=passes) for part in record_filter.parts]
        return all_of(parts) if isinstance(record_filter, All) is passes else any_of(parts)
    outcome = record_filter if passes else Not(record_filter)
    known = _KNOWN.get(record_filter.place.kind)
    if known is None or not _may_mislead(record_filter, passes=passes):
        return outcome
    return all_of([outcome, known])


def _may_mislead(term: Term, *, passes: bool) -> bool:
    """Whether a comparison with an unknown place has this outcome, although the place is unknown."""
    if term.place.kind == "key":
        # Whether there is a key is always known. The wire format changes how a key begins, but not how it ends.
        return term.operator != "exists" and (not passes or term.operator == "suffix")
    return not passes
