"""WebSocket messages of the subprotocol ``dispatcher.v1.json``: each is one JSON object, in one text message."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dispatcher.sansio.encoding.columns import Column, json_numbers
from dispatcher.sansio.encoding.envelope import envelope_columns
from dispatcher.sansio.records import Batch

SUBPROTOCOL = "dispatcher.v1.json"


def state_payload(
    state: str,
    replica: str,
    assigned: Mapping[str, Sequence[int]],
    heartbeat_seconds: float,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what the replica is doing, its partitions, how often it sends a heartbeat at least, and more."""
    payload = {"state": state, "replica": replica, "assigned": assigned, "heartbeat_seconds": heartbeat_seconds}
    return payload | dict(more or {})


def gap_payload(topic: str, partition: int, from_offset: int, to_offset: int, reason: str) -> dict[str, Any]:
    """Return a message which says that the offsets ``from`` to ``to`` (inclusive) will not be sent."""
    return {"topic": topic, "partition": partition, "from": from_offset, "to": to_offset, "reason": reason}


def goodbye_payload(code: int, reason: str, retry_ms: int) -> dict[str, Any]:
    """Return a message which says why the server ends the stream, and when to reconnect."""
    return {"code": code, "reason": reason, "retry_ms": retry_ms}


def record_columns(batch: Batch, _id_suffix: str | None) -> Sequence[Column]:
    """Return the envelope of each record, for a part of a message.

    Records have no ids: topic, partition and offset name a record, and the message carries the position.
    Costs 0.3 µs per record at 200-byte values in batches of 500, 3 µs for a single record (``time.thread_time``,
    CPython 3.11).
    """
    return b"{", *envelope_columns(batch, json_numbers(batch.records.offsets)), b"}"


def join_records(parts: Sequence[bytes], position: str) -> bytes:
    """Return one message with the records of one write, and with the position after them."""
    return b'{"type":"records","id":"%b","records":[%b]}' % (position.encode(), b",".join(parts))


def encode_state(
    state: str,
    replica: str,
    assigned: Mapping[str, Sequence[int]],
    heartbeat_seconds: float,
    more: Mapping[str, Any] | None = None,
) -> bytes:
    """See `state_payload`."""
    return orjson.dumps({"type": "state", **state_payload(state, replica, assigned, heartbeat_seconds, more)})


def encode_first_state(state: bytes, _retry_ms: int, position: str, record_filter: bytes = b"") -> bytes:
    """Return the first message of a stream; its ``id`` is the stream's start, if known. Includes the filter, if any."""
    if record_filter:
        state = b'%b,"filter":%b}' % (state[:-1], record_filter)
    return b'%b,"id":"%b"}' % (state[:-1], position.encode()) if position else state


def encode_gap(topic: str, partition: int, from_offset: int, to_offset: int, reason: str) -> bytes:
    """See `gap_payload`."""
    return orjson.dumps({"type": "gap", **gap_payload(topic, partition, from_offset, to_offset, reason)})


def encode_goodbye(code: int, reason: str, retry_ms: int) -> bytes:
    """See `goodbye_payload`; the close frame follows."""
    return orjson.dumps({"type": "goodbye", **goodbye_payload(code, reason, retry_ms)})


def encode_expiring(seconds: int) -> bytes:
    """Return a message which says that the token expires in this many seconds: the client may send another one."""
    return orjson.dumps({"type": "expiring", "seconds": seconds})


def encode_nacked(event_id: str, *, dead_letter: bool) -> bytes:
    """Return a message about a refused record: it is done, and a dead letter was written, or not."""
    return orjson.dumps({"type": "nacked", "id": event_id, "dead_letter": dead_letter})


def encode_heartbeat(position: str) -> bytes:
    """Return a heartbeat that browsers can see, unlike pings; it carries the position to resume from, if any."""
    return orjson.dumps({"type": "heartbeat", "id": position} if position else {"type": "heartbeat"})
