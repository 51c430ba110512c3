"""What a step of a case is on the wire: the dispatcher's own encoders make it."""

import json
import re
from base64 import b64decode
from typing import Any

from dispatcher.sansio.encoding import messages, sse
from dispatcher.sansio.encoding.wire import SSE_ENVELOPE, SSE_VALUE, WEBSOCKET
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
        data = _state(step, form, heartbeat_seconds)
    elif kind == "heartbeat":
        data = encoders.encode_heartbeat(content or "")
    elif kind == "gap":
        data = encoders.encode_gap(*(content[name] for name in ("topic", "partition", "from", "to", "reason")))
    elif kind == "goodbye":
        data = encoders.encode_goodbye(content["code"], content["reason"], content["retry_ms"])
    elif kind == "say":
        data = _said(content, step["data"], step.get("id"), websocket=websocket)
    elif kind == "unknown":
        data = _unknown(content, step.get("id"), websocket=websocket)
    elif kind == "record":
        data = _record(content, form)
    elif kind == "half":
        data = _record({"id": content}, form)
    else:
        assert kind == "records", step
        data = _records(content, form)
        if "position" in step:
            data = _with_one_position(data, step["position"], form)
    return data


def _state(step: dict[str, Any], form: str, heartbeat_seconds: float) -> bytes:
    """A state; with ``id`` the position from which the stream begins, with ``more`` members of a later version."""
    assigned = step.get("assigned", {"assets": [0, 1]})
    content = json.loads(messages.encode_state(step["state"], "case", assigned, heartbeat_seconds))
    content |= step.get("more", {})
    event_id = step.get("id")
    if form == "websocket":
        return json.dumps(content | ({"id": event_id} if event_id else {})).encode()
    del content["type"]
    lines = [f"retry: {step['retry']}"] if "retry" in step else []
    lines += [f"id: {event_id}"] if event_id else []
    return "\n".join([*lines, "event: state", f"data: {json.dumps(content)}", "", ""]).encode()


def _said(name: str, content: Any, event_id: str | None, *, websocket: bool) -> bytes:
    """What no dispatcher says, under the name of something that it does say."""
    named = {"id": event_id} if event_id else {}
    if websocket:
        said = {"records": [content | named]} if name == "records" else content | named
        return json.dumps({"type": name} | said).encode()
    lines = [f"id: {event_id}"] if event_id else []
    lines += [] if name in {"records", "heartbeat"} else [f"event: {name}"]
    lines += [] if name == "heartbeat" else [f"data: {json.dumps(content)}"]
    return "\n".join([*lines, "", ""]).encode()


def _unknown(name: str, event_id: str | None, *, websocket: bool) -> bytes:
    """What only a later version knows, which may look like something else."""
    if websocket:
        return json.dumps({"type": name, "records": [1], **({"id": event_id} if event_id else {})}).encode()
    return (f"id: {event_id}\n" if event_id else "").encode() + f"event: {name}\ndata: fine\n\n".encode()


def _records(ids: list[str], form: str) -> bytes:
    if form != "websocket":
        return b"".join(_record({"id": event_id}, form) for event_id in ids)
    # As servers of before 0.2 had it: an id in each record, and none for the message.
    messages_of_one = [json.loads(_record({"id": event_id}, form)) for event_id in ids]
    records = [{**message["records"][0], "id": message["id"]} for message in messages_of_one]
    return json.dumps({"type": "records", "records": records}).encode() if records else b""


def _with_one_position(data: bytes, position: str | None, form: str) -> bytes:
    """One position for all records of a write, on SSE with the last of them; None for none at all."""
    named = {"id": position} if position else {}
    if form == "websocket":
        message = json.loads(data)
        for record in message["records"]:
            del record["id"]
        return json.dumps(message | named, separators=(",", ":")).encode()
    *events, last = re.sub(rb"(?m)^id: .*\n", b"", data).split(b"\n\n")[:-1]
    lines = [f"id: {position}\n".encode() + last if position else last]
    return b"\n\n".join([*events, *lines, b""])


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
    key = content.get("key", "key")
    record = Record(offset, content.get("timestamp", 1795429533864), None if key is None else key.encode(), value, ())
    batch = Batch(TopicPartition(topic, partition), (record,))
    if form == "websocket":
        return messages.join_records([WEBSOCKET.encode_records(batch, None)], event_id)
    encode = SSE_VALUE.encode_records if form == "value" else SSE_ENVELOPE.encode_records
    return encode(batch, event_id.removeprefix(f"{batch.partition}={offset}"))
