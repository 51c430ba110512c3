"""Two tenants with grants, one of them present: an hour of records at full speed, with the other's parked.

Records of both tenants alternate at random, and are produced as fast as the broker accepts them. The present tenant
gets its own records meanwhile, and fetching never pauses; then the other one connects, and gets all of its own.
"""

import random
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from benchmarks.harness import Load, Meter, value
from benchmarks.targets import Dispatcher, dispatcher_requests
from testbed.broker.cluster import KafkaCluster
from testbed.tokens import AUDIENCE, ISSUER, SCOPE, jwks, token

PAGE = "performance"
PARTITIONS = 6
HOUR_RECORDS = 3600 * 2_000
PATIENCE_SECONDS = 600.0
"""The benchmark gives up after this long without a single record."""

CONFIG = """
[auth]
issuer = "{issuer}"
audience = "{audience}"
keys_file = "{keys}"
[[auth.grants]]
require = {{ scope = "{scope}" }}
topics = ["parked"]
filter = {{ exact = {{ "header.tenant" = "${{claims.tenant}}" }} }}
"""

COLUMNS = ("", "records", "took", "records/s", "CPU per record", "parked", "ranges used", "paused", "memory")


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the present tenant first, then the other one."""
    number = 60_000 if quick else HOUR_RECORDS
    with KafkaCluster(1) as cluster, Load() as load, tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.json"
        keys.write_bytes(jwks())
        config = Path(folder) / "dispatcher.toml"
        config.write_text(CONFIG.format(issuer=ISSUER, audience=AUDIENCE, keys=keys, scope=SCOPE))
        topic = cluster.create_topic("parked", PARTITIONS)
        service = Dispatcher.start(cluster.bootstrap_servers, topic, config=config)
        try:
            meter = Meter(*service.pids)
            connect(load, service, "present")
            written: dict[str, int] = {}
            shared: dict[str, Any] = {"meter": meter, "written": written, "tell": tell}
            producer = threading.Thread(target=produce, args=(cluster.bootstrap_servers, topic, number, written))
            producer.start()
            rows = [watch(load, service, "present", is_producing=producer.is_alive, **shared)]
            producer.join()
            connect(load, service, "absent")
            rows.append(watch(load, service, "absent", is_producing=lambda: False, **shared))
            service.replica.wait_for(
                "all of it, committed", lambda status: all(p["lag"] == 0 for p in status["partitions"])
            )
            rows[-1]["committed"] = True
        finally:
            service.end()
    return rows


def connect(load: Load, service: Dispatcher, tenant: str) -> None:
    """Connect one subscriber."""
    request = dispatcher_requests()["sse"].replace(
        "\r\n\r\n", f"\r\nAuthorization: Bearer {token(tenant=tenant, exp=int(time.time()) + 36_000)}\r\n\r\n"
    )
    load.open(tenant, 1, service.address, request)


def produce(bootstrap_servers: str, topic: str, number: int, written: dict[str, int]) -> None:
    """Produce records of both tenants at random, as fast as they are accepted."""
    choose = random.Random(1)  # noqa: S311 - the same each time
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 20, "compression.type": "lz4"})
    counts = {"present": 0, "absent": 0}
    for n in range(number):
        tenant = "present" if choose.random() < 0.5 else "absent"
        counts[tenant] += 1
        while True:
            try:
                producer.produce(topic, value(), partition=n % PARTITIONS, headers=[("tenant", tenant.encode())])
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(60)
    written.update(counts)


def watch(
    load: Load,
    service: Dispatcher,
    tenant: str,
    *,
    meter: Meter,
    written: Mapping[str, int],
    is_producing: Callable[[], bool],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Watch until a tenant has all of its records; returns what the replica reports meanwhile."""
    row: dict[str, Any] = {"tenant": tenant, "records": 0, "resident_bytes": 0, "paused": 0, "full": 0, "samples": []}
    cpu, began = meter.cpu_seconds(), time.monotonic()
    moved_at = began
    while is_producing() or row["records"] < written[tenant]:
        time.sleep(1)
        records = load.report()["groups"][tenant]["records"]
        moved_at = time.monotonic() if records else moved_at
        if time.monotonic() - moved_at > PATIENCE_SECONDS:
            raise RuntimeError(f"{tenant}: {row['records']} records came, and no more")
        row["records"] += records
        partitions = service.replica.status()["partitions"]
        parked = [p["parked"] for p in partitions if p.get("parked")]
        row["paused"] += any(p["paused"] for p in partitions)
        row["full"] += any(one["full"] for one in parked)
        row["resident_bytes"] = max(row["resident_bytes"], meter.resident_bytes())
        row["samples"].append(
            {
                "seconds": time.monotonic() - began,
                "cpu_seconds": meter.cpu_seconds() - cpu,
                "records": row["records"],
                "parked": sum(one["offsets"] for one in parked),
                "ranges": sum(one["ranges"] for one in parked),
            }
        )
        tell(f"{tenant}: {row['records']:,} records, {row['samples'][-1]['parked']:,} parked")
    row["expected"] = written[tenant]
    return row


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one line of the table."""
    last = row["samples"][-1]
    return (
        f"the one that was {row['tenant']}",
        f"{row['records']:,} of {row['expected']:,}",
        f"{last['seconds']:.0f} s",
        f"{row['records'] / last['seconds']:,.0f}",
        f"{last['cpu_seconds'] / row['records'] * 1e6:.0f} µs",
        f"{max(sample['parked'] for sample in row['samples']):,}",
        f"{max(sample['ranges'] for sample in row['samples']):,}",
        f"{row['paused'] + row['full']} of {len(row['samples'])} looks",
        f"{row['resident_bytes'] / 2**20:.0f} MiB",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        "records per second": {
            f"the one that was {row['tenant']}": row["records"] / row["samples"][-1]["seconds"] for row in rows
        }
    }
