"""The parser of event streams, as the WHATWG algorithm has it, fed in any parts."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.client import sse_parser as sse
from dispatcher.client.errors import WrongServerError
from dispatcher.client.sse_parser import ServerEvent, SseParser

FIELDS = (
    *(b"", b"", b"data: a", b"data:b", b"data", b"data:  c", b"data: \xff\xfe", "data: Füße".encode()),
    *(b"id: 1", b"id", b"id: x\x00y", b"event: gap", b": hi", b"retry: 10", b"retry: 1x", b"nothing: 5"),
)
LINES = st.lists(st.sampled_from(FIELDS), max_size=20)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


def parse(parts: Sequence[bytes]) -> list[ServerEvent]:
    """All events of a stream that comes in these parts."""
    parser = SseParser()
    return [event for part in parts for event in parser.feed(part)]


def parse_slowly(stream: bytes) -> list[ServerEvent]:
    """The same, by splitting the whole: slow, and plainly right."""
    text = stream.decode(errors="replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events, last_id = [], ""
    for block in _blocks(text.split("\n")[:-1]):
        data: list[str] = []
        kind, retry_ms, own_id, counts = "", None, None, False
        for line in block:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "event":
                kind = value
            elif name == "id" and "\0" not in value:
                last_id, own_id, counts = value, value, True
            elif name == "retry" and value.isdecimal() and value.isascii():
                retry_ms = int(value)
            counts = counts or name in {"", "data"} or retry_ms is not None
        if counts:
            events.append(ServerEvent(kind or "message", "\n".join(data) if data else None, last_id, retry_ms, own_id))
    return events


def _blocks(lines: list[str]) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line:
            blocks[-1].append(line)
        else:
            blocks.append([])
    return blocks[:-1]


@given(
    lines=LINES, ends=st.lists(ENDS, min_size=21, max_size=21), mark=st.booleans(), cuts=st.sets(st.integers(0, 200))
)
def test_any_stream_in_any_parts(lines: list[bytes], ends: list[bytes], mark: bool, cuts: set[int]) -> None:
    """The events are the same whatever the line ends are and wherever the stream is cut."""
    stream = b"\xef\xbb\xbf" * mark + b"".join(line + end for line, end in zip(lines, ends, strict=False))
    if stream.endswith(b"\r"):
        stream += b"\n"
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    parts = [stream[a:b] for a, b in pairwise(places)]
    assert parse(parts) == parse_slowly(stream)


def test_the_last_event_counts_with_its_blank_line_only() -> None:
    """A cut within an event leaves nothing of it, not even its id."""
    parser = SseParser()
    assert parser.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n") == [ServerEvent("message", "a", "1", id="1")]
    assert parser.last_id == "1"


def test_a_carriage_return_ends_a_line_at_once() -> None:
    """The parser does not wait for a line feed that may follow."""
    parser = SseParser()
    assert parser.feed(b"data: a\r\r") == [ServerEvent("message", "a", "")]
    assert parser.feed(b"\ndata: b\r\r") == [ServerEvent("message", "b", "")]


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless lines, or endlessly many lines, take a bounded number of bytes."""
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    for part in (b"data: 12345", b"data: 12345\n"):
        with pytest.raises(WrongServerError, match="an event of more than"):
            parse([part] * 20)
