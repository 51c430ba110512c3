"""Reads compressed streams for `benchmarks.load`: what many connections receive is inflated once.

The dispatcher compresses each write by itself and sends the same bytes to all connections
(`dispatcher.sansio.encoding.compression`), so received bytes that are known need no work but a look-up. Streams in
which a frame refers to frames before it, as with context takeover, can't be read like this: they raise `zlib.error`.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

PING, PONG = b"\x89\x00", b"\x8a\x80\0\0\0\0"
MARK = "§".encode()
"""A record's value contains exactly one."""

REMEMBERED = 256
"""The number of distinct pieces that are remembered."""

_FLUSH = b"\x00\x00\xff\xff"
_GZIP_MAGIC, _GZIP_HEAD_BYTES = b"\x1f\x8b", 10


class Piece(NamedTuple):
    """What some received bytes contain."""

    text: bytes
    """The bytes without framing and compression; control frames of WebSockets stay what they are."""
    records: int
    has_ping: bool


class Inflater:
    """Reads frames of one kind, and remembers the latest.

    Args:
        end_of: Where the frame ends that begins at an index; None while a part of it is missing.
        text_of: What a frame contains.
    """

    def __init__(self, end_of: Callable[[bytes, int], int | None], text_of: Callable[[bytes], bytes]) -> None:
        self._end_of = end_of
        self._text_of = text_of
        self._known: dict[bytes, Piece] = {}
        self.inflated = 0
        """How many frames were not known."""

    def read(self, data: bytes) -> tuple[Piece, int]:
        """Return what the complete frames at the beginning contain, and where they end."""
        if (piece := self._known.get(data)) is not None:
            return piece, len(data)
        pieces = []
        start = 0
        while (end := self._end_of(data, start)) is not None:
            pieces.append(self._piece(data[start:end]))
            start = end
        if len(pieces) == 1:
            return pieces[0], start
        piece = Piece(
            b"".join([piece.text for piece in pieces]),
            sum(piece.records for piece in pieces),
            any(piece.has_ping for piece in pieces),
        )
        # Others receive the same, but hardly ever the same part of a frame.
        return (self._remember(data, piece) if start == len(data) > 0 else piece), start

    def _piece(self, frame: bytes) -> Piece:
        if (piece := self._known.get(frame)) is not None:
            return piece
        self.inflated += 1
        text = self._text_of(frame)
        return self._remember(frame, Piece(text, text.count(MARK), PING in text))

    def _remember(self, data: bytes, piece: Piece) -> Piece:
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[data] = piece
        return piece


def chunks() -> Inflater:
    """Return a reader of chunks (RFC 9112, section 7.1) of one gzip member, which is flushed after each."""
    return Inflater(_end_of_chunk, _text_of_chunk)


def messages() -> Inflater:
    """Return a reader of frames with permessage-deflate (RFC 7692), each a whole message."""
    return Inflater(_end_of_message, _text_of_message)


def _end_of_chunk(data: bytes, start: int) -> int | None:
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return None
    end = line_end + 2 + int(data[start:line_end], 16) + 2
    return end if end <= len(data) else None


def _text_of_chunk(chunk: bytes) -> bytes:
    body = chunk[chunk.index(b"\r\n") + 2 : -2]
    # No block of deflate begins like this: its type would be the reserved one.
    return _inflated(body[_GZIP_HEAD_BYTES:] if body.startswith(_GZIP_MAGIC) else body)


def _end_of_message(data: bytes, start: int) -> int | None:
    if len(data) < start + 2:
        return None
    head_bytes, size_bytes = _message_head(data, start)
    end = start + head_bytes + size_bytes
    return end if end <= len(data) else None


def _text_of_message(message: bytes) -> bytes:
    is_control, is_compressed = message[0] & 0x08, message[0] & 0x40
    if is_control:
        return message
    payload = message[_message_head(message, 0)[0] :]
    return _inflated(payload + _FLUSH) if is_compressed else payload


def _message_head(data: bytes, start: int) -> tuple[int, int]:
    """The bytes of a server's frame before its payload, and those of its payload (RFC 6455, section 5.2)."""
    length = data[start + 1]
    head_bytes = {126: 4, 127: 10}.get(length, 2)
    return head_bytes, length if head_bytes == 2 else int.from_bytes(data[start + 2 : start + head_bytes], "big")


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)
