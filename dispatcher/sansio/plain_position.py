"""The plain spelling of positions: what follows ``topic:`` in most event ids, such as ``0=17,1=-1``."""

import re
from collections.abc import Iterable, Iterator

from dispatcher.errors import MalformedPositionError
from dispatcher.sansio.compact_position import MAX_OFFSET, MAX_PARTITION

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_SMALL_PAIR = r"(?:0|[1-9][0-9]{0,5})=(?:-1|0|[1-9][0-9]{0,17})"
_SMALL_PAIRS = re.compile(f"{_SMALL_PAIR}(?:,{_SMALL_PAIR})*")
"""Pairs that need no further check, because each number is below its bound. Most are; acknowledgements name many
pairs."""


def read_pairs(pairs: str) -> Iterable[tuple[int, int]]:
    """Read partitions and their offsets; one may occur twice: the caller, who knows all topics, has to refuse that.

    Raises:
        MalformedPositionError: the text has another form; the message says what is wrong with which part.
    """
    if _SMALL_PAIRS.fullmatch(pairs):
        return [(int(number), int(offset)) for number, _, offset in [pair.partition("=") for pair in pairs.split(",")]]
    return _checked_pairs(pairs)


def _checked_pairs(pairs: str) -> Iterator[tuple[int, int]]:
    for pair in pairs.split(","):
        number, equals, offset = pair.partition("=")
        if not equals:
            raise MalformedPositionError(f"{shown(pair)} lacks the '=' between partition and offset")
        partition = _number(number, "a partition: use 0", MAX_PARTITION)
        yield partition, -1 if offset == "-1" else _number(offset, "an offset: use -1, or 0", MAX_OFFSET)


def _number(text: str, what: str, most: int) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise MalformedPositionError(f"{shown(text)} is not {what} to {most}, without leading zeros")
    return int(text)


def shown(text: str) -> str:
    """Quote a part of an id for an error message, shortened because clients choose its length."""
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
