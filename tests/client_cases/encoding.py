"""What a step of a case is on the wire: the dispatcher's own encoders make it."""

import json
from base64 import b64decode
from typing import Any

from dispatcher.sansio.encoding import messages, sse
from dispatcher.sansio.records import Batch, Record, TopicPartition
from testbed.clients import first_pair


def own_pair(event_id: str) -> str:
    """The first pair of an id."""
    return event_id.partition(";")[0].partition(",")[0]


def payload(step: dict[str, Any], form: str, heartbeat_seconds: float) -> bytes:
    """The bytes of a step: of an event stream (``value``, ``envelope``), or one message (``websocket``)."""
    websocket = form == "websocket"
    encoders: Any = messages if websocket else sse
    kind, content = next(iter(step.items()))
    data: bytes
    if kind == "retry":
        data = b"" if websocket else b"retry: %d\n\n" % content
    elif kind == "state":
        assigned = step.get("assigned", {"assets": [0, 1]})
        data = encoders.encode_state(content, "case", assigned, heartbeat_seconds)
    elif kind == "heartbeat":
        data = encoders.encode_heartbeat(content or "")
    elif kind == "gap":
        data = encoders.encode_gap(*(content[name] for name in ("topic", "partition", "from", "to", "reason")))
    elif kind == "goodbye":
        data = encoders.encode_goodbye(content["code"], content["reason"], content["retry_ms"])
    elif kind == "unknown":
        data = json.dumps({"type": content}).encode() if websocket else f"event: {content}\ndata: fine\n\n".encode()
    elif kind == "record":
        data = _record(content, form)
    elif kind == "half":
        data = _record({"id": content}, form)
    else:
        assert kind == "records", step
        data = _records(content, form)
    return data


def _records(ids: list[str], form: str) -> bytes:
    encoded = [_record({"id": event_id}, form) for event_id in ids]
    if form != "websocket":
        return b"".join(encoded)
    records = [record for message in encoded for record in json.loads(message)["records"]]
    return json.dumps({"type": "records", "records": records}).encode() if records else b""


def _record(content: dict[str, Any], form: str) -> bytes:
    event_id = content["id"]
    topic = event_id.partition(":")[0]
    partition, offset = first_pair(event_id)
    if "large_bytes" in content:
        value: bytes | None = b"x" * content["large_bytes"]
    elif "value_base64" in content:
        value = b64decode(content["value_base64"])
    else:
        text = content.get("value", own_pair(event_id))
        value = None if text is None else text.encode()
    batch = Batch(TopicPartition(topic, partition), (Record(offset, 1795429533864, b"key", value, ()),))
    prefix = f"{topic}:{partition}="
    suffix = event_id.removeprefix(f"{prefix}{offset}")
    encode = {
        "value": sse.encode_value_events,
        "envelope": sse.encode_envelope_events,
        "websocket": messages.encode_records,
    }[form]
    return encode(batch, prefix, suffix)
