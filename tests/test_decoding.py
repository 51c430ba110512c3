"""Decoded topics on a real Kafka, with a registry that is away, comes back, and stays away."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import fastavro
import httpx2
import orjson
import trio
from confluent_kafka import Producer

from dispatcher.schemas.schemas import RETRY_SECONDS
from testbed.clients import open_sse, open_ws, sse_records, ws_records
from testbed.patience import seconds
from testbed.registry import RegistryServer, serve_registry
from testbed.replicas import Replica
from tests.conftest import Kafka

FIRST: dict[str, Any] = {"type": "record", "name": "shop.Order", "fields": [{"name": "n", "type": "long"}]}
AT = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
SECOND = {**FIRST, "fields": [*FIRST["fields"], AT]}


def framed(schema_id: int, schema: Any, value: Any) -> bytes:
    """In Confluent's wire format."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return b"\x00" + schema_id.to_bytes(4, "big") + stream.getvalue()


def produce(kafka: Kafka, topic: str, values: list[tuple[int, bytes]]) -> None:
    """Write values into partitions."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 5})
    for number, value in values:
        producer.produce(topic, value=value, key="k", partition=number)
    assert producer.flush(seconds(30)) == 0


def decoded_replica(
    replicas: Callable[..., Replica], kafka: Kafka, topic: str, server: RegistryServer, wait_seconds: float, **more: Any
) -> Replica:
    """A replica that decodes the topic."""
    tables = orjson.dumps({topic: {"decode": "json"}}).decode()
    settings = {"schema_registry_url": server.url, "schema_wait_seconds": wait_seconds, "topic_tables": tables}
    return replicas(kafka.bootstrap_servers, topic, settings=settings | more)


def is_degraded(topic: str, reason: str | None) -> Callable[[Any], bool]:
    """Whether a status says this of the topic."""
    return lambda status: status["topic_health"][topic]["reason"] == reason


async def in_thread(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """The registry serves in the loop meanwhile."""
    return await trio.to_thread.run_sync(partial(function, *arguments, **keywords))


async def test_a_partition_waits_for_its_schema_in_order_and_others_go_on(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Live and replayed, waiting records are not committed, and none is skipped."""
    topic = kafka.create_topic(2)
    async with serve_registry() as server:
        server.add(1, orjson.dumps(FIRST).decode())
        server.add(2, orjson.dumps(SECOND).decode())
        server.bodies["/schemas/ids/2"] = b"garbage"
        replica = await in_thread(decoded_replica, replicas, kafka, topic, server, 3600)
        await in_thread(replica.wait_until_ready)
        with trio.fail_after(seconds(60)):
            async with open_ws(replica) as live, open_sse(replica, "?scope=topic&observe=1&since=earliest") as other:
                waiting = [(1, framed(2, SECOND, {"n": n, "at": 5})) for n in range(3)]
                known = [(number, framed(1, FIRST, {"n": n})) for n in range(2) for number in (0, 1)]
                await in_thread(produce, kafka, topic, [*known, *waiting, *known])
                # Both of each partition that precede, and both that follow in partition 0.
                first = await ws_records(live, 6)
                by_partition = [[one["value_json"] for one in first if one["partition"] == n] for n in (0, 1)]
                assert by_partition == [[{"n": 0}, {"n": 1}] * 2, [{"n": 0}, {"n": 1}]]
                await in_thread(
                    replica.wait_for, "partition 1 waits", lambda s: s["schemas"]["waiting"] == [f"{topic}:1"]
                )
                status = await in_thread(
                    replica.wait_for,
                    "what was sent is committed, and no more",
                    lambda s: [p["committed"] for p in s["partitions"]] == [4, 2],
                )
                assert [p["oldest_waiting_seconds"] for p in status["partitions"]] == [0, None]
                del server.bodies["/schemas/ids/2"]
                rest = await ws_records(live, 5)
                assert [one["offset"] for one in rest] == [2, 3, 4, 5, 6]
                at = "1970-01-01T00:00:00.005Z"
                assert [one["value_json"] for one in rest] == [
                    *({"n": n, "at": at} for n in range(3)),
                    {"n": 0},
                    {"n": 1},
                ]
                assert rest[0]["schema"] == {"id": 2, "type": "AVRO", "name": "shop.Order"}
                async with open_sse(replica, "?since=earliest&format=envelope") as late:
                    replayed = [orjson.loads(event.data) for event in await sse_records(late, 11)]
                values = [orjson.loads(event.data) for event in await sse_records(other, 11)]
                assert sorted(one["n"] for one in values) == sorted(one["value_json"]["n"] for one in replayed)
                in_order = [one["value_json"] for one in replayed if one["partition"] == 1]
                assert in_order == [*by_partition[1], *(one["value_json"] for one in rest)]


async def test_a_registry_that_stays_away_is_waited_for_once(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Then records are sent undecoded in order; known schemas are unaffected."""
    topic = kafka.create_topic(1)
    async with serve_registry() as server:
        server.is_away = True
        replica = await in_thread(decoded_replica, replicas, kafka, topic, server, 1)
        await in_thread(replica.wait_until_ready)
        with trio.fail_after(seconds(60)):
            async with open_ws(replica) as live:
                values = [framed(1, FIRST, {"n": n}) for n in range(3)]
                await in_thread(produce, kafka, topic, [*((0, value) for value in values), (0, b'{"plain": 1}')])
                records = await ws_records(live, 4)
                assert [one["offset"] for one in records] == [0, 1, 2, 3]
                assert [str(one["decode_error"]).partition(":")[0] for one in records[:3]] == ["http"] * 3
                assert all("value_json" not in one for one in records)
                assert records[3]["value"] == '{"plain": 1}'
                await in_thread(replica.wait_for, "the status says so", is_degraded(topic, "registry"))
                readiness = await in_thread(httpx2.get, f"{replica.url}/readyz", timeout=seconds(10))
                assert server.url in readiness.text
                metrics = (await in_thread(httpx2.get, f"{replica.url}/metrics", timeout=seconds(10))).text
                assert f'dispatcher_topic_degraded{{reason="registry",topic="{topic}"}} 1.0' in metrics
                async with open_ws(replica) as other:
                    state = orjson.loads(await other.get_message())
                    assert state["degraded"] == {topic: "registry"}
                server.is_away = False
                server.add(1, orjson.dumps(FIRST).decode())
                # It is asked again before long, whatever has been given up.
                while True:
                    await in_thread(produce, kafka, topic, [(0, values[0])])
                    (record,) = await ws_records(live, 1)
                    if "value_json" in record:
                        break
                assert record["value_json"] == {"n": 0}
                await in_thread(replica.wait_for, "it is over", is_degraded(topic, None))


async def test_whatever_a_registry_answers_order_is_kept_and_nothing_skipped(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Errors, garbage and silence hold their partitions, and degrade no topic; 404 concerns its record only."""
    topic = kafka.create_topic(6)
    paths = [f"/schemas/ids/{number}" for number in range(10, 16)]
    async with serve_registry() as server:
        server.add(1, orjson.dumps(FIRST).decode())
        for number in range(10, 15):
            server.add(number, orjson.dumps(SECOND).decode())
        for path, status in zip(paths, (b"401 No", b"403 No", b"503 No"), strict=False):
            server.statuses[path] = status
        server.bodies[paths[3]] = b"garbage"
        server.withheld.add(paths[4])
        server.held = trio.Event()
        began = trio.current_time()
        replica = await in_thread(decoded_replica, replicas, kafka, topic, server, 3600)
        await in_thread(replica.wait_until_ready)
        with trio.fail_after(seconds(60)):
            async with open_ws(replica) as live:
                known, other = framed(1, FIRST, {"n": 1}), {"n": 2, "at": 5}
                values = [(n, value) for n in range(6) for value in (known, framed(10 + n, SECOND, other), known)]
                await in_thread(produce, kafka, topic, values)
                first = await ws_records(live, 8)
                by_partition = {n: [one for one in first if one["partition"] == n] for n in range(6)}
                assert [len(by_partition[n]) for n in range(6)] == [1, 1, 1, 1, 1, 3]
                assert [one["offset"] for one in by_partition[5]] == [0, 1, 2]
                assert by_partition[5][1]["decode_error"] == "the registry has no schema 15"
                await in_thread(
                    replica.wait_for,
                    "five wait",
                    lambda s: s["schemas"]["waiting"] == [f"{topic}:{number}" for number in range(5)],
                )
                assert (await in_thread(replica.status))["schemas"]["unavailable"] is None
                for path in paths:
                    assert 1 <= server.asked[path] <= 2 + (trio.current_time() - began) / RETRY_SECONDS
                server.statuses.clear()
                server.bodies.clear()
                server.held.set()
                rest = await ws_records(live, 10)
                for number in range(5):
                    later = [one for one in rest if one["partition"] == number]
                    assert [one["offset"] for one in later] == [1, 2]
                    assert later[0]["value_json"] == {"n": 2, "at": "1970-01-01T00:00:00.005Z"}
                    assert later[1]["value_json"] == {"n": 1}
                await in_thread(replica.wait_for, "nothing waits", lambda s: s["schemas"]["waiting"] == [])
                await in_thread(replica.wait_for, "it is over", is_degraded(topic, None))


async def test_those_that_ask_get_json_of_a_topic_that_no_setting_names(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """During an outage only they wait; it works live, from the log, and with a filter."""
    topic = kafka.create_topic(1)
    async with serve_registry() as server:
        server.add(1, orjson.dumps(FIRST).decode())
        server.add(2, orjson.dumps(SECOND).decode())
        settings = {"schema_registry_url": server.url, "schema_wait_seconds": 3600, "history_bytes": 100_000}
        settings |= {"pause_above_bytes": 90_000, "resume_below_bytes": 50_000}
        replica = await in_thread(replicas, kafka.bootstrap_servers, topic, settings=settings)
        await in_thread(replica.wait_until_ready)
        values = [framed(1, FIRST, {"n": 0}), framed(2, SECOND, {"n": 1, "at": 5}), framed(1, FIRST, {"n": 2})]
        shown: list[Any] = [{"n": 0}, {"n": 1, "at": "1970-01-01T00:00:00.005Z"}, {"n": 2}]
        with trio.fail_after(seconds(60)):
            async with open_ws(replica) as raw, open_ws(replica, "?decode=json") as asks:
                await in_thread(
                    replica.wait_for,
                    "it is known",
                    lambda s: s["schemas"]["asked"] == [topic] and s["subscribers"]["live"] == 2,
                )
                # What is taken by one poll with a record that waits, waits with it.
                await in_thread(produce, kafka, topic, [(0, values[0])])
                assert [one["value_json"] for one in await ws_records(asks, 1)] == shown[:1]
                server.body = b"garbage"
                await in_thread(produce, kafka, topic, [(0, value) for value in values[1:]])
                others = await ws_records(raw, 3)
                assert all("value_json" not in one and "schema" not in one for one in others)
                await in_thread(replica.wait_for, "the state says so", is_degraded(topic, "registry"))
                server.body = None
                rest = await ws_records(asks, 2)
                assert ([one["offset"] for one in rest], [one["value_json"] for one in rest]) == ([1, 2], shown[1:])
                # More than is kept in memory: what comes later reads the log.
                await in_thread(produce, kafka, topic, [(0, framed(1, FIRST, {"n": n})) for n in range(3, 1003)])
                many: list[Any] = await ws_records(asks, 1000)
                assert [one["value_json"]["n"] for one in many] == list(range(3, 1003))
                query = "?decode=json&since=earliest&observe=1&scope=topic&field=/n:1&field=/n:7&field=/n:1001"
                async with open_sse(replica, query) as late:
                    found = [orjson.loads(event.data) for event in await sse_records(late, 3)]
                assert found == [shown[1], {"n": 7}, {"n": 1001}]
