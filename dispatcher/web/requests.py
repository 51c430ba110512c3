"""Reads what a subscriber asks for in the query and headers of ``/events`` and ``/ws``."""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import itemgetter

from dispatcher.errors import BadRequestError
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.sansio.encoding.wire import Wire
from dispatcher.sansio.filter_dialect import PARAMETERS as FILTER_PARAMETERS
from dispatcher.sansio.filter_dialect import read_parameters
from dispatcher.sansio.filters import Filter
from dispatcher.sansio.position import MOST_PARTITIONS_KEPT, parse_usable
from dispatcher.sansio.ranges import EARLIEST, NOW
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.starts import usable_end

PARAMETERS = (
    "topic",
    "scope",
    "since",
    "last",
    "observe",
    "last_event_id",
    "format",
    "decode",
    "ack",
    "window",
    "window_bytes",
    *FILTER_PARAMETERS,
)
REPEATABLE = frozenset({"topic", *FILTER_PARAMETERS})
ALIASES = {"lastEventId": "last_event_id"}
"""Names that polyfills of EventSource give to parameters."""
_KNOWN = dict.fromkeys((*PARAMETERS, *ALIASES))
_LONGEST = max(map(len, _KNOWN))
SCOPES = ("replica", "topic")
NEAR_LETTERS = 2
"""A name that differs from a known one by at most this many letters is refused as a typo: a misspelled `observe` must
not consume records."""
MAX_UNKNOWN = 32
"""More unknown parameters than this are refused: each of them is compared with every known name."""
MAX_IGNORED_NAMED = 8
"""How many unknown parameters the first state names."""
MAX_LAST_RECORDS = 10**9
WINDOW_RECORDS = 1000
"""Default number of records that a client with ``ack=client`` is sent before it acknowledges."""
MAX_WINDOW_RECORDS = 100_000
MAX_WINDOW_BYTES = 2**31
_DURATION = re.compile(r"-(?P<number>[0-9]{1,9})(?P<unit>[smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}
MAX_MS_DIGITS = 15
_TIME = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<minute>[0-9]{2}:[0-9]{2}):(?P<second>[0-9]{2})"
    r"(?:\.(?P<fraction>[0-9]+))?(?P<zone>[Zz]|[+ -][0-9]{2}:[0-5][0-9])"
)
"""RFC 3339, section 5.6, with its notes: ``t``, ``z`` and a space instead of ``T`` are allowed, and only the fraction
is optional. `datetime.fromisoformat` accepts more of ISO 8601, and each version of Python something different."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
IDS_KEPT = 4
"""How many ids are kept as read, unless they name too many partitions (`MOST_PARTITIONS_KEPT`), so at most 1.5 MB:
clients whose streams ended at the same moment return with the same id."""
DAY_SECONDS = 24 * 60 * 60
FORMATS = ("value", "envelope")
DECODES = ("json", "avro-json")


@dataclass(frozen=True, slots=True)
class Query:
    """A valid request for a stream."""

    topics: frozenset[str]
    envelope: bool
    position: Mapping[TopicPartition, int]
    """The last offsets that the client has seen, of some partitions."""
    since_ms: int | None
    """Where the other partitions begin, in ms since the epoch, `EARLIEST` or `NOW`; None: as for a new subscriber."""
    last: int | None = None
    """Instead of a time: how many records before its end each of them begins."""
    whole: bool = False
    """Whether it includes partitions that the replica does not own."""
    observe: bool = False
    """Whether records that are sent do not count as dispatched."""
    ignored: Sequence[str] = ()
    """The first unknown parameters."""
    filter: Filter | None = None
    """The client's own filter; None: all records."""
    grant: Filter | None = None
    """The filter of its grant; None: all records."""
    window_records: int | None = None
    """How many records the client is sent before it acknowledges; None if it does not acknowledge."""
    window_bytes: int | None = None
    """The same in bytes; None if the client does not say."""
    decodes: frozenset[str] = frozenset()
    """Topics that are decoded because the client asks, not because of the settings."""


def read_query(
    arguments: Mapping[str, Sequence[str]],
    last_event_id: str | None,
    configured: Sequence[str],
    *,
    default_scope: str = "replica",
    decoded: Mapping[str, str] = {},
    counts: Mapping[str, int] = {},
) -> Query:
    """Check what a client asks for.

    Args:
        arguments: Every query parameter with its values.
        last_event_id: The ``Last-Event-ID`` header, which overrides the parameter of that name.
        configured: The topics that this dispatcher serves.
        default_scope: The scope of requests that name none.
        decoded: The topics that can be decoded, and into what; ``asked``: into JSON, for clients that ask.
        counts: How many partitions each topic has, if that is known: an id may name thousands that do not exist.

    Raises:
        BadRequestError: the request is invalid; the reason says what would be right.
    """
    unknown_names = _read_unknown(arguments)
    arguments = {ALIASES.get(name, name): values for name, values in sorted(arguments.items(), key=_aliases_first)}
    for name, values in arguments.items():
        if name not in REPEATABLE and len(values) > 1:
            raise BadRequestError(f"{name} is given {len(values)} times; give it once")
    topics = frozenset(arguments.get("topic", configured))
    unknown = sorted(topics - frozenset(configured))
    if unknown:
        raise BadRequestError(f"unknown topic {_shown(unknown[0])}; this dispatcher serves {', '.join(configured)}")
    form = arguments.get("format", ["value"])[0]
    if form not in FORMATS:
        raise BadRequestError(f"unknown format {_shown(form)}; use {', '.join(FORMATS)}")
    decodes = _read_decode(arguments, topics, decoded)
    if last_event_id is None and "last_event_id" in arguments:
        last_event_id = arguments["last_event_id"][0]
    position = _read_position(last_event_id, topics, counts) if last_event_id else {}
    if not topics.issuperset(map(itemgetter(0), position)):
        # The ids of a stream never name topics that the stream does not have.
        position = {partition: offset for partition, offset in position.items() if partition.topic in topics}
    scope = arguments.get("scope", [default_scope])[0]
    if scope not in SCOPES:
        raise BadRequestError(f"unknown scope {_shown(scope)}; use {', '.join(SCOPES)}")
    observe = arguments.get("observe", ["0"])[0]
    if observe not in {"0", "1"}:
        raise BadRequestError(f"observe {_shown(observe)} is neither 1 nor 0")
    if "since" in arguments and "last" in arguments:
        raise BadRequestError("since and last both say where to begin: use one of them")
    since_ms = _read_time(arguments["since"][0]) if "since" in arguments else None
    last = _read_last(arguments["last"][0]) if "last" in arguments else None
    if observe == "1" and since_ms is None and last is None:
        since_ms = NOW
    return Query(
        topics,
        envelope=form == "envelope",
        position=position,
        since_ms=since_ms,
        last=last,
        whole=scope == "topic",
        observe=observe == "1",
        ignored=tuple([ascii(name[:40])[1:-1] for name in unknown_names[:MAX_IGNORED_NAMED]]),
        filter=read_parameters(arguments),
        window_records=_read_window(arguments),
        window_bytes=_read_count(arguments, "window_bytes", MAX_WINDOW_BYTES),
        decodes=decodes,
    )


_kept: dict[str, Mapping[TopicPartition, int]] = {}
"""Ids as read; the one that was sent last is last."""


def _read_position(event_id: str, topics: frozenset[str], counts: Mapping[str, int]) -> Mapping[TopicPartition, int]:
    """Read an id; whoever sends the same one gets the same mapping."""
    position = _kept.pop(event_id, None)
    left_out = 0
    if position is None:
        position, left_out = parse_usable(event_id, partial(usable_end, topics, counts))
    # What was left out depends on more than the id, and clients that resume name nothing of that kind.
    if len(position) <= MOST_PARTITIONS_KEPT and not left_out:
        _kept[event_id] = position
        if len(_kept) > IDS_KEPT:
            del _kept[next(iter(_kept))]
    return position


def as_observer(query: Query, acked_topics: AbstractSet[str]) -> Query:
    """The query, as an observer's if only acknowledgements count for its topics and it makes none."""
    if query.window_records is not None or query.observe or not query.topics <= acked_topics:
        return query
    names_start = query.since_ms is not None or query.last is not None
    return replace(query, observe=True, since_ms=query.since_ms if names_start else NOW)


def feed_for(wire: Wire, query: Query, acked_topics: AbstractSet[str]) -> Feed:
    """The feed that a client asks for, in a wire format."""
    acks = query.window_records is not None
    return feed_of(
        wire,
        query.topics,
        query.filter,
        query.grant,
        whole=query.whole,
        counts=not query.observe,
        acks=acks,
        observed=frozenset() if acks or query.observe else query.topics & acked_topics,
        decodes=query.decodes,
    )


def _read_window(arguments: Mapping[str, Sequence[str]]) -> int | None:
    """The window of records that the client asks for."""
    if "ack" not in arguments:
        for name in ("window", "window_bytes"):
            if name in arguments:
                raise BadRequestError(f"{name} is for streams with ack=client")
        return None
    if (ack := arguments["ack"][0]) != "client":
        raise BadRequestError(f"unknown ack {_shown(ack)}; use client")
    return _read_count(arguments, "window", MAX_WINDOW_RECORDS) or WINDOW_RECORDS


def _read_count(arguments: Mapping[str, Sequence[str]], name: str, most: int) -> int | None:
    """A number of at least 1; None if it is not given."""
    if name not in arguments:
        return None
    text = arguments[name][0]
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_MS_DIGITS and 0 < int(text) <= most):
        raise BadRequestError(f"{name} {_shown(text)} is not a number from 1 to {most}")
    return int(text)


def _read_decode(
    arguments: Mapping[str, Sequence[str]], topics: Collection[str], decoded: Mapping[str, str]
) -> frozenset[str]:
    """The topics that are decoded because the client asks. Those that the settings decode are only checked."""
    if "decode" not in arguments:
        return frozenset()
    if (decode := arguments["decode"][0]) not in DECODES:
        raise BadRequestError(f"unknown decode {_shown(decode)}; use {', '.join(DECODES)}")
    ways = {decode, "asked"} if decode == "json" else {decode}
    if missing := sorted(topic for topic in topics if decoded.get(topic) not in ways):
        raise BadRequestError(f'topic {missing[0]} is not decoded this way here: its settings need decode = "{decode}"')
    return frozenset(topic for topic in topics if decoded[topic] == "asked")


def _aliases_first(argument: tuple[str, Sequence[str]]) -> bool:
    """Sort aliases first, so that a parameter overrides its alias."""
    return argument[0] not in ALIASES


def _read_unknown(arguments: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The unknown parameters, none of which resembles a known one."""
    unknown = [name for name in arguments if name not in _KNOWN]
    if len(unknown) > MAX_UNKNOWN:
        raise BadRequestError(
            f"{len(unknown)} unknown query parameters, such as {_shown(unknown[0])}; at most {MAX_UNKNOWN} are allowed"
        )
    for name in unknown:
        if meant := _meant(name):
            raise BadRequestError(f"unknown query parameter {_shown(name)}: did you mean {meant}?")
    return unknown


def _meant(name: str) -> str | None:
    """The known parameter that an unknown one is probably a typo of; None if it resembles none."""
    if len(name) > _LONGEST + NEAR_LETTERS:
        return None
    lower = name.lower()
    return next((one for one in _KNOWN if one.lower() == lower or _is_near(one, name)), None)


def _is_near(known: str, name: str) -> bool:
    """Whether at most `NEAR_LETTERS` letters have to be inserted, deleted or changed (Levenshtein)."""
    most = min(NEAR_LETTERS, len(known) // 2)
    if abs(len(known) - len(name)) > most:
        return False
    row = list(range(len(name) + 1))
    for number, letter in enumerate(known, 1):
        before, row[0] = row[0], number
        for at, other in enumerate(name, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (letter != other))
        if min(row) > most:
            return False
    return row[-1] <= most


def _read_last(text: str) -> int:
    """A number of records."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_MS_DIGITS and 0 < int(text) <= MAX_LAST_RECORDS):
        raise BadRequestError(f"last {_shown(text)} is not a number of records: use 1 to {MAX_LAST_RECORDS}")
    return int(text)


def _read_time(text: str) -> int:
    """``earliest``, ``now``, a duration before now, an RFC 3339 time, or milliseconds since the epoch."""
    if text == "earliest":
        return EARLIEST
    if text == "now":
        return NOW
    if duration := _DURATION.fullmatch(text):
        seconds = int(duration["number"]) * _UNIT_SECONDS[duration["unit"]]
        return max(0, int((time.time() - seconds) * 1000))
    if text.isascii() and text.isdecimal() and len(text) <= MAX_MS_DIGITS:
        return int(text)
    since_ms = _read_rfc3339(text)
    if since_ms is None or since_ms < 0:
        raise BadRequestError(
            f"since {_shown(text)} is not a time: use earliest, now, -10m (or s, h, d), 2026-01-31T12:00:00Z, "
            "or milliseconds since 1970"
        )
    return since_ms


def _read_rfc3339(text: str) -> int | None:
    """Milliseconds since the epoch, rounded down; None if it is not a time."""
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
        return None  # a leap second is the last second of a day in UTC; in the epoch it is the first of the next day
    milliseconds = int((match["fraction"] or "").ljust(3, "0")[:3])
    return (seconds + is_leap) * 1000 + milliseconds


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
