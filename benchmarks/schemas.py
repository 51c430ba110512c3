"""The cost of decoding Avro: for one subscriber on a real Kafka, and per record with many subscribers.

The first rows are about all records of a topic from the first to the last, raw and decoded in turns. The others are
measured without Kafka and sockets, like ``benchmarks.filters``: this process's CPU time from the decoder to transports
that accept everything. Decoding adds the same to a record with one subscriber as with a thousand.
"""

# It plays the poller, so it uses the pipeline's internals.
# ruff: noqa: SLF001

import io
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import fastavro
import orjson
import trio
import trio.testing
from confluent_kafka import Producer

from benchmarks.growth import TOPIC, NeverAnswering, Replica, Taking
from benchmarks.harness import Load, Meter, value
from benchmarks.tables import amount, median
from benchmarks.targets import Dispatcher
from dispatcher.errors import SubscriberGoneError
from dispatcher.hub.feed import Feed, feed_of
from dispatcher.sansio.encoding.wire import WEBSOCKET
from dispatcher.sansio.records import Batch, Records
from dispatcher.schemas.avro import AvroDecoder
from dispatcher.schemas.decoding import RecordDecoder
from dispatcher.schemas.framing import SchemaKey
from dispatcher.schemas.rules import Rules
from dispatcher.schemas.schemas import Missing, Schemas
from testbed.broker.cluster import KafkaCluster
from testbed.registry import RegistryServer, serve_registry

PAGE = "performance"
COLUMNS = ("schema", "subscribers", "raw", "decoded", "what decoding adds")
BATCH_RECORDS = 500
PLAIN: dict[str, Any] = {
    "type": "record",
    "name": "shop.Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "customer", "type": "string"},
        {"name": "price", "type": "double"},
        {"name": "currency", "type": "string"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "items", "type": {"type": "array", "items": "string"}},
        {"name": "paid", "type": "boolean"},
    ],
}
LOGICAL: dict[str, Any] = {
    **PLAIN,
    "fields": [
        *PLAIN["fields"],
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
    ],
}
SCHEMAS = {"seven fields": PLAIN, "with a timestamp and a decimal": LOGICAL}
"""The schemas by their names in the table."""


def values(schema: Mapping[str, Any], number: int) -> Sequence[bytes]:
    """Return records of about 120 bytes in Confluent's wire format."""
    choose = random.Random(1)  # noqa: S311 - the same each time
    parsed = fastavro.parse_schema({**schema})
    # Logical types are written as the numbers and bytes that they consist of.
    found = []
    for n in range(number):
        whole = {
            "id": n,
            "customer": f"customer-{choose.randrange(10**9):011}",
            "price": choose.random() * 100,
            "currency": "EUR",
            "note": choose.choice((None, "please ring twice")),
            "items": [f"item-{choose.randrange(10**5)}" for _ in range(5)],
            "paid": choose.random() < 0.5,
            "at": 1_700_000_000_000 + n,
            "total": choose.randrange(10**6).to_bytes(4, "big"),
        }
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, parsed, {name: whole[name] for name in _names(schema)})
        found.append(b"\x00\x00\x00\x00\x01" + stream.getvalue())
    return found


def _names(schema: Mapping[str, Any]) -> Sequence[str]:
    return [field["name"] for field in schema["fields"]]


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure one subscriber on a real Kafka, then many in this process."""
    rows: list[dict[str, Any]] = []
    records, turns = (200_000, 1) if quick else (1_000_000, 3)
    with KafkaCluster(1) as cluster, Load() as load:
        for number, (name, schema) in enumerate(SCHEMAS.items()):
            topic = cluster.create_topic(f"schemas-{number}", 4)
            tell(f"{name}: producing {records:,} records")
            _fill(cluster.bootstrap_servers, topic, values(schema, 10_000), records)
            row: dict[str, Any] = {"schema": name, "subscribers": 1, "per_second": True, "raw": [], "decoded": []}
            row |= {"raw_cpu_us": [], "decoded_cpu_us": []}
            with _registry(schema) as url:
                for turn in range(turns):
                    for kind in ("raw", "decoded"):
                        tell(f"{name}, {kind}, turn {turn + 1} of {turns}")
                        settings: dict[str, object] = {"group_id": f"{kind}-{number}-{turn}"}
                        if kind == "decoded":
                            settings["schema_registry_url"] = url
                            settings["topic_tables"] = orjson.dumps({topic: {"decode": "json"}}).decode()
                        found = _per_second(load, cluster.bootstrap_servers, topic, records, settings)
                        row[kind].append(found[0])
                        row[f"{kind}_cpu_us"].append(found[1])
            rows.append(row)
    records, turns = (2_000, 1) if quick else (20_000, 3)
    for name, schema in SCHEMAS.items():
        for subscribers in (1, 1_000):
            row = {"schema": name, "subscribers": subscribers, "per_second": False, "raw": [], "decoded": []}
            for turn in range(turns):
                tell(f"{name}, {subscribers:,} subscribers, turn {turn + 1} of {turns}")
                row["raw"].append(trio.run(_measure, schema, subscribers, records, False))
                row["decoded"].append(trio.run(_measure, schema, subscribers, records, True))
            rows.append(row)
    return rows


def _fill(bootstrap_servers: str, topic: str, some: Sequence[bytes], records: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 20})
    for number in range(records):
        while True:
            try:
                # The load generator counts records by its mark, which is in the key here, because that is text.
                producer.produce(topic, some[number % len(some)], value(20), partition=number % 4)
            except BufferError:
                producer.poll(0.1)
            else:
                break
    producer.flush(120)


def _per_second(
    load: Load, bootstrap_servers: str, topic: str, records: int, settings: Mapping[str, object]
) -> tuple[float, float]:
    """Return the records per second of one WebSocket with all records, and the service's CPU per record in µs."""
    service = Dispatcher.start(bootstrap_servers, topic, **settings)
    try:
        meter = Meter(*service.pids)
        time.sleep(2)
        cpu = meter.cpu_seconds()
        load.report()
        load.open("one", 1, service.address, service.requests["websocket"])
        began, came, got = time.monotonic(), 0.0, 0
        while got < records:
            time.sleep(0.05)
            news = load.report()["groups"]["one"]["records"]
            got += news
            came = time.monotonic() if news else came
            if time.monotonic() - max(came, began) > 20:
                raise RuntimeError(f"only {got} of {records} records came")
        taken = meter.cpu_seconds() - cpu
        load.close("one")
        return records / (came - began), taken / records * 1e6
    finally:
        service.end()


@contextmanager
def _registry(schema: Mapping[str, Any]) -> Iterator[str]:
    """Run a registry with this schema in a separate thread."""
    started, stop = threading.Event(), trio.Event()
    found: list[tuple[RegistryServer, trio.lowlevel.TrioToken]] = []

    async def serve() -> None:
        async with serve_registry() as server:
            server.add(1, orjson.dumps(schema).decode())
            found.append((server, trio.lowlevel.current_trio_token()))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    started.wait()
    server, token = found[0]
    try:
        yield server.url
    finally:
        token.run_sync_soon(stop.set)
        thread.join()


class _Known(Schemas):
    """Schemas that are known from the start."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.evictions = 0
        self._only = AvroDecoder(orjson.dumps(schema).decode())

    def decoder(self, key: SchemaKey) -> AvroDecoder:  # noqa: ARG002 - one for all
        """Return the only decoder."""
        return self._only

    def look_up(self, key: SchemaKey) -> Missing | None:
        """Return None: nothing is missing."""
        raise AssertionError(f"{key} was looked up")


async def _measure(schema: Mapping[str, Any], subscribers: int, records: int, decode: bool) -> float:
    """Return the CPU microseconds per record."""
    decoder = RecordDecoder(_Known(schema), {TOPIC: Rules()}, 30)
    some = values(schema, BATCH_RECORDS)
    empty = ((),) * BATCH_RECORDS
    feed = feed_of(WEBSOCKET, frozenset({TOPIC}))
    replica = Replica(1)
    replica.hub.lookups._replays = NeverAnswering()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replica.hub.run)
        replica.assign()
        for _ in range(subscribers):
            nursery.start_soon(_serve, replica, feed)
        await trio.testing.wait_all_tasks_blocked()
        partition = replica.partitions[0]
        began = time.process_time()
        for first in range(101, 101 + records, BATCH_RECORDS):
            offsets = range(first, first + BATCH_RECORDS)
            batch = Records(offsets, [1] * BATCH_RECORDS, [None] * BATCH_RECORDS, some, empty)
            parts = []
            while decode and len(batch):
                parts.append(decoder.decode(TOPIC, batch))
                batch = batch[len(parts[-1]) :]
            for part in parts or [batch]:
                covers_from = replica.pipeline._offsets.received(partition, part.offsets[0], part.offsets[-1] + 1)
                epoch = replica.pipeline._offsets.epoch(partition) or 0
                replica.hub.publish(Batch(partition, part, epoch=epoch, covers_from=covers_from))
            await replica.hub.wait_settled()
        taken = time.process_time() - began
        nursery.cancel_scope.cancel()
    return taken / records * 1e6


async def _serve(replica: Replica, feed: Feed) -> None:
    subscriber = replica.hub.subscribe(feed, Taking())
    try:
        with suppress(SubscriberGoneError):
            await subscriber.run()
    finally:
        replica.hub.unsubscribe(subscriber)


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people, with medians."""
    raw, decoded = median(row["raw"]), median(row["decoded"])
    if row["per_second"]:
        added = median(row["decoded_cpu_us"]) - median(row["raw_cpu_us"])
        words = f"{amount(raw)} records/s", f"{amount(decoded)} records/s", f"{added:.1f} µs of CPU per record"
    else:
        words = f"{raw:.1f} µs per record", f"{decoded:.1f} µs per record", f"{decoded - raw:.1f} µs per record"
    return row["schema"], f"{row['subscribers']:,}", *words


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        "records/s to one subscriber": {
            f"{kind}, {row['schema']}": median(row[kind])
            for row in rows
            if row["per_second"]
            for kind in ("raw", "decoded")
        }
    }
