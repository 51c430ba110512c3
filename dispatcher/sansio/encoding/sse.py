r"""The text/event-stream encoder (WHATWG HTML, section 9.2).

Rules of this module:

* Every event ends with a blank line, so a stream may be cut anywhere. While ids are short, each event carries its own
  ``id``. When ids are long, only the last event of a write has one; the others leave ``lastEventId`` unchanged.
* ``\r\n``, ``\r`` and ``\n`` all end a line in SSE, so each of them begins a new ``data:`` line, and an EventSource
  returns ``\n`` for all three. ``format=envelope`` preserves them.
* Topic names and the numbers around them contain no line ends, so ids need no escaping.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from dispatcher.sansio.encoding.columns import Column, json_numbers
from dispatcher.sansio.encoding.envelope import envelope_columns
from dispatcher.sansio.encoding.messages import gap_payload, goodbye_payload, state_payload
from dispatcher.sansio.records import Batch


def value_event_columns(batch: Batch, id_suffix: str | None) -> Sequence[Column]:
    """``format=value``: the record's value is the event's data.

    A null value becomes ``event: tombstone``, and a value that is not UTF-8 ``event: binary`` with base64 data. A
    decoded value becomes data as JSON.
    Costs 0.12 µs per record at 200-byte values in batches of 500 (``time.thread_time``, CPython 3.11).

    Args:
        batch: The records.
        id_suffix: What follows a record's own pair in its id; None for events without ids.
    """
    records = batch.records
    values = records.shown_values
    if records.spelling.value == "base64":
        jsons = values if records.decoded is None else records.decoded.values
        binary = [
            value is not None and (records.decoded is None or found is None)
            for value, found in zip(values, jsons, strict=True)
        ]
        fields = [
            _binary(cast("bytes", value)) if is_binary else _value_fields(value)
            for value, is_binary in zip(values, binary, strict=True)
        ]
        return *_ids(batch, id_suffix), fields, b"\n"
    if _plain(values):
        return *_ids(batch, id_suffix), b"data: ", cast("Sequence[bytes]", values), b"\n\n"
    fields = [_value_fields(value) for value in values]
    return *_ids(batch, id_suffix), fields, b"\n"


def envelope_event_columns(batch: Batch, id_suffix: str | None) -> Sequence[Column]:
    """``format=envelope``: the data is one JSON object with the whole record.

    Costs 0.35 µs per record at 200-byte values in batches of 500 (``time.thread_time``, CPython 3.11).

    Args:
        batch: The records.
        id_suffix: What follows a record's own pair in its id; None for events without ids.
    """
    offsets = json_numbers(batch.records.offsets)
    return *_ids(batch, id_suffix), b"data: {", *envelope_columns(batch, offsets), b"}\n\n"


def join_events(parts: Sequence[bytes], position: str) -> bytes:
    """Return the events of one write.

    Args:
        parts: Encoded events; at least one part.
        position: The id of the last event, whose part was encoded without ids; empty if every event has its own.
    """
    if not position:
        return parts[0] if len(parts) == 1 else b"".join(parts)
    *before, last = parts
    return b"".join([*before, memoryview(last)[:-1], b"id: ", position.encode(), b"\n\n"])


def encode_state(
    state: str,
    replica: str,
    assigned: Mapping[str, Sequence[int]],
    heartbeat_seconds: float,
    more: Mapping[str, Any] | None = None,
) -> bytes:
    """See `state_payload`."""
    return _control("state", state_payload(state, replica, assigned, heartbeat_seconds, more))


def encode_first_state(state: bytes, retry_ms: int, position: str, record_filter: bytes = b"") -> bytes:
    """Return the first event of a stream: the delay before reconnecting, its start (if known), and its filter.

    One event holds all of this: some clients take a block with only ``retry:`` for an empty message, although the
    standard says that it is none.
    """
    if record_filter:
        state = b'%b,"filter":%b}\n\n' % (state.removesuffix(b"}\n\n"), record_filter)
    return b"retry: %d\n" % retry_ms + (b"id: %b\n" % position.encode() if position else b"") + state


def encode_gap(topic: str, partition: int, from_offset: int, to_offset: int, reason: str) -> bytes:
    """Return a gap event: ``from`` to ``to`` (inclusive) will not be sent; the records that follow are past them."""
    return _control("gap", gap_payload(topic, partition, from_offset, to_offset, reason))


def encode_goodbye(code: int, reason: str, retry_ms: int) -> bytes:
    """Return the last event of a stream; its ``retry`` field spreads clients over time."""
    return b"retry: %d\n" % retry_ms + _control("goodbye", goodbye_payload(code, reason, retry_ms))


def encode_heartbeat(position: str) -> bytes:
    """Return a heartbeat: an ``id`` alone moves ``lastEventId`` and fires no event. Without an id it is a comment."""
    return b"id: %b\n\n" % position.encode() if position else b":\n\n"


def _control(event: str, payload: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(payload))


def _ids(batch: Batch, id_suffix: str | None) -> Sequence[Column]:
    if id_suffix is None:
        return ()
    return f"id: {batch.partition}=".encode(), json_numbers(batch.records.offsets), id_suffix.encode() + b"\n"


def _plain(values: Sequence[bytes | None]) -> bool:
    """Whether each value is one line of UTF-8, as nearly all are; checks all of them together."""
    try:
        joined = b"\x00".join(cast("Sequence[bytes]", values))
        if not joined.isascii():
            joined.decode()
    except (TypeError, UnicodeDecodeError):  # a value is None, or not UTF-8
        return False
    return b"\n" not in joined and b"\r" not in joined


def _value_fields(value: bytes | None) -> bytes:
    if value is None:
        return b"event: tombstone\ndata: \n"
    try:
        value.decode()
    except UnicodeDecodeError:
        return _binary(value)
    lines = value.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join([b"data: %b\n" % line for line in lines])


def _binary(value: bytes) -> bytes:
    return b"event: binary\ndata: %b\n" % b64encode(value)
