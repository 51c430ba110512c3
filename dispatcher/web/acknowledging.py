"""Reads what a client with ``ack=client`` sends: which records it is done with, and which it refuses.

Acknowledgements are cumulative, so those read in one step count as one. Unlike other clients, one that exceeds its
budget is not cut off: it is read at the budget's pace, and the rest waits in the client's kernel.
"""

import json
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from dispatcher.errors import MalformedPositionError
from dispatcher.sansio.compact_position import MAX_PARTITION
from dispatcher.sansio.encoding.frames import text_frame
from dispatcher.sansio.encoding.messages import encode_nacked
from dispatcher.sansio.position import parse_usable
from dispatcher.sansio.records import TopicPartition
from dispatcher.web.inbound import Inbound, refusal

BAD_REQUEST = 4400

ACK_BUDGET_BYTES = 256 * 1024
"""How much a client may send at once before it is read more slowly."""

ACK_BUDGET_BYTES_PER_SECOND = 1024 * 1024
"""How fast it is read in the long run, frames included: about 8,000 short acknowledgements per second."""

ACK_FRAME_COST_BYTES = 64
"""What a frame costs on top of its bytes: less than other clients' frames, as this one has to send many."""

ACK_STEP_BYTES = 1024
"""Maximum number of bytes examined per step: about fourteen short acknowledgements of 10 µs each."""

PARTITION_COST_BYTES = 8
"""What each partition that an id names costs, on top of the bytes of the id: thirteen characters can name 8,192
partitions, which take a few milliseconds to read."""

MANY_PARTITIONS = 1024
"""Once the ids of one step have named more partitions than this, the rest of the step waits for its turn: a kilobyte
can hold 24 ids that take a few milliseconds each."""


class Acknowledger(Protocol):
    """The subscriber that the client's messages are passed to."""

    def acked(self, position: dict[TopicPartition, int]) -> None:
        """Begin to settle every record up to these offsets, with which the client is done; see `go_on`."""

    def usable_end(self, topic: str) -> int:
        """The number after that of the last partition of a topic of which anything can be acknowledged."""

    def go_on(self) -> bool:
        """Settle some more of them; False if none were left."""

    def nacked(self, partition: TopicPartition, offset: int, reason: str, answer: Callable[[bool], None]) -> bool:
        """The client refuses a record; returns False if there is no dead-letter topic for it."""


class AckInbound(Inbound):
    """One client's side of a WebSocket with acknowledgements (`streams.Dialogue`).

    Args:
        now: The time in seconds, as for `on_client_data`.
        on_message: Takes each whole message that is neither an acknowledgement nor a refusal; None ignores them.
        inflates: See `Inbound`.
    """

    __slots__ = (
        "_acked",
        "_notify",
        "_on_other",
        "_owed_bytes",
        "_paid_at",
        "_partitions",
        "_subscriber",
        "_waiting",
        "_waiting_bytes",
    )

    receive_bytes = ACK_STEP_BYTES
    takes_turns = True

    def __init__(
        self, now: float, on_message: Callable[[bytes], None] | None = None, *, inflates: bool = False
    ) -> None:
        super().__init__(now, self._take, inflates=inflates)
        self._partitions = 0
        """How many partitions the ids of this step name, repeats included."""
        self._waiting: list[bytes] = []
        """Messages of this step that wait for the next one, uncompressed, so no longer than the step."""
        self._waiting_bytes = b""
        """The bytes that follow them."""
        self._on_other = on_message
        self._acked: dict[TopicPartition, int] = {}
        """The offsets acknowledged in this step."""
        self._owed_bytes = -float(ACK_BUDGET_BYTES)
        """The bytes read beyond the budget; if negative, what is left of it."""
        self._paid_at = now
        self._subscriber: Acknowledger | None = None
        self._notify: Callable[[bytes], None] | None = None

    def attach(self, subscriber: Acknowledger, notify: Callable[[bytes], None]) -> None:
        """Pass what the client sends to its subscriber.

        Args:
            subscriber: The subscriber.
            notify: Sends a message to the client.
        """
        self._subscriber, self._notify = subscriber, notify

    def on_client_data(self, data: bytes, now: float) -> bytes | None:
        """See `Inbound`. Acknowledgements count even if the client leaves, or breaks a rule, right after them."""
        self._partitions = 0
        try:
            return super().on_client_data(data, now)
        finally:
            self._end_step()

    @property
    def has_enough(self) -> bool:
        """See `Inbound`."""
        return self._partitions > MANY_PARTITIONS

    def go_on(self) -> bool:
        """See `Inbound`: takes one more step of the work that acknowledgements have caused, or of what was not read.

        Raises:
            Farewell: as for `on_client_data`.
        """
        if self._subscriber is not None and self._subscriber.go_on():
            return True
        if not self.has_enough:
            return False
        self._partitions = 0
        try:
            # `_paid_at` is when the step was read of which this is the rest.
            answer = self._read_rest(self._paid_at)
        finally:
            self._end_step()
        if answer is not None and self._notify is not None:
            self._notify(answer)
        return True

    def rest_seconds(self, now: float) -> float:
        """How long to read nothing, so that the client stays within its budget."""
        self._pay(now)
        return max(0.0, self._owed_bytes) / ACK_BUDGET_BYTES_PER_SECOND

    def close(self) -> None:
        """See `Inbound`."""
        super().close()
        self._subscriber = self._notify = self._on_other = None

    def _end_step(self) -> None:
        self._apply()
        self._owed_bytes += PARTITION_COST_BYTES * self._partitions

    def _read_rest(self, now: float) -> bytes | None:
        """Read on where the last step has stopped; returns the answer to the last ping, if there was one."""
        texts, self._waiting = self._waiting, []
        for text in texts:
            self._take(text)
        if self.has_enough:
            return None
        if self._waiting_bytes:
            data, self._waiting_bytes = self._waiting_bytes, b""
            return super().on_client_data(data, now)
        return None if self._frames is None else self._take_frames(self._frames, now)

    def _take_plain(self, data: bytes, now: float) -> bytes:
        rest = super()._take_plain(data, now)
        if not self.has_enough:
            return rest
        self._waiting_bytes = rest
        return b""

    def _spend(self, size_bytes: int, frames: int, now: float) -> None:
        self._pay(now)
        self._owed_bytes += size_bytes + ACK_FRAME_COST_BYTES * frames

    def _pay(self, now: float) -> None:
        paid = (now - self._paid_at) * ACK_BUDGET_BYTES_PER_SECOND
        self._owed_bytes = max(-float(ACK_BUDGET_BYTES), self._owed_bytes - paid)
        self._paid_at = now

    def _take(self, text: bytes) -> None:
        if self.has_enough:
            self._waiting.append(text)
            return
        message = _read(text)
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "ack":
            end_of = _everything if self._subscriber is None else self._subscriber.usable_end
            position, left_out = _position(message, "an acknowledgement", end_of)
            self._partitions += len(position) + left_out
            for partition, offset in position.items():
                if offset > self._acked.get(partition, -1):
                    self._acked[partition] = offset
        elif kind == "nack":
            self._nack(message)
        elif self._on_other is not None:
            self._on_other(text)

    def _nack(self, message: dict[str, Any]) -> None:
        # Acknowledgements and refusals count in the order in which they were sent.
        self._apply()
        position, _ = _position(message, "a refusal", _everything)
        self._partitions += len(position)
        partition, offset = next(iter(position.items()))
        reason = message.get("reason")
        # It may have half a character, which cannot be encoded.
        shown = reason.encode(errors="replace").decode() if isinstance(reason, str) else ""

        def answer(is_letter: bool) -> None:
            if self._notify is not None:
                self._notify(text_frame(encode_nacked(f"{partition}={offset}", dead_letter=is_letter)))

        if self._subscriber is not None and not self._subscriber.nacked(partition, offset, shown, answer):
            raise refusal(
                BAD_REQUEST, f"there is no dead-letter topic for {partition.topic}, so its records cannot be refused"
            )

    def _apply(self) -> None:
        if self._acked and self._subscriber is not None:
            acked, self._acked = self._acked, {}
            self._subscriber.acked(acked)


def _read(text: bytes) -> Any:
    """A client's message; None if it is not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    # JSON allows half a surrogate pair (RFC 8259, section 8.2), which JSON.stringify writes where a text was cut, but
    # orjson does not. A client would wait for ever for the answer to a refusal that was not read.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _everything(_topic: str) -> int:
    return MAX_PARTITION + 1


def _position(
    message: dict[str, Any], what: str, end_of: Callable[[str], int]
) -> tuple[dict[TopicPartition, int], int]:
    try:
        return parse_usable(message["id"], end_of)
    except (KeyError, TypeError, AttributeError):
        raise refusal(BAD_REQUEST, f"{what} needs the id of a record") from None
    except MalformedPositionError as error:
        raise refusal(BAD_REQUEST, f"{what} needs the id of a record: {error}") from None
