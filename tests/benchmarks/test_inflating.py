"""The load generator's view of compressed streams, as the dispatcher makes them."""

from collections.abc import Callable, Sequence

import pytest

from benchmarks import inflating
from benchmarks.inflating import PING, REMEMBERED, Inflater
from benchmarks.values import stamped_vehicle, vehicles
from dispatcher.sansio.encoding import frames
from dispatcher.sansio.encoding.compression import GZIP_HEAD, LARGE_BYTES, Compression

Frame = Callable[[bytes], bytes]


def compression() -> Compression:
    """What a replica compresses with by default."""
    return Compression(6, 256)


def texts() -> Sequence[bytes]:
    """A text that is too short for compression, one record, ten of them, and more than are compressed at once."""
    return [b"nothing", *(b"\n".join(stamped_vehicle() for _ in range(records)) for records in (1, 10, 400))]


KINDS: Sequence[tuple[Callable[[], Inflater], Frame, bytes]] = [
    (inflating.chunks, lambda text: frames.chunk(compression().deflater.segment(text)), frames.chunk(GZIP_HEAD)),
    (inflating.messages, compression().deflater.message, b""),
]


@pytest.mark.parametrize(("make", "frame", "begin"), KINDS, ids=["sse", "websocket"])
def test_every_record_is_counted_wherever_reads_end(make: Callable[[], Inflater], frame: Frame, begin: bytes) -> None:
    """What remains of a frame belongs to the next read."""
    expected = texts()
    assert len(expected[-1]) > LARGE_BYTES
    stream = begin + b"".join(map(frame, expected))
    for read_bytes in (1, 2, 3, 7, 100, 4096, len(stream)):
        inflater, rest, text, records = make(), b"", b"", 0
        for start in range(0, len(stream), read_bytes):
            received = rest + stream[start : start + read_bytes]
            piece, end = inflater.read(received)
            rest = received[end:]
            text += piece.text
            records += piece.records
        assert (records, text, rest) == (411, b"".join(expected), b"")


@pytest.mark.parametrize(("make", "frame", "begin"), KINDS, ids=["sse", "websocket"])
def test_what_many_connections_receive_is_inflated_once(
    make: Callable[[], Inflater], frame: Frame, begin: bytes
) -> None:
    """Alone, and with what precedes it in the same read."""
    inflater = make()
    first, second = (begin + frame(stamped_vehicle()) for _ in range(2))
    for _ in range(1000):
        piece, end = inflater.read(first)
        assert (piece.records, end) == (1, len(first))
        piece, end = inflater.read(first + second)
        assert (piece.records, end) == (2, len(first + second))
    assert inflater.inflated == 2 + bool(begin)


def test_only_the_latest_are_remembered() -> None:
    """However many there are: the first is inflated again when all others were received after it."""
    inflater = inflating.chunks()
    chunks = [frames.chunk(compression().deflater.segment(stamped_vehicle())) for _ in range(REMEMBERED + 1)]
    for chunk in chunks:
        inflater.read(chunk)
    inflater.read(chunks[-1])
    assert inflater.inflated == REMEMBERED + 1
    inflater.read(chunks[0])
    assert inflater.inflated == REMEMBERED + 2


def test_a_ping_is_seen_among_messages() -> None:
    """It is a frame by itself; the bytes of a compressed message are not taken for one."""
    inflater = inflating.messages()
    messages = (Compression(6, 1).deflater.message(value) for _key, value in vehicles(5000))
    message = next(message for message in messages if PING in message)
    assert not inflater.read(message)[0].has_ping
    piece, end = inflater.read(message + PING + message[:5])
    assert (piece.has_ping, end) == (True, len(message + PING))


def test_the_last_chunk_is_empty() -> None:
    """The end of a response is no record."""
    assert inflating.chunks().read(b"0\r\n\r\n") == ((b"", 0, False), 5)
