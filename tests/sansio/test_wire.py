"""Bytes on the wire, read back by parsers that others wrote, or by one that follows the standard's text."""

import base64
import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.encoding import frames, messages, sse
from dispatcher.sansio.encoding.wire import SSE_ENVELOPE, SSE_VALUE, SSE_VALUE_UNFRAMED, WEBSOCKET, Wire, sse_wire
from dispatcher.sansio.records import Batch, Record, Records, TopicPartition
from dispatcher.sansio.spelling import Spelling

ONE = TopicPartition("assets", 3)
SUFFIX = ",0=998;other:0=-1"
STATE_EVENT = sse.encode_state("streaming", "replica", {"assets": [0, 1]}, 15.0)
AWKWARD = [
    None,
    b"",
    b"plain",
    b"one\ntwo",
    b"one\rtwo",
    b"one\r\ntwo\r\n",
    b"\n",
    b"\r\r\n\n",
    b" leading space",
    b": colon",
    b"nul\x00nul",
    b"\x7fdel\x7f",
    b"\xff\xfe",
    b"\xe2\x82",
    "snow ☃ \u2028 \u2029 \U0001f600".encode(),
    b"x" * 1024 * 1024,
]
values = st.none() | st.binary(max_size=40) | st.text(max_size=40).map(str.encode) | st.sampled_from(AWKWARD[:-1])
headers = st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), values), max_size=3).map(
    tuple
)
records = st.lists(
    st.builds(Record, offset=st.just(0), timestamp_ms=st.none() | st.integers(-1, 2**45), key=values, value=values,
              headers=headers),
    min_size=1,
    max_size=5,
).map(lambda found: tuple(record._replace(offset=10 + 2 * n) for n, record in enumerate(found)))  # fmt: skip


class EventSource:
    """WHATWG HTML, 9.2.6 "Interpreting an event stream", as the text has it."""

    def __init__(self, last_event_id: str = "") -> None:
        self.events: list[tuple[str, str, str]] = []
        self.last_event_id = last_event_id
        self.retry: int | None = None

    def feed(self, data: bytes) -> "EventSource":
        """Interpret a whole stream; an event without the blank line after it never fires."""
        text = data.decode()
        kind, buffer, event_id = "", "", self.last_event_id
        *lines, unfinished = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert unfinished == ""
        for line in lines:
            if line == "":
                self.last_event_id = event_id
                if buffer:
                    self.events.append((self.last_event_id, kind or "message", buffer.removesuffix("\n")))
                kind, buffer = "", ""
                continue
            name, colon, value = line.partition(":")
            value = value.removeprefix(" ") if colon else ""
            if name == "event":
                kind = value
            elif name == "data":
                buffer += value + "\n"
            elif name == "id" and "\0" not in value:
                event_id = value
            elif name == "retry" and value.isascii() and value.isdigit():
                self.retry = int(value)
        return self


def expected_value_event(record: Record) -> tuple[str, str, str]:
    """What an EventSource has to make of a record with ``format=value``."""
    event_id = f"assets:3={record.offset}{SUFFIX}"
    if record.value is None:
        return event_id, "tombstone", ""
    try:
        text = record.value.decode()
    except UnicodeDecodeError:
        return event_id, "binary", base64.b64encode(record.value).decode()
    return event_id, "message", text.replace("\r\n", "\n").replace("\r", "\n")


def expected_envelope(record: Record) -> dict[str, object]:
    """The envelope of a record."""
    return {
        "topic": "assets",
        "partition": 3,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        **field("key", record.key),
        "headers": [{"key": name, **field("value", value)} for name, value in record.headers],
        **field("value", record.value),
    }


def field(name: str, value: bytes | None) -> dict[str, object]:
    """A field under its name, or in base64 under a name that says so."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def check_everywhere(found: Sequence[Record]) -> None:
    """Every format carries these records."""
    batch = Batch(ONE, tuple(found))
    source = EventSource().feed(SSE_VALUE.encode_records(batch, SUFFIX))
    assert [expected_value_event(record) for record in found] == source.events
    without_ids = [("before", *event[1:]) for event in source.events]
    for bodies in ([batch], [Batch(ONE, [record]) for record in found]):
        joined = sse.join_events([SSE_VALUE.encode_records(each, None) for each in bodies], "after")
        source = EventSource().feed(b"id: before\n\n" + joined)
        assert [*without_ids[:-1], ("after", *without_ids[-1][1:])] == source.events

    source = EventSource().feed(SSE_ENVELOPE.encode_records(batch, SUFFIX))
    assert [f"assets:3={record.offset}{SUFFIX}" for record in found] == [event[0] for event in source.events]
    assert [expected_envelope(record) for record in found] == [json.loads(event[2]) for event in source.events]
    source = EventSource().feed(sse.join_events([SSE_ENVELOPE.encode_records(batch, None)] * 2, "after"))
    assert [expected_envelope(record) for record in found] * 2 == [json.loads(event[2]) for event in source.events]
    assert [""] * (2 * len(found) - 1) + ["after"] == [event[0] for event in source.events]

    message = json.loads(messages.join_records([WEBSOCKET.encode_records(batch, None)] * 2, "after"))
    assert {"type": "records", "id": "after", "records": [expected_envelope(record) for record in found] * 2} == message


@given(records)
def test_any_record_in_every_format(found: tuple[Record, ...]) -> None:
    """Null, empty, line ends, NUL and invalid UTF-8 survive in keys, values and headers."""
    check_everywhere(found)


@pytest.mark.parametrize("value", AWKWARD, ids=lambda value: repr(value)[:20])
def test_awkward_values_keys_and_headers(value: bytes | None) -> None:
    """Each is tried alone, and among ordinary ones."""
    awkward = Record(1, 5, value, value, (("name", value), ("name", b"again"), ("", b"")))
    check_everywhere([awkward])
    check_everywhere([Record(0, 5, b"k", b"v", ()), awkward, Record(2, 5, b"k", b"w", ())])


def test_what_was_decoded_is_json_in_every_format() -> None:
    """Notes are included, and records that were not decoded are unchanged."""
    found = [
        Record(0, 5, b"k", b"\x00raw", ()),
        Record(1, 5, b"\x00raw", b"\xff", ()),
        Record(2, 5, None, None, ()),
    ]
    decoded = Decoded(
        (None, b'"key"', None),
        (b'{"a":1}', None, None),
        (b"", b',"key_schema":{"id":2}', b""),
        (b',"schema":{"id":1}', b',"decode_error":"why"', b""),
    )
    batch = Batch(ONE, Records.of(found).with_decoded(decoded))
    values = EventSource().feed(SSE_VALUE.encode_records(batch, SUFFIX)).events
    assert values == [
        (f"assets:3=0{SUFFIX}", "message", '{"a":1}'),
        *map(expected_value_event, found[1:]),
    ]
    expected = [expected_envelope(record) for record in found]
    del expected[0]["value"], expected[1]["key"]
    expected[0] |= {"value_json": {"a": 1}, "schema": {"id": 1}}
    expected[1] |= {"key_json": "key", "key_schema": {"id": 2}, "decode_error": "why"}
    envelopes = EventSource().feed(SSE_ENVELOPE.encode_records(batch, SUFFIX)).events
    assert expected == [json.loads(event[2]) for event in envelopes]
    message = json.loads(messages.join_records([WEBSOCKET.encode_records(batch, None)], "after"))
    assert expected == message["records"]
    each = [EventSource().feed(event).events[0] for event in SSE_VALUE.encode_each(batch, SUFFIX)]
    assert each == values


@pytest.mark.parametrize("notes", [(b',"schema":1', b',"schema":1'), (b',"schema":1', b',"schema":2')])
def test_records_that_are_all_decoded_have_each_its_note(notes: tuple[bytes, bytes]) -> None:
    """Most batches have one schema, but some change it."""
    found = Records.of([Record(n, 5, b"k", b"\x00", ()) for n in range(2)])
    decoded = Decoded((None, None), (b"1", b"2"), (b"", b""), notes)
    envelopes = envelopes_of(Batch(ONE, found.with_decoded(decoded)))
    assert [(one["value_json"], b',"schema":%d' % one["schema"]) for one in envelopes] == [(1, notes[0]), (2, notes[1])]


def envelopes_of(batch: Batch) -> list[dict[str, Any]]:
    """As an EventSource has them."""
    return [json.loads(data) for _, _, data in EventSource().feed(SSE_ENVELOPE.encode_records(batch, "")).events]


def test_what_the_settings_call_bytes_is_base64_in_every_format() -> None:
    """This holds for text, too; decoded values stay JSON, and tombstones stay."""
    found = [Record(0, 5, b"k", b"v", ()), Record(1, 5, b"k", b"\x00raw", ()), Record(2, 5, None, None, ())]
    raw = Records.of(found).with_decoded(
        Decoded((None,) * 3, (None, b'{"a":1}', None), (b"",) * 3, (b',"decode_error":"why"', b"", b""))
    )
    for records, second in ((Records.of(found), ("binary", "AHJhdw==")), (raw, ("message", '{"a":1}'))):
        batch = Batch(ONE, records.spelled(Spelling("base64", "base64")))
        values = EventSource().feed(SSE_VALUE.encode_records(batch, SUFFIX)).events
        assert [(kind, data) for _, kind, data in values] == [("binary", "dg=="), second, ("tombstone", "")]
        envelopes = [
            json.loads(event[2]) for event in EventSource().feed(SSE_ENVELOPE.encode_records(batch, "")).events
        ]
        assert envelopes == json.loads(messages.join_records([WEBSOCKET.encode_records(batch, None)], ""))["records"]
        assert [one.get("key_base64", "none") for one in envelopes] == ["aw==", "aw==", "none"]
        assert [envelopes[0]["value_base64"], envelopes[2]["value"]] == ["dg==", None]


def test_a_character_cut_in_two_by_its_records_is_binary_in_both() -> None:
    """Values are checked together, but judged separately."""
    check_everywhere([Record(1, 5, None, b"\xe2", ()), Record(2, 5, None, b"\x98\x83", ())])


def test_control_events() -> None:
    """They are named events with JSON data; a goodbye sets the time to reconnect."""
    source = EventSource().feed(
        sse.encode_first_state(STATE_EVENT, 1000, "") + sse.encode_gap("assets", 3, 5, 9, "retention")
    )
    assert source.retry == 1000
    assert [(event_id, kind, json.loads(data)) for event_id, kind, data in source.events] == [
        (
            "",
            "state",
            {"state": "streaming", "replica": "replica", "assigned": {"assets": [0, 1]}, "heartbeat_seconds": 15.0},
        ),
        ("", "gap", {"topic": "assets", "partition": 3, "from": 5, "to": 9, "reason": "retention"}),
    ]
    source.feed(sse.encode_goodbye(1012, "restart", 1500))
    assert source.retry == 1500
    assert json.loads(source.events[-1][2]) == {"code": 1012, "reason": "restart", "retry_ms": 1500}


def test_a_first_state_says_where_the_stream_begins_and_by_which_filter() -> None:
    """Both are left out if there are none."""
    record_filter = b'{"exact":{"key":"a"}}'
    source = EventSource().feed(SSE_VALUE_UNFRAMED.first_state(STATE_EVENT, 1000, "assets:3=5", record_filter))
    assert (source.last_event_id, source.retry) == ("assets:3=5", 1000)
    assert json.loads(source.events[0][2])["filter"] == {"exact": {"key": "a"}}
    state = messages.encode_state("waiting", "replica", {}, 15.0)
    assert WEBSOCKET.state("waiting", "replica", {}, 15.0) == frames.text_frame(state)
    gap = messages.encode_gap("assets", 3, 5, 9, "retention")
    assert WEBSOCKET.gap("assets", 3, 5, 9, "retention") == frames.text_frame(gap)
    assert messages.encode_first_state(state, 1000, "") == state
    first = json.loads(messages.encode_first_state(state, 1000, "assets:3=5", record_filter))
    assert (first["id"], first["filter"], first["state"]) == ("assets:3=5", {"exact": {"key": "a"}}, "waiting")


def test_formats_that_differ_by_their_frames_share_what_is_unframed() -> None:
    """So it is encoded once for both."""
    assert SSE_VALUE_UNFRAMED.unframed is SSE_VALUE.unframed is SSE_VALUE
    assert SSE_VALUE_UNFRAMED.heartbeat("") == b":\n\n"
    assert WEBSOCKET.unframed is WEBSOCKET


def test_a_heartbeat_moves_the_last_event_id_and_fires_nothing() -> None:
    """Without a position it is a comment."""
    source = EventSource().feed(sse.encode_heartbeat("assets:3=5"))
    assert (source.last_event_id, source.events) == ("assets:3=5", [])
    assert sse.encode_heartbeat("") == b":\n\n"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            messages.encode_state("waiting", "replica", {}, 0.5),
            {"type": "state", "state": "waiting", "replica": "replica", "assigned": {}, "heartbeat_seconds": 0.5},
        ),
        (
            messages.encode_gap("assets", 3, 5, 9, "retention"),
            {"type": "gap", "topic": "assets", "partition": 3, "from": 5, "to": 9, "reason": "retention"},
        ),
        (
            messages.encode_goodbye(1012, "restart", 1500),
            {"type": "goodbye", "code": 1012, "reason": "restart", "retry_ms": 1500},
        ),
        (messages.encode_expiring(60), {"type": "expiring", "seconds": 60}),
        (
            messages.encode_nacked("assets:3=5", dead_letter=True),
            {"type": "nacked", "id": "assets:3=5", "dead_letter": True},
        ),
    ],
)
def test_control_messages(message: bytes, expected: dict[str, object]) -> None:
    """Each is one JSON object with its type."""
    assert expected == json.loads(message)


@given(st.binary(min_size=1, max_size=300))
def test_chunks_are_read_by_h11(data: bytes) -> None:
    """Two chunks and an end make a body."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "test")]))
    client.send(h11.EndOfMessage())
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.receive_data(head + frames.chunk(data) + frames.chunk(data) + b"0\r\n\r\n")
    assert isinstance(client.next_event(), h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert data + data == body
    assert isinstance(event, h11.EndOfMessage)


def test_an_empty_chunk_is_refused() -> None:
    """It would end the body."""
    with pytest.raises(ValueError, match="ends the body"):
        frames.chunk(b"")


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 1024 * 1024])
def test_text_frames_are_read_by_wsproto(length: int) -> None:
    """This is checked for every form of the length."""
    client = Connection(ConnectionType.CLIENT)
    assert frames.compressed_text_frame(b"x" * length)[1:] == frames.text_frame(b"x" * length)[1:]
    client.receive_data(frames.text_frame(b"x" * length) + frames.ping_frame())
    events = list(client.events())
    assert "x" * length == "".join(event.data for event in events if isinstance(event, TextMessage))
    assert isinstance(events[-1], Ping)


@given(st.lists(st.binary(max_size=125), min_size=1, max_size=3), st.data())
def test_pongs_are_distinguished_from_everything_else(payloads: list[bytes], data: st.DataObject) -> None:
    """Only whole pongs count, without other frames before or after them."""
    client = Connection(ConnectionType.CLIENT)
    pongs = b"".join(client.send(Pong(payload)) for payload in payloads)
    other = client.send(data.draw(st.sampled_from([Ping(), TextMessage(""), BytesMessage(b"")])))
    assert frames.are_pongs(pongs)
    ends = list(accumulate(len(client.send(Pong(payload))) for payload in payloads))
    assert frames.are_pongs(pongs[: (cut := data.draw(st.integers(1, len(pongs))))]) == (cut in ends)
    assert not frames.are_pongs(other + pongs)
    assert not frames.are_pongs(pongs + other)


def test_control_frames_are_read_by_wsproto() -> None:
    """Pongs, and closes with and without a code, are read; a long reason is cut at a character."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames.pong_frame(b"anyone?") + frames.close_frame(4400, "é" * 100))
    pong, close = client.events()
    assert pong == Pong(b"anyone?")
    assert close == CloseConnection(4400, "é" * 61)
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames.close_frame(None, ""))
    assert next(client.events()) == CloseConnection(1005, "")


def test_heartbeats_are_frames_of_their_transport() -> None:
    """SSE gets a chunk; WebSocket gets a ping that clients must answer, and a visible message."""
    assert frames.chunk(b"id: assets:3=5\n\n") == sse_wire(envelope=False, chunked=True).heartbeat("assets:3=5")
    for position, message in {
        "assets:3=5": b'{"type":"heartbeat","id":"assets:3=5"}',
        "": b'{"type":"heartbeat"}',
    }.items():
        assert frames.ping_frame() + frames.text_frame(message) == WEBSOCKET.heartbeat(position)


@pytest.mark.parametrize("envelope", [False, True])
def test_http_1_0_gets_the_same_without_chunks(envelope: bool) -> None:
    """The bytes are those inside the chunks."""
    batch = Batch(ONE, (Record(1, 2, b"k", b"v", ()),))

    def everything(wire: Wire) -> list[bytes]:
        return [
            wire.records([wire.encode_records(batch, SUFFIX)], ""),
            wire.records([wire.encode_records(batch, None)], "assets:3=1"),
            wire.state("streaming", "replica", {"assets": [3]}, 15.0),
            wire.goodbye(1012, "restart", 1500),
            wire.heartbeat("assets:3=5"),
        ]

    bare = everything(sse_wire(envelope=envelope, chunked=False))
    assert [frames.chunk(data) for data in bare] == everything(sse_wire(envelope=envelope, chunked=True))


def test_the_first_state_carries_where_the_stream_begins() -> None:
    """It has the reconnect delay, and an id only if the start is known."""
    for position in ("assets:0=-1,1=7", ""):
        state = sse.encode_state("streaming", "replica", {"assets": [0]}, 15.0)
        source = EventSource().feed(sse.encode_first_state(state, 1000, position))
        assert [(event_id, kind) for event_id, kind, _ in source.events] == [(position, "state")]
        assert source.retry == 1000
        state = WEBSOCKET.encode_state("streaming", "replica", {"assets": [0]}, 15.0)
        framed = WEBSOCKET.first_state(state, 1000, position)
        payload = framed[4 if framed[1] == 126 else 2 :]
        assert json.loads(payload) == json.loads(state) | ({"id": position} if position else {})
        assert WEBSOCKET.state("streaming", "replica", {"assets": [0]}, 15.0).endswith(state)


FIN_TEXT, TEXT, CONTINUATION, BINARY, PING, COMPRESSED = 0x81, 0x01, 0x80, 0x82, 0x89, 0xC1


def spoken(first: int, payload: bytes, mask: bytes = b"mask", *, is_masked: bool = True, least: int = 126) -> bytes:
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
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(data)
    texts: list[bytes] = []
    try:
        texts.extend(str(found.payload).encode() for found in protocol.received_frames() if found.opcode is Opcode.TEXT)
    except ParseFailed:
        return texts, False
    return texts, True


@given(
    texts=st.lists(st.text(st.characters(max_codepoint=127), max_size=300), max_size=4),
    mask=st.binary(min_size=4, max_size=4),
    cut=st.integers(0, 20),
)
def test_messages_are_those_that_wsproto_reads_and_the_rest_is_left(texts: list[str], mask: bytes, cut: int) -> None:
    """This holds for any length and mask; partial messages stay in the rest."""
    data = b"".join(spoken(FIN_TEXT, text.encode(), mask) for text in texts)
    data = data[: len(data) - cut]
    found, rest = frames.leading_texts(data)
    whole = [text.encode() for text in texts][: len(found)]
    assert found == whole
    assert data.endswith(rest)
    assert frames.leading_texts(rest) == ([], rest)
    if not cut:
        assert (found, rest) == ([text.encode() for text in texts], b"")
    assert read_by_wsproto(data)[0][: len(found)] == found


@given(st.binary(max_size=40), st.sampled_from([b"", b"\x81", b"\x81\x80", b"\x81\xfe", b"\x81\xff"]))
def test_whatever_comes_is_read_as_wsproto_reads_it(data: bytes, begins: bytes) -> None:
    """Nonsense stays in the rest, where wsproto refuses it."""
    data = spoken(FIN_TEXT, b"hello") + begins + data
    found, rest = frames.leading_texts(data)
    texts, may_be_said = read_by_wsproto(data)
    assert found == texts[: len(found)]
    assert found[:1] == [b"hello"]
    assert read_by_wsproto(rest) == (texts[len(found) :], may_be_said)


def test_other_frames_are_left_to_wsproto() -> None:
    """These are partial, other, compressed, non-ASCII, unmasked, and oddly encoded frames."""
    hello = spoken(FIN_TEXT, b"hello")
    for other in (
        spoken(TEXT, b"hel") + spoken(CONTINUATION, b"lo"),
        spoken(BINARY, b"hello"),
        spoken(PING, b"hello"),
        spoken(COMPRESSED, b"hello"),
        spoken(FIN_TEXT, "é".encode()),
        spoken(FIN_TEXT, b"\xff"),
        spoken(FIN_TEXT, b"hello", is_masked=False),
        spoken(FIN_TEXT, b"hello", least=0),
        b"\x81\xff" + (70_000).to_bytes(8, "big") + b"mask" + bytes(70_000),
    ):
        assert frames.leading_texts(hello + other + hello) == ([b"hello"], other + hello)
    assert frames.leading_texts(hello + hello[:5]) == ([b"hello"], hello[:5])
