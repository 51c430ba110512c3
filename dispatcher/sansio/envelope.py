"""A record as one JSON object, for SSE's ``format=envelope`` and for WebSocket messages."""

from base64 import b64encode
from collections.abc import Iterable, Sequence

from dispatcher.sansio.records import Record, TopicPartition


def envelope(partition: TopicPartition, record: Record) -> dict[str, object]:
    """The object. What is not UTF-8 comes in base64, under a name that says so."""
    found: dict[str, object] = {
        "topic": partition.topic,
        "partition": partition.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
    }
    _put(found, "key", record.key)
    found["headers"] = envelope_headers(record.headers)
    _put(found, "value", record.value)
    return found


def envelope_headers(headers: Iterable[tuple[str, bytes | None]]) -> Sequence[dict[str, object]]:
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
