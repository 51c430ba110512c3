"""Guarantees G2, G5 and G9 on a real broker: resume from memory and from Kafka, over SSE and WebSocket."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from operator import itemgetter

import pytest
import trio

from testbed.broker.witness import delete_records
from testbed.clients import SseStream, open_sse, open_ws, sse_records, ws_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 3
RECORDS = 6000
SMALL = {"history_bytes": 300_000, "pause_above_bytes": 200_000, "resume_below_bytes": 100_000, "batch_bytes": 4096}
"""Room for a few hundred records."""


async def produce(kafka: Kafka, topic: str, first: int, number: int) -> None:
    """Write this many more records."""
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, number, PARTITIONS, 50, first)


@pytest.mark.parametrize("settings", [{}, SMALL], ids=["from memory", "from Kafka"])
@pytest.mark.parametrize("protocol", ["sse", "websocket"])
async def test_a_client_comes_back_and_has_every_record_once(
    kafka: Kafka, replicas: Callable[..., Replica], settings: dict[str, object], protocol: str
) -> None:
    """It gets what others took meanwhile, in order, and then what is new."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic, settings=settings)
    with trio.fail_after(seconds(60)):
        async with open_sse(replica) as others:
            async with open_sse(replica) as stream:
                await produce(kafka, topic, 0, 600)
                before = await sse_records(stream, 600)
            await sse_records(others, 600)
            await produce(kafka, topic, 600, RECORDS)
            await sse_records(others, RECORDS)
            await produce(kafka, topic, 600 + RECORDS, 300)
            query = f"?last_event_id={before[-1].id}"
            if protocol == "sse":
                async with open_sse(replica, query) as stream:
                    after = [int(event.data) for event in await sse_records(stream, RECORDS + 300)]
            else:
                async with open_ws(replica, query) as websocket:
                    records = await ws_records(websocket, RECORDS + 300)
                    after = [int(str(record["value"])) for record in records]
    assert sorted(after) == list(range(600, 600 + RECORDS + 300))
    for partition in range(PARTITIONS):
        own = [number for number in after if number % PARTITIONS == partition]
        assert own == sorted(own)
    assert (replica.status()["replays"]["records"] > 0) == bool(settings)


async def test_a_subscriber_slower_than_the_memory_misses_nothing(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Everything it needs has left memory, and arrives on the same connection."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic, settings={**SMALL, "subscriber_buffer_bytes": 20_000})
    with trio.fail_after(seconds(90)):
        async with open_sse(replica) as others, open_sse(replica, receive_buffer_bytes=4096) as slow:
            await produce(kafka, topic, 0, 10 * RECORDS)
            await sse_records(others, 10 * RECORDS)
            numbers = [int(event.data) for event in await sse_records(slow, 10 * RECORDS)]
    assert sorted(numbers) == list(range(10 * RECORDS))
    assert replica.status()["replays"]["records"] > 0


async def test_expired_records_are_reported(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """A gap precedes the first record after those that Kafka deleted."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic, settings=SMALL)
    with trio.fail_after(seconds(90)):
        async with open_sse(replica) as others:
            await produce(kafka, topic, 0, RECORDS)
            seen = await sse_records(others, RECORDS)
            await trio.to_thread.run_sync(delete_records, kafka.bootstrap_servers, {(topic, 1): 1000})
            first = next(event for event in seen if event.own == (1, 9))
            async with open_sse(replica, f"?last_event_id={first.id.partition(',')[0]}") as stream:
                gap = await stream.next_control("gap")
                records = await sse_records(stream, RECORDS // PARTITIONS - 1000)
    assert gap == {"topic": topic, "partition": 1, "from": 10, "to": 999, "reason": "expired"}
    assert [record.own[1] for record in records] == list(range(1000, RECORDS // PARTITIONS))


@pytest.mark.parametrize("protocol", ["sse", "websocket"])
async def test_since_a_time(kafka: Kafka, replicas: Callable[..., Replica], protocol: str) -> None:
    """From the first record, from a time in either spelling, and from a future time."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic, settings=SMALL)

    async def first(since: str) -> int:
        """How far back the oldest record is that comes since a time; new records are always sent."""
        query = f"?since={since}"
        if protocol == "sse":
            async with open_sse(replica, query) as stream:
                await stream.next_control("state")
                await produce(kafka, topic, 0, PARTITIONS)
                return min(event.own[1] for event in await sse_records(stream, PARTITIONS))
        async with open_ws(replica, query) as websocket:
            await websocket.get_message()
            await produce(kafka, topic, 0, PARTITIONS)
            return min(int(str(record["offset"])) for record in await ws_records(websocket, PARTITIONS))

    with trio.fail_after(seconds(90)):
        async with open_sse(replica) as others:
            await produce(kafka, topic, 0, RECORDS)
            await sse_records(others, RECORDS)
            await trio.sleep(1.1)
            now = datetime.now(UTC)
            await produce(kafka, topic, 0, 300)
            await sse_records(others, 300)
            each = RECORDS // PARTITIONS
            assert await first("earliest") == 0
            assert await first("0") == 0
            assert await first(str(int(now.timestamp() * 1000))) == each
            assert await first(now.isoformat()) == each
            assert await first(now.isoformat().replace("+00:00", "Z")) == each
            assert await first("2099-01-01T00:00:00%2B01:00") >= each + 100


@pytest.mark.parametrize("heard", [False, True], ids=["at once", "after the group has heard of its end"])
async def test_a_recreated_topic_is_reported(kafka: Kafka, replicas: Callable[..., Replica], heard: bool) -> None:
    """Connected and returning subscribers get a gap, and then the whole new log."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic)
    with trio.fail_after(seconds(120)):
        async with open_sse(replica) as stream:
            await produce(kafka, topic, 0, 30)
            seen = await sse_records(stream, 30)

            def wait() -> None:
                if heard:
                    replica.wait_for("no partition", lambda status: not status["partitions"])

            await trio.to_thread.run_sync(kafka.recreate_topic, topic, PARTITIONS, wait)
            await produce(kafka, topic, 99, 12)
            told = await records_and_gaps(stream, 12)
            async with open_sse(replica, f"?last_event_id={seen[-1].id}") as back:
                told_again = await records_and_gaps(back, 12)
    for gaps, records in (told, told_again):
        assert sorted(gaps, key=itemgetter("partition")) == [
            {"topic": topic, "partition": partition, "from": 10, "to": -1, "reason": "recreated"}
            for partition in range(PARTITIONS)
        ]
        assert sorted(records) == list(range(99, 111))


async def records_and_gaps(stream: SseStream, number: int) -> tuple[list[dict[str, object]], list[int]]:
    """This many records, and the gaps that precede them; each partition's before its first record."""
    gaps: list[dict[str, object]] = []
    records: list[int] = []
    while len(records) < number:
        event = await stream.next_event()
        assert event is not None
        if event.type == "gap":
            gaps.append(json.loads(event.data))
        elif event.type == "message":
            records.append(int(event.data))
            assert event.own[0] in {gap["partition"] for gap in gaps}
    return gaps, records
