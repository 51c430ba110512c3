"""A record as one JSON object, for SSE's ``format=envelope`` and for WebSocket messages."""

from base64 import b64encode

import orjson

from dispatcher.sansio.records import Record, TopicPartition


def envelope_head(partition: TopicPartition) -> str:
    """What the envelopes of all records of a partition begin with, up to the offset."""
    return f'{{"topic":"{partition.topic}","partition":{partition.partition},"offset":'


def envelope_tail(record: Record) -> bytes:
    """What follows the offset in a record's envelope.

    ``headers`` is a list of objects, because Kafka keeps order and allows one name many times. What is not UTF-8
    comes in base64, under a name that says so.
    """
    tail: dict[str, object] = {"timestamp": record.timestamp_ms}
    _put(tail, "key", record.key)
    tail["headers"] = [_header(name, value) for name, value in record.headers] if record.headers else ()
    _put(tail, "value", record.value)
    return b"," + orjson.dumps(tail)[1:]


def _header(name: str, value: bytes | None) -> dict[str, object]:
    header: dict[str, object] = {"key": name}
    _put(header, "value", value)
    return header


def _put(target: dict[str, object], name: str, value: bytes | None) -> None:
    if value is None:
        target[name] = None
        return
    try:
        target[name] = value.decode()
    except UnicodeDecodeError:
        target[f"{name}_base64"] = b64encode(value).decode()
