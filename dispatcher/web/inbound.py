"""Reads what a WebSocket client sends: it need not send anything, so only the form of its messages matters.

wsproto parses frames in small steps, and each frame is dropped at once: only the length of a message is kept. A client
that sends too much in too short a time, or violates RFC 6455, gets the matching close code (docs/protocol.md).
"""

from collections.abc import Callable
from typing import cast

from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed

from dispatcher.hub.goodbyes import refused
from dispatcher.sansio.encoding.frames import are_pongs, close_frame, leading_texts, pong_frame
from dispatcher.web.inflation import Inflation
from dispatcher.web.streams import Farewell

MAX_MESSAGE_BYTES = 64 * 1024
"""Maximum size of a client's message; a longer one ends the stream with 1009."""

BUDGET_BYTES = 256 * 1024
"""How much a client may send at once."""

BUDGET_BYTES_PER_SECOND = 64 * 1024
"""How much it may send per second in the long run; more ends the stream with 1008."""

FRAME_COST_BYTES = 512
"""What a frame costs on top of its bytes: reading an empty one takes 5 to 7 µs, and none need be sent."""

STEP_BYTES = 256
"""Maximum number of bytes examined per step: about 0.4 ms for frames without payload."""

SHORTEST_FRAME_BYTES = 6
"""A masked frame without payload."""


class Budget:
    """A token bucket: how much may be sent at once, and how fast more may follow.

    Args:
        amount: Its capacity.
        per_second: How fast it fills.
        now: The time at which it is full.
    """

    __slots__ = ("_amount", "_at", "_left", "_per_second")

    def __init__(self, amount: float, per_second: float, now: float) -> None:
        self._amount = self._left = amount
        self._per_second = per_second
        self._at = now

    def spend(self, cost: float, now: float) -> bool:
        """Take this much from the bucket; if it holds less, empty it and return False."""
        self._left = min(self._amount, self._left + (now - self._at) * self._per_second) - cost
        self._at = now
        if self._left < 0:
            self._left = 0
            return False
        return True


class Inbound:
    """One client's side of a WebSocket (`streams.Dialogue`).

    Args:
        now: The time in seconds, as for `on_client_data`.
        on_message: Takes each whole text message; None if messages are ignored, and not kept.
        inflates: Whether messages may be compressed: permessage-deflate was negotiated.
    """

    __slots__ = ("_budget", "_frames", "_inflates", "_inflation", "_message", "_message_bytes", "_on_message")

    receive_bytes = STEP_BYTES
    takes_turns = False

    def __init__(
        self, now: float, on_message: Callable[[bytes], None] | None = None, *, inflates: bool = False
    ) -> None:
        self._inflates = inflates
        self._inflation: Inflation | None = None
        """Exists as long as `_frames`."""
        self._budget = Budget(BUDGET_BYTES, BUDGET_BYTES_PER_SECOND, now)
        self._frames: FrameProtocol | None = None
        """Exists only while a frame is incomplete: most clients never send anything but pongs, one at a time."""
        self._message_bytes: int | None = None
        """Bytes received of the current message; None between messages."""
        self._on_message = on_message
        self._message = b""
        """The received part, if messages are passed on."""

    def on_client_data(self, data: bytes, now: float) -> bytes | None:
        """Take what the client sent; returns the answer to its last ping, if there was one.

        Raises:
            Farewell: the client has closed, or broken a rule.
        """
        if self._frames is None and not (data := self._take_plain(data, now)):
            return None
        self._spend(len(data), 0, now)
        if self._frames is None:
            self._inflation = Inflation(MAX_MESSAGE_BYTES) if self._inflates else None
            self._frames = FrameProtocol(client=False, extensions=[self._inflation] if self._inflation else [])
        self._frames.receive_bytes(data)
        return self._take_frames(self._frames, now)

    def _take_frames(self, frames: FrameProtocol, now: float) -> bytes | None:
        """Take the frames that are complete, until `has_enough`; returns the answer to the last ping, if any."""
        answer: bytes | None = None
        try:
            for frame in frames.received_frames():
                self._spend(0, 1, now)
                if frame.opcode is Opcode.PING:
                    answer = pong_frame(_bytes(frame))
                elif frame.opcode is Opcode.CLOSE:
                    raise _closed(frame)
                elif frame.opcode is not Opcode.PONG:
                    if self._inflation is not None:
                        # The inflated bytes count, too: otherwise a few bytes would cause a lot of work.
                        self._spend(self._inflation.take_inflated_bytes(), 0, now)
                    self._pass_over(frame)
                if self.has_enough:
                    break
        except ParseFailed as error:
            if error.code is CloseReason.MESSAGE_TOO_BIG:
                raise _too_long() from error
            raise refusal(error.code, str(error)) from error
        decoder = frames._frame_decoder  # noqa: SLF001 - nothing else shows whether the next byte begins a frame
        if self._message_bytes is None and decoder.header is None and not len(decoder.buffer):
            self._frames = self._inflation = None
        return answer

    @property
    def has_enough(self) -> bool:
        """Whether this step has done enough work, so that `go_on` has to take the rest."""
        return False

    def go_on(self) -> bool:
        """Continue the work that the client's messages have caused; False if none was left."""
        return False

    def rest_seconds(self, _now: float) -> float:
        """How long to read nothing: 0, because a client that sends too much is cut off instead."""
        return 0

    def last_bytes(self, code: int | None, reason: str) -> bytes:
        """A close frame."""
        return close_frame(code, reason)

    def close(self) -> None:
        """The stream is over: pass nothing on."""
        self._on_message = None

    def _take_plain(self, data: bytes, now: float) -> bytes:
        """Take pongs and whole messages, which is what most clients send, without wsproto; returns the rest."""
        if are_pongs(data):
            self._spend(len(data), len(data) // SHORTEST_FRAME_BYTES, now)
            return b""
        texts, rest = leading_texts(data)
        self._spend(len(data) - len(rest), len(texts), now)
        if self._on_message is not None:
            for text in texts:
                self._on_message(text)
        return rest

    def _pass_over(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            raise refusal(CloseReason.UNSUPPORTED_DATA, "binary messages are not supported")
        self._message_bytes = (self._message_bytes or 0) + len(_bytes(frame))
        if self._message_bytes > MAX_MESSAGE_BYTES:
            raise _too_long()
        if self._on_message is not None:
            self._message += _bytes(frame)
        if frame.message_finished:
            self._message_bytes = None
            if self._on_message is not None:
                message, self._message = self._message, b""
                self._on_message(message)

    def _spend(self, size_bytes: int, frames: int, now: float) -> None:
        if not self._budget.spend(size_bytes + FRAME_COST_BYTES * frames, now):
            raise refusal(CloseReason.POLICY_VIOLATION, "the client sent too much in too short a time")


def _bytes(frame: Frame) -> bytes:
    return frame.payload.encode() if isinstance(frame.payload, str) else bytes(cast("bytes", frame.payload))


def _too_long() -> Farewell:
    return refusal(CloseReason.MESSAGE_TOO_BIG, f"a message may have at most {MAX_MESSAGE_BYTES} bytes")


def _closed(frame: Frame) -> Farewell:
    """The client's own close, answered with its own code (RFC 6455, section 5.5.1)."""
    code, _ = cast("tuple[int, str]", frame.payload)
    return Farewell(None if code == CloseReason.NO_STATUS_RCVD else code, "", None)


def refusal(code: int, reason: str) -> Farewell:
    """The end of a stream whose client broke a rule."""
    return Farewell(int(code), reason, refused(int(code), reason))
