"""Parses what a dispatcher sends (docs/protocol.md), in the same way for both transports.

Additions of later versions are ignored; anything that violates this version's protocol is a `MalformedMessageError`.
Nothing is trusted: topics, partitions and offsets are checked against Kafka's own limits before they are passed on.
"""

from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import orjson

from dispatcher.client.errors import MalformedMessageError
from dispatcher.client.events import (
    Expiring,
    Fail,
    Gap,
    Heartbeat,
    Nacked,
    Received,
    Reconnect,
    Record,
    Repeated,
    RetryTime,
    State,
    StateName,
    StateReceived,
)
from dispatcher.client.outcomes import closed
from dispatcher.client.sse_parser import ServerEvent
from dispatcher.sansio.compact_position import MARK, MAX_OFFSET, MAX_PARTITION
from dispatcher.sansio.position import is_topic

MIN_HEARTBEAT_SECONDS = 0.01
"""Minimum heartbeat interval, so that a server that announces less is not cut off."""

MAX_TIME = 2**63 - 1
"""Kafka's timestamps have 64 bits, like its offsets."""

_NAMES = {"streaming": "live", "catching-up": "", "rebalancing": "", "waiting": "", "broker-down": "", "standby": ""}

_Kind = TypeVar("_Kind")


def read_event(event: ServerEvent) -> list[Received]:
    """One block of an SSE stream with ``format=envelope``.

    Raises:
        MalformedMessageError: no dispatcher sends this.
    """
    heard: list[Received] = []
    if event.retry_ms is not None:
        heard.append(RetryTime(event.retry_ms / 1000))
    if event.data is None:
        if event.retry_ms is None or event.id:
            heard.append(Heartbeat(event.id or ""))
    elif event.type == "message":
        heard += _checked(_record, {**_object(event.data), "id": event.id})
    elif event.type in _CONTROLS:
        heard.append(_checked(_CONTROLS[event.type], {**_object(event.data), "id": event.id}))
    return heard


def read_message(text: str) -> list[Received]:
    """One message of a WebSocket.

    Raises:
        MalformedMessageError: no dispatcher sends this.
    """
    message = _object(text)
    kind = message.get("type")
    if kind == "records":
        heard: list[Received] = []
        for record in _checked(lambda m: list(m["records"]), message):
            heard += _checked(_record, record)
        # One position for the whole message, or one in each record.
        return [*heard, Heartbeat(str(message["id"]))] if message.get("id") else heard
    if kind == "heartbeat":
        return [Heartbeat(str(message.get("id", "")))]
    if kind == "expiring":
        return [Expiring()]
    if kind == "nacked":
        return [Nacked(str(message.get("id", "")), is_stored=message.get("dead_letter") is not False)]
    return [_checked(_CONTROLS[kind], message)] if isinstance(kind, str) and kind in _CONTROLS else []


def _checked(read: Any, payload: Any) -> Any:
    try:
        return read(payload)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        shown = ascii(str(payload)[:80])
        raise MalformedMessageError(
            f"this is not a message of a dispatcher: {shown} ({type(error).__name__}: {ascii(str(error))[:200]})"
        ) from None


def _object(text: str) -> dict[str, Any]:
    try:
        payload = orjson.loads(text)
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        raise MalformedMessageError(f"this is not a message of a dispatcher: {text[:80]!a}")
    return payload


def _topic(payload: Mapping[str, Any]) -> str:
    """A topic's name, to be sent in requests and shown to people: only names that Kafka allows are accepted."""
    topic = payload["topic"]
    if not isinstance(topic, str) or not is_topic(topic):
        raise ValueError("no topic has this name")
    return topic


def _integer(payload: Mapping[str, Any], name: str, least: int, most: int) -> int:
    return _number(payload[name], name, least, most)


def _number(value: Any, name: str, least: int, most: int) -> int:
    # Not a boolean, text or a fraction.
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is not a number from {least} to {most}")
    return value


def _record(payload: Mapping[str, Any]) -> list[Received]:
    """A record, and the position after it if its id does not begin with the record's own pair."""
    topic, partition = _topic(payload), _integer(payload, "partition", 0, MAX_PARTITION)
    offset = _integer(payload, "offset", 0, MAX_OFFSET)
    event_id = payload.get("id") or ""
    is_compact = event_id.startswith(f"{topic}:{MARK}")
    record = Record(
        id=event_id if event_id and not is_compact else f"{topic}:{partition}={offset}",
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=None if payload["timestamp"] is None else _integer(payload, "timestamp", -MAX_TIME - 1, MAX_TIME),
        key=_bytes(payload, "key"),
        value=_bytes(payload, "value"),
        headers=tuple((header["key"], _bytes(header, "value")) for header in payload["headers"]),
        schema=_optional(payload, "schema", dict),
        decode_error=_optional(payload, "decode_error", str),
    )
    return [record, Heartbeat(event_id)] if is_compact else [record]


def _optional(payload: Mapping[str, Any], name: str, kind: type[_Kind]) -> _Kind | None:
    value = payload.get(name)
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} is not of type {kind.__name__}")
    return value


def _bytes(payload: Mapping[str, Any], name: str) -> bytes | None:
    if name in payload:
        value: str | None = payload[name]
        return None if value is None else value.encode()
    if f"{name}_json" in payload:
        decoded = payload[f"{name}_json"]
        return decoded.encode() if name == "key" and isinstance(decoded, str) else orjson.dumps(decoded)
    return b64decode(payload[f"{name}_base64"], validate=True)


def _state(payload: Mapping[str, Any]) -> Received:
    said = payload["state"]
    if not isinstance(said, str):
        raise TypeError("a state without a name")
    # A state of a later version is shown by its own name.
    name = cast("StateName", _NAMES.get(said) or said)
    assigned = {topic: _partitions(numbers) for topic, numbers in _by_topic(payload, "assigned")}
    seconds = payload.get("heartbeat_seconds")
    is_usable = isinstance(seconds, int | float) and 0 < seconds < 86_400
    heartbeat_seconds = max(float(seconds or 0), MIN_HEARTBEAT_SECONDS) if is_usable else None
    counts = {topic: _number(n, "partitions", 0, MAX_PARTITION) for topic, n in _by_topic(payload, "partitions")}
    scope = payload.get("scope")
    state = State(
        name,
        replica=str(payload["replica"]),
        assigned=assigned,
        partitions=counts,
        scope=scope if isinstance(scope, str) else None,
        resumable=payload.get("resumable") is not False,
        repeats=tuple(map(_repeated, _optional(payload, "repeats", list) or ())),
    )
    return StateReceived(state, heartbeat_seconds, str(payload.get("id") or ""))


def _by_topic(payload: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    by_topic = _optional(payload, name, dict)
    return () if by_topic is None else by_topic.items()


def _partitions(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, list):
        raise TypeError("assigned is not a list")
    return tuple(_number(number, "assigned", 0, MAX_PARTITION) for number in numbers)


def _repeated(payload: Mapping[str, Any]) -> Repeated:
    first = _integer(payload, "from", 0, MAX_OFFSET)
    to = _integer(payload, "to", first, MAX_OFFSET)
    return Repeated(_topic(payload), _integer(payload, "partition", 0, MAX_PARTITION), first, to)


def _gap(payload: Mapping[str, Any]) -> Received:
    return Gap(
        _topic(payload),
        _integer(payload, "partition", 0, MAX_PARTITION),
        _integer(payload, "from", 0, MAX_OFFSET),
        _integer(payload, "to", -1, MAX_OFFSET),
        str(payload["reason"]),
    )


def _goodbye(payload: Mapping[str, Any]) -> Reconnect | Fail:
    retry_ms = payload.get("retry_ms")
    retry_seconds = float(retry_ms) / 1000 if isinstance(retry_ms, int | float) else None
    return closed(_integer(payload, "code", 0, 65_535), str(payload.get("reason") or ""), retry_seconds)


_CONTROLS = {"state": _state, "gap": _gap, "goodbye": _goodbye}
