"""Compression of what is the same for many subscribers: a piece is compressed once, and each of them is sent it.

That works because no piece refers to the ones before it:

* A WebSocket message under ``permessage-deflate`` without context takeover (RFC 7692, section 7.2.1) is decompressed by
  itself.
* The body of ``Content-Encoding: gzip`` is one gzip member: its head is sent per connection (`GZIP_HEAD`), and what
  follows are blocks of deflate, cut at byte boundaries. A connection is sent the blocks that concern it, in any
  selection. The member has no end: its checksum would be another one for each connection, and the last chunk of the
  response says that it is whole. A member or a frame of zstd per write would be simpler, but curl and browsers stop
  after the first one.

Pieces that are small, or that compression makes no smaller, are sent as they are: as plain messages, and in deflate's
stored blocks.
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
"""Most bytes of a stored block (RFC 1951, section 3.2.4)."""

LARGE_BYTES = 64 * 1024
"""A larger piece is compressed at the fastest level. At level 6 one of 256 KiB takes 3 ms, during which nothing else
happens; at level 1 it takes 1.1 ms, and becomes a quarter larger."""

_FLUSH = b"\x00\x00\xff\xff"
"""What a flush ends with: an empty stored block."""


class Deflater:
    """Compresses pieces, each of which is decompressed without those before it.

    One compressor is used for all of them, and forgets each piece after it (``Z_FULL_FLUSH``). That takes 11 µs for 400
    bytes; to make a compressor takes 65 µs more.

    *Thread*: one.

    Args:
        level: zlib's, 1 to 9.
        min_bytes: Smaller pieces are not compressed.
    """

    __slots__ = ("_compressor", "_fast", "_min_bytes", "input_bytes", "output_bytes")

    def __init__(self, level: int, min_bytes: int) -> None:
        self._min_bytes = min_bytes
        self._compressor = _compressor(level)
        self._fast = _compressor(1)
        self.input_bytes = self.output_bytes = 0
        """Of all pieces, those included that were not compressed: before and after."""

    def deflate(self, data: bytes) -> bytes | None:
        """A piece as blocks of deflate, which end with an empty stored one; None: it is to be sent as it is."""
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
        """A piece of a gzip member's body."""
        return self.deflate(data) or stored(data)

    def message(self, payload: bytes) -> bytes:
        """A text message, compressed if that helps: without the end of the flush (RFC 7692, section 7.2.1)."""
        compressed = self.deflate(payload)
        if compressed is None:
            return frames.text_frame(payload)
        return frames.compressed_text_frame(compressed.removesuffix(_FLUSH))


def stored(data: bytes) -> bytes:
    """Bytes as they are, in stored blocks (RFC 1951, section 3.2.4)."""
    if len(data) <= STORED_BYTES:
        return b"\x00" + struct.pack("<HH", len(data), len(data) ^ 0xFFFF) + data
    return b"".join([stored(data[start : start + STORED_BYTES]) for start in range(0, len(data), STORED_BYTES)])


class Compression:
    """The wire formats in which pieces are compressed.

    Args:
        level: zlib's, 1 to 9.
        min_bytes: Smaller pieces are not compressed.
    """

    def __init__(self, level: int, min_bytes: int) -> None:
        self.deflater = deflater = Deflater(level, min_bytes)

        def gzip_chunk(data: bytes) -> bytes:
            return frames.chunk(deflater.segment(data))

        self._sse = {plain: _compressed(plain, "gzip", gzip_chunk) for plain in (SSE_VALUE, SSE_ENVELOPE)}
        self._websocket = _compressed(WEBSOCKET, "deflate", deflater.message)

    def sse(self, plain: Wire) -> Wire:
        """What ``Content-Encoding: gzip`` makes of a wire format in chunks; its connections begin with `GZIP_HEAD`."""
        return self._sse[plain]

    @property
    def websocket(self) -> Wire:
        """What ``permessage-deflate`` makes of WebSocket messages."""
        return self._websocket


def _compressor(level: int) -> "zlib._Compress":
    return zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)


def _compressed(plain: Wire, coding: str, frame: Callable[[bytes], bytes]) -> Wire:
    return replace(plain, name=f"{plain.name}-{coding}", frame=frame, plain=plain, compresses=True)
