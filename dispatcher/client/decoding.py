"""Reads what a dispatcher says (docs/protocol.md), the same for both transports.

What a later version may add is passed over; what this one promises and does not keep is a `WrongServerError`.
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, cast

import orjson

from dispatcher.client.errors import WrongServerError
from dispatcher.client.events import (
    ComeBack,
    Gap,
    GiveUp,
    Heard,
    Heartbeat,
    Record,
    RetryTime,
    State,
    StateHeard,
    StateName,
)
from dispatcher.client.outcomes import closed
from dispatcher.client.sse_parser import ServerEvent
from dispatcher.sansio.compact_position import MARK

_NAMES = {"streaming": "live", "catching-up": "", "rebalancing": "", "waiting": "", "broker-down": ""}


def read_event(event: ServerEvent) -> list[Heard]:
    """One block of an SSE stream with ``format=envelope``.

    Raises:
        WrongServerError: no dispatcher says this.
    """
    heard: list[Heard] = []
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


def read_message(text: str) -> list[Heard]:
    """One message of a WebSocket.

    Raises:
        WrongServerError: no dispatcher says this.
    """
    message = _object(text)
    kind = message.get("type")
    if kind == "records":
        heard: list[Heard] = []
        for record in _checked(lambda m: list(m["records"]), message):
            heard += _checked(_record, record)
        # One position for the whole message, or one in each record.
        return [*heard, Heartbeat(str(message["id"]))] if message.get("id") else heard
    if kind == "heartbeat":
        return [Heartbeat(str(message.get("id", "")))]
    return [_checked(_CONTROLS[kind], message)] if isinstance(kind, str) and kind in _CONTROLS else []


def _checked(read: Any, payload: Any) -> Any:
    try:
        return read(payload)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        shown = ascii(str(payload)[:80])
        raise WrongServerError(
            f"this is not what a dispatcher says: {shown} ({type(error).__name__}: {error})"
        ) from None


def _object(text: str) -> dict[str, Any]:
    try:
        payload = orjson.loads(text)
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        raise WrongServerError(f"this is not what a dispatcher says: {text[:80]!a}")
    return payload


def _record(payload: Mapping[str, Any]) -> list[Heard]:
    """A record, and the position after it where its id does not begin with the record's own pair."""
    topic, partition, offset = str(payload["topic"]), int(payload["partition"]), int(payload["offset"])
    event_id = payload.get("id") or ""
    is_compact = event_id.startswith(f"{topic}:{MARK}")
    record = Record(
        id=event_id if event_id and not is_compact else f"{topic}:{partition}={offset}",
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=None if payload["timestamp"] is None else int(payload["timestamp"]),
        key=_bytes(payload, "key"),
        value=_bytes(payload, "value"),
        headers=tuple((header["key"], _bytes(header, "value")) for header in payload["headers"]),
    )
    return [record, Heartbeat(event_id)] if is_compact else [record]


def _bytes(payload: Mapping[str, Any], name: str) -> bytes | None:
    if name in payload:
        value: str | None = payload[name]
        return None if value is None else value.encode()
    return b64decode(payload[f"{name}_base64"], validate=True)


def _state(payload: Mapping[str, Any]) -> Heard:
    said = str(payload["state"])
    # A state of a later version is shown by its own name.
    name = cast("StateName", _NAMES.get(said) or said)
    assigned = {str(topic): tuple(map(int, numbers)) for topic, numbers in (payload.get("assigned") or {}).items()}
    seconds = payload.get("heartbeat_seconds")
    heartbeat_seconds = float(seconds) if seconds is not None and 0 < float(seconds) < 86_400 else None
    state = State(name, replica=str(payload["replica"]), assigned=assigned)
    return StateHeard(state, heartbeat_seconds, str(payload.get("id") or ""))


def _gap(payload: Mapping[str, Any]) -> Heard:
    return Gap(
        str(payload["topic"]),
        int(payload["partition"]),
        int(payload["from"]),
        int(payload["to"]),
        str(payload["reason"]),
    )


def _goodbye(payload: Mapping[str, Any]) -> ComeBack | GiveUp:
    return closed(int(payload["code"]), str(payload["reason"]), retry_seconds=float(payload["retry_ms"]) / 1000)


_CONTROLS = {"state": _state, "gap": _gap, "goodbye": _goodbye}
