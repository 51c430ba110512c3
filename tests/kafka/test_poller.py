"""The poller against a real broker: callbacks that raise, and partitions that come back."""

import signal
from collections.abc import Callable

import pytest
import trio

from tests.clients import open_sse, sse_records
from tests.conftest import Kafka
from tests.producing import produce_numbered
from tests.replicas import Replica

RECORDS = 5000
PARTITIONS = 4

RAISES_IN = {
    "on_assign": (
        "import dispatcher.kafka.poller as poller\n"
        "def fail(self, consumer, partitions): raise RuntimeError('put in on purpose')\n"
        "poller.Poller._on_assign = fail\n"
    ),
    "stats_cb": (
        "import dispatcher.kafka.poller as poller\n"
        "parse, calls = poller.parse_statistics, []\n"
        "def fail(text):\n"
        "    calls.append(text)\n"
        "    if len(calls) == 3: raise RuntimeError('put in on purpose')\n"
        "    return parse(text)\n"
        "poller.parse_statistics = fail\n"
    ),
    "on_commit": (
        "import dispatcher.kafka.poller as poller\n"
        "def fail(self, error, partitions): raise RuntimeError('put in on purpose')\n"
        "poller.Poller._on_commit = fail\n"
    ),
}


@pytest.mark.parametrize("callback", list(RAISES_IN))
async def test_a_callback_that_raises_loses_no_record(
    kafka: Kafka, replicas: Callable[..., Replica], callback: str
) -> None:
    """The replica ends with 1 and does not hang; what it had not dispatched goes to the next one (trap K1)."""
    topic = kafka.create_topic(PARTITIONS)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS)
    seen = set()
    first = replicas(kafka.bootstrap_servers, topic, code=RAISES_IN[callback])
    with trio.fail_after(40):
        async with open_sse(first) as stream:
            while (event := await stream.next_event()) is not None:
                if event.type == "message":
                    seen.add(event.own)
            assert not stream.ended
            assert await trio.to_thread.run_sync(first.wait) == 1
    assert "put in on purpose" in first.log
    committed = {row.partition: row.current_offset or 0 for row in kafka.group_offsets(first.group).values()}
    assert all((partition, offset) in seen for partition, end in committed.items() for offset in range(end))

    second = replicas(kafka.bootstrap_servers, topic)
    left = RECORDS - sum(committed.values())
    if left:
        async with open_sse(second) as stream:
            with trio.fail_after(40):
                seen |= {record.own for record in await sse_records(stream, left)}
    assert {(partition, offset) for partition in range(PARTITIONS) for offset in range(RECORDS // PARTITIONS)} == seen


async def test_a_partition_that_was_paused_revoked_and_assigned_again_flows(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Nobody listens, so all are paused; half of them go to another replica and come back; then all flow (trap K5)."""
    topic = kafka.create_topic(PARTITIONS)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS, 1000)
    small = {"pause_above_bytes": "64KiB", "resume_below_bytes": "32KiB"}
    stays = replicas(kafka.bootstrap_servers, topic, settings=small)
    stays.wait_for("all paused", lambda s: s["partitions"] and all(p["paused"] for p in s["partitions"]))
    goes = replicas(kafka.bootstrap_servers, topic, settings={**small, "client_id": "goes"})
    goes.wait_for("half of them, paused", lambda s: [p["paused"] for p in s["partitions"]] == [True, True])
    stays.wait_for("the other half", lambda s: len(s["partitions"]) == 2)
    goes.signal(signal.SIGTERM)
    assert goes.wait() == 0
    stays.wait_for("all of them again", lambda s: len(s["partitions"]) == PARTITIONS)
    assert [row.current_offset for row in kafka.group_offsets(stays.group).values()] == [None] * PARTITIONS
    async with open_sse(stays) as stream:
        with trio.fail_after(60):
            records = await sse_records(stream, RECORDS)
    for partition in range(PARTITIONS):
        expected = [(partition, offset) for offset in range(RECORDS // PARTITIONS)]
        assert expected == [record.own for record in records if record.own[0] == partition]
