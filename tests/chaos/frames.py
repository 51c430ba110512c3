"""A strict reader of what a server sends on a WebSocket: whatever RFC 6455 forbids is an error, with words about it.

Pure: no I/O. Libraries are lenient, or fail with "protocol error" and no more; this says which byte was wrong.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
_KNOWN = frozenset({0x0, TEXT, 0x2, CLOSE, PING, PONG})
MOST_BYTES = 64 * 1024 * 1024
"""A longer frame is no frame of the dispatcher's: its length is what stands in the midst of something else."""

MOST_OF_CONTROL = 125
"""RFC 6455, section 5.5."""


class FrameError(OSError):
    """The server has broken the protocol; the message says how. The connection is of no more use."""


class Frame(NamedTuple):
    """A whole frame."""

    opcode: int
    payload: bytes


class Frames:
    """Cuts bytes into frames, and refuses what a server must not send.

    The dispatcher never fragments: one frame is one message.
    """

    def __init__(self) -> None:
        self.closed = False
        """The server has sent a Close frame: nothing may follow (section 5.5.1)."""
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes and return the frames that are whole by now.

        Raises:
            FrameError: what came is not allowed.
        """
        rest = self._rest
        rest += data
        while rest:
            if self.closed:
                raise FrameError(f"{len(rest)} bytes after a Close frame: {bytes(rest[:16]).hex()}")
            self._check_head(rest)
            place = self._place(rest)
            if place is None or len(rest) < place[1]:
                return
            frame = Frame(rest[0] & 0xF, bytes(rest[place[0] : place[1]]))
            del rest[: place[1]]
            self._check(frame)
            yield frame

    def _check_head(self, rest: bytearray) -> None:
        """Check a head as soon as a byte is there: garbage must not be waited for as if it were a long frame."""
        first, opcode = rest[0], rest[0] & 0xF
        if first & 0x70 or opcode not in _KNOWN:
            raise FrameError(f"no frame begins with {bytes(rest[:16]).hex()}")
        if not first & 0x80 or opcode == 0:
            raise FrameError(f"a fragment, of which the dispatcher sends none: {bytes(rest[:16]).hex()}")
        if len(rest) > 1 and rest[1] & 0x80:
            raise FrameError(f"masked, as no server may: {bytes(rest[:16]).hex()}")
        if len(rest) > 1 and opcode >= CLOSE and rest[1] > MOST_OF_CONTROL:
            raise FrameError(f"a control frame of more than {MOST_OF_CONTROL} bytes: {bytes(rest[:16]).hex()}")

    @staticmethod
    def _place(rest: bytearray) -> tuple[int, int] | None:
        """Return where the payload begins and ends; None while the length is incomplete."""
        if len(rest) < 2:
            return None
        start = {126: 4, 127: 10}.get(rest[1], 2)
        if len(rest) < start:
            return None
        length = rest[1] if start == 2 else int(struct.unpack_from("!H" if start == 4 else "!Q", rest, 2)[0])
        least = {2: 0, 4: 126, 10: 1 << 16}[start]
        if not least <= length <= MOST_BYTES:
            raise FrameError(f"a length of {length} in {start - 2} bytes: {bytes(rest[:16]).hex()}")
        return start, start + length

    def _check(self, frame: Frame) -> None:
        if frame.opcode == CLOSE:
            self.closed = True
            if len(frame.payload) == 1:
                raise FrameError("a Close frame with half a code")
            _utf8(frame.payload[2:])
        elif frame.opcode == TEXT:
            _utf8(frame.payload)


def _utf8(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise FrameError(f"text that is not UTF-8: {error}") from error
