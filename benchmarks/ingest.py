"""How fast one subscriber is served, compared with a bare ``consume`` loop in Python on the same topic.

Also compared with one part of the work alone: taking records from librdkafka.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer

from benchmarks.harness import Load, Meter
from benchmarks.tables import amount, median
from benchmarks.targets import Dispatcher
from benchmarks.yesterday import fill
from dispatcher.kafka.decoding import grouped, split_errors
from dispatcher.kafka.properties import consumer_properties
from dispatcher.process import COLLECTOR_THRESHOLDS
from dispatcher.settings import Settings
from testbed.broker.cluster import KafkaCluster

PAGE = "performance"
COLUMNS = (
    "protocol",
    "records/s",
    "bare consume loop",
    "share of it",
    "records decoded, nothing else",
    "CPU s per million",
)


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Read all records of a topic from the first to the last, in turns."""
    rows = []
    records, turns = (200_000, 1) if quick else (1_000_000, 3)
    with KafkaCluster(1) as cluster, Load() as load:
        topic = cluster.create_topic("ingest", 4)
        tell(f"producing {records:,} records")
        fill(cluster.bootstrap_servers, topic, records)
        for protocol in ("sse", "websocket"):
            row: dict[str, Any] = {"protocol": protocol, "per_second": [], "bare": [], "made": [], "cpu_seconds": []}
            for turn in range(turns):
                tell(f"{protocol}, turn {turn + 1} of {turns}")
                row["bare"].append(bare(cluster.bootstrap_servers, topic, records))
                row["made"].append(made(cluster.bootstrap_servers, topic, records))
                service = Dispatcher.start(cluster.bootstrap_servers, topic, group_id=f"{protocol}-{turn}")
                try:
                    meter = Meter(*service.pids)
                    time.sleep(2)
                    cpu = meter.cpu_seconds()
                    load.report()
                    load.open("one", 1, service.address, service.requests[protocol])
                    began, came, got = time.monotonic(), 0.0, 0
                    while got < records:
                        time.sleep(0.05)
                        news = load.report()["groups"]["one"]["records"]
                        got += news
                        came = time.monotonic() if news else came
                        if time.monotonic() - max(came, began) > 20:
                            raise RuntimeError(f"only {got} of {records} records came")
                    row["per_second"].append(records / (came - began))
                    row["cpu_seconds"].append((meter.cpu_seconds() - cpu) / records * 1e6)
                    load.close("one")
                finally:
                    service.end()
            rows.append(row)
    return rows


def bare(bootstrap_servers: str, topic: str, records: int) -> float:
    """Return the records per second of ``consume`` alone; every value is looked at, as any program would do."""
    properties = {"bootstrap.servers": bootstrap_servers, "auto.offset.reset": "earliest"}

    def take(consumer: Consumer) -> int:
        return len([len(message.value() or b"") for message in consumer.consume(500, 0.1)])

    return _per_second(properties, topic, records, take)


def made(bootstrap_servers: str, topic: str, records: int) -> float:
    """Return the records per second of the dispatcher's way to take records, without any further work."""
    settings = Settings(bootstrap_servers=bootstrap_servers, topics=(topic,), group_id="made")

    def take(consumer: Consumer) -> int:
        first = consumer.poll(0.1)
        if first is None:
            return 0
        messages, _ = split_errors([first, *consumer.consume(settings.poll_records - 1, 0)])
        return sum(len(group.records) for group in grouped(messages, settings.batch_bytes))

    thresholds = gc.get_threshold()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    try:
        return _per_second(consumer_properties(settings), topic, records, take)
    finally:
        gc.set_threshold(*thresholds)


def _per_second(properties: Mapping[str, Any], topic: str, records: int, take: Callable[[Consumer], int]) -> float:
    consumer = Consumer({**properties, "group.id": f"{topic}-{time.time_ns()}"})
    consumer.subscribe([topic])
    got = 0
    began = None
    while got < records:
        got += take(consumer)
        if got and began is None:
            began = time.monotonic()
    assert began is not None
    seconds = time.monotonic() - began
    consumer.close()
    return got / seconds


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people, with medians."""
    ours, limit = median(row["per_second"]), median(row["bare"])
    return (
        row["protocol"],
        amount(ours),
        amount(limit),
        f"{ours / limit:.0%}",
        amount(median(row["made"])),
        f"{median(row['cpu_seconds']):.2f}",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    ours = {row["protocol"]: median(row["per_second"]) for row in rows}
    return {"records/s": {**ours, "bare consume loop": median(value for row in rows for value in row["bare"])}}
