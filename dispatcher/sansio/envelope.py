"""Records as JSON objects, for SSE's ``format=envelope`` and for WebSocket messages."""

from base64 import b64encode
from collections.abc import Iterable, Sequence

from dispatcher.sansio.records import Batch, Record, TopicPartition


def envelopes(batch: Batch) -> list[dict[str, object]]:
    """One object for each record. What is not UTF-8 comes in base64, under a name that says so."""
    topic, partition = batch.partition
    records = batch.records
    columns = zip(records.offsets, records.timestamps_ms, records.keys, records.values, records.headers, strict=True)
    try:
        # `_envelope`, spelled out for what nearly all records are: its calls would double the price.
        return [
            {
                "topic": topic,
                "partition": partition,
                "offset": offset,
                "timestamp": timestamp_ms,
                "key": None if key is None else key.decode(),
                "headers": _headers(headers) if headers else (),
                "value": None if value is None else value.decode(),
            }
            for offset, timestamp_ms, key, value, headers in columns
        ]
    except UnicodeDecodeError:
        return [_envelope(batch.partition, record) for record in records]


def _envelope(partition: TopicPartition, record: Record) -> dict[str, object]:
    found: dict[str, object] = {
        "topic": partition.topic,
        "partition": partition.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
    }
    _put(found, "key", record.key)
    found["headers"] = _headers(record.headers)
    _put(found, "value", record.value)
    return found


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> Sequence[dict[str, object]]:
    """A list of objects, because Kafka keeps order and allows one name many times."""
    return [_header(name, value) for name, value in headers]


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
