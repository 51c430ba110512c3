"""Confluent's own serializers, a real Apicurio registry and a real Kafka: what was written is what arrives as JSON."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
import trio
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import json_format, message_factory

from dispatcher.schemas.protobuf import ProtobufDecoder
from testbed.broker.apicurio import Apicurio
from testbed.clients import open_ws, ws_records
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka

EVERY_KIND = {
    "type": "record",
    "name": "shop.Everything",
    "fields": [
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}},
        {"name": "uuid", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "clock", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "fine_clock", "type": {"type": "long", "logicalType": "time-micros"}},
        {"name": "at_millis", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "at_nanos", "type": {"type": "long", "logicalType": "timestamp-nanos"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
        {"name": "fine_local", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
        {
            "name": "fixed_price",
            "type": {
                "type": "fixed",
                "name": "Fixed8",
                "size": 8,
                "logicalType": "decimal",
                "precision": 12,
                "scale": 3,
            },
        },
        {
            "name": "lasts",
            "type": {"type": "fixed", "name": "Fixed12", "size": 12, "logicalType": "duration"},
        },
        {"name": "data", "type": "bytes"},
        {"name": "either", "type": ["null", "long", {"type": "enum", "name": "Suit", "symbols": ["CLUBS", "HEARTS"]}]},
        {"name": "by_name", "type": {"type": "map", "values": {"type": "array", "items": "double"}}},
        {"name": "next", "type": ["null", "Everything"]},
    ],
}

MONEY = 'syntax = "proto3"; package shop; message Money { string currency = 1; int64 units = 2; }'
ORDERS = """
syntax = "proto3";
package shop;
import "money.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto";
message Other { int32 a = 1; }
message Wide {
  message Deep { message Deeper { google.protobuf.Duration lasts = 1; } }
  Deep.Deeper deeper = 1;
  google.protobuf.StringValue maybe = 2;
  google.protobuf.Struct anything = 3;
  map<int32, Money> prices = 4;
  optional bool flag = 5;
  repeated sint64 numbers = 6;
}
message Outer {
  message Inner {
    Money price = 1;
    map<string, int32> stock = 2;
    oneof how { string card = 3; bool cash = 4; }
    google.protobuf.Timestamp at = 5;
    repeated Other others = 6;
  }
  Inner inner = 1;
}
"""


@pytest.fixture
def registry(java_and_maven: None) -> Iterator[Apicurio]:  # noqa: ARG001 - it needs both
    """A real registry."""
    with Apicurio() as apicurio:
        yield apicurio


def evolved(version: int) -> dict[str, Any]:
    """One of the versions of a schema: each adds a field with a default."""
    fields = [{"name": f"f{n}", "type": "long", "default": n} for n in range(version)]
    return {"type": "record", "name": "shop.Evolving", "fields": fields}


def written(client: SchemaRegistryClient, topic: str) -> list[tuple[bytes, Any, str]]:
    """Values as serializers of several producers write them, with the JSON expected, and the type and name."""
    context = SerializationContext(topic, MessageField.VALUE)
    found: list[tuple[bytes, Any, str]] = []

    def avro(subject: str, schema: dict[str, Any], value: Any, expected: Any) -> None:
        conf = {"subject.name.strategy": lambda *_: subject}
        serializer = AvroSerializer(client, orjson.dumps(schema).decode(), conf=conf)
        found.append((serializer(value, context), expected, f"AVRO {schema['name']}"))

    everything = {
        "day": date(2024, 2, 29),
        "at": datetime(2024, 1, 2, 3, 4, 5, 6, UTC),
        "price": Decimal("-12345678901234567.80"),
        "uuid": UUID(int=7),
        "clock": time(1, 2, 3, 4000),
        "fine_clock": time(23, 59, 59, 999_999),
        "at_millis": datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC),
        "at_nanos": 1_700_000_000_123_456_789,
        "local": datetime(2024, 1, 2, 3, 4, 5, 6000),  # noqa: DTZ001 - local
        "fine_local": datetime(2024, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001 - local
        "fixed_price": Decimal("-1.234"),
        "lasts": b"".join(number.to_bytes(4, "little") for number in (1, 2, 3004)),
        "data": b"\x00\xff",
        "either": 2**53 + 1,
        "by_name": {"a": [0.5, 1.0]},
        "next": None,
    }
    expected = everything | {
        "day": "2024-02-29",
        "at": "2024-01-02T03:04:05.000006Z",
        "price": "-12345678901234567.80",
        "uuid": str(UUID(int=7)),
        "clock": "01:02:03.004",
        "fine_clock": "23:59:59.999999",
        "at_millis": "1969-12-31T23:59:59.999Z",
        "at_nanos": "2023-11-14T22:13:20.123456789Z",
        "local": "2024-01-02T03:04:05.006",
        "fine_local": "2024-01-02T03:04:05.000006",
        "fixed_price": "-1.234",
        "lasts": "P1M2DT3.004S",
        "data": "AP8=",
    }
    nested, expected_nested = everything | {"either": "HEARTS", "next": everything}, expected | {"either": "HEARTS"}
    avro("everything", EVERY_KIND, nested, expected_nested | {"next": expected})
    for version in range(1, 6):
        numbers = {f"f{n}": 10 * version + n for n in range(version)}
        avro("evolving", evolved(version), numbers, numbers)

    pool = ProtobufDecoder(ORDERS, {"money.proto": MONEY})._pool
    inner = {
        "price": {"currency": "EUR", "units": 5},
        "stock": {"a": 1},
        "card": "visa",
        "at": "2024-01-02T03:04:05.000000006Z",
        "others": [{"a": 3}],
    }
    messages: dict[str, dict[str, Any]] = {
        "shop.Outer.Inner": inner,
        "shop.Outer": {"inner": inner},
        "shop.Other": {"a": 1},
        "shop.Wide": {
            "deeper": {"lasts": "1.5s"},
            "maybe": "",
            "anything": {"a": [1.5, None, {"b": True}]},
            "prices": {"7": {"currency": "EUR", "units": 2**53 + 1}},
            "flag": False,
            "numbers": [-1, 2**62],
        },
        "shop.Wide.Deep.Deeper": {"lasts": "-3s"},
    }
    for name, value in messages.items():
        kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        conf = {"use.deprecated.format": False, "subject.name.strategy": lambda *_: "orders"}
        message = json_format.ParseDict(value, kind(), descriptor_pool=pool)
        found.append((ProtobufSerializer(kind, client, conf)(message, context), value, "PROTOBUF shop.Other"))

    json_schema = {"title": "Note", "type": "object", "properties": {"text": {"type": "string"}}}
    conf = {"subject.name.strategy": lambda *_: "notes"}
    serializer = JSONSerializer(orjson.dumps(json_schema).decode(), client, conf=conf)
    found.append((serializer({"text": "hä"}, context), {"text": "hä"}, "JSON Note"))
    return found


async def test_what_producers_wrote_arrives_as_json(
    kafka: Kafka, registry: Apicurio, replicas: Callable[..., Replica]
) -> None:
    """Avro with five versions at once, nested Protobuf with references, and JSON Schema."""
    topic = kafka.create_topic(1)
    with SchemaRegistryClient({"url": registry.url}) as client:
        values = await trio.to_thread.run_sync(written, client, topic)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for value, _, _ in values:
        producer.produce(topic, value=value)
    assert producer.flush(seconds(30)) == 0
    settings = {
        "schema_registry_url": registry.url,
        "schema_wait_seconds": 3600,
        "topic_tables": orjson.dumps({topic: {"decode": "json"}}).decode(),
    }
    replica = replicas(kafka.bootstrap_servers, topic, settings=settings)
    with trio.fail_after(seconds(60)):
        async with open_ws(replica, "?decode=json") as live:
            records: list[Any] = await ws_records(live, len(values))
    assert [record.get("decode_error") for record in records] == [None] * len(values)
    assert [record["value_json"] for record in records] == [expected for _, expected, _ in values]
    assert [f"{one['schema']['type']} {one['schema']['name']}" for one in records] == [name for _, _, name in values]
