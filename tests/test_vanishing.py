"""What a subscriber did not take is dispatched to the next one, however the first one ended."""

from collections.abc import Callable

import pytest
import trio

from testbed.clients import open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

RECORDS = 20_000
SIZE_BYTES = 1000
TAKEN = 3000
SETTINGS = {"stall_timeout_seconds": 1, "socket_unsent_bytes": 16384, "write_bytes": 16384, "batch_bytes": 16384}
IN_BUFFERS_BYTES = 512 * 1024
"""What both kernels and our last write may hold of a client that has a receive buffer of 64 KiB."""


@pytest.mark.parametrize("end", ["reset", "silence"])
async def test_the_next_subscriber_gets_what_the_first_did_not_take(
    kafka: Kafka, replicas: Callable[..., Replica], end: str
) -> None:
    """The only subscriber vanishes: nothing is lost, and only what it took is committed."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic, settings=SETTINGS)
    replica.wait_until_ready()
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 1, SIZE_BYTES)
    async with open_sse(replica, receive_buffer_bytes=65536) as first:
        with trio.fail_after(seconds(30)):
            taken = await sse_records(first, TAKEN)
            if end == "reset":
                first.reset()
            await trio.to_thread.run_sync(
                lambda: replica.wait_for("the subscriber is gone", lambda s: s["subscribers"]["total"] == 0)
            )
    assert [(0, offset) for offset in range(TAKEN)] == [record.own for record in taken]
    if end == "silence":
        assert len(await trio.to_thread.run_sync(replica.wait_until_logged, "subscriber stalled")) == 1
        assert "dispatcher_stalled_total 1.0" in replica.get("/metrics").text
        assert 'dispatcher_info{replica="replica",version="' in replica.get("/metrics").text

    (partition,) = replica.wait_for(
        "committed", lambda s: s["partitions"][0]["committed"] == s["partitions"][0]["dispatched"]
    )["partitions"]
    committed = partition["committed"]
    assert committed == kafka.group_offsets(replica.group)[topic, 0].current_offset
    assert committed <= TAKEN + IN_BUFFERS_BYTES // SIZE_BYTES

    async with open_sse(replica) as second:
        with trio.fail_after(seconds(30)):
            rest = await sse_records(second, RECORDS - committed)
    assert [(0, offset) for offset in range(committed, RECORDS)] == [record.own for record in rest]
