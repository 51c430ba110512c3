"""The strict reader takes what a server may send, wherever it is cut, and nothing else."""

import struct

import pytest

from tests.chaos.frames import CLOSE, PING, PONG, TEXT, Frame, FrameError, Frames


def frame(opcode: int, payload: bytes, first: int = 0x80) -> bytes:
    """As a server sends it."""
    length = len(payload)
    if length < 126:
        return bytes([first | opcode, length]) + payload
    if length < 1 << 16:
        return bytes([first | opcode, 126]) + struct.pack("!H", length) + payload
    return bytes([first | opcode, 127]) + struct.pack("!Q", length) + payload


GOOD = [
    Frame(TEXT, b"{}"),
    Frame(PING, b""),
    Frame(TEXT, b"a" * 126),
    Frame(PONG, b"1" * 125),
    Frame(TEXT, b"b" * 70_000),
    Frame(CLOSE, b"\x03\xf4bye"),
]


@pytest.mark.parametrize("step", [1, 3, 100_000])
def test_good_frames_in_pieces(step: int) -> None:
    """Frames with all three kinds of length are read, with pings and pongs between them and a close at the end."""
    data = b"".join(frame(*one) for one in GOOD)
    frames = Frames()
    assert [one for at in range(0, len(data), step) for one in frames.feed(data[at : at + step])] == GOOD
    assert frames.closed


@pytest.mark.parametrize(
    "data",
    [
        frame(CLOSE, b"") + frame(TEXT, b"{}"),
        frame(CLOSE, b"") + b"\x8a",
        frame(TEXT, b"\xff"),
        frame(TEXT, b"{}", first=0xC0),
        frame(TEXT, b"{}", first=0),
        frame(0, b"{}"),
        frame(3, b""),
        frame(PONG, b"1" * 126),
        frame(CLOSE, b"\x03"),
        frame(CLOSE, b"\x03\xf4\xff"),
        b"\x81\x82\x00\x00\x00\x00{}",
        b"\x81\x7e\x00\x02{}",
        b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x02{}",
        b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
)
def test_what_a_server_must_not_send(data: bytes) -> None:
    """Each violation is an error as soon as it arrives."""
    with pytest.raises(FrameError):
        list(Frames().feed(data))


def test_a_pong_in_the_midst_of_a_frame_is_found() -> None:
    """The pong shifts the payload, so the rest of it is not a frame."""
    whole = frame(TEXT, b'{"type":"records","records":[]}' * 20)
    corrupt = whole[:100] + frame(PONG, b"7") + whole[100:]
    with pytest.raises(FrameError):
        list(Frames().feed(corrupt + frame(TEXT, b"{}")))
