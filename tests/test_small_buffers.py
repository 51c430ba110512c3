"""Every buffer at size 1, for real: each fills, and nothing is lost, doubled or stuck."""

from collections.abc import Callable

import pytest
import trio

from testbed.clients import open_sse, open_ws, pair_of, sse_records, ws_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

RECORDS = 100
ALL_AT_ONE = {
    "subscriber_buffer_bytes": 1,
    "write_bytes": 1,
    "batch_bytes": 1,
    "poll_records": 1,
    "socket_unsent_bytes": 1,
    "pause_above_bytes": 1,
    "resume_below_bytes": 1,
}


async def test_everything_flows_through_buffers_of_size_1(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Two subscribers get every record once in order, with one undispatched record at a time."""
    topic = kafka.create_topic(2)
    replica = replicas(kafka.bootstrap_servers, topic, settings=ALL_AT_ONE)
    replica.wait_until_ready()
    sse: list[tuple[int, int]] = []
    ws: list[tuple[int, int]] = []

    async def read_sse() -> None:
        async with open_sse(replica) as stream:
            sse.extend(record.own for record in await sse_records(stream, RECORDS))

    async def read_ws() -> None:
        async with open_ws(replica) as websocket:
            ws.extend(pair_of(record) for record in await ws_records(websocket, RECORDS))

    with trio.fail_after(seconds(60)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_sse)
            nursery.start_soon(read_ws)
            await trio.to_thread.run_sync(
                lambda: replica.wait_for("both are live", lambda s: s["subscribers"]["live"] == 2)
            )
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 2)
    expected = [(partition, offset) for partition in range(2) for offset in range(RECORDS // 2)]
    for seen in (sse, ws):
        assert expected == sorted(seen)
        assert all([p for p in seen if p[0] == n] == sorted(p for p in seen if p[0] == n) for n in range(2))
    replica.wait_for("all committed", lambda s: all(p["lag"] == 0 for p in s["partitions"]))


@pytest.mark.parametrize("transport", ["sse", "ws"])
async def test_a_history_of_size_1_holds_what_one_subscriber_has_not_taken(
    kafka: Kafka, replicas: Callable[..., Replica], transport: str
) -> None:
    """Waiting records are never trimmed, so a lone subscriber gets everything."""
    topic = kafka.create_topic(2)
    replica = replicas(kafka.bootstrap_servers, topic, settings={**ALL_AT_ONE, "history_bytes": 1})
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 2)
    with trio.fail_after(seconds(60)):
        if transport == "sse":
            async with open_sse(replica) as stream:
                seen = [record.own for record in await sse_records(stream, RECORDS)]
        else:
            async with open_ws(replica) as websocket:
                seen = [pair_of(record) for record in await ws_records(websocket, RECORDS)]
    for partition in range(2):
        assert [own for own in seen if own[0] == partition] == [(partition, o) for o in range(RECORDS // 2)]
