"""Acknowledgements with a real Kafka: what nobody acknowledged is not committed, whoever dies, and comes again."""

import signal
from collections.abc import Callable

import orjson
import trio

from dispatcher.client import subscribe
from testbed.clients import open_ws, ws_close_code, ws_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

RECORDS = 200


def acked(topic: str, **settings: object) -> dict[str, object]:
    """Settings of a replica on which only what was acknowledged is committed."""
    return {"topic_tables": orjson.dumps({topic: {"commit_on": "acked"}}).decode(), **settings}


async def committed(kafka: Kafka, replica: Replica, offset: int) -> None:
    """Return when Kafka has this offset of partition 0."""

    def is_there(status: dict[str, list[dict[str, int]]]) -> bool:
        return [row["committed"] for row in status["partitions"] if row["partition"] == 0] == [offset]

    await trio.to_thread.run_sync(replica.wait_for, f"{offset} committed", is_there)
    rows = await trio.to_thread.run_sync(kafka.group_offsets, replica.group)
    assert [row.current_offset for row in rows.values()] == [offset]


async def test_a_killed_replica_has_committed_nothing_that_was_not_acknowledged(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """The next replica sends exactly the unacknowledged records, to any subscriber."""
    topic = kafka.create_topic(1)
    first = replicas(
        kafka.bootstrap_servers, topic, client_id="first", settings=acked(topic), kafka={"session.timeout.ms": 6000}
    )
    await trio.to_thread.run_sync(first.wait_until_ready)
    with trio.fail_after(seconds(90)):
        async with subscribe(first.url, ack="manual", window=50) as stream:
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 1, 20)
            records = [await anext(stream) for _ in range(50)]
            await stream.ack(records[0])
            for record in records[2:]:
                await stream.ack(record)
            await committed(kafka, first, 1)
            assert (await trio.to_thread.run_sync(first.status))["acks"]["outstanding_records"] == 50
            first.signal(signal.SIGKILL)
            await trio.to_thread.run_sync(first.wait)
        second = replicas(kafka.bootstrap_servers, topic, client_id="second", group=first.group, settings=acked(topic))
        await trio.to_thread.run_sync(second.wait_until_ready)
        async with subscribe(second.url, ack="auto") as stream:
            offsets = [(await anext(stream)).offset for _ in range(RECORDS - 1)]
            assert offsets == list(range(1, RECORDS))
            await committed(kafka, second, RECORDS - 1)
        await trio.to_thread.run_sync(second.wait_for, "it has left", lambda s: s["acks"]["subscribers"] == 0)


async def test_a_client_that_does_not_acknowledge_is_ended_and_resumes(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """The window holds, silence ends with 4408, and observers commit nothing (Nakadi's list)."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic, settings=acked(topic, ack_timeout_seconds=1))
    await trio.to_thread.run_sync(replica.wait_until_ready)
    with trio.fail_after(seconds(90)):
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 1, 20)
        async with open_ws(replica, "?since=earliest") as observer:
            assert len(await ws_records(observer, RECORDS)) == RECORDS
        async with open_ws(replica, "?ack=client&window=20") as websocket:
            assert [record["offset"] for record in await ws_records(websocket, 20)] == list(range(20))
            await websocket.send_message('{"type":"ack","id":"%s:0=9"}' % topic)  # noqa: UP031 - braces
            assert [record["offset"] for record in await ws_records(websocket, 10)] == list(range(20, 30))
            assert await ws_close_code(websocket) == 4408
        await committed(kafka, replica, 10)
        async with open_ws(replica, f"?ack=client&window=20&last_event_id={topic}:0=9") as websocket:
            assert [record["offset"] for record in await ws_records(websocket, 20)] == list(range(10, 30))
        await committed(kafka, replica, 10)


async def test_a_revoke_waits_for_acknowledgements(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """When a replica joins, acknowledgements in time are committed, and nothing is lost."""
    topic = kafka.create_topic(2)
    settings = acked(topic, ack_drain_seconds=5)
    first = replicas(kafka.bootstrap_servers, topic, client_id="first", settings=settings)
    await trio.to_thread.run_sync(first.wait_until_ready)
    found: dict[tuple[int, int], int] = {}
    with trio.fail_after(seconds(90)):
        async with trio.open_nursery() as nursery:

            async def work(replica: Replica) -> None:
                async with subscribe(replica.url, ack="auto") as stream:
                    async for record in stream:
                        found[record.partition, record.offset] = found.get((record.partition, record.offset), 0) + 1

            nursery.start_soon(work, first)
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 2, 20)
            second = await trio.to_thread.run_sync(
                lambda: replicas(
                    kafka.bootstrap_servers, topic, client_id="second", group=first.group, settings=settings
                )
            )
            nursery.start_soon(work, second)
            await trio.to_thread.run_sync(second.wait_until_ready)
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 2, 20)
            for replica in (first, second):
                await trio.to_thread.run_sync(
                    replica.wait_for,
                    "all committed",
                    lambda status: status["partitions"] and all(row["lag"] == 0 for row in status["partitions"]),
                )
            nursery.cancel_scope.cancel()
    assert len(found) == 2 * RECORDS
