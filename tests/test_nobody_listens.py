"""Guarantee G3 and G4: with nobody there everything waits, within bounds, and the group keeps its member."""

import time
from collections.abc import Callable

import psutil
import trio

from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

RECORDS = 200_000
PARTITIONS = 4
MIB = 1024 * 1024

# The README's formula, with its default settings and one subscriber.
PROCESS_BYTES = 100 * MIB
PAUSE_ABOVE_BYTES = 32 * MIB
RESUME_BELOW_BYTES = 16 * MIB
HISTORY_BYTES = 64 * MIB
KAFKA_CLIENT_BYTES = (9 + 1.4 * 8 + 8) * MIB
ONE_SUBSCRIBER_BYTES = 1 * MIB + (256 + 64) * 1024


async def test_records_wait_in_kafka_until_somebody_comes(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """With 200,000 records of 1 KiB no offset moves, memory is bounded, and one subscriber gets all."""
    topic = kafka.create_topic(PARTITIONS)
    timeouts = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 500, "max.poll.interval.ms": 4000}
    # A fork shares memory with the process that it is forked from.
    replica = replicas(kafka.bootstrap_servers, topic, kafka=timeouts, fresh=True)
    replica.wait_until_ready()
    process = psutil.Process(replica.process.pid)
    assert process.memory_info().rss < PROCESS_BYTES
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS, 1024)

    status = replica.wait_for("paused", lambda s: all(p["paused"] for p in s["partitions"]))
    assert PAUSE_ABOVE_BYTES < status["bytes"]["waiting"] <= PAUSE_ABOVE_BYTES + RESUME_BELOW_BYTES
    paused_at = time.monotonic()
    # Past two session timeouts and two poll intervals: what is waited for is that nothing happens.
    while time.monotonic() < paused_at + 9:
        status = replica.status()
        assert status["joined"]
        assert status["rebalances"] == 0
        assert status["records"]["dispatched"] == 0
        await trio.sleep(0.5)
    used_bytes = process.memory_info().rss
    bound_bytes = PROCESS_BYTES + PAUSE_ABOVE_BYTES + RESUME_BELOW_BYTES + KAFKA_CLIENT_BYTES
    assert used_bytes < bound_bytes, f"{used_bytes / MIB:.0f} MiB used, formula {bound_bytes / MIB:.0f} MiB"
    assert status["records"]["waiting"] > 0
    assert f"dispatcher_waiting_records {float(status['records']['waiting'])}" in replica.get("/metrics").text
    assert len(await trio.to_thread.run_sync(replica.wait_until_logged, "fetching paused: no subscribers")) == 1
    rows = kafka.group_offsets(replica.group)
    assert all(row.client_id == "replica" for row in rows.values())
    assert [row.current_offset for row in rows.values()] == [0] * PARTITIONS

    async with open_sse(replica) as stream:
        with trio.fail_after(seconds(90)):
            records = await sse_records(stream, RECORDS)
    for partition in range(PARTITIONS):
        expected = [(partition, offset) for offset in range(RECORDS // PARTITIONS)]
        assert expected == [record.own for record in records if record.own[0] == partition]
    replica.wait_for("all committed", lambda s: all(p["lag"] == 0 for p in s["partitions"]))
    assert len(await trio.to_thread.run_sync(replica.wait_until_logged, "fetching resumed")) == 1
    used_bytes = process.memory_info().rss
    bound_bytes = PROCESS_BYTES + HISTORY_BYTES + KAFKA_CLIENT_BYTES + ONE_SUBSCRIBER_BYTES
    assert used_bytes < bound_bytes, f"{used_bytes / MIB:.0f} MiB used, formula {bound_bytes / MIB:.0f} MiB"


async def test_an_observer_goes_on_while_nobody_takes_what_is_there(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """It gets more than memory holds without moving an offset; a counting subscriber gets all, too."""
    topic, number = kafka.create_topic(PARTITIONS), 20_000
    small = {"history_bytes": 2 * MIB, "pause_above_bytes": MIB, "resume_below_bytes": MIB // 2}
    replica = replicas(kafka.bootstrap_servers, topic, settings=small)
    replica.wait_until_ready()
    async with open_sse(replica, "?observe=1&since=earliest") as observed:
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, number, PARTITIONS, 1024)
        with trio.fail_after(seconds(60)):
            seen = [record.own for record in await sse_records(observed, number)]
        status = replica.status()
        assert status["records"]["dispatched"] == 0
        assert status["bytes"]["waiting"] < 3 * MIB
        assert {one.current_offset for one in kafka.group_offsets(replica.group).values()} == {0}
    async with open_sse(replica) as stream:
        with trio.fail_after(seconds(60)):
            taken = [record.own for record in await sse_records(stream, number)]
    for partition in range(PARTITIONS):
        expected = [(partition, offset) for offset in range(number // PARTITIONS)]
        for owns in (seen, taken):
            assert [own for own in owns if own[0] == partition] == expected
    await trio.to_thread.run_sync(
        replica.wait_for, "all committed", lambda s: all(p["lag"] == 0 for p in s["partitions"])
    )
