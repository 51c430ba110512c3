"""What a subscriber asks for in the query and headers of ``/events`` and ``/ws``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dispatcher.errors import BadRequestError
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.records import TopicPartition

PARAMETERS = ("topic", "last_event_id", "format")
FORMATS = ("value", "envelope")


@dataclass(frozen=True, slots=True)
class Query:
    """A valid request for a stream."""

    topics: frozenset[str]
    envelope: bool
    position: Mapping[TopicPartition, int]
    """The last offset that the client has seen of some partitions."""


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
    return Query(topics, envelope=form == "envelope", position=position)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
