"""Wire formats: how each turns records and control events into the bytes for a socket.

The bytes are complete, including the framing of HTTP/1.1 (a chunk) or RFC 6455 (an unmasked frame), which is stateless
on the server's side. So one encoding serves every subscriber of the same format.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dispatcher.sansio.encoding import frames, messages, sse
from dispatcher.sansio.encoding.columns import Column, each, interleaved
from dispatcher.sansio.records import Batch


def _unframed(data: bytes) -> bytes:
    """HTTP/1.0 has no chunks: the end of the connection ends the body."""
    return data


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """One wire format. Compared by identity, so it can be part of a key."""

    name: str
    record_columns: Callable[[Batch, str | None], Sequence[Column]]
    """Encodes the records of a batch in columns, with the suffix of their ids, or without ids."""
    separator: bytes
    """The bytes between two records."""
    join_records: Callable[[Sequence[bytes], str], bytes]
    """Joins the parts of one write, unframed, with the position after them."""
    has_record_ids: bool
    """Whether each record carries an id while ids are short; a write then has no position of its own."""
    encode_state: Callable[..., bytes]
    """See `messages.state_payload`."""
    encode_first_state: Callable[[bytes, int, str, bytes], bytes]
    encode_gap: Callable[[str, int, int, int, str], bytes]
    encode_goodbye: Callable[[int, str, int], bytes]
    encode_heartbeat: Callable[[str], bytes]
    frame: Callable[[bytes], bytes]
    before_heartbeat: bytes = b""
    """Bytes before each heartbeat, framed."""
    plain: "Wire | None" = None
    """For a format whose frames are compressed or absent: the format with the same unframed bytes."""

    compresses: bool = False
    """Whether framing compresses: its result is then kept, and shared with other subscribers."""

    @property
    def unframed(self) -> "Wire":
        """The format under which unframed bytes are cached."""
        return self.plain or self

    def encode_records(self, batch: Batch, id_suffix: str | None) -> bytes:
        """Encode the records of a batch as a part of a write, unframed, with the suffix of their ids or without ids."""
        columns, separator = self.record_columns(batch, id_suffix), self.separator
        if not separator:
            return interleaved(len(batch.records), *columns)
        return interleaved(len(batch.records), separator, *columns)[len(separator) :]

    def encode_each(self, batch: Batch, id_suffix: str | None) -> Sequence[bytes]:
        """Encode each record separately: any of them, joined by the separator, form a part of a write."""
        return each(len(batch.records), *self.record_columns(batch, id_suffix))

    def records(self, parts: Sequence[bytes], position: str) -> bytes:
        """Encode the records of one write from their parts; the position is empty if each record carries an id."""
        return self.frame(self.join_records(parts, position))

    def state(self, state: str, replica: str, assigned: Mapping[str, Sequence[int]], heartbeat_seconds: float) -> bytes:
        """Encode what the replica is doing, its partitions, and how often it sends a heartbeat at least."""
        return self.frame(self.encode_state(state, replica, assigned, heartbeat_seconds))

    def first_state(self, state: bytes, retry_ms: int, position: str, record_filter: bytes = b"") -> bytes:
        """Encode the first state of a stream: an encoded, unframed state, with what belongs only to this stream.

        Args:
            state: The state.
            retry_ms: How long to wait before reconnecting.
            position: Where the stream begins; empty while it is unknown.
            record_filter: The client's filter as JSON; empty if it has none.
        """
        return self.frame(self.encode_first_state(state, retry_ms, position, record_filter))

    def gap(self, topic: str, partition: int, first_offset: int, last_offset: int, reason: str) -> bytes:
        """Encode offsets that will not be sent."""
        return self.frame(self.encode_gap(topic, partition, first_offset, last_offset, reason))

    def heartbeat(self, position: str) -> bytes:
        """Encode a sign of life, with the position to resume from, if any."""
        return self.before_heartbeat + self.frame(self.encode_heartbeat(position))

    def goodbye(self, code: int, reason: str, retry_ms: int) -> bytes:
        """Encode the last event of a stream."""
        return self.frame(self.encode_goodbye(code, reason, retry_ms))


def _sse(name: str, columns: Callable[[Batch, str | None], Sequence[Column]]) -> Wire:
    return Wire(
        name=name,
        record_columns=columns,
        separator=b"",
        join_records=sse.join_events,
        has_record_ids=True,
        encode_state=sse.encode_state,
        encode_first_state=sse.encode_first_state,
        encode_gap=sse.encode_gap,
        encode_goodbye=sse.encode_goodbye,
        encode_heartbeat=sse.encode_heartbeat,
        frame=frames.chunk,
    )


SSE_VALUE = _sse("sse", sse.value_event_columns)
SSE_ENVELOPE = _sse("sse-envelope", sse.envelope_event_columns)
SSE_VALUE_UNFRAMED = replace(SSE_VALUE, frame=_unframed, plain=SSE_VALUE)
SSE_ENVELOPE_UNFRAMED = replace(SSE_ENVELOPE, frame=_unframed, plain=SSE_ENVELOPE)
WEBSOCKET = Wire(
    name="websocket",
    record_columns=messages.record_columns,
    separator=b",",
    join_records=messages.join_records,
    has_record_ids=False,
    encode_state=messages.encode_state,
    encode_first_state=messages.encode_first_state,
    encode_gap=messages.encode_gap,
    encode_goodbye=messages.encode_goodbye,
    encode_heartbeat=messages.encode_heartbeat,
    frame=frames.text_frame,
    before_heartbeat=frames.ping_frame(),
)


def sse_wire(*, envelope: bool, chunked: bool) -> Wire:
    """Return the SSE wire for a request: ``format=envelope`` or not, HTTP/1.1 (chunked) or HTTP/1.0."""
    if envelope:
        return SSE_ENVELOPE if chunked else SSE_ENVELOPE_UNFRAMED
    return SSE_VALUE if chunked else SSE_VALUE_UNFRAMED
