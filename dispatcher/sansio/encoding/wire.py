"""Wire formats: for each, how records and control events become the bytes for a socket.

Bytes are ready-made down to the framing of HTTP/1.1 (a chunk) or RFC 6455 (an unmasked frame), both of which are
stateless on the server's side. So one encoding serves every subscriber of the same format.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dispatcher.sansio.encoding import frames, messages, sse
from dispatcher.sansio.records import Batch


def _unframed(data: bytes) -> bytes:
    """HTTP/1.0 knows no chunks: the end of the connection is the end of the body."""
    return data


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """One wire format; compared by identity, so it can be part of a key."""

    name: str
    encode_records: Callable[[Batch, str | None], bytes]
    """The records of a batch as a part of a write, unframed; with the suffix of their ids, or without ids."""
    join_records: Callable[[Sequence[bytes], str], bytes]
    """The parts of one write, with the position that they lead to, unframed."""
    has_record_ids: bool
    """Whether each record carries an id, as long as ids are short: then a write has no position of its own."""
    encode_state: Callable[..., bytes]
    """See `messages.state_payload`."""
    encode_first_state: Callable[[bytes, int, str], bytes]
    encode_gap: Callable[[str, int, int, int, str], bytes]
    encode_goodbye: Callable[[int, str, int], bytes]
    encode_heartbeat: Callable[[str], bytes]
    frame: Callable[[bytes], bytes]

    def records(self, parts: Sequence[bytes], position: str) -> bytes:
        """The records of one write, from their parts; the position is empty where each of them carries an id."""
        return self.frame(self.join_records(parts, position))

    def state(self, state: str, replica: str, assigned: Mapping[str, Sequence[int]], heartbeat_seconds: float) -> bytes:
        """What the replica is doing, which partitions it has, and how often it sends a heartbeat at least."""
        return self.frame(self.encode_state(state, replica, assigned, heartbeat_seconds))

    def first_state(self, state: bytes, retry_ms: int, position: str) -> bytes:
        """The first state of a stream: a state that is encoded and not framed, and the position of the stream's start.

        The position is empty while it is unknown.
        """
        return self.frame(self.encode_first_state(state, retry_ms, position))

    def gap(self, topic: str, partition: int, first_offset: int, last_offset: int, reason: str) -> bytes:
        """Offsets that will not be sent."""
        return self.frame(self.encode_gap(topic, partition, first_offset, last_offset, reason))

    def goodbye(self, code: int, reason: str, retry_ms: int) -> bytes:
        """The last event of a stream."""
        return self.frame(self.encode_goodbye(code, reason, retry_ms))


def _sse(name: str, encode: Callable[[Batch, str | None], bytes], frame: Callable[[bytes], bytes]) -> Wire:
    return Wire(
        name=name,
        encode_records=encode,
        join_records=sse.join_events,
        has_record_ids=True,
        encode_state=sse.encode_state,
        encode_first_state=sse.encode_first_state,
        encode_gap=sse.encode_gap,
        encode_goodbye=sse.encode_goodbye,
        encode_heartbeat=lambda position: frame(sse.encode_heartbeat(position)),
        frame=frame,
    )


SSE_VALUE = _sse("sse", sse.encode_value_events, frames.chunk)
SSE_ENVELOPE = _sse("sse-envelope", sse.encode_envelope_events, frames.chunk)
SSE_VALUE_UNFRAMED = _sse("sse", sse.encode_value_events, _unframed)
SSE_ENVELOPE_UNFRAMED = _sse("sse-envelope", sse.encode_envelope_events, _unframed)
WEBSOCKET = Wire(
    name="websocket",
    encode_records=lambda batch, _id_suffix: messages.encode_records(batch),
    join_records=messages.join_records,
    has_record_ids=False,
    encode_state=messages.encode_state,
    encode_first_state=messages.encode_first_state,
    encode_gap=messages.encode_gap,
    encode_goodbye=messages.encode_goodbye,
    encode_heartbeat=lambda position: frames.ping_frame() + frames.text_frame(messages.encode_heartbeat(position)),
    frame=frames.text_frame,
)


def sse_wire(*, envelope: bool, chunked: bool) -> Wire:
    """The SSE wire for a request: ``format=envelope`` or not, HTTP/1.1 (chunked) or HTTP/1.0."""
    if envelope:
        return SSE_ENVELOPE if chunked else SSE_ENVELOPE_UNFRAMED
    return SSE_VALUE if chunked else SSE_VALUE_UNFRAMED
