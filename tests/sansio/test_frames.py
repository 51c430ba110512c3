"""Text messages that are read without wsproto: exactly those that it would read, and nothing after them is lost."""

from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from dispatcher.sansio.encoding.frames import leading_texts

FIN_TEXT, TEXT, CONTINUATION, BINARY, PING, COMPRESSED = 0x81, 0x01, 0x80, 0x82, 0x89, 0xC1


def frame(first: int, payload: bytes, mask: bytes = b"mask", *, is_masked: bool = True, least: int = 126) -> bytes:
    """What a client sends; lengths below `least` are spelled in one byte."""
    size = len(payload)
    length = bytes([size]) if size < min(least, 126) else b"\x7e" + size.to_bytes(2, "big")
    if not is_masked:
        return bytes([first]) + length + payload
    return (
        bytes([first, length[0] | 0x80])
        + length[1:]
        + mask
        + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    )


def read_by_wsproto(data: bytes) -> tuple[list[bytes], bool]:
    """The text messages in front, and whether all of it may be said."""
    frames = FrameProtocol(client=False, extensions=[])
    frames.receive_bytes(data)
    texts: list[bytes] = []
    try:
        texts.extend(str(found.payload).encode() for found in frames.received_frames() if found.opcode is Opcode.TEXT)
    except ParseFailed:
        return texts, False
    return texts, True


@given(
    texts=st.lists(st.text(st.characters(max_codepoint=127), max_size=300), max_size=4),
    mask=st.binary(min_size=4, max_size=4),
    cut=st.integers(0, 20),
)
def test_messages_are_those_that_wsproto_reads_and_the_rest_is_left(texts: list[str], mask: bytes, cut: int) -> None:
    """Of any length and mask; one that has come in part waits in the rest."""
    data = b"".join(frame(FIN_TEXT, text.encode(), mask) for text in texts)
    data = data[: len(data) - cut]
    found, rest = leading_texts(data)
    whole = [text.encode() for text in texts][: len(found)]
    assert found == whole
    assert data.endswith(rest)
    assert leading_texts(rest) == ([], rest)
    if not cut:
        assert (found, rest) == ([text.encode() for text in texts], b"")
    assert read_by_wsproto(data)[0][: len(found)] == found


@given(st.binary(max_size=40), st.sampled_from([b"", b"\x81", b"\x81\x80", b"\x81\xfe", b"\x81\xff"]))
def test_whatever_comes_is_read_as_wsproto_reads_it(data: bytes, begins: bytes) -> None:
    """Nonsense stays in the rest, where wsproto refuses it."""
    data = frame(FIN_TEXT, b"hello") + begins + data
    found, rest = leading_texts(data)
    texts, may_be_said = read_by_wsproto(data)
    assert found == texts[: len(found)]
    assert found[:1] == [b"hello"]
    assert read_by_wsproto(rest) == (texts[len(found) :], may_be_said)


def test_other_frames_are_left_to_wsproto() -> None:
    """Parts of messages, other kinds, compressed, not ASCII, unmasked, and with a length that is spelled too long."""
    hello = frame(FIN_TEXT, b"hello")
    for other in (
        frame(TEXT, b"hel") + frame(CONTINUATION, b"lo"),
        frame(BINARY, b"hello"),
        frame(PING, b"hello"),
        frame(COMPRESSED, b"hello"),
        frame(FIN_TEXT, "é".encode()),
        frame(FIN_TEXT, b"\xff"),
        frame(FIN_TEXT, b"hello", is_masked=False),
        frame(FIN_TEXT, b"hello", least=0),
        b"\x81\xff" + (70_000).to_bytes(8, "big") + b"mask" + bytes(70_000),
    ):
        assert leading_texts(hello + other + hello) == ([b"hello"], other + hello)
    assert leading_texts(hello + hello[:5]) == ([b"hello"], hello[:5])
