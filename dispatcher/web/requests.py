"""What a subscriber asks for in the query and headers of ``/events`` and ``/ws``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dispatcher.errors import BadRequestError
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import EARLIEST
from dispatcher.sansio.records import TopicPartition

PARAMETERS = ("topic", "since", "last_event_id", "format")
MAX_MS_DIGITS = 15
_TIME = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<minute>[0-9]{2}:[0-9]{2}):(?P<second>[0-9]{2})"
    r"(?:\.(?P<fraction>[0-9]+))?(?P<zone>[Zz]|[+ -][0-9]{2}:[0-5][0-9])"
)
"""RFC 3339, section 5.6, with its notes: ``t``, ``z`` and a space in place of ``T`` are allowed, and only the fraction
is optional. `datetime.fromisoformat` takes more of ISO 8601, and in each version of Python something else."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_SECONDS = 24 * 60 * 60
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
        BadRequestError: with a reason that says what would be right.
    """
    for name, values in arguments.items():
        if name not in PARAMETERS:
            raise BadRequestError(f"unknown query parameter {_shown(name)}; use {', '.join(PARAMETERS)}")
        if name != "topic" and len(values) > 1:
            raise BadRequestError(f"{name} is given {len(values)} times; give it once")
    topics = frozenset(arguments.get("topic", configured))
    unknown = sorted(topics - frozenset(configured))
    if unknown:
        raise BadRequestError(f"unknown topic {_shown(unknown[0])}; this dispatcher serves {', '.join(configured)}")
    form = arguments.get("format", ["value"])[0]
    if form not in FORMATS:
        raise BadRequestError(f"unknown format {_shown(form)}; use {', '.join(FORMATS)}")
    if last_event_id is None and "last_event_id" in arguments:
        last_event_id = arguments["last_event_id"][0]
    position = parse_position(last_event_id) if last_event_id else {}
    if any(partition.topic not in topics for partition in position):
        # An id of a stream never names topics that it does not have.
        position = {partition: offset for partition, offset in position.items() if partition.topic in topics}
    since_ms = _read_time(arguments["since"][0]) if "since" in arguments else None
    return Query(topics, envelope=form == "envelope", position=position, since_ms=since_ms)


def _read_time(text: str) -> int:
    """``earliest``, an RFC 3339 time, or milliseconds since the epoch."""
    if text == "earliest":
        return EARLIEST
    if text.isascii() and text.isdecimal() and len(text) <= MAX_MS_DIGITS:
        return int(text)
    since_ms = _read_rfc3339(text)
    if since_ms is None or since_ms < 0:
        raise BadRequestError(
            f"since {_shown(text)} is not a time: use earliest, 2026-01-31T12:00:00Z, or milliseconds since 1970"
        )
    return since_ms


def _read_rfc3339(text: str) -> int | None:
    """Milliseconds since the epoch, rounded down; None when it is no time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    is_leap = match["second"] == "60"
    # An unencoded plus in a query string arrives as a space.
    zone = match["zone"].upper().replace(" ", "+")
    try:
        time = datetime.fromisoformat(f"{match['date']}T{match['minute']}:{'59' if is_leap else match['second']}{zone}")
    except ValueError:
        return None
    seconds = (time - _EPOCH) // timedelta(seconds=1)
    if is_leap and (seconds + 1) % DAY_SECONDS:
        return None  # leap seconds are the last of a day in UTC; in the epoch they are the first of the next
    milliseconds = int((match["fraction"] or "").ljust(3, "0")[:3])
    return (seconds + is_leap) * 1000 + milliseconds


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
