"""Reads filters: the CloudEvents Subscriptions dialect as JSON, and short query parameters.

The dialect is the one of the CloudEvents Subscriptions API, section 3.2.4.1 (``exact``, ``prefix``, ``suffix``,
``all``, ``any``, ``not``), extended by ``in`` and ``exists``. It applies to ``key``, ``partition``, ``header.NAME`` and
JSON pointers (RFC 6901). A list of filters means ``all``, as in that API. Errors say where in the filter they are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any as AnyType

import orjson

from dispatcher.errors import BadRequestError
from dispatcher.sansio.filters import Filter, Not, Place, Term, all_of, any_of
from dispatcher.sansio.number_texts import with_numbers_as_text
from dispatcher.sansio.record_view import text_of

MAX_FILTER_BYTES = 2048
"""The size of everything in a request that belongs to its filter."""

MAX_DEPTH = 8
MAX_VALUES = 64
"""The most values that one filter may compare with."""

MAX_PARTITION_DIGITS = 10

PARAMETERS = ("key", "key_prefix", "partition", "header", "field", "filter")
"""The query parameters that make up a filter."""

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+")
_PLACES = "use key, partition, header.NAME, or a JSON pointer such as /tenant"
_OPERATORS = "use one of exact, prefix, suffix, in, exists, all, any, not"


class FilterError(BadRequestError):
    """A filter is wrong; the message begins with the place of the error."""


def read_parameters(arguments: Mapping[str, Sequence[str]]) -> Filter | None:
    """Read the filter of a request: repeated names mean OR, different names AND. None if there is no filter.

    Args:
        arguments: All query parameters with their values; see `PARAMETERS`.

    Raises:
        FilterError: the message names the place, such as ``header[1]``.
    """
    given = {name: arguments[name] for name in PARAMETERS if name in arguments}
    try:
        size_bytes = sum(len(value.encode()) for values in given.values() for value in values)
    except UnicodeEncodeError:
        raise FilterError("the filter is not UTF-8") from None
    if size_bytes > MAX_FILTER_BYTES:
        raise FilterError(f"the filter has {size_bytes} bytes; at most {MAX_FILTER_BYTES} are allowed")
    count = _Count()
    parts: list[Filter] = []
    for name, values in given.items():
        terms = [_PARAMETERS[name](f"{name}[{number}]", value, count) for number, value in enumerate(values)]
        # The same header or field again means OR, like the same parameter; different ones mean AND.
        by_place: dict[object, list[Filter]] = {}
        for term in terms:
            by_place.setdefault(getattr(term, "place", None) if name in {"header", "field"} else None, []).append(term)
        parts += map(any_of, by_place.values())
    return all_of(parts) if parts else None


def read_filter(document: AnyType, place: str = "filter") -> Filter:
    """Read a filter in the dialect.

    Args:
        document: Parsed JSON, without floats: ``1.1`` does not equal ``1.10``, and a float may be either.
        place: What errors call the document.

    Raises:
        FilterError: the message names the place, such as ``filter/all/0/exact``.
    """
    return _read(document, place, 1, _Count())


class _Count:
    """Counts the values in one filter."""

    def __init__(self) -> None:
        self.values = 0

    def more(self, place: str) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise FilterError(f"{place}: the filter compares with more than {MAX_VALUES} values")


def _read(document: AnyType, place: str, depth: int, count: _Count) -> Filter:
    if depth > MAX_DEPTH:
        raise FilterError(f"{place}: the filter has more than {MAX_DEPTH} levels")
    if isinstance(document, list):
        return all_of(_read_parts(document, place, depth, count))
    if not isinstance(document, dict):
        raise FilterError(f"{place}: {_shown(document)} is not an object; {_OPERATORS}")
    if len(document) != 1:
        raise FilterError(f"{place}: an object with {len(document)} members; {_OPERATORS}")
    ((operator, operand),) = document.items()
    place = f"{place}/{operator}" if operator in _KNOWN else place
    if operator == "all":
        return all_of(_read_parts(operand, place, depth, count))
    if operator == "any":
        return any_of(_read_parts(operand, place, depth, count))
    if operator == "not":
        return Not(_read(operand, place, depth + 1, count))
    if operator not in _KNOWN:
        raise FilterError(f"{place}: {_shown(operator)} is not an operator; {_OPERATORS}")
    if not isinstance(operand, dict) or not operand:
        raise FilterError(f"{place}: {_shown(operand)} is not an object with a place and a value")
    return all_of([_read_term(operator, name, value, f"{place}/{name}", count) for name, value in operand.items()])


_KNOWN = frozenset({"all", "any", "not", "exact", "prefix", "suffix", "in", "exists"})


def _read_parts(documents: AnyType, place: str, depth: int, count: _Count) -> list[Filter]:
    if not isinstance(documents, list) or not documents:
        raise FilterError(f"{place}: {_shown(documents)} is not a list with a filter in it")
    return [_read(document, f"{place}/{number}", depth + 1, count) for number, document in enumerate(documents)]


def _read_term(operator: str, name: str, operand: AnyType, place: str, count: _Count) -> Filter:
    where = _read_place(name, place)
    if where.kind == "partition" and operator not in {"exact", "in"}:
        raise FilterError(f"{place}: a partition can be compared only with exact and in")
    if operator == "exists":
        count.more(place)
        if not isinstance(operand, bool):
            raise FilterError(f"{place}: {_shown(operand)} is not true or false")
        return Term(where, "exists") if operand else Not(Term(where, "exists"))
    if operator != "in":
        return _term(where, operator, [_read_value(where, operator, operand, place, count)])
    if not isinstance(operand, list) or not operand:
        raise FilterError(f"{place}: {_shown(operand)} is not a list with a value in it")
    values = [_read_value(where, "exact", value, f"{place}/{number}", count) for number, value in enumerate(operand)]
    return _term(where, "exact", values)


def _read_place(name: str, place: str) -> Place:
    if name in {"key", "partition"}:
        return Place(name)
    if name.startswith("header.") and len(name) > len("header."):
        return Place("header", name.removeprefix("header."))
    if name.startswith("/") and _POINTER.fullmatch(name):
        return Place("pointer", name)
    raise FilterError(f"{place}: {_shown(name)} is not a place in a record; {_PLACES}")


def _read_value(where: Place, operator: str, value: AnyType, place: str, count: _Count) -> str:
    count.more(place)
    if isinstance(value, float):
        # Requests are read with their numbers as text; a grant has been parsed by now.
        raise FilterError(f"{place}: write {_shown(value)} as a string, because numbers are compared digit by digit")
    text = text_of(value)
    if text is None:
        raise FilterError(f"{place}: {_shown(value)} is not a string, a number, true, false or null")
    if operator != "exact" and not text:
        raise FilterError(f"{place}: every text has the empty {operator}: give at least one character, or use exists")
    if where.kind == "partition" and not (
        text.isascii() and text.isdecimal() and len(text) <= MAX_PARTITION_DIGITS and str(int(text)) == text
    ):
        raise FilterError(f"{place}: {_shown(value)} is not the number of a partition")
    return text


def _term(where: Place, operator: str, values: Sequence[str]) -> Term:
    return Term(where, operator, tuple(sorted(set(values))))


def _parameter(name: str, operator: str) -> Callable[[str, str, _Count], Filter]:
    def read(place: str, text: str, count: _Count) -> Filter:
        return _read_term(operator, name, text, place, count)

    return read


def _read_header(place: str, text: str, count: _Count) -> Filter:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise FilterError(f"{place}: {_shown(text)} is not NAME:VALUE, such as tenant:t1")
    return _read_term("exact", f"header.{name}", value, place, count)


def _read_field(place: str, text: str, count: _Count) -> Filter:
    pointer, colon, value = text.partition(":")
    if not colon or not pointer.startswith("/"):
        raise FilterError(f"{place}: {_shown(text)} is not POINTER:VALUE, such as /tenant:t1")
    return _read_term("exact", pointer, value, place, count)


def _read_document(place: str, text: str, count: _Count) -> Filter:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FilterError(f"{place}: not JSON at character {error.pos}: {error.msg.partition(':')[0]}") from None
    if isinstance(document, (dict, list)):
        document = with_numbers_as_text(text.encode())
    return _read(document, place, 1, count)


_PARAMETERS: Mapping[str, Callable[[str, str, _Count], Filter]] = {
    "key": _parameter("key", "exact"),
    "key_prefix": _parameter("key", "prefix"),
    "partition": _parameter("partition", "exact"),
    "header": _read_header,
    "field": _read_field,
    "filter": _read_document,
}


def _shown(value: AnyType) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
