"""The whole path on a real broker: every subscriber gets everything once and in order, and all of it is committed."""

from collections import defaultdict
from collections.abc import Callable

import trio

from testbed.clients import open_sse, open_ws, pair_of, sse_records, ws_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

RECORDS = 100_000
PARTITIONS = 6


async def test_every_subscriber_gets_every_record_once_and_in_order(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """100,000 records for 5 SSE and 5 WebSocket subscribers; the committed offset is the log end."""
    topic = kafka.create_topic(PARTITIONS)
    # Ten readers in one Python process are slower than the dispatcher: the history holds what they have not read.
    replica = replicas(kafka.bootstrap_servers, topic, settings={"history_bytes": "1GiB"})
    replica.wait_until_ready()
    seen: dict[str, list[tuple[tuple[int, int], str]]] = {}

    async def read_sse(name: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with open_sse(replica) as stream:
            task_status.started()
            seen[name] = [(event.own, event.data) for event in await sse_records(stream, RECORDS)]

    async def read_ws(name: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with open_ws(replica) as websocket:
            task_status.started()
            seen[name] = [(pair_of(record), str(record["value"])) for record in await ws_records(websocket, RECORDS)]

    with trio.fail_after(seconds(120)):
        async with trio.open_nursery() as nursery:
            for n in range(5):
                await nursery.start(read_sse, f"sse-{n}")
                await nursery.start(read_ws, f"ws-{n}")
            await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS, 200)

    assert len(seen) == 10
    for name, records in seen.items():
        by_partition: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for (partition, offset), value in records:
            by_partition[partition].append((offset, value))
        for partition in range(PARTITIONS):
            expected = [(i, str(n).zfill(200)) for i, n in enumerate(range(partition, RECORDS, PARTITIONS))]
            assert expected == by_partition[partition], f"{name}, partition {partition}"

    replica.wait_for("all committed", lambda status: all(p["lag"] == 0 for p in status["partitions"]))
    rows = kafka.group_offsets(replica.group)
    assert len(rows) == PARTITIONS
    assert all(row.current_offset == row.log_end_offset and row.lag == 0 for row in rows.values()), rows
