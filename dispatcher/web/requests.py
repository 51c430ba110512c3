"""What a subscriber asks for in the query and headers of ``/events`` and ``/ws``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dispatcher.errors import BadRequestError
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import EARLIEST
from dispatcher.sansio.records import TopicPartition

PARAMETERS = ("topic", "since", "last_event_id", "format")
MAX_MS_DIGITS = 15
_LOST_PLUS = re.compile(r" (\d\d:\d\d)$")
FORMATS = ("value", "envelope")


@dataclass(frozen=True, slots=True)
class Query:
    """A valid request for a stream."""

    topics: frozenset[str]
    envelope: bool
    position: Mapping[TopicPartition, int]
    """The last offset that the client has seen of some partitions."""
    since_ms: int | None
    """Where the other partitions begin, in ms since the epoch, or `EARLIEST`; None: as for a new subscriber."""


def read_query(arguments: Mapping[str, Sequence[str]], last_event_id: str | None, configured: Sequence[str]) -> Query:
    """Check what a client asks for.

    Args:
        arguments: Every query parameter with its values.
        last_event_id: The ``Last-Event-ID`` header, which wins over the parameter of that name.
        configured: The topics that this dispatcher serves.

    Raises:
        BadRequestError: with a reason that tells what would be right.
    """
    for name, values in arguments.items():
        if name not in PARAMETERS:
            raise BadRequestError(f"unknown query parameter {_shown(name)}; there are {', '.join(PARAMETERS)}")
        if name != "topic" and len(values) > 1:
            raise BadRequestError(f"{name} is given {len(values)} times, once is right")
    topics = frozenset(arguments.get("topic", configured))
    unknown = sorted(topics - frozenset(configured))
    if unknown:
        raise BadRequestError(f"unknown topic {_shown(unknown[0])}; this dispatcher serves {', '.join(configured)}")
    form = arguments.get("format", ["value"])[0]
    if form not in FORMATS:
        raise BadRequestError(f"unknown format {_shown(form)}; there are {', '.join(FORMATS)}")
    if last_event_id is None and "last_event_id" in arguments:
        last_event_id = arguments["last_event_id"][0]
    position = parse_position(last_event_id) if last_event_id else {}
    since_ms = _read_time(arguments["since"][0]) if "since" in arguments else None
    return Query(topics, envelope=form == "envelope", position=position, since_ms=since_ms)


def _read_time(text: str) -> int:
    """``earliest``, an RFC 3339 time, or milliseconds since the epoch."""
    if text == "earliest":
        return EARLIEST
    if text.isascii() and text.isdecimal() and len(text) <= MAX_MS_DIGITS:
        return int(text)
    try:
        # In a query a plus that nobody has encoded is a space.
        time = datetime.fromisoformat(_LOST_PLUS.sub(r"+\1", text))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or time.timestamp() < 0:
        raise BadRequestError(
            f"since {_shown(text)} is not a time: use earliest, 2026-01-31T12:00:00Z, or milliseconds since 1970"
        )
    return int(time.timestamp() * 1000)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
