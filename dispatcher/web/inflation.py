"""Inflates compressed messages of WebSocket clients up to a bound, which wsproto's own extension does not have.

A kilobyte can inflate to a megabyte of zeros, so the size of an inflated message is bounded, not only that of the
received bytes.
"""

import zlib

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

NOTHING = RsvBits(False, False, False)
COMPRESSED = RsvBits(True, False, False)

FLUSH = b"\x00\x00\xff\xff"
"""The bytes that the sender has removed from a message's end (RFC 7692, section 7.2.2)."""

TRAILING_BYTES = 1 + len(FLUSH)
"""Maximum number of bytes after a block that is marked as the last one: one before the flush (RFC 7692, section
7.2.3.4). They are not part of the message, and zlib keeps all of them, and copies them with each further piece."""


class Inflation(Extension):
    """``permessage-deflate`` without context takeover, for a client's messages.

    Args:
        max_bytes: Maximum size of an inflated message; a larger one is refused with 1009.
    """

    name = "permessage-deflate"

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._message_bytes = 0
        """Inflated size of the current message."""
        self._in_message = self._is_control = False
        self._inflater: zlib._Decompress | None = None
        """The inflater of the current message, if it is compressed."""
        self._inflated_bytes = 0

    def take_inflated_bytes(self) -> int:
        """How many bytes were inflated since the last call."""
        taken, self._inflated_bytes = self._inflated_bytes, 0
        return taken

    def enabled(self) -> bool:
        """Always true: it was negotiated."""
        return True

    def offer(self) -> bool:
        """Always false: a server makes no offer."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - wsproto's signature
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,  # noqa: ARG002
    ) -> CloseReason | RsvBits:
        """A frame begins: the first one of a message says whether it is compressed (RFC 7692, section 6)."""
        self._is_control = opcode.iscontrol()
        if self._is_control or self._in_message:
            return NOTHING
        self._in_message, self._message_bytes = True, 0
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if rsv.rsv1 else None
        return COMPRESSED

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        data: bytes,
    ) -> bytes | CloseReason:
        """A part of a frame."""
        return data if self._is_control or self._inflater is None else self._inflate(self._inflater, data)

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        fin: bool,
    ) -> bytes | CloseReason | None:
        """A frame ends, and with it perhaps its message."""
        if self._is_control or not fin:
            return None
        self._in_message, inflater, self._inflater = False, self._inflater, None
        return None if inflater is None else self._inflate(inflater, FLUSH)

    def _inflate(self, inflater: "zlib._Decompress", data: bytes) -> bytes | CloseReason:
        try:
            inflated = inflater.decompress(data, self._max_bytes + 1 - self._message_bytes)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        if len(inflater.unused_data) > TRAILING_BYTES:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._inflated_bytes += len(inflated)
        self._message_bytes += len(inflated)
        return CloseReason.MESSAGE_TOO_BIG if self._message_bytes > self._max_bytes else inflated
