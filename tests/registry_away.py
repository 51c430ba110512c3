"""``python -m tests.registry_away``: a real Kafka, a real Apicurio that gives no answer for a minute, what clients see.

Two topics: one that the settings decode, and one that is decoded for a stream that asks. Both get records of a schema
that is known, and, while the registry is frozen, one of a schema that is new. A stream that does not ask reads along.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
import orjson
import trio
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Meter
from testbed.broker.apicurio import Apicurio
from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_ws
from testbed.replicas import Replica

NAMED, ASKED = "named", "asked"
SECONDS_BETWEEN = 0.02
BEFORE_SECONDS = AFTER_SECONDS = 10.0

console = Console(log_path=False)


def serializer(client: SchemaRegistryClient, name: str, *more: str) -> AvroSerializer:
    """Writes records with a number, and fields with their defaults."""
    fields = [{"name": "n", "type": "long"}, *({"name": one, "type": "long", "default": 0} for one in more)]
    schema = orjson.dumps({"type": "record", "name": name, "fields": fields}).decode()
    made: AvroSerializer = AvroSerializer(client, schema, conf={"subject.name.strategy": lambda *_: name})
    return made


class Writing:
    """Writes to both partitions of both topics until it is ended."""

    def __init__(self, bootstrap_servers: str, known: AvroSerializer, new: AvroSerializer) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 1})
        self._known, self._new = known, new
        self._lock = threading.Lock()
        self._numbers = dict.fromkeys(((topic, n) for topic in (NAMED, ASKED) for n in (0, 1)), 0)
        self._ended = threading.Event()

    def put_new(self, topic: str) -> None:
        """A record of another schema."""
        self._put(topic, 1, self._new)

    def _put(self, topic: str, partition: int, write: AvroSerializer) -> None:
        """One record: its number is its offset."""
        with self._lock:
            number = self._numbers[topic, partition]
            self._numbers[topic, partition] += 1
            value = write({"n": number}, SerializationContext(topic, MessageField.VALUE))
            self._producer.produce(topic, value, partition=partition)
            self._producer.poll(0)

    @contextmanager
    def on(self) -> Iterator[None]:
        """In a thread, for the body of the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self._producer.flush(30)

    def written(self, topic: str) -> int:
        """How many records a topic has."""
        return sum(number for (one, _), number in self._numbers.items() if one == topic)

    def _run(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN):
            for topic, partition in self._numbers:
                self._put(topic, partition, self._known)


class Reading:
    """What one stream was sent."""

    def __init__(self, name: str, topic: str, query: str) -> None:
        self.name, self.topic = name, topic
        self.query = f"?topic={topic}{query}"
        self.records: list[dict[str, Any]] = []
        self.states: list[str] = []
        self.degraded = False

    async def run(self, replica: Replica) -> None:
        """Read until cancelled."""
        async with open_ws(replica, self.query) as websocket:
            while True:
                message = orjson.loads(await websocket.get_message())
                if message["type"] == "records":
                    self.records += message["records"]
                elif message["type"] == "state":
                    self.states.append(message["state"])
                    self.degraded |= message.get("degraded", {}).get(self.topic) == "registry"

    def counts(self) -> list[int]:
        """How many records of each partition."""
        return [sum(one["partition"] == n for one in self.records) for n in (0, 1)]

    def in_order(self) -> bool:
        """Whether each partition was sent from its beginning, without a hole or a repeat."""
        offsets = [[one["offset"] for one in self.records if one["partition"] == n] for n in (0, 1)]
        return all(found == list(range(len(found))) for found in offsets)

    def decoded(self) -> bool:
        """Whether each value is the right JSON."""
        return all(one.get("value_json", {}).get("n") == one["offset"] for one in self.records)


@dataclass
class Seen:
    """What happened."""

    named: Reading
    asks: Reading
    plain: Reading
    before: float = 0.0
    """The part of one processor that the replica used."""
    during: float = 0.0
    fetches: int = 0
    early: Sequence[Sequence[int]] = ()
    """How many records of each partition each stream had while the registry was away."""
    late: Sequence[Sequence[int]] = ()
    status: dict[str, Any] = field(default_factory=dict)
    ready: int = 0
    total: dict[str, int] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    @property
    def readings(self) -> tuple[Reading, Reading, Reading]:
        """All of them."""
        return self.named, self.asks, self.plain

    @property
    def is_whole(self) -> bool:
        """Whether each stream has all that was written."""
        return all(len(one.records) >= self.total[one.topic] for one in self.readings)


async def trial(away_seconds: float) -> Seen:
    """Run it."""
    with KafkaCluster(1) as cluster, Apicurio() as registry, SchemaRegistryClient({"url": registry.url}) as client:
        for topic in (NAMED, ASKED):
            cluster.create_topic(topic, 2)
        known, new = serializer(client, "shop.Known"), serializer(client, "shop.New", "more")
        # Registered before the registry freezes.
        new({"n": 0}, SerializationContext(NAMED, MessageField.VALUE))
        settings: dict[str, object] = {"schema_registry_url": registry.url, "schema_wait_seconds": 3600}
        settings["topic_tables"] = orjson.dumps({NAMED: {"decode": "json"}}).decode()
        replica = Replica(cluster.bootstrap_servers, f"{NAMED},{ASKED}", settings=settings)
        seen = Seen(
            Reading("named", NAMED, ""), Reading("asks", ASKED, "&decode=json&observe=1"), Reading("plain", ASKED, "")
        )
        try:
            await trio.to_thread.run_sync(replica.wait_until_ready)
            async with trio.open_nursery() as nursery:
                for reading in seen.readings:
                    nursery.start_soon(reading.run, replica)
                await trio.sleep(5)
                writing = Writing(cluster.bootstrap_servers, known, new)
                await watch(seen, replica, registry, writing, away_seconds)
                nursery.cancel_scope.cancel()
        finally:
            freeze(registry, signal.SIGCONT)
            replica.end()
    return seen


async def watch(seen: Seen, replica: Replica, registry: Apicurio, writing: Writing, away_seconds: float) -> None:
    """Freeze the registry for a while, and look."""
    meter = Meter(replica.process.pid)
    with writing.on():
        seen.before = await cpu_share(meter, BEFORE_SECONDS)
        freeze(registry, signal.SIGSTOP)
        seen.fetches = replica.status()["schemas"]["fetches"]
        for topic in (NAMED, ASKED):
            writing.put_new(topic)
        console.log(f"the registry gives no answer, for {away_seconds:g} s")
        await trio.sleep(away_seconds / 3)
        seen.early = [reading.counts() for reading in seen.readings]
        seen.during = await cpu_share(meter, away_seconds * 2 / 3)
        seen.late = [reading.counts() for reading in seen.readings]
        seen.status = await trio.to_thread.run_sync(replica.status)
        seen.ready = replica.get("/readyz").status_code
        freeze(registry, signal.SIGCONT)
        console.log("it answers again")
        await trio.sleep(AFTER_SECONDS)
    seen.total = {topic: writing.written(topic) for topic in (NAMED, ASKED)}
    with trio.move_on_after(30):
        while not seen.is_whole:  # noqa: ASYNC110 - only its records say so
            await trio.sleep(0.1)
    seen.after = await trio.to_thread.run_sync(replica.status)


def verdict(seen: Seen) -> list[tuple[str, object, bool]]:
    """Return what was found, and whether it is right."""
    (named, asks, plain), early, late = seen.readings, seen.early, seen.late
    raw = [one for one in plain.records if "value_json" in one or "decode_error" in one]
    rows: list[tuple[str, object, bool]] = [
        ("the partition that waits was sent nothing", (early[0][1], late[0][1]), early[0][1] == late[0][1]),
        ("the other partition of that topic went on", (early[0][0], late[0][0]), late[0][0] > early[0][0]),
        ("the stream that asks waited", (early[1], late[1]), early[1] == late[1]),
        ("the stream that does not ask went on", (early[2], late[2]), min(late[2]) > min(early[2])),
        ("streams were sent why", [one.degraded for one in (named, asks)], named.degraded and asks.degraded),
        ("the replica stayed ready", seen.ready, seen.ready == 200),
        ("decoded rightly, each record", [named.decoded(), asks.decoded()], named.decoded() and asks.decoded()),
        ("bytes for the stream that does not ask", not raw, not raw),
        ("decoded once each", seen.after["schemas"]["decoded"], seen.after["schemas"]["decoded"] == seen.total),
    ]
    for topic in (NAMED, ASKED):
        reason = seen.status["topic_health"][topic]["reason"]
        rows.append((f"the health of {topic}", reason, reason == "registry"))
    for one in seen.readings:
        found = f"{len(one.records):,} of {seen.total[one.topic]:,}"
        rows.append(
            (f"{one.name}: all of it, in order", found, one.in_order() and len(one.records) == seen.total[one.topic])
        )
    rows.append(("requests to the registry meanwhile", seen.status["schemas"]["fetches"] - seen.fetches, True))
    shares = f"{seen.before:.1%} before, {seen.during:.1%} meanwhile"
    return [*rows, ("processor time of the replica", shares, seen.during < 2 * seen.before + 0.05)]


async def cpu_share(meter: Meter, seconds: float) -> float:
    """The part of one processor that was used in this time."""
    used, began = meter.cpu_seconds(), time.monotonic()
    await trio.sleep(seconds)
    return (meter.cpu_seconds() - used) / (time.monotonic() - began)


def freeze(registry: Apicurio, number: signal.Signals) -> None:
    """Stop the registry where it is, or let it go on: its connections stay open, and nothing answers."""
    assert registry._process is not None
    os.killpg(registry._process.pid, number)


def judge(rows: Sequence[tuple[str, object, bool]]) -> bool:
    """Print what was found; returns whether all is as it should be."""
    table = Table("what", "found", "", title="the registry gives no answer")
    for what, found, good in rows:
        table.add_row(what, str(found), "ok" if good else "[bold red]WRONG[/]")
    console.print(table)
    return all(good for _, _, good in rows)


@click.command()
@click.option("--seconds", type=click.FloatRange(min=10), default=60.0, show_default=True, help="How long it is away.")
def main(seconds: float) -> None:
    """A registry that gives no answer: nothing skipped, nothing spinning, order kept, and the state says so."""
    sys.exit(0 if judge(verdict(trio.run(trial, seconds))) else 1)


if __name__ == "__main__":
    main()
