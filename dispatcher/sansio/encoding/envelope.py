"""Records as JSON objects, for SSE's ``format=envelope`` and for WebSocket messages."""

from base64 import b64encode
from collections.abc import Sequence
from typing import cast

import orjson

from dispatcher.sansio.encoding.columns import Column, json_numbers, json_strings
from dispatcher.sansio.records import Batch, Headers


def envelope_columns(batch: Batch, offsets: Column) -> Sequence[Column]:
    """Return the members of each record's object, without its braces.

    Anything that is not UTF-8 is sent in base64, under a name that says so. Decoded data is sent as JSON, under another
    name.

    Args:
        batch: The records.
        offsets: The records' offsets as JSON.
    """
    records = batch.records
    decoded, spelling = records.decoded, records.spelling
    return (
        b'"topic":%b,"partition":%d,"offset":' % (orjson.dumps(batch.partition.topic), batch.partition.partition),
        offsets,
        b',"timestamp":',
        json_numbers(records.timestamps_ms),
        *(
            _members("key", records.keys, opaque=spelling.key == "base64")
            if decoded is None
            else _decoded_members("key", records.keys, decoded.keys, decoded.key_notes, opaque=spelling.key == "base64")
        ),
        b',"headers":',
        [orjson.dumps(_headers(headers)) for headers in records.headers] if any(records.headers) else b"[]",
        *(
            _members("value", records.values, opaque=spelling.value == "base64")
            if decoded is None
            else _decoded_members(
                "value", records.values, decoded.values, decoded.value_notes, opaque=spelling.value == "base64"
            )
        ),
    )


def _members(name: str, texts: Sequence[bytes | None], *, opaque: bool) -> Sequence[Column]:
    if opaque:
        return b",", [orjson.dumps(_opaque(name, text))[1:-1] for text in texts]
    try:
        return f',"{name}":'.encode(), *json_strings(texts)
    except UnicodeDecodeError:
        return b",", [orjson.dumps(_member(name, text))[1:-1] for text in texts]


def _decoded_members(
    name: str,
    texts: Sequence[bytes | None],
    jsons: Sequence[bytes | None],
    notes: Sequence[bytes],
    *,
    opaque: bool,
) -> Sequence[Column]:
    """Return decoded data, or else the bytes as usual, each with its note."""
    prefix = f',"{name}_json":'.encode()
    if None not in jsons:
        # Most batches have one schema, and therefore one note.
        note = notes[0]
        return prefix, cast("Sequence[bytes]", jsons), note if notes.count(note) == len(notes) else notes
    if not any(notes) and not any(jsons):
        return _members(name, texts, opaque=opaque)
    member = _opaque if opaque else _member
    return (
        [
            b",%b%b" % (orjson.dumps(member(name, text))[1:-1], note) if found is None else prefix + found + note
            for text, found, note in zip(texts, jsons, notes, strict=True)
        ],
    )


def _headers(headers: Headers) -> Sequence[dict[str, str | None]]:
    """Return a list of objects, because Kafka keeps the order of headers and allows repeated names."""
    return [{"key": name, **_member("value", content)} for name, content in headers]


def _member(name: str, text: bytes | None) -> dict[str, str | None]:
    if text is None:
        return {name: None}
    try:
        return {name: text.decode()}
    except UnicodeDecodeError:
        return _opaque(name, text)


def _opaque(name: str, text: bytes | None) -> dict[str, str | None]:
    return {name: None} if text is None else {f"{name}_base64": b64encode(text).decode()}
