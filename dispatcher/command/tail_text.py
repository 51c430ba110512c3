"""Formats records for ``dispatcher tail``: JSON lines, values, templates, and text that is safe on a terminal."""

import re
from base64 import b64encode
from collections.abc import Callable

import orjson

from dispatcher.client import Record
from dispatcher.client.timestamps import time_of_day
from dispatcher.command.safe_text import clean_json

FORMATS = ("pretty", "json", "value")
FIELDS = ("id", "topic", "partition", "offset", "timestamp", "time", "key", "value")
"""The fields that a template can name."""

_FIELD = re.compile(r"\{(\w*)\}|\\([tn0\\])")
_ESCAPES = {"t": "\t", "n": "\n", "0": "\0", "\\": "\\"}


def as_json(record: Record) -> bytes:
    """The envelope of the protocol, with the id in front. Invisible characters are escaped."""
    line: dict[str, object] = {
        "id": record.id,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        **_bytes("key", record.key),
        "headers": [{"key": name, **_bytes("value", value)} for name, value in record.headers],
        **_value(record),
    }
    data = orjson.dumps(line)
    return data if data.isascii() and b"\x7f" not in data else clean_json(data.decode()).encode()


def as_value(record: Record) -> bytes:
    """The value alone, unchanged."""
    return record.value or b""


def template(text: str, shown: Callable[[bytes], bytes] = bytes) -> Callable[[Record], bytes]:
    r"""Make a line of named fields, such as ``{offset}\t{value}``.

    Args:
        text: The template.
        shown: Makes a field safe for its destination; the template's own text is the user's.

    Raises:
        ValueError: it names an unknown field, or none at all; the message lists the fields.
    """
    names = [match[1] for match in _FIELD.finditer(text) if match[2] is None]
    unknown = [name for name in names if name not in FIELDS]
    if unknown or not names:
        problem = f"there is no {{{unknown[0]}}}" if unknown else f"{text!r} names no field"
        raise ValueError(f"{problem}; use {', '.join(FORMATS)}, or a template of {{{'}, {'.join(FIELDS)}}}")

    def line(record: Record) -> bytes:
        parts, end = [], 0
        for match in _FIELD.finditer(text):
            filled = _ESCAPES[match[2]].encode() if match[2] else shown(_field(record, match[1]))
            parts += [text[end : match.start()].encode(errors="surrogateescape"), filled]
            end = match.end()
        return b"".join([*parts, text[end:].encode(errors="surrogateescape")])

    return line


def record_time(record: Record) -> str:
    """The record's local time, if its timestamp is one."""
    return time_of_day(record.timestamp_ms) or "-"


def _field(record: Record, name: str) -> bytes:
    if name in {"key", "value"}:
        content: bytes | None = getattr(record, name)
        return content or b""
    if name == "time":
        return record_time(record).encode()
    if name == "timestamp":
        return b"" if record.timestamp_ms is None else b"%d" % record.timestamp_ms
    return str(getattr(record, name)).encode()


def _value(record: Record) -> dict[str, object]:
    """The value under the protocol's names, decoded or not, as the server sent it."""
    if record.schema is not None and record.decode_error is None and record.value is not None:
        return {"value_json": orjson.Fragment(record.value), "schema": record.schema}
    members: dict[str, object] = {**_bytes("value", record.value)}
    if record.schema is not None:
        members["schema"] = record.schema
    if record.decode_error is not None:
        members["decode_error"] = record.decode_error
    return members


def _bytes(name: str, content: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if content is None else content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(content or b"").decode()}
