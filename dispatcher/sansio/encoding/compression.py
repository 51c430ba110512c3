"""Compresses what is the same for many subscribers: each piece is compressed once and sent to all of them.

That works because no piece refers to the pieces before it:

* A WebSocket message under ``permessage-deflate`` without context takeover (RFC 7692, section 7.2.1) is decompressed on
  its own.
* The body of ``Content-Encoding: gzip`` is one gzip member. Its head is sent per connection (`GZIP_HEAD`); it is
  followed by blocks of deflate, cut at byte boundaries. A connection is sent the blocks that concern it, in any
  selection. The member has no end, because its checksum would differ per connection; the last chunk of the response
  says that it is complete. One gzip member or zstd frame per write would be simpler, but curl and browsers stop after
  the first one.

Pieces that are small, or that compression does not make smaller, are sent uncompressed: as plain messages, and in
stored blocks of deflate.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

from dispatcher.sansio.encoding import frames
from dispatcher.sansio.encoding.wire import (
    SSE_ENVELOPE,
    SSE_VALUE,
    WEBSOCKET,
    Wire,
)

GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""The head of a gzip member without name and time, from an unknown system (RFC 1952, section 2.3)."""

STORED_BYTES = 65535
"""The largest stored block (RFC 1951, section 3.2.4)."""

LARGE_BYTES = 64 * 1024
"""A larger piece is compressed at the fastest level. At level 6 a piece of 256 KiB takes 3 ms, during which nothing
else happens; at level 1 it takes 1.1 ms and becomes a quarter larger."""

_FLUSH = b"\x00\x00\xff\xff"
"""The end of a flush: an empty stored block."""


class Deflater:
    """Compresses pieces so that each can be decompressed without those before it.

    All pieces use one compressor, which forgets each piece afterwards (``Z_FULL_FLUSH``). That takes 11 µs for 400
    bytes; creating a compressor would take 65 µs more.

    *Thread*: one at a time.

    Args:
        level: zlib's level, 1 to 9.
        min_bytes: Smaller pieces are not compressed.
    """

    __slots__ = ("_compressor", "_fast", "_min_bytes", "input_bytes", "output_bytes")

    def __init__(self, level: int, min_bytes: int) -> None:
        self._min_bytes = min_bytes
        self._compressor = _compressor(level)
        self._fast = _compressor(1)
        self.input_bytes = self.output_bytes = 0
        """The bytes of all pieces before and after, including those that were not compressed."""

    def deflate(self, data: bytes) -> bytes | None:
        """Return a piece as deflate blocks that end with an empty stored block; None if it is to be sent as it is."""
        self.input_bytes += len(data)
        if len(data) >= self._min_bytes:
            compressor = self._fast if len(data) > LARGE_BYTES else self._compressor
            compressed = compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)
            if len(compressed) < len(data):
                self.output_bytes += len(compressed)
                return compressed
        self.output_bytes += len(data)
        return None

    def segment(self, data: bytes) -> bytes:
        """Return a piece of a gzip member's body."""
        return self.deflate(data) or stored(data)

    def message(self, payload: bytes) -> bytes:
        """Return a text message, compressed if that helps, without the end of the flush (RFC 7692, section 7.2.1)."""
        compressed = self.deflate(payload)
        if compressed is None:
            return frames.text_frame(payload)
        return frames.compressed_text_frame(compressed.removesuffix(_FLUSH))


def stored(data: bytes) -> bytes:
    """Return bytes uncompressed, in stored blocks (RFC 1951, section 3.2.4)."""
    if len(data) <= STORED_BYTES:
        return b"\x00" + struct.pack("<HH", len(data), len(data) ^ 0xFFFF) + data
    return b"".join([stored(data[start : start + STORED_BYTES]) for start in range(0, len(data), STORED_BYTES)])


class Compression:
    """The compressing variants of wire formats.

    Args:
        level: zlib's level, 1 to 9.
        min_bytes: Smaller pieces are not compressed.
    """

    def __init__(self, level: int, min_bytes: int) -> None:
        self.deflater = deflater = Deflater(level, min_bytes)

        def gzip_chunk(data: bytes) -> bytes:
            return frames.chunk(deflater.segment(data))

        self._sse = {plain: _compressed(plain, "gzip", gzip_chunk) for plain in (SSE_VALUE, SSE_ENVELOPE)}
        self._websocket = _compressed(WEBSOCKET, "deflate", deflater.message)

    def sse(self, plain: Wire) -> Wire:
        """Return a chunked wire format under ``Content-Encoding: gzip``; its connections begin with `GZIP_HEAD`."""
        return self._sse[plain]

    @property
    def websocket(self) -> Wire:
        """Return the wire format of WebSocket messages under ``permessage-deflate``."""
        return self._websocket


def _compressor(level: int) -> "zlib._Compress":
    return zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)


def _compressed(plain: Wire, coding: str, frame: Callable[[bytes], bytes]) -> Wire:
    return replace(plain, name=f"{plain.name}-{coding}", frame=frame, plain=plain, compresses=True)
