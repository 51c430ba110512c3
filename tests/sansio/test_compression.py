"""Compressed pieces: each is read without those before it, and all of them come out byte for byte."""

import gzip
import random
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import Message
from wsproto.extensions import PerMessageDeflate

from dispatcher.sansio.codings import accept_deflate
from dispatcher.sansio.encoding import frames
from dispatcher.sansio.encoding.compression import GZIP_HEAD, LARGE_BYTES, Compression, Deflater, stored
from dispatcher.sansio.encoding.wire import SSE_ENVELOPE, SSE_VALUE, WEBSOCKET, Wire
from dispatcher.sansio.records import Batch, Record, TopicPartition

TEXTS = st.text(max_size=200).map(lambda text: text * 3)
PIECES = st.lists(st.one_of(TEXTS.map(str.encode), st.binary(max_size=400)), min_size=1, max_size=12)
NOISE = random.Random(1).randbytes(3 * 65535)  # noqa: S311 - it has to be the same each time
PING = frames.ping_frame()
EXTENSION = accept_deflate(["permessage-deflate"])


def payload_of(frame: bytes) -> tuple[bool, bytes]:
    """Whether a frame is a compressed one, and its payload."""
    start = {126: 4, 127: 10}.get(frame[1], 2)
    return frame[0] == 0xC1, frame[start:]


def read_messages(data: bytes) -> Sequence[str]:
    """What a client that negotiated the extension reads."""
    extension = PerMessageDeflate()
    extension.finalize(str(EXTENSION))
    client = Connection(ConnectionType.CLIENT, [extension])
    client.receive_data(data)
    texts, text = [], ""
    for event in client.events():
        assert isinstance(event, Message)
        text += str(event.data)
        if event.message_finished:
            texts.append(text)
            text = ""
    return texts


@settings(max_examples=150, deadline=None)
@given(PIECES, st.integers(1, 9), st.sampled_from([0, 50, 256]), st.data())
def test_any_selection_of_segments_is_the_body_of_one_gzip_member(
    pieces: list[bytes], level: int, min_bytes: int, data: st.DataObject
) -> None:
    """Each connection gets other pieces, and each piece can be read at once."""
    deflater = Deflater(level, min_bytes)
    segments = [deflater.segment(piece) for piece in pieces]
    wanted = data.draw(st.lists(st.integers(0, len(pieces) - 1), max_size=20))
    reader = zlib.decompressobj(31)
    assert reader.decompress(GZIP_HEAD) == b""
    for index in wanted:
        assert reader.decompress(segments[index]) == pieces[index]


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=10), st.integers(1, 9), st.sampled_from([0, 50, 256]))
def test_messages_are_read_in_any_order(texts: list[str], level: int, min_bytes: int) -> None:
    """No message refers to another one."""
    deflater = Deflater(level, min_bytes)
    messages = [deflater.message(text.encode()) for text in texts]
    assert read_messages(b"".join(messages)) == texts
    assert read_messages(b"".join(reversed(messages))) == texts[::-1]


def test_pieces_of_every_size() -> None:
    """Sizes around every bound survive: small pieces, stored blocks, large pieces, and frame lengths."""
    deflater = Deflater(6, 256)
    for size in (1, 125, 126, 255, 256, 300, 65534, 65535, 65536, 65537, LARGE_BYTES + 1, 2 * 65535, 2 * 65535 + 1):
        for piece in (NOISE[:size], b"abcdefgh" * (size // 8) + b"x" * (size % 8)):
            reader = zlib.decompressobj(31)
            assert reader.decompress(GZIP_HEAD + deflater.segment(piece)) == piece
            text = piece.decode("latin-1")
            assert read_messages(deflater.message(text.encode())) == [text]


def test_what_is_small_or_would_grow_is_sent_as_it_is() -> None:
    """This adds five bytes to a segment and none to a message, and counts both."""
    deflater = Deflater(6, 256)
    noise, small = NOISE[:1000], b"a" * 255
    for piece in (noise, small):
        assert deflater.segment(piece) == stored(piece)
        assert len(stored(piece)) == len(piece) + 5
    assert deflater.message(small) == frames.text_frame(small)
    assert (deflater.input_bytes, deflater.output_bytes) == (1510, 1510)
    is_compressed, payload = payload_of(deflater.message(b"a" * 256))
    assert is_compressed
    assert deflater.input_bytes == 1766
    assert deflater.output_bytes == 1510 + len(payload) + 4


def test_a_large_piece_is_compressed_fast() -> None:
    """It uses level 1, whatever the setting, because it would hold up everything else."""
    words = [b"%x" % number for number in NOISE[:LARGE_BYTES]]
    piece = b" ".join(words)
    assert len(piece) > LARGE_BYTES
    assert Deflater(9, 0).segment(piece) == Deflater(1, 0).segment(piece)
    assert len(Deflater(9, 0).segment(piece[:LARGE_BYTES])) < len(Deflater(1, 0).segment(piece[:LARGE_BYTES]))


def test_the_head_is_one_of_gzip() -> None:
    """With an end, which no stream has, the member is a gzip file."""
    end = b"\x03\x00" + zlib.crc32(b"data").to_bytes(4, "little") + (4).to_bytes(4, "little")
    assert gzip.decompress(GZIP_HEAD + stored(b"data") + end) == b"data"


@pytest.mark.parametrize("plain", [SSE_VALUE, SSE_ENVELOPE])
def test_every_event_passes_through_the_coding(plain: Wire) -> None:
    """Chunks inflate to what the plain format has in its own chunks."""
    compressed = Compression(6, 256).sse(plain)
    reader = zlib.decompressobj(31)
    reader.decompress(GZIP_HEAD)
    for ours, theirs in zip(everything(compressed), everything(plain), strict=True):
        assert reader.decompress(unchunked(ours)) == unchunked(theirs)
    assert compressed.name == f"{plain.name}-gzip"
    assert compressed.unframed is plain


def test_every_message_passes_through_the_extension() -> None:
    """A ping is unchanged, and everything else says the same as without compression."""
    compressed = Compression(6, 256).websocket
    for ours, theirs in zip(everything(compressed), everything(WEBSOCKET), strict=True):
        assert ours.startswith(PING) == theirs.startswith(PING)
        assert read_messages(ours.removeprefix(PING)) == [payload_of(theirs.removeprefix(PING))[1].decode()]
    assert compressed.name == "websocket-deflate"
    assert compressed.unframed is WEBSOCKET


def everything(wire: Wire) -> list[bytes]:
    """One of everything that a stream is sent."""
    partition = TopicPartition("assets", 3)
    batch = Batch(partition, tuple(Record(n, 2, b"k", b'{"value":"%d"}' % n * 9, ()) for n in range(20)))
    state = wire.encode_state("streaming", "replica", {"assets": list(range(200))}, 15.0)
    return [
        wire.first_state(state, 1000, "assets:3=1"),
        wire.state("waiting", "replica", {}, 15.0),
        wire.records([wire.encode_records(batch, ",assets:0=5")], "assets:3=1" if not wire.has_record_ids else ""),
        wire.gap("assets", 3, 1, 2, "expired"),
        wire.heartbeat("assets:3=5," + ",".join(f"assets:{n}=1000000" for n in range(100))),
        wire.heartbeat(""),
        wire.goodbye(1012, "restart", 1500),
    ]


def unchunked(data: bytes) -> bytes:
    """What one chunk holds."""
    length, _, rest = data.partition(b"\r\n")
    assert rest.endswith(b"\r\n")
    assert len(rest) == int(length, 16) + 2
    return rest[:-2]
