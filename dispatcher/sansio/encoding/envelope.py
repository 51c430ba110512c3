"""Records as JSON objects, for SSE's ``format=envelope`` and for WebSocket messages."""

from base64 import b64encode
from collections.abc import Sequence

import orjson

from dispatcher.sansio.encoding.columns import Column, json_numbers, json_strings
from dispatcher.sansio.records import Batch, Headers


def envelope_columns(batch: Batch, offsets: Column) -> Sequence[Column]:
    """The members of each record's object, without its braces.

    What is not UTF-8 is sent in base64, under a name that says so.

    Args:
        batch: The records.
        offsets: Theirs, as JSON.
    """
    records = batch.records
    return (
        b'"topic":%b,"partition":%d,"offset":' % (orjson.dumps(batch.partition.topic), batch.partition.partition),
        offsets,
        b',"timestamp":',
        json_numbers(records.timestamps_ms),
        *_members("key", records.keys),
        b',"headers":',
        [orjson.dumps(_headers(headers)) for headers in records.headers] if any(records.headers) else b"[]",
        *_members("value", records.values),
    )


def _members(name: str, texts: Sequence[bytes | None]) -> Sequence[Column]:
    try:
        return f',"{name}":'.encode(), *json_strings(texts)
    except UnicodeDecodeError:
        return b",", [orjson.dumps(_member(name, text))[1:-1] for text in texts]


def _headers(headers: Headers) -> Sequence[dict[str, str | None]]:
    """A list of objects, because Kafka keeps order and allows one name many times."""
    return [{"key": name, **_member("value", content)} for name, content in headers]


def _member(name: str, text: bytes | None) -> dict[str, str | None]:
    if text is None:
        return {name: None}
    try:
        return {name: text.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(text).decode()}
